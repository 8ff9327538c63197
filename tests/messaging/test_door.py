"""The door, as a web server of its own serves it: what it answers, and what is in the inbox then."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import ProgrammingError, connection, transaction

from messaging import inbox
from messaging.models import Inbox
from messaging.wake import INBOX_CHANNEL
from tenants.cache import old_secret_used_at, refusals_today
from tenants.models import Sender
from tenants.tenancy import every_org, org_scope
from tests.conftest import World, build_world, whatsapp_text
from tests.support.happenings import wait_until
from tests.support.proxy import Proxy
from tests.support.web import BARE, Web, database_url, own_path

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def web(django_db_setup: None) -> Iterator[Web]:
    with Web() as running:
        yield running


def hello(world: World, text: str = "hello") -> bytes:
    return json.dumps({"results": [whatsapp_text(text, to=world.sender.number, message_id=f"wamid.{uuid4()}")]}).encode()


def stored() -> list[bytes]:
    with every_org():
        return [bytes(row.body) for row in Inbox.objects.order_by("pk")]


# what is taken


def test_what_is_answered_200_is_in_the_inbox_as_it_came(web: Web, acme: World) -> None:
    body = hello(acme) + b" \r\n"
    assert web.post(acme, body) == (200, "")
    with every_org():
        row = Inbox.objects.get()
    assert (bytes(row.body), row.org_id, row.account_id) == (body, acme.org.pk, acme.account.pk)
    assert row.received_at is not None


def test_the_bare_path_finds_the_account_by_its_sender(web: Web, acme: World, rival: World) -> None:
    assert web.post(acme, hello(acme), path=BARE) == (200, "")
    with every_org():
        assert Inbox.objects.get().account_id == acme.account.pk


def test_the_bare_path_knows_a_sender_under_each_spelling_of_its_number(web: Web, acme: World) -> None:
    with every_org():
        Sender.objects.filter(pk=acme.sender.pk).update(number="5511987654321")
    body = json.dumps({"results": [whatsapp_text("hello", to="551187654321", message_id="wamid.1")]}).encode()
    assert web.post(acme, body, path=BARE) == (200, "")


def test_a_body_in_chunks_is_taken_whole(web: Web, acme: World) -> None:
    body = hello(acme)
    assert web.post(acme, (body[at : at + 40] for at in range(0, len(body), 40)), signed=body)[0] == 200
    assert stored() == [body]


def test_a_large_body_below_the_limit_is_taken(web: Web, acme: World) -> None:
    body = hello(acme) + b" " * (16 * 1024 * 1024 - 1000)
    assert web.post(acme, body)[0] == 200
    assert stored() == [body]


def test_a_body_of_more_values_than_2000_messages_have_is_refused(web: Web, acme: World) -> None:
    """To read it would hold up everybody's messages for as long as it takes."""
    status, said = web.post(acme, b'{"results":[' + b"{}," * 250_001 + b"{}]}")
    assert status == 413 and "Send fewer results at a time" in said
    assert web.post(acme, b'{"results":[' + b"{}," * 249_000 + b"{}]}")[0] == 200
    assert len(stored()) == 1


def test_many_at_once_are_each_stored_once(web: Web, acme: World, rival: World) -> None:
    bodies = [(world, hello(world, str(number))) for number in range(100) for world in (acme, rival)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda pair: web.post(*pair)[0], bodies))
    assert answers == [200] * 200
    with every_org():
        rows = {(row.account_id, bytes(row.body)) for row in Inbox.objects.all()}
    assert rows == {(world.account.pk, body) for world, body in bodies} and len(stored()) == 200


def test_what_was_answered_has_a_lower_id_than_what_came_later(web: Web, acme: World) -> None:
    bodies = [hello(acme, str(number)) for number in range(20)]
    assert [web.post(acme, body)[0] for body in bodies] == [200] * 20
    assert stored() == bodies


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b' \r\n\t{"what": "ever"}',
        b"\xef\xbb\xbf[1]",
        b"{",
        b"[" * 100_000,
        b'{"results": [1, null]}',
        b"{\x00}",
    ],
)
def test_whatever_begins_like_json_is_kept_for_ingesting_to_judge(web: Web, acme: World, body: bytes) -> None:
    assert web.post(acme, body)[0] == 200
    assert stored() == [body]


@pytest.mark.parametrize("body", [b"", b" ", b"\xff\xfe{}", b"7", b'"text"', b"null", b"<xml/>", b"a=b", b"\x00{}"])
def test_what_does_not_is_told_so(web: Web, acme: World, body: bytes) -> None:
    assert web.post(acme, body) == (400, "The body is not JSON.")
    assert stored() == []


# addresses


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path + "/",
        lambda path: path + "//",
        lambda path: "/" + path,
        lambda path: path.replace("/inbound", "//inbound"),
        lambda path: path + "%20",
        lambda path: path + "%0A",
        lambda path: path + "%0D%0A",
        lambda path: path + "/%20",
        lambda path: path.upper().replace("/API/INFOBIP/INBOUND/MESSAGES", BARE),
        lambda path: path.replace("infobip", "Infobip"),
        lambda path: path + "?source=infobip",
    ],
)
def test_an_address_that_is_unmistakably_ours_is_taken(web: Web, acme: World, change: Callable[[str], str]) -> None:
    assert web.post(acme, hello(acme), path=change(own_path(acme)))[0] == 200
    assert len(stored()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace("messages", "message"),
        lambda path: path.replace("/inbound", ""),
        lambda path: path + "/reports",
        lambda path: path[:-1] if path[-1] != "0" else path[:-2],
        lambda path: path.replace("messages/", "messages/%3C") + "%3E",
        lambda path: path + "%22",
    ],
)
def test_any_other_that_is_nearly_ours_is_answered_404_and_counted(
    web: Web, acme: World, change: Callable[[str], str]
) -> None:
    status, said = web.post(acme, hello(acme), path=change(own_path(acme)))
    assert status == 404 and "set-up page" in said and stored() == []


def test_a_near_miss_is_counted_for_the_account_that_it_names(web: Web, acme: World) -> None:
    web.post(acme, hello(acme), path=own_path(acme).replace("messages", "message"))
    wait_until(lambda: refusals_today(acme.account.pk) == {"near miss": 1})


def test_a_near_miss_is_answered_404_also_while_nobody_can_say_whose_it_is(web: Web, acme: World) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE tenants_infobipaccount IN ACCESS EXCLUSIVE MODE")
        assert web.request("POST", f"/api/infobip/inbound/message/{uuid4()}", hello(acme))[0] == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [("/admin/tenants/infobipaccount/", 302), ("/static/infobip.css", 404), ("/api/infobip/inbound/answers", 405)],
)
def test_no_page_is_taken_for_a_near_miss(web: Web, path: str, status: int) -> None:
    found, said = web.request("GET", path)
    assert found == status and b"set-up page" not in said


# whose secret


def test_the_secret_of_before_a_change_is_still_accepted_and_noted(web: Web, acme: World) -> None:
    assert web.post(acme, hello(acme))[0] == 200  # the account is known now
    with every_org():
        acme.account.previous_webhook_secret, acme.account.webhook_secret = "s-acme", "new"
        acme.account.save()
    assert web.post(acme, hello(acme), secret="new")[0] == 200  # at once
    assert old_secret_used_at(acme.account.pk) == ""
    assert web.post(acme, hello(acme), secret="s-acme")[0] == 200
    wait_until(lambda: old_secret_used_at(acme.account.pk) != "")
    assert len(stored()) == 3


def test_a_header_that_was_just_named_counts_at_once(web: Web, acme: World) -> None:
    assert web.post(acme, hello(acme))[0] == 200
    with every_org():
        acme.account.signature_header = "X-Acme-Signature"
        acme.account.save()
    assert web.post(acme, hello(acme), header="x-acme-signature")[0] == 200
    assert web.post(acme, hello(acme))[0] == 401


def test_a_secret_that_is_taken_back_opens_the_door_for_some_seconds_at_most(web: Web, acme: World) -> None:
    assert web.post(acme, hello(acme))[0] == 200
    with every_org():
        acme.account.webhook_secret = "new"
        acme.account.save()
    wait_until(lambda: web.post(acme, hello(acme), secret="s-acme")[0] == 401, seconds=6)


def test_a_secret_that_no_key_of_ours_decrypts_asks_for_a_repetition_and_keeps_nobody_else_out(
    web: Web, acme: World, rival: World
) -> None:
    with connection.cursor() as cursor, every_org():
        cursor.execute("UPDATE tenants_infobipaccount SET webhook_secret = 'junk' WHERE id = %s", [acme.account.pk])
    with ThreadPoolExecutor(3) as pool:
        with transaction.atomic(), connection.cursor() as cursor:
            # while a first query waits for this lock, those that come are gathered into one
            cursor.execute("LOCK TABLE tenants_infobipaccount IN ACCESS EXCLUSIVE MODE")
            first = pool.submit(web.post, acme, hello(acme), path=f"{BARE}/{uuid4()}")
            time.sleep(0.5)
            answers = [pool.submit(web.post, world, hello(world)) for world in (acme, rival)]
            time.sleep(0.5)
        assert [each.result()[0] for each in (first, *answers)] == [401, 503, 200]


def test_the_secret_of_one_account_does_not_open_anothers_door(web: Web, acme: World, rival: World) -> None:
    assert web.post(acme, hello(rival), path=own_path(rival))[0] == 401
    assert web.post(acme, hello(rival), path=BARE)[0] == 401
    assert stored() == []


def test_a_stranger_learns_nothing_about_which_accounts_there_are(web: Web, acme: World) -> None:
    headers = {"X-Hub-Signature": "none"}
    unknown = web.request("POST", f"{BARE}/{uuid4()}", hello(acme))
    assert unknown == web.request("POST", own_path(acme), hello(acme)) and unknown[0] == 401
    assert web.request("POST", BARE, hello(acme), headers)[0] == 401


# the bare path


def test_on_the_bare_path_no_more_than_256_kib_are_read(web: Web, acme: World) -> None:
    body = hello(acme) + b" " * 256 * 1024
    status, said = web.post(acme, body, path=BARE)
    assert status == 413 and "262144 bytes" in said
    assert web.post(acme, body)[0] == 200


def test_who_claims_a_number_later_does_not_crowd_its_owner_out(web: Web, acme: World, private_key: str) -> None:
    with every_org():
        for number in range(6):
            build_world(f"Squatter{number}", f"00D5g0000000{number:03d}EA4", acme.sender.number, private_key)
    assert web.post(acme, hello(acme), path=BARE)[0] == 200
    with every_org():
        assert Inbox.objects.get().account_id == acme.account.pk


def test_a_number_among_many_unknown_ones_is_found_on_the_bare_path(web: Web, acme: World) -> None:
    with every_org():
        Sender.objects.create(org=acme.org, account=acme.account, channel=acme.channel, number="447700900188")
    results = [whatsapp_text("hello", to="447700900188", message_id=f"wamid.{number}") for number in range(300)]
    assert web.post(acme, json.dumps({"results": results}).encode(), path=BARE)[0] == 200


def test_the_bare_path_can_be_switched_off(acme: World) -> None:
    with Web(BARE_WEBHOOK_PATH="false") as web:
        status, said = web.post(acme, hello(acme), path=BARE)
        assert status == 404 and "account's own address" in said
        assert web.post(acme, hello(acme))[0] == 200


# stored means committed


def test_what_was_answered_200_outlives_the_process(acme: World) -> None:
    for _ in range(3):
        with Web() as web:
            body = hello(acme)
            assert web.post(acme, body)[0] == 200
            web.kill()
        assert stored()[-1] == body
    assert len(stored()) == 3


def test_a_locked_table_is_answered_503_in_time_and_then_all_goes_on(web: Web, acme: World) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE messaging_inbox IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        assert web.post(acme, hello(acme)) == (503, "The message cannot be stored now. Send it again.")
        assert time.monotonic() - began < 6
    assert web.post(acme, hello(acme))[0] == 200
    assert len(stored()) == 1


def post_timed(web: Web, world: World) -> tuple[int, float]:
    began = time.monotonic()
    return web.post(world, hello(world))[0], time.monotonic() - began


def test_a_connection_whose_other_end_is_gone_without_a_word_is_replaced(acme: World) -> None:
    found = connection.settings_dict
    with Proxy((found["HOST"], int(found["PORT"]))) as proxy, Web(DATABASE_URL=database_url(port=proxy.port)) as web:
        assert web.post(acme, hello(acme))[0] == 200
        proxy.lose()
        assert web.post(acme, hello(acme))[0] == 503
        assert web.post(acme, hello(acme))[0] == 200


def test_nobody_waits_for_the_trouble_of_two_batches(acme: World) -> None:
    found = connection.settings_dict
    with Proxy((found["HOST"], int(found["PORT"]))) as proxy, Web(DATABASE_URL=database_url(port=proxy.port)) as web:
        assert web.post(acme, hello(acme))[0] == 200
        with transaction.atomic(), connection.cursor() as cursor, ThreadPoolExecutor(2) as pool:
            cursor.execute("LOCK TABLE messaging_inbox IN ACCESS EXCLUSIVE MODE")
            proxy.lose()
            first = pool.submit(post_timed, web, acme)  # hears nothing
            time.sleep(0.5)
            second = pool.submit(post_timed, web, acme)  # would then wait for the lock
            for each in (first, second):
                status, seconds = each.result()
                assert status == 503 and seconds < 6.5


def test_a_database_that_says_nothing_is_given_up_in_time_and_then_all_goes_on(acme: World, rival: World) -> None:
    found = connection.settings_dict
    with Proxy((found["HOST"], int(found["PORT"]))) as proxy, Web(DATABASE_URL=database_url(port=proxy.port)) as web:
        assert web.post(acme, hello(acme))[0] == 200
        proxy.freeze()
        with ThreadPoolExecutor(10) as pool:
            for _ in range(2):  # those that are known, and then those that are not any more
                began = time.monotonic()
                answers = list(pool.map(lambda _: web.post(acme, hello(acme))[0], range(10)))
                assert answers == [503] * 10 and time.monotonic() - began < 7
            assert web.post(rival, hello(rival))[0] == 503
            assert web.request("GET", "/healthz")[0] == 200
        proxy.thaw()
        wait_until(lambda: web.post(acme, hello(acme))[0] == web.post(rival, hello(rival))[0] == 200)


def test_locked_accounts_are_answered_503_in_time_and_those_known_are_still_taken(
    web: Web, acme: World, rival: World
) -> None:
    assert web.post(rival, hello(rival))[0] == 200
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE tenants_infobipaccount IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        assert web.post(rival, hello(rival))[0] == 200
        assert web.post(acme, hello(acme))[0] == 503
        assert time.monotonic() - began < 6
    wait_until(lambda: web.post(acme, hello(acme))[0] == 200)


def test_a_connection_that_was_lost_costs_no_webhook(web: Web, acme: World) -> None:
    assert web.post(acme, hello(acme))[0] == 200
    for _ in range(3):
        with connection.cursor() as cursor:
            cursor.execute(
                """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE pid <> pg_backend_pid() AND datname = current_database()"""
            )
            assert cursor.fetchone()[0] >= 1
        assert web.post(acme, hello(acme))[0] == 200
    assert len(stored()) == 4


def test_while_the_database_is_read_only_infobip_is_asked_to_send_again(web: Web, acme: World) -> None:
    name, elsewhere = connection.settings_dict["NAME"], database_url()
    with psycopg.connect(elsewhere, autocommit=True) as other:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
        cut += f"'{name}'"
        other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        other.execute(cut)
        try:
            status = web.post(acme, hello(acme))[0]
        finally:
            other.execute("SET default_transaction_read_only = off")
            other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    connection.close()
    assert status == 503  # and on the connection that saw it nothing will ever be written
    wait_until(lambda: web.post(acme, hello(acme))[0] == 200)
    assert len(stored()) == 1


def test_an_append_waits_for_the_disk_whatever_the_database_is_set_to() -> None:
    name, elsewhere = connection.settings_dict["NAME"], database_url()

    async def ask(**options: Any) -> Any:
        async with await inbox._connect(**options) as one:
            return await (await one.execute("SHOW synchronous_commit")).fetchone()

    with psycopg.connect(elsewhere, autocommit=True) as other:
        other.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        try:
            assert asyncio.run(ask()) == ("on",)
            assert asyncio.run(ask(synchronous_commit="off")) == ("off",)
        finally:
            other.execute(f"ALTER DATABASE {name} RESET synchronous_commit")


# memory


def hold(web: Web, world: World, size: int) -> socket.socket:
    """Begin to post a MiB, and stop in the middle."""
    head = f"POST {own_path(world)} HTTP/1.1\r\nHost: a\r\nX-Hub-Signature: {'0' * 64}\r\nContent-Length: {1 << 20}\r\n\r\n"
    return web.raw(head.encode() + b" " * size)


def test_where_memory_ends_the_one_that_is_coming_for_longest_gives_way(acme: World, rival: World) -> None:
    with Web(LARGEST_WEBHOOK=str(1 << 20)) as web:
        held = []
        for _ in range(3):  # two MiB are what one account may have under way
            held.append(hold(web, acme, 900_000))
            time.sleep(0.5)
        assert held[0].recv(100).startswith(b"HTTP/1.1 503 ")
        assert web.post(acme, hello(acme))[0] == web.post(rival, hello(rival))[0] == 200
        for each in held[1:]:
            each.settimeout(0.2)
            with pytest.raises(TimeoutError):  # those are still listened to
                each.recv(100)
            each.close()


def test_no_company_takes_the_memory_that_others_need(acme: World, rival: World, private_key: str) -> None:
    with every_org():
        others = [build_world(f"Other{each}", f"00D5g0000000{each:03d}EA4", "1", private_key) for each in range(3)]
    with Web(LARGEST_WEBHOOK=str(1 << 20)) as web:
        held = [hold(web, world, 900_000) for world in others for _ in range(2)]  # more than the four MiB of all
        time.sleep(0.5)
        large = hello(acme).ljust(1 << 20)
        assert [web.post(acme, large)[0] for _ in range(5)] == [200] * 5
        for each in held:
            each.close()


def test_bodies_of_whoever_has_proven_nothing_share_a_part_of_the_memory(web: Web, acme: World) -> None:
    head = f"POST {BARE} HTTP/1.1\r\nHost: a\r\nX-Hub-Signature: {'0' * 64}\r\nContent-Length: {1 << 18}\r\n\r\n"
    held = []
    for _ in range(18):  # 4 MiB are what they may have under way
        held.append(web.raw(head.encode() + b" " * 250_000))
        time.sleep(0.05)
    assert held[0].recv(100).startswith(b"HTTP/1.1 503 ")
    assert web.post(acme, hello(acme), path=BARE)[0] == web.post(acme, hello(acme))[0] == 200
    for each in held:
        each.close()


# who is told, and who may look


def test_the_workers_are_told_after_the_commit(web: Web, acme: World) -> None:
    with psycopg.connect(database_url(), autocommit=True) as worker:
        worker.execute(f"LISTEN {INBOX_CHANNEL}")
        assert web.post(acme, hello(acme))[0] == 200
        told = next(worker.notifies(timeout=5))
        assert told.channel == INBOX_CHANNEL and len(stored()) == 1


def test_who_has_no_scope_may_append_to_the_inbox_and_see_nothing_of_it(acme: World, rival: World) -> None:
    append = "INSERT INTO messaging_inbox (org_id, account_id, body) VALUES (%s, 1, '')"
    with connection.cursor() as cursor:
        cursor.execute(append, [acme.org.pk])
        for statement in (
            "SELECT 1 FROM messaging_inbox",
            "DELETE FROM messaging_inbox",
            "UPDATE messaging_inbox SET id = 7",
        ):
            cursor.execute(statement)
            assert cursor.rowcount == 0
    with org_scope(rival.org.pk), connection.cursor() as cursor:
        assert not Inbox.objects.exists()
        with pytest.raises(ProgrammingError, match="row-level security"):
            cursor.execute(append, [acme.org.pk])
    with org_scope(acme.org.pk):
        assert Inbox.objects.count() == 1


def test_refusals_are_counted_by_account_and_reason(web: Web, acme: World) -> None:
    for _ in range(3):
        web.post(acme, hello(acme), secret="guess")
    web.request("POST", own_path(acme), hello(acme))
    web.post(acme, b"text")
    wait_until(lambda: refusals_today(acme.account.pk) == {"wrong signature": 3, "no signature": 1, "not JSON": 1})


def test_a_wrong_signature_on_the_bare_path_is_counted_where_one_account_only_can_be_meant(web: Web, acme: World) -> None:
    assert web.post(acme, hello(acme), path=BARE, secret="guess")[0] == 401
    wait_until(lambda: refusals_today(acme.account.pk) == {"wrong signature": 1})


def test_what_an_unproven_body_says_is_counted_for_none_of_several(web: Web, acme: World, private_key: str) -> None:
    """Where two accounts name one number, whoever posts nonsense must not show up as either's mistake."""
    with every_org():
        other = build_world("Squatter", "00D5g0000000123EA4", acme.sender.number, private_key)
    before = len(web.said())
    assert web.post(acme, hello(acme), path=BARE, secret="guess")[0] == 401
    wait_until(lambda: '"reason": "wrong signature"' in web.said()[before:])
    assert refusals_today(acme.account.pk) == refusals_today(other.account.pk) == {}


def test_the_log_names_account_and_headers_and_never_a_secret(web: Web, acme: World) -> None:
    headers = {"X-Other-Signature": "s3cret-value", "Authorization": "Bearer s3cret-value"}
    web.request("POST", own_path(acme) + "?token=s3cret-value", b'{"text": "s3cret-value"}', headers)
    wait_until(lambda: f'"account": {acme.account.pk}' in web.said())
    said = web.said()
    assert "x-other-signature" in said and "s3cret-value" not in said
