"""Whose a webhook is, is found out within bounds, whatever strangers ask: against the real database, beside a loop."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from messaging import door_accounts
from messaging.door_accounts import MOST_CANDIDATES, MOST_RESULTS, Account, Accounts
from messaging.door_refusals import Refused
from tenants.tenancy import every_org
from tests.conftest import World, build_world, whatsapp_text

pytestmark = pytest.mark.django_db(transaction=True)

STRANGERS = [str(uuid4()) for _ in range(5)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The uuids of each query."""
    queries: list[list[str]] = []
    read = door_accounts._read_accounts

    def note(uuids: Sequence[str]) -> dict[str, Account]:
        queries.append(list(uuids))
        return read(uuids)

    monkeypatch.setattr(door_accounts, "_read_accounts", note)
    return queries


def with_accounts(use: Callable[[Accounts], Awaitable[None]]) -> None:
    async def main() -> None:
        accounts = Accounts()
        try:
            await use(accounts)
        finally:
            for thread in (accounts._thread, accounts._bare_thread):
                thread.submit(lambda: connection.close())  # that thread's own
                thread.shutdown()

    asyncio.run(main())


async def finding(accounts: Accounts, *uuids: str) -> list[Any]:
    """Ask for all at once; gives accounts, None, or the status of a refusal."""
    found = await asyncio.gather(*(accounts.find(each) for each in uuids), return_exceptions=True)
    return [each.status if isinstance(each, Refused) else each for each in found]


def test_what_is_asked_again_is_not_read_again_for_some_seconds_not_even_that_nobody_has_it(
    acme: World, asked: list[list[str]]
) -> None:
    async def use(accounts: Accounts) -> None:
        for _ in range(3):
            known, unknown = await finding(accounts, str(acme.account.uuid), STRANGERS[0])
            assert known.id == acme.account.pk and unknown is None

    with_accounts(use)
    assert asked == [[str(acme.account.uuid), STRANGERS[0]]]


def test_what_is_remembered_of_strangers_is_bounded(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_accounts, "MOST_UNKNOWN", 2)

    async def use(accounts: Accounts) -> None:
        await finding(accounts, *STRANGERS)
        assert list(accounts._unknown) == STRANGERS[-2:]

    with_accounts(use)


def test_what_is_kept_of_accounts_is_bounded_too(acme: World, rival: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_accounts, "MOST_KNOWN", 1)

    async def use(accounts: Accounts) -> None:
        for world in (acme, rival):
            await finding(accounts, str(world.account.uuid))
        assert list(accounts._known) == [str(rival.account.uuid)]

    with_accounts(use)


def test_a_failure_that_nobody_foresaw_is_an_answer_too_and_the_next_who_asks_is_told(
    acme: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = door_accounts._read_accounts, [RuntimeError("not foreseen")]

    def read_or_fail(uuids: Sequence[str]) -> dict[str, Account]:
        if failures:
            raise failures.pop()
        return read(uuids)

    monkeypatch.setattr(door_accounts, "_read_accounts", read_or_fail)

    async def use(accounts: Accounts) -> None:
        began = time.monotonic()
        assert await finding(accounts, str(acme.account.uuid)) == [503] and time.monotonic() - began < 2
        (found,) = await finding(accounts, str(acme.account.uuid))
        assert found.id == acme.account.pk

    with_accounts(use)


def test_who_gives_up_waiting_takes_the_answer_from_nobody_else(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests wait for one look; the first whose client is gone must not end it for all."""

    async def use(accounts: Accounts) -> None:
        gone, stays = (asyncio.create_task(accounts.find(str(acme.account.uuid))) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        found = await stays
        assert found is not None and found.id == acme.account.pk

    with_accounts(use)


def test_nobody_waits_long_on_the_bare_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_accounts, "ANSWER_SECONDS", 0.1)
    go_on = threading.Event()

    def judge(_: Sequence[Account]) -> Account:
        go_on.wait(5)
        raise Refused(401, "wrong signature", "")

    async def use(accounts: Accounts) -> None:
        began = time.monotonic()
        with pytest.raises(Refused) as refused:
            await accounts.signer(b"{}", judge)
        assert refused.value.status == 503 and time.monotonic() - began < 2
        go_on.set()

    with_accounts(use)


def test_made_up_uuids_wait_behind_those_that_are_known_and_in_a_bounded_number(
    acme: World, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_accounts, "KNOWN_SECONDS", 0.0)
    monkeypatch.setattr(door_accounts, "MOST_IN_TURN", 1)
    monkeypatch.setattr(door_accounts, "MOST_WAITING", 2)
    mine = str(acme.account.uuid)

    async def use(accounts: Accounts) -> None:
        await finding(accounts, mine)
        *strangers, found = await finding(accounts, *STRANGERS, mine)
        assert strangers == [None, None, 503, 503, 503] and found.id == acme.account.pk

    with_accounts(use)
    assert asked == [[mine], [mine], *([each] for each in STRANGERS[:2])]


def test_between_two_queries_those_that_come_are_gathered(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_accounts, "TURN_SECONDS", 1.0)

    async def use(accounts: Accounts) -> None:
        await finding(accounts, STRANGERS[0])
        later = [asyncio.create_task(accounts.find(each)) for each in STRANGERS[1:3]]
        await asyncio.sleep(0.1)
        await asyncio.gather(*later, accounts.find(STRANGERS[3]))

    with_accounts(use)
    assert asked == [STRANGERS[:1], STRANGERS[1:4]]


def test_nobody_waits_long_to_hear_whose_an_address_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_accounts, "ANSWER_SECONDS", 0.1)
    answer = threading.Event()

    def read_slowly(_: Sequence[str]) -> dict[str, Account]:
        answer.wait(5)
        return {}

    monkeypatch.setattr(door_accounts, "_read_accounts", read_slowly)

    async def use(accounts: Accounts) -> None:
        began = time.monotonic()
        assert await finding(accounts, STRANGERS[0]) == [503] and time.monotonic() - began < 2
        answer.set()

    with_accounts(use)


@pytest.fixture
def own_connection() -> Iterator[None]:
    """One that this thread makes anew, and closes."""
    connection.close()
    yield
    connection.close()


def test_a_query_of_the_door_is_cut_before_whoever_waits_for_it_gives_up(own_connection: None) -> None:
    door_accounts._read_accounts(STRANGERS)
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("2s",)


# the bare path


def told_wrong(_: Sequence[Account]) -> Account:
    time.sleep(0.1)
    raise Refused(401, "wrong signature", "")


def test_only_so_many_bodies_wait_to_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_accounts, "MOST_BARE_WAITING", 1)
    looking, go_on = threading.Event(), threading.Event()

    def judge(_: Sequence[Account]) -> Account:
        looking.set()
        go_on.wait(5)
        raise Refused(401, "wrong signature", "")

    async def use(accounts: Accounts) -> None:
        first = asyncio.create_task(accounts.signer(b"{}", judge))
        await asyncio.to_thread(looking.wait, 5)
        began = time.monotonic()
        with pytest.raises(Refused) as refused:
            await accounts.signer(b"{}", judge)
        assert refused.value.status == 503 and time.monotonic() - began < 1  # at once
        go_on.set()
        with pytest.raises(Refused):
            await first
        with pytest.raises(Refused) as judged:  # there is room again
            await accounts.signer(b"{}", told_wrong)
        assert judged.value.status == 401

    with_accounts(use)


def test_who_proves_nothing_costs_a_part_of_the_thread_only(own_connection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with pytest.raises(Refused):
        door_accounts._find_signer(b"{}", told_wrong)
    assert time.monotonic() - began >= 0.4
    monkeypatch.setattr(door_accounts, "PENALTY", 1000.0)
    began = time.monotonic()
    with pytest.raises(Refused):
        door_accounts._find_signer(b"{}", told_wrong)
    assert time.monotonic() - began < 5  # however long the looking took


def test_a_handful_of_names_is_looked_at_whatever_a_body_says(acme: World, own_connection: None, private_key: str) -> None:
    def body(*numbers: str) -> bytes:
        results = [whatsapp_text("x", to=number, message_id=str(n)) if number else {} for n, number in enumerate(numbers)]
        return json.dumps({"results": results}).encode()

    many = [f"4477009{number:05d}" for number in range(50)]
    assert len(door_accounts._names_in(body(*many))[0]) == MOST_CANDIDATES
    late = ["" for _ in range(MOST_RESULTS)]
    assert len(door_accounts._names_in(body(*late[:-1], many[0]))[0]) == 1
    assert door_accounts._names_in(body(*late, many[0]))[0] == set()
    with every_org():
        for number in range(MOST_CANDIDATES):
            build_world(f"Squatter{number}", f"00D5g0000000{number:03d}EA4", acme.sender.number, private_key)
    candidates = door_accounts._read_candidates(body(acme.sender.number))
    assert len(candidates) == MOST_CANDIDATES and candidates[0].id == acme.account.pk


def test_the_thread_that_finds_accounts_is_not_the_one_that_looks_into_bodies(acme: World) -> None:
    """So the bare path keeps nobody from being found on their own."""
    go_on = threading.Event()

    def judge(_: Sequence[Account]) -> Account:
        go_on.wait(5)
        raise Refused(401, "wrong signature", "")

    async def use(accounts: Accounts) -> None:
        bare = asyncio.create_task(accounts.signer(b"{}", judge))
        await asyncio.sleep(0)
        found = await accounts.find(str(acme.account.uuid))
        assert found is not None and found.id == acme.account.pk and not bare.done()
        go_on.set()
        with pytest.raises(Refused):
            await bare

    with_accounts(use)
