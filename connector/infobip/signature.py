"""The signature of what Infobip posts: HMAC-SHA256 of the raw body, computed while the body comes.

Infobip's pages name neither header nor format. Real deliveries carried ``SHA256=<hex>``; hex without the prefix and base64
are taken too. A header may hold several, such as those of two secrets while one replaces the other, or one by SHA-1 beside
ours; one that fits is enough. There is no time in it: a repetition is recognised by its content.
https://www.infobip.com/docs/cpaas-x/subscriptions-management
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence

LONGEST_SIGNATURE = 100  # the longest spelling has 71 characters
MOST_SIGNATURES = 8
LONGEST_HEADER = MOST_SIGNATURES * LONGEST_SIGNATURE


def digests_in(header: str) -> list[bytes]:
    """Read the digests that a header's value states; none where it states none that could be ours."""
    if len(header) > LONGEST_HEADER:
        return []
    stated = re.split(r"[,;\s]+", header.strip())[:MOST_SIGNATURES]
    return list(dict.fromkeys(digest for each in stated if (digest := _digest_in(each)) is not None))


def _digest_in(stated: str) -> bytes | None:
    value = re.sub(r"(?i)^sha256=", "", stated)
    try:
        digest = bytes.fromhex(value) if len(value) == 64 else base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return None
    return digest if len(digest) == 32 else None


class SignatureCheck:
    """Compares a header with the HMAC of a body under each secret that may be in use; an empty secret fits nothing.

    :param header: the header's value
    :param secrets: those in use, the current one first
    """

    def __init__(self, header: str, secrets: Sequence[str]) -> None:
        self._digests = digests_in(header)
        possible = secrets if self._digests else ()
        self._codes = [hmac.new(secret.encode(), digestmod="sha256") if secret else None for secret in possible]

    @property
    def hopeless(self) -> bool:
        """Tell whether no body whatever can fit."""
        return not any(self._codes)

    def update(self, part: bytes) -> None:
        """Take the next part of the body."""
        for code in self._codes:
            if code is not None:
                code.update(part)

    def fitting(self) -> int | None:
        """Say which of the secrets signed all that came; None if none did. Takes the same time for each wrong digest."""
        fits = [code is not None and self._states(code.digest()) for code in self._codes]
        return fits.index(True) if True in fits else None

    def _states(self, digest: bytes) -> bool:
        return sum(hmac.compare_digest(stated, digest) for stated in self._digests) > 0  # all are compared
