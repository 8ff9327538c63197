"""Pages of one org, or of one stranger, leave threads and time to all others: over sockets, in a pool of threads."""

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import WSGIServer
from django.db import connections
from django.test import Client, RequestFactory
from django.test.testcases import QuietWSGIRequestHandler
from pytest_django import Settings

from tenants import budget, sign_in
from tenants.access import cookie_name
from tenants.budget import PAGES_AT_ONCE, SIGN_INS_AT_ONCE, Busy, client_address, place
from tenants.frames import any_frame_hosts
from tenants.middleware import _owner
from tenants.models import Draft, InfobipAccount, SalesforceConnection
from tenants.tenancy import every_org
from tests.conftest import World
from tests.set_up.pages import signed_in

THREADS = 16  # that serve pages where nobody sets WEB_THREADS
SOON = 3.0  # seconds, on a busy machine


class PooledServer(WSGIServer):
    """Our pages in a bounded pool of threads."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), QuietWSGIRequestHandler)
        self.set_app(WSGIHandler())
        self.pool = ThreadPoolExecutor(THREADS)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.pool.submit(self.serve, request, client_address)

    def serve(self, request: Any, client_address: Any) -> None:
        try:
            with suppress(OSError):  # who asked has gone
                self.finish_request(request, client_address)
            self.shutdown_request(request)
        finally:
            connections.close_all()


@dataclass
class Answer:
    """What came back, and after how long."""

    status: int
    headers: dict[str, str]
    text: str
    seconds: float


@dataclass
class Web:
    """Our pages over sockets, and a Salesforce that takes connections and answers none until it is let go."""

    port: int
    hanging: str
    let_go: Callable[[], None]
    clients: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(64))

    def get(self, path: str, **headers: str) -> Answer:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers={"Connection": "close"} | named)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        given = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, given, text, time.monotonic() - began)

    def begin(self, path: str, **headers: str) -> Future[Answer]:
        return self.clients.submit(self.get, path, **headers)


@pytest.fixture
def web(db: None, settings: Settings) -> Iterator[Web]:
    settings.ALLOW_LOCAL_UPSTREAMS, settings.ALLOWED_HOSTS = True, ["*"]
    held: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    gone = threading.Event()

    def hold() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if gone.is_set():
                connection.close()
            else:
                held.append(connection)

    def let_go() -> None:
        gone.set()
        for connection in held:
            connection.close()

    threading.Thread(target=hold, daemon=True).start()
    server = PooledServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    running = Web(server.server_port, f"http://127.0.0.1:{listener.getsockname()[1]}", let_go)
    yield running
    let_go()
    running.clients.shutdown()
    server.shutdown()
    server.pool.shutdown()
    server.server_close()
    listener.close()


def hang(world: World, web: Web) -> str:
    """Let the platforms of an org hang; gives what its administrator's browser sends along."""
    with every_org():
        SalesforceConnection.objects.filter(org=world.org).update(base_url=web.hanging, scrt_url=web.hanging)
        InfobipAccount.objects.filter(org=world.org).update(base_url=web.hanging)
    return bearer(world)


def bearer(world: World) -> str:
    return str(signed_in(world.org).defaults["HTTP_AUTHORIZATION"])


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


@pytest.mark.django_db(transaction=True)
def test_an_org_whose_salesforce_hangs_leaves_threads_to_the_others(web: Web, acme: World, rival: World) -> None:
    assert PAGES_AT_ONCE + SIGN_INS_AT_ONCE < THREADS / 2
    slow, mine = hang(acme, web), bearer(rival)
    path = f"/e/{acme.org.handle}/setup/channel"
    pages = [web.begin(path, Authorization=slow) for _ in range(THREADS)]
    wait_until(lambda: sum(each.done() for each in pages) == THREADS - PAGES_AT_ONCE)
    refused = [each.result() for each in pages if each.done()]
    assert {each.status for each in refused} == {503} and all(each.headers["retry-after"] == "3" for each in refused)
    other = web.get(f"/e/{rival.org.handle}/setup/summary", Authorization=mine)
    assert other.status == 200 and "What is connected" in other.text and other.seconds < SOON
    for path_of_nobody in ("/", f"/e/{acme.org.handle}/", "/readyz", "/admin/login/"):
        answer = web.get(path_of_nobody)  # who has no session is not counted among the org's
        assert answer.status != 503 and answer.seconds < SOON, path_of_nobody
    web.let_go()
    served = [each.result() for each in pages if each.result() not in refused]
    assert [each.status for each in served] == [200] * PAGES_AT_ONCE
    assert web.get(f"/e/{acme.org.handle}/setup/summary", Authorization=slow).status == 200
    assert not budget._taken


@pytest.mark.django_db(transaction=True)
def test_sign_ins_to_a_salesforce_that_hangs_leave_threads_to_the_others_wherever_they_come_from(
    web: Web, acme: World, rival: World
) -> None:
    hang(acme, web)
    with every_org():
        acme.org.refresh_from_db()
    windows = []
    for _ in range(THREADS):
        started = sign_in.start(sign_in.begin(org=acme.org).uuid)
        state = re.findall("state=([^&]+)", started.url)[0]
        windows.append((f"/sf/callback?state={state}&code=aPrx", f"{sign_in.POPUP_COOKIE}={started.browser}"))
    answers = [
        web.begin(path, Cookie=cookie, X_Forwarded_For=f"198.51.100.{n}") for n, (path, cookie) in enumerate(windows)
    ]
    wait_until(lambda: sum(each.done() for each in answers) == THREADS - SIGN_INS_AT_ONCE)
    refused = [each.result() for each in answers if each.done()]
    assert {each.status for each in refused} == {503}
    assert {each.headers["cross-origin-opener-policy"] for each in refused} == {"unsafe-none"}
    other = web.get(f"/e/{rival.org.handle}/setup/summary", Authorization=bearer(rival))
    assert other.status == 200 and other.seconds < SOON
    web.let_go()
    # nothing of those that were refused is used up: Salesforce is asked when they are tried again
    again = next(number for number, each in enumerate(answers) if each.result().status == 503)
    tried = web.get(windows[again][0], Cookie=windows[again][1])
    assert tried.status == 403 and "Salesforce did not confirm who you are" in tried.text


@pytest.mark.django_db(transaction=True)
def test_a_stranger_holds_no_more_threads_than_an_org(web: Web, rival: World) -> None:
    """A set-up whose org nobody has proven calls Salesforce as well."""
    drafts = []
    with every_org():
        for _ in range(THREADS):
            token = sign_in.new_token()
            draft = Draft.objects.create(
                token_hash=sign_in.digest(token),
                base_url=web.hanging,
                private_key=rival.org.salesforce.private_key,
                certificate="",
            )
            drafts.append((draft, token))

    def test_login(token: str, n: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=40)
        origin = f"http://127.0.0.1:{web.port}"
        headers = {
            "Origin": origin,
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Forwarded-For": f"198.51.100.{n}",
        }
        connection.request("POST", "/new/", "consumer_key=3MVG9&username=a@b.example", headers)
        return connection.getresponse().status

    answers = [web.clients.submit(test_login, token, n) for n, (_, token) in enumerate(drafts)]
    wait_until(lambda: sum(each.done() for each in answers) == THREADS - SIGN_INS_AT_ONCE)
    other = web.get(f"/e/{rival.org.handle}/setup/summary", Authorization=bearer(rival))
    assert other.status == 200 and other.seconds < SOON
    web.let_go()
    assert sorted(each.result() for each in answers) == [200] * SIGN_INS_AT_ONCE + [503] * (THREADS - SIGN_INS_AT_ONCE)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", ["doctor", "setup/senders", "setup/accounts", "setup/channel"])
def test_all_calls_of_one_page_share_one_time(web: Web, acme: World, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    """Salesforce and Infobip hang: the doctor alone would call dozens of times, each for as long as a call may take."""
    monkeypatch.setattr(budget, "CALL_SECONDS", 1.0)
    answer = web.get(f"/e/{acme.org.handle}/{page}", Authorization=hang(acme, web))
    assert answer.status == 200 and answer.seconds < 1.0 + SOON


# whose place it is


@pytest.mark.parametrize(
    ("path", "headers", "owner"),
    [
        ("/e/abc/setup/summary", {"HTTP_COOKIE": f"{cookie_name('abc')}=x"}, "org abc"),
        ("/e/abc/templates", {"HTTP_AUTHORIZATION": "Bearer x"}, "org abc"),
        ("/e/abc/setup/summary", {}, "client 127.0.0.1"),
        ("/e/abc/setup/summary", {"HTTP_COOKIE": f"{cookie_name('other')}=x"}, "client 127.0.0.1"),
        ("/e/", {}, "client 127.0.0.1"),
        ("/", {}, "client 127.0.0.1"),
        ("/sf/callback", {"HTTP_X_FORWARDED_FOR": "10.0.0.1, 198.51.100.7"}, "client 198.51.100.7"),
        ("/admin/", {}, "client 127.0.0.1"),
        ("/healthz", {}, ""),
        ("/readyz", {}, ""),
        ("/api/infobip/inbound/messages", {}, ""),
        ("/api/v1/conversations", {}, ""),
    ],
)
def test_a_page_takes_a_place_of_its_org_or_of_the_stranger(path: str, headers: dict[str, Any], owner: str) -> None:
    assert _owner(RequestFactory().get(path, **headers)) == owner


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("unix:", "unix:"),
        ("", "127.0.0.1"),
    ],
)
def test_a_network_of_one_customer_is_one_stranger(said: str, client: str) -> None:
    headers: dict[str, Any] = {"HTTP_X_FORWARDED_FOR": said} if said else {}
    assert client_address(RequestFactory().get("/", **headers)) == client


def test_a_place_is_given_back_whatever_happened() -> None:
    for _ in range(PAGES_AT_ONCE + 1):
        with pytest.raises(ZeroDivisionError), place("org x"):
            raise ZeroDivisionError
    with place("org x", 1):
        with pytest.raises(Busy), place("org x", 1):
            pass
        with place("org y", 1):
            pass
    assert not budget._taken


@pytest.mark.django_db
def test_who_finds_no_place_is_told_to_try_again_in_the_frame_where_they_are(acme: World) -> None:
    client = signed_in(acme.org)
    path = f"/e/{acme.org.handle}/setup/summary?id=0Mw"
    with ExitStack() as places:
        for _ in range(PAGES_AT_ONCE):
            places.enter_context(place(f"org {acme.org.handle}"))
        page = client.get(path)
        fragment = client.get(path, headers={"HX-Request": "true"})
        way_in = Client().get(path)
    assert page.status_code == fragment.status_code == 503 and page["Retry-After"] == fragment["Retry-After"] == "3"
    assert f'href="{path}"' in page.content.decode() and "Try again in a moment" in page.content.decode()
    assert page["Content-Security-Policy"].endswith(" ".join(any_frame_hosts())) and "X-Frame-Options" not in page
    assert fragment.content.decode().startswith('<p id="busy">') and "<html" not in fragment.content.decode()
    assert way_in.status_code == 401
