"""Both transports, in threads and on an event loop: the same bytes out, the same meaning of whatever comes back."""

import asyncio
import gzip
import json
import resource
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from requests import adapters

from connector.aio import Caller
from connector.events import Receipt
from connector.http import (
    ApiError,
    AuthenticationFailed,
    Call,
    CustomerMustAct,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
)
from connector.salesforce.interactions import Acknowledgement, Delivered
from tests.connector import (
    AT,
    CHANNEL,
    CONTEXT,
    CONVERSATION,
    END_USER,
    ENTRY,
    MESSAGE,
    NOTIFY_URL,
    SENDER,
    TEMPLATE,
    TICK,
    Tokens,
    infobip_client,
    interaction_client,
)
from tests.connector.upstream import Behaviour, Upstream, answer, hang_up, replies, reset, then_hang_up
from tests.payloads import load

T = TypeVar("T")
Run = Callable[[Call[Any]], Any]
Start = Callable[[Behaviour], Upstream]


def in_a_thread(call: Call[T]) -> T:
    return call.client.run(call)


def on_a_loop(call: Call[T]) -> T:
    async def run() -> T:
        caller = Caller()
        try:
            return await caller.run(call)
        finally:
            await caller.close()

    return asyncio.run(run())


TRANSPORTS = [in_a_thread, on_a_loop]


def infobip_text(url: str, *, api_key: str = "key-acme") -> Call[None]:
    client = infobip_client(url, api_key=api_key, allow_local=True)
    return client.text_call(sender=SENDER, to=END_USER, text="Grüße 👋", message_uuid=MESSAGE, notify_url=NOTIFY_URL)


def infobip_template(url: str) -> Call[None]:
    client = infobip_client(url, allow_local=True)
    return client.template_call(sender=SENDER, to=END_USER, content=TEMPLATE, message_uuid=MESSAGE, notify_url=NOTIFY_URL)


def salesforce_text(url: str, *, tokens: Tokens | None = None, context: str = CONTEXT) -> Call[Delivered]:
    client = interaction_client(tokens, scrt_url=url, allow_local=True)
    return client.text_call(
        context=context, channel_address=CHANNEL, end_user=END_USER, text="Grüße 👋", message_uuid=MESSAGE, at=AT
    )


def salesforce_acknowledgements(url: str) -> Call[None]:
    ticks = [Acknowledgement(ENTRY, Receipt.DELIVERED, AT, TICK)]
    client = interaction_client(scrt_url=url, allow_local=True)
    return client.acknowledge_call(context=CONTEXT, conversation=CONVERSATION, end_user=END_USER, acknowledgements=ticks)


def salesforce_failure(url: str) -> Call[None]:
    return interaction_client(scrt_url=url, allow_local=True).failure_call(
        context=CONTEXT,
        channel_address=CHANNEL,
        end_user=END_USER,
        entry=ENTRY,
        code="EC_NO_SESSION",
        reason="No session",
        report_uuid=TICK,
    )


CALLS: dict[str, Callable[[str], Call[Any]]] = {
    "text to Infobip": infobip_text,
    "template": infobip_template,
    "text to Salesforce": salesforce_text,
    "acknowledgements": salesforce_acknowledgements,
    "failure": salesforce_failure,
}


# what goes out


def taken_apart(raw: bytes) -> tuple[str, dict[str, str], Any]:
    """Take a request apart: its first line, its headers by name, and what its body says."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert len(headers) == len(lines), "a header twice"
    if headers["content-type"].startswith("multipart/"):
        parts: Any = message_from_bytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body).get_payload()
        (part,) = parts
        body = part.get_payload(decode=True)
        headers["content-type"] = part.get_content_type()  # the boundary is another each time
    for each_time_another in ("requestid", "host", "content-length"):
        headers.pop(each_time_another, None)
    said = json.loads(body)
    for interaction in said.get("interactions", []):
        interaction.pop("timestamp")
    return first, headers, said


@pytest.mark.parametrize("name", CALLS)
def test_both_transports_send_the_same_request(upstream: Start, name: str) -> None:
    server = upstream(replies(answer(503, "{}")))
    for run in TRANSPORTS:
        with pytest.raises(ServiceUnavailable):
            run(CALLS[name](server.url))
    first, second = (taken_apart(raw) for raw in server.requests)
    assert first == second
    assert first[1]["accept-encoding"] == "identity"


# what comes back

TAKEN = json.dumps(load("infobip/answers/accepted")["body"])
DELIVERED = json.dumps(load("salesforce/answers/interaction_accepted")["body"])
Outcome = tuple[type[ApiError] | None, bool, int | None]  # the error, whether in doubt, the status

UNSAID = (ServiceUnavailable, True)
BROKEN: Outcome = (ServiceUnavailable, True, None)
packed = gzip.compress(TAKEN.encode())
chunked = f"{len(TAKEN):x}\r\n{TAKEN}\r\n0\r\n\r\n".encode()

ANSWERS: dict[str, tuple[Behaviour, Outcome]] = {
    "taken": (replies(answer(200, TAKEN)), (None, False, None)),
    "taken, in chunks": (replies(answer(200, chunked, "Transfer-Encoding: chunked")), (None, False, None)),
    "taken, to the connection's end": (
        then_hang_up(answer(200, TAKEN, "Connection: close")),
        (None, False, None),
    ),
    "taken, packed": (replies(answer(200, packed, "Content-Encoding: gzip")), (None, False, None)),
    "taken, with long headers": (replies(answer(200, TAKEN, f"X-Long: {'x' * 20000}")), (None, False, None)),
    "empty": (replies(answer(200, "")), (*UNSAID, 200)),
    "no content": (replies(b"HTTP/1.1 204 No Content\r\n\r\n"), (*UNSAID, 204)),
    "created": (replies(answer(201, TAKEN)), (*UNSAID, 201)),
    "null": (replies(answer(200, "null")), (*UNSAID, 200)),
    "a list": (replies(answer(200, "[]")), (*UNSAID, 200)),
    "an object": (replies(answer(200, "{}")), (*UNSAID, 200)),
    "deep": (replies(answer(200, "[" * 100000)), (*UNSAID, 200)),
    "a page": (replies(answer(200, "<html>Sign in to the network</html>", "Content-Type: text/html")), (*UNSAID, 200)),
    "half": (replies(answer(200, TAKEN[:40])), (*UNSAID, 200)),
    "not text": (replies(answer(200, b"\xff\xfe\x00")), (*UNSAID, 200)),
    "a redirect": (replies(answer(302, "", "Location: http://127.0.0.1:1/")), (CustomerMustAct, False, 302)),
    "bad request": (replies(answer(400, "{}")), (RequestRejected, False, 400)),
    "key refused": (replies(answer(401, "{}")), (AuthenticationFailed, False, 401)),
    "scope missing": (replies(answer(403, "<html>")), (AuthenticationFailed, False, 403)),
    "unknown": (replies(answer(404, "")), (RequestRejected, False, 404)),
    "time-out": (replies(answer(408, "")), (ServiceUnavailable, True, 408)),
    "too many": (replies(answer(429, "{}", "Retry-After: 7")), (RateLimited, False, 429)),
    "error": (replies(answer(500, "{}")), (ServiceUnavailable, True, 500)),
    "bad gateway": (replies(answer(502, "<html>")), (ServiceUnavailable, True, 502)),
    "not now": (replies(answer(503, "", "retry-after: 3")), (ServiceUnavailable, False, 503)),
    "gateway time-out": (replies(answer(504, "")), (ServiceUnavailable, True, 504)),
    "hangs up": (hang_up, BROKEN),
    "resets": (reset, BROKEN),
    "hangs up in the head": (then_hang_up(b"HTTP/1."), BROKEN),
    "hangs up in the body": (then_hang_up(answer(200, TAKEN, "Content-Length: 4000")), BROKEN),
    "hangs up in a chunk": (then_hang_up(answer(200, b"40\r\n{", "Transfer-Encoding: chunked")), BROKEN),
    "speaks another language": (replies(b"SSH-2.0-OpenSSH_9.9\r\n"), BROKEN),
    "packs badly": (replies(answer(200, b"no gzip at all", "Content-Encoding: gzip")), BROKEN),
    "chunks badly": (replies(answer(200, b"zz\r\nx", "Transfer-Encoding: chunked")), BROKEN),
}


def outcome(run: Run, call: Call[Any]) -> tuple[Any, ...]:
    """Give all that a caller learns of a call that failed, or nothing."""
    try:
        run(call)
    except ApiError as exc:
        return type(exc), exc.in_doubt, exc.status, exc.retryable, exc.retry_after, exc.code, exc.message
    return None, False, None


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_means_the_same_by_either_transport(upstream: Start, name: str) -> None:
    behave, expected = ANSWERS[name]
    server = upstream(behave)
    found = [outcome(run, infobip_text(server.url)) for run in TRANSPORTS]
    assert found[0][:3] == expected
    assert found[0] == found[1]
    assert len(server.requests) == 2  # nothing was sent again by itself


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_of_salesforce_means_the_same_by_either_transport(upstream: Start, name: str) -> None:
    behave, _ = ANSWERS[name]
    found = [outcome(run, salesforce_text(upstream(behave).url)) for run in TRANSPORTS]
    assert found[0] == found[1]


@pytest.mark.parametrize("run", TRANSPORTS)
def test_what_salesforce_says_is_given_back(upstream: Start, run: Run) -> None:
    server = upstream(replies(answer(202, DELIVERED)))
    assert run(salesforce_text(server.url)) == Delivered(CONVERSATION, "0Mw5g000000AbCdCAK")


@pytest.mark.parametrize("run", TRANSPORTS)
def test_a_refused_token_is_renewed_once_and_the_call_repeated(upstream: Start, run: Run) -> None:
    def refuse_the_first(connection: socket.socket) -> None:
        first = b"!token0" in server.requests[-1]
        connection.sendall(answer(401, "{}") if first else answer(202, DELIVERED))

    server, tokens = upstream(refuse_the_first), Tokens()
    assert run(salesforce_text(server.url, tokens=tokens)).session
    assert tokens.renewals == 1
    ids = [line for raw in server.requests for line in raw.split(b"\r\n") if line.lower().startswith(b"requestid")]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("run", TRANSPORTS)
def test_a_token_that_is_refused_again_is_given_up(upstream: Start, run: Run) -> None:
    server, tokens = upstream(replies(answer(401, "{}"))), Tokens()
    with pytest.raises(AuthenticationFailed):
        run(salesforce_text(server.url, tokens=tokens))
    assert (tokens.renewals, len(server.requests)) == (1, 2)


@pytest.mark.parametrize("run", TRANSPORTS)
@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}"])
def test_a_call_that_reaches_nobody_is_not_in_doubt(run: Run, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ServiceUnavailable) as caught:
        run(infobip_text(url.format(port=port)))
    assert (caught.value.message, caught.value.in_doubt) == ("no connection", False)


@pytest.mark.parametrize("run", TRANSPORTS)
@pytest.mark.parametrize("behave", [hang_up, reset, replies(b"HTTP/1.1 400 Plain\r\n\r\n"), replies(b"\x00" * 64)])
def test_a_server_that_does_not_prove_who_it_is_gets_no_request(upstream: Start, run: Run, behave: Behaviour) -> None:
    server = upstream(behave)
    server.read = lambda connection: connection.recv(65536)
    with pytest.raises(ServiceUnavailable) as caught:
        run(infobip_text(server.url.replace("http:", "https:")))
    assert (caught.value.message, caught.value.in_doubt) == ("no connection", False)


# what cannot be sent


@pytest.mark.parametrize("run", TRANSPORTS)
@pytest.mark.parametrize("key", ["key\u200b", "key\r\nX-Evil: 1", "key\n", "schlüssel", "key\x00", "k\tey", "\ud800"])
def test_a_key_that_cannot_be_sent_is_the_customers_to_mend(upstream: Start, run: Run, key: str) -> None:
    server = upstream(replies(answer(200, TAKEN)))
    with pytest.raises(CustomerMustAct, match="the API key contains characters that cannot be sent") as caught:
        run(infobip_text(server.url, api_key=key))
    assert (type(caught.value), caught.value.in_doubt, caught.value.retryable) == (CustomerMustAct, False, True)
    assert not server.requests and key not in str(caught.value)


@pytest.mark.parametrize("run", TRANSPORTS)
@pytest.mark.parametrize("context", [" Infobip", "Infobip\u2028", "Info\nbip"])
def test_a_context_that_cannot_be_sent_is_the_customers_to_mend(upstream: Start, run: Run, context: str) -> None:
    server = upstream(replies(answer(202, DELIVERED)))
    with pytest.raises(CustomerMustAct, match="the authorization context contains characters") as caught:
        run(salesforce_text(server.url, context=context))
    assert not caught.value.in_doubt and not server.requests


# how much is read


@pytest.mark.parametrize("run", TRANSPORTS)
@pytest.mark.parametrize("headers", [(), ("Transfer-Encoding: chunked",)], ids=["whole", "chunked"])
def test_an_answer_without_an_end_is_read_to_its_limit(upstream: Start, run: Run, headers: tuple[str, ...]) -> None:
    sent = 0

    def pour(connection: socket.socket) -> None:
        nonlocal sent
        piece = b" " * 65536
        connection.sendall(answer(200, b"", *(headers or (f"Content-Length: {1 << 40}",))))
        for _ in range(1600):  # 100 MiB
            connection.sendall(b"10000\r\n" + piece + b"\r\n" if headers else piece)
            sent += len(piece)

    call = infobip_text(upstream(pour).url)
    call.client.largest_answer = 1 << 20
    assert outcome(run, call)[:3] == (ServiceUnavailable, True, 200)
    assert sent < 20 << 20  # what the system's buffers hold besides


def squeezed(megabytes: int) -> Iterator[bytes]:
    """Pack a long text without holding it."""
    packer = zlib.compressobj(1, wbits=31)
    for _ in range(megabytes):
        yield packer.compress(b" " * (1 << 20))
    yield packer.flush()


@pytest.mark.parametrize("run", TRANSPORTS)
def test_a_small_answer_that_unpacks_to_a_huge_one_is_unpacked_to_its_limit(upstream: Start, run: Run) -> None:
    bomb = b"".join(squeezed(64))
    call = infobip_text(upstream(replies(answer(200, bomb, "Content-Encoding: gzip"))).url)
    call.client.largest_answer = 1 << 20
    before = peak_memory()
    assert outcome(run, call)[:3] == (ServiceUnavailable, True, 200)
    assert peak_memory() - before < 16 << 20


def peak_memory() -> int:
    """Give the most bytes that this process ever had, as far as anybody knows."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# whom a server proves to be


@pytest.fixture
def secure(upstream: Start, tmp_path: Path) -> tuple[str, str]:
    """A server with TLS for 127.0.0.1: its address, and the file of the authority that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, private = tmp_path / "authority.pem", tmp_path / "key.pem"
    authority.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, private)
    server = upstream(replies(answer(200, TAKEN)))
    server.wrap = lambda connection: context.wrap_socket(connection, server_side=True)
    return server.url.replace("http:", "https:"), str(authority)


@pytest.mark.parametrize("run", TRANSPORTS)
def test_a_server_is_believed_that_an_authority_vouches_for(
    secure: tuple[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority = secure
    monkeypatch.setattr(certifi, "where", lambda: authority)
    monkeypatch.setattr(adapters, "DEFAULT_CA_BUNDLE_PATH", authority)
    assert outcome(run, infobip_text(url)) == (None, False, None)
    with pytest.raises(ServiceUnavailable) as caught:  # the certificate is for the address only
        run(infobip_text(url.replace("127.0.0.1", "localhost")))
    assert (caught.value.message, caught.value.in_doubt) == ("no connection", False)


@pytest.mark.parametrize("run", TRANSPORTS)
def test_a_server_that_nobody_vouches_for_gets_no_request(secure: tuple[str, str], run: Run) -> None:
    with pytest.raises(ServiceUnavailable) as caught:
        run(infobip_text(secure[0]))
    assert (caught.value.message, caught.value.in_doubt) == ("no connection", False)
