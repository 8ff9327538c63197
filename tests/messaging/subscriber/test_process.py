"""A subscriber as it runs in production: a process that is told to end, and one that is killed."""

import socket
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from devstack.documents import example_documents
from devstack.stack import Stack
from tests.messaging.subscriber.conftest import until


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as environment:
        # services of its own, where another may already run for the other tests
        environment.delenv("DATABASE_URL", raising=False)
        environment.delenv("REDIS_URL", raising=False)
        with Stack(processes=("subscriber",), sandbox=True) as running:
            running.manage("migrate", "--no-input")
            running.start()
            until(lambda: answers(running.page_port), 30)
            for document in example_documents(running.salesforce_port, running.infobip_port, orgs=3):
                running.provision(document)
            yield running


@pytest.fixture(autouse=True)
def see_every_org() -> None:
    """Need no database of Django's."""


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def leased(stack: Stack) -> int:
    with psycopg.connect(stack.env["DATABASE_URL"]) as session:
        session.execute("SELECT set_config('connector.org', '*', false)")
        leases = session.execute("SELECT id FROM messaging_eventsubscription WHERE lease_id IS NOT NULL")
        return len(leases.fetchall())


def streams(stack: Stack) -> Callable[[], bool]:
    def all_open() -> bool:
        entries = stack.control("GET", "/control/journal")["entries"]
        opened, ended = (sum(each["kind"] == kind for each in entries) for kind in ("stream_open", "stream_end"))
        return bool(opened - ended == 3)

    return all_open


def test_a_process_that_is_told_to_end_gives_its_streams_back_within_a_second_and_ends(stack: Stack) -> None:
    until(streams(stack), 30)
    stack.control("POST", "/control/faults", {"where": "login", "what": "timeout_before"})
    stack.control("POST", "/control/tokens/expire")  # all streams break, and their logins hang
    time.sleep(1)
    assert leased(stack) == 3
    began = time.monotonic()
    stack.stop("subscriber")
    assert time.monotonic() - began < 5, "the whole process, Celery included"
    assert leased(stack) == 0
    stack.control("DELETE", "/control/faults")


def test_the_streams_of_a_killed_process_are_read_again_within_ten_seconds(stack: Stack) -> None:
    stack.restart("subscriber")
    until(streams(stack), 30)
    stack.kill("subscriber")
    began = time.monotonic()
    until(lambda: not streams(stack)(), 5)
    until(streams(stack), 20)
    assert time.monotonic() - began < 10 + 3, "which is the time that a lease lasts, and that a process takes to start"
