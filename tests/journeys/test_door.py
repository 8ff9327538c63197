"""The door over real sockets: what the web server in front of it does to bodies, and what a dead database does."""

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import uuid4

from benchmarks.processes import family
from tests.conftest import whatsapp_text
from tests.journeys.conftest import Company, Journey


def post(company: Company, body: bytes | Iterable[bytes], *, whole: bytes = b"") -> tuple[int, str]:
    """Post a body with its length, or in chunks where it is an iterable (of what is ``whole``)."""
    place = urlsplit(company.webhook)
    signed = body if isinstance(body, bytes) else whole
    signature = "SHA256=" + hmac.new(company.secret.encode(), signed, hashlib.sha256).hexdigest()
    connection = http.client.HTTPConnection(place.netloc, timeout=20)
    headers = {"Content-Type": "application/json", "X-Hub-Signature": signature}
    try:
        with contextlib.suppress(BrokenPipeError):  # refused before all of it was sent: the answer is there all the same
            connection.request("POST", place.path, body, headers, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def hello(company: Company, text: str) -> bytes:
    result = whatsapp_text(text, to=company.sender, message_id=f"wamid.{uuid4()}")
    return json.dumps({"results": [result]}).encode()


def test_a_body_in_chunks_is_read_whole(journey: Journey) -> None:
    text = f"in chunks {uuid4()}"
    body = hello(journey.acme, text)
    status, _ = post(journey.acme, (body[i : i + 40] for i in range(0, len(body), 40)), whole=body)
    assert status == 200
    journey.wait_for_one("interaction", text=text)


def test_a_body_that_is_too_large_is_refused_by_its_length(journey: Journey) -> None:
    status, said = post(journey.acme, b" " * (16 * 1024 * 1024 + 1))
    assert status == 413 and "16777216 bytes" in json.loads(said)["error"]


def test_a_body_in_chunks_that_grows_too_large_is_refused_while_it_is_read(journey: Journey) -> None:
    status, said = post(journey.acme, (b" " * 65536 for _ in range(257)), whole=b"")
    assert status == 413 and "16777216 bytes" in json.loads(said)["error"]


def test_a_large_body_below_the_limit_is_taken(journey: Journey) -> None:
    text = f"large {uuid4()}"
    body = hello(journey.acme, text) + b" " * (8 * 1024 * 1024)
    assert post(journey.acme, body)[0] == 200
    journey.wait_for_one("interaction", text=text)


def test_with_the_database_down_infobip_is_asked_to_send_again_and_then_it_arrives(journey: Journey) -> None:
    text = f"while it was down {uuid4()}"
    body = hello(journey.acme, text)
    journey.stack.stop_service("postgres")
    try:
        status, said = post(journey.acme, body)
        assert status == 503 and "Send it again" in said
    finally:
        journey.stack.restart_service("postgres")
    journey.stack.wait_ready()
    assert post(journey.acme, body)[0] == 200
    journey.wait_for_one("interaction", text=text, status=202, seconds=30)
    assert len(journey.seen("interaction", text=text)) == 1


def test_with_a_database_that_hangs_infobip_is_asked_to_send_again_and_then_it_arrives(journey: Journey) -> None:
    text = f"while it hung {uuid4()}"
    body = hello(journey.acme, text)
    postgres = journey.stack.services["postgres"].process
    assert postgres is not None
    hanging = list(family(postgres.pid))
    for pid in hanging:
        os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            began = time.monotonic()
            assert post(journey.acme, body)[0] == 503
            assert time.monotonic() - began < 7
    finally:
        for pid in hanging:
            os.kill(pid, signal.SIGCONT)
    journey.wait_until(lambda: post(journey.acme, body)[0] == 200)
    journey.wait_for_one("interaction", text=text, status=202, seconds=30)
    assert len(journey.seen("interaction", text=text)) == 1


def test_a_signature_of_another_company_is_refused(journey: Journey) -> None:
    foreign = replace(journey.acme, secret=journey.rival.secret)
    status, said = post(foreign, hello(journey.acme, "let me in"))
    assert status == 401 and "signature does not fit" in said
    assert not journey.seen("interaction", text="let me in")
