"""The signature of what Infobip posts."""

import base64
import hashlib
import hmac
from collections.abc import Sequence

import pytest

from connector.infobip.signature import SignatureCheck

SECRET, BODY = "f2b1c8d04c0e4f6a9b3d", b'{"results":[]}'
HEX = "9fdd3132cc32c13b3e3fc2a1fb57c78ed406f2c07806da479f0daa631f13125c"  # as the reference has it, computed elsewhere
BASE64 = base64.b64encode(bytes.fromhex(HEX)).decode()


def signature_matches(header: str, body: bytes, secrets: Sequence[str]) -> bool:
    check = SignatureCheck(header, secrets)
    check.update(body)
    return check.fitting() is not None


@pytest.mark.parametrize(
    "header",
    [
        *(f"SHA256={HEX}", f"sha256={HEX}", f"Sha256={HEX.upper()}", HEX, HEX.upper()),
        *(f"  SHA256={HEX}  ", BASE64, f"SHA256={BASE64}"),
    ],
)
def test_the_signature_is_taken_in_each_of_its_spellings(header: str) -> None:
    assert signature_matches(header, BODY, [SECRET])


@pytest.mark.parametrize(
    "header",
    [
        *("", " ", "SHA256=", "sha256", "none", "é" * 64, "\x00" * 64, "=" * 44),
        *(
            HEX[:-1],
            HEX + "0",
            HEX[:-1] + "g",
            "0" * 64,
            f"SHA1={HEX}",
            f"SHA256=SHA256={HEX}",
            HEX + HEX,
            f"{'0' * 64}," * 8 + HEX,
        ),
        *(BASE64[:-1], BASE64.lower(), BASE64 + "=", base64.b64encode(b"x" * 31).decode()),
        f"SHA256={hmac.new(SECRET.encode(), BODY, hashlib.sha512).hexdigest()}",
    ],
)
def test_any_other_signature_is_refused(header: str) -> None:
    assert not signature_matches(header, BODY, [SECRET])


@pytest.mark.parametrize(
    "header",
    [
        *(f"{HEX},{HEX}", f"SHA256={'0' * 64}, SHA256={HEX}", f"SHA256={HEX},SHA256={'0' * 64}", f"{BASE64};none"),
        *(f"sha1={'0' * 40}, sha256={HEX}", f"SHA256={HEX} SHA512={'0' * 128}", f",, {HEX}", f"{'0' * 64}," * 7 + HEX),
    ],
)
def test_of_several_signatures_one_that_fits_is_enough(header: str) -> None:
    assert signature_matches(header, BODY, [SECRET])
    assert signature_matches(header, BODY, ["coming", SECRET])
    assert not signature_matches(header, BODY, ["another"])


@pytest.mark.parametrize("body", [b"", b'{"results": []}', BODY + b"\n", BODY.upper()])
def test_the_signature_covers_each_byte_of_the_body(body: bytes) -> None:
    assert not signature_matches(f"SHA256={HEX}", body, [SECRET])


@pytest.mark.parametrize(
    ("secrets", "matches"),
    [
        ([SECRET, "coming"], True),
        (["coming", SECRET], True),
        (["another", "coming"], False),
        (["", SECRET], True),
        ([], False),
        ([SECRET.upper()], False),
    ],
)
def test_each_secret_in_use_is_tried(secrets: list[str], matches: bool) -> None:
    assert signature_matches(f"SHA256={HEX}", BODY, secrets) is matches


def test_an_empty_secret_lets_nobody_in() -> None:
    empty = hmac.new(b"", BODY, hashlib.sha256).hexdigest()
    assert not signature_matches(empty, BODY, [""])
    assert not signature_matches(empty, BODY, ["", SECRET])


def test_a_secret_may_hold_any_characters() -> None:
    digest = hmac.new("Schlüssel 🔑".encode(), BODY, hashlib.sha256).hexdigest()
    assert signature_matches(digest, BODY, ["Schlüssel 🔑"])


def test_a_body_that_comes_in_parts_has_the_signature_of_the_whole() -> None:
    check = SignatureCheck(HEX, ["coming", SECRET])
    for place in range(len(BODY)):
        check.update(BODY[place : place + 1])
    assert check.fitting() == 1


@pytest.mark.parametrize(("header", "secrets"), [("none", [SECRET]), (HEX, ["", ""]), ("0" * 10_000_000, [SECRET])])
def test_what_no_body_can_fit_is_known_before_one_is_read(header: str, secrets: list[str]) -> None:
    assert SignatureCheck(header, secrets).hopeless
    assert not SignatureCheck(HEX, [SECRET]).hopeless
