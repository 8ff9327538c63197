"""The reps' panel in a real browser, as narrow as it stands beside a conversation."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from messaging.models import Conversation, Message, Session, Status
from tenants.models import Role, Sender
from tenants.tenancy import every_org
from tests.browser.conftest import check_fits
from tests.conftest import World
from tests.set_up.pages import signed_in
from tests.templates_ui.test_panel import SESSION, change, converse, send

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("rows_beside_a_browser"),
    pytest.mark.timeout(120),
]
LONG = "Maximiliana-Konstantinopolitanische Dudelsackpfeifenmachergesellschaft " * 2
UNBROKEN = LONG.replace(" ", "")


class Panel:
    """A panel that a rep has open."""

    def __init__(self, page: Page, world: World, server: str) -> None:
        self.page, self.world, self.server = page, world, server

    def open(self, record: str = SESSION) -> None:
        self.page.goto(f"{self.server}/e/{self.world.org.handle}/templates?id={record}")

    def keep(self, name: str) -> None:
        check_fits(self.page, f"panel-{name}", self.page)


@pytest.fixture(params=[(320, "light"), (380, "dark")], ids=["320 light", "380 dark"])
def looks(request: pytest.FixtureRequest) -> tuple[int, Any]:
    chosen: tuple[int, Any] = request.param
    return chosen


@pytest.fixture
def panel(browser: Browser, acme: World, live_server: LiveServer, looks: tuple[int, Any]) -> Iterator[Panel]:
    width, scheme = looks
    token = signed_in(acme.org, Role.REP, name="Marko Babic").defaults["HTTP_AUTHORIZATION"]
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        extra_http_headers={"Authorization": token},
        reduced_motion="reduce",
    )
    yield Panel(context.new_page(), acme, live_server.url)
    context.close()


def chat(acme: World) -> tuple[Conversation, Message]:
    """Let a rep have written some messages, which fared differently."""
    conversation = converse(acme)
    send(conversation, "Good day Ana, this is Marko. How can I help?", Status.READ)
    send(conversation, "Your order has left our warehouse this morning.", Status.DELIVERED)
    send(conversation, "Here is the invoice.", Status.FAILED, error="the customer's app is too old to show it")
    send(conversation, "שלום וברכה", Status.SENT)
    return conversation, send(conversation, "It arrives tomorrow before noon.", Status.PENDING, tries=2)


def test_each_state_of_the_panel_fits(panel: Panel, looks: tuple[int, Any]) -> None:
    acme, width = panel.world, looks[0]
    panel.open("")
    expect(panel.page.get_by_text("Open a messaging session")).to_be_visible()
    panel.keep(f"nobody-{width}")
    conversation, _ = chat(acme)
    panel.open()
    expect(panel.page.get_by_text("Not delivered")).to_be_visible()
    panel.keep(f"chat-{width}")
    change(conversation, window_closes_at=timezone.now() + timedelta(minutes=42, seconds=30))
    panel.open()
    expect(panel.page.get_by_text("Closes in 42 min")).to_be_visible()
    panel.keep(f"soon-{width}")
    change(conversation, window_closes_at=timezone.now() - timedelta(days=2), name=UNBROKEN, subject="HR." + "9" * 120)
    change(acme.channel, name=LONG)
    send(conversation, UNBROKEN * 3, Status.FAILED, error=UNBROKEN)
    panel.open()
    expect(panel.page.get_by_text("Closed since")).to_be_visible()
    panel.keep(f"closed-long-{width}")
    change(conversation, last_sender=None, window_closes_at=None, session_open=False)
    with every_org():
        Sender.objects.filter(org=acme.org).delete()
        Message.objects.all().delete()
        conversation.sessions.update(state=Session.State.ENDED)
    panel.open()
    expect(panel.page.get_by_text("This channel has no WhatsApp number")).to_be_visible()
    panel.keep(f"no-number-{width}")


@pytest.mark.parametrize("looks", [(380, "light")], indirect=True)
def test_the_panel_changes_by_itself_and_only_where_something_changed(panel: Panel) -> None:
    _, message = chat(panel.world)
    panel.open()
    expect(panel.page.get_by_text("On its way")).to_be_visible()
    panel.page.evaluate("document.getElementById('panel').dataset.mark = 'the same'")
    with panel.page.expect_response(lambda each: each.status == 204, timeout=10_000):
        pass
    expect(panel.page.locator("#panel[data-mark]")).to_have_count(1)
    change(message, status=Status.DELIVERED)
    expect(panel.page.get_by_text("On its way")).to_have_count(0, timeout=10_000)
    expect(panel.page.locator("#said")).to_have_text("Last message: delivered.")
    assert panel.page.evaluate("location.search") == f"?id={SESSION}"


@pytest.mark.parametrize("looks", [(380, "light")], indirect=True)
def test_the_time_that_is_left_runs_in_the_page(panel: Panel) -> None:
    converse(panel.world, window_closes_at=timezone.now() + timedelta(hours=3, minutes=12, seconds=30))
    panel.page.clock.install()
    panel.open()
    left = panel.page.locator("[data-left]")
    expect(left).to_have_text("3 h 12 min")
    panel.page.route("**/templates?*", lambda route: route.abort())  # whatever the server does
    panel.page.clock.run_for(60_000 * 15)
    expect(left).to_have_text("2 h 57 min")
    expect(panel.page.locator("#alert")).to_contain_text("does not answer")
    panel.page.unroute("**/templates?*")
    panel.page.clock.run_for(11_000)
    expect(panel.page.locator("#alert")).to_be_hidden()


@pytest.mark.parametrize("looks", [(380, "light")], indirect=True)
def test_a_page_that_nobody_sees_asks_nothing_and_catches_up(panel: Panel) -> None:
    conversation, _ = chat(panel.world)
    panel.open()
    panel.page.evaluate("Object.defineProperty(document, 'hidden', { get: () => window.away ?? false })")
    asked: list[str] = []
    panel.page.on("request", lambda request: asked.append(request.url))
    panel.page.evaluate("window.away = true")
    panel.page.wait_for_timeout(4_000)
    assert asked == []
    change(conversation, name="Ana Maria Horvat")
    panel.page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    expect(panel.page.get_by_role("heading", name="Ana Maria Horvat")).to_be_visible(timeout=2_000)
