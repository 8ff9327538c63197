"""Our pages in frames of Salesforce's hosts, by the names that those have: a browser shows an org's to that org only."""

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape

import pytest
from playwright.sync_api import Browser, BrowserContext, Frame, Page, Route, expect
from pytest_django.live_server_helper import LiveServer

from tests.browser.conftest import sign_in
from tests.conftest import World

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("rows_beside_a_browser"),
    pytest.mark.timeout(120),
]

LOCAL = "local-network-access"
LIGHTNING, SETUP = "https://acme.lightning.force.com", "https://acme.my.salesforce-setup.com"
VISUALFORCE = "https://acme--c.vf.force.com"
RIVAL, RIVAL_VISUALFORCE = "https://rival.lightning.force.com", "https://rival--c.vf.force.com"
SITES = ("https://force.com", "https://salesforce-setup.com", "https://evil.example")  # of the outermost page


@pytest.fixture
def context(browser: Browser, acme: World, live_server: LiveServer) -> Iterator[BrowserContext]:
    """A browser of an administrator of Acme, signed in on each site: those of all orgs share one jar of cookies."""
    context = browser.new_context(permissions=[LOCAL])  # from names of the internet to this machine
    sign_in(context, live_server.url, acme.org, sites=SITES)
    yield context
    context.close()


def fulfil(page: str, route: Route) -> None:
    route.fulfill(content_type="text/html", body=page)


def show(context: BrowserContext, ancestors: Sequence[str], address: str) -> tuple[Page, Frame]:
    """Show our address in a frame of the last of these sites, in a frame of the one before, and so on."""
    inner = address
    for n, site in reversed([*enumerate(ancestors)]):
        page = f"<!doctype html><iframe src='{escape(inner)}' width=900 height=700 allow='{LOCAL} *'></iframe>"
        inner = f"{site}/{n}"
        context.route(inner, partial(fulfil, page))
    page_shown = context.new_page()
    page_shown.goto(inner)
    deepest = page_shown.main_frame
    for _ in ancestors:
        deepest = deepest.child_frames[0]
    return page_shown, deepest


def expect_refused(frame: Frame) -> None:
    """See that the browser shows a page of its own, which says so, instead of ours."""
    for _ in range(100):
        if frame.url.startswith("chrome-error:"):
            return
        frame.page.wait_for_timeout(50)
    raise AssertionError(f"the frame shows {frame.url}")


@pytest.mark.parametrize(
    "ancestors",
    [[LIGHTNING], [SETUP, LIGHTNING], [LIGHTNING, VISUALFORCE], [VISUALFORCE]],
    ids=["Lightning", "App Builder", "Visualforce in Lightning", "Visualforce"],
)
def test_an_orgs_own_hosts_show_its_page(
    context: BrowserContext, acme: World, live_server: LiveServer, ancestors: list[str]
) -> None:
    _, frame = show(context, ancestors, f"{live_server.url}/e/{acme.org.handle}/setup/summary?id=")
    expect(frame.get_by_role("heading", name="What is connected")).to_be_visible()


@pytest.mark.parametrize(
    "ancestors",
    [
        [RIVAL],
        [RIVAL_VISUALFORCE],
        [LIGHTNING, RIVAL_VISUALFORCE],
        [RIVAL_VISUALFORCE, LIGHTNING],
        ["https://evil.example"],
    ],
    ids=["another Lightning", "another Visualforce", "inside ours", "around ours", "anybody"],
)
def test_another_orgs_hosts_do_not(
    context: BrowserContext, acme: World, live_server: LiveServer, ancestors: list[str]
) -> None:
    _, frame = show(context, ancestors, f"{live_server.url}/e/{acme.org.handle}/setup/summary?id=")
    expect_refused(frame)


@pytest.mark.parametrize(("site", "shown"), [(LIGHTNING, True), (RIVAL, False), (RIVAL_VISUALFORCE, False)])
@pytest.mark.parametrize("start", ["/", "/templates"])
def test_the_page_that_asks_for_the_org_leads_no_other_orgs_frame_to_it(
    context: BrowserContext, acme: World, live_server: LiveServer, site: str, shown: bool, start: str
) -> None:
    """Any org may frame the question, and a click on its button may be led by what lies above it."""
    _, frame = show(context, [site], f"{live_server.url}{start}?id=")
    frame.get_by_label("My Domain").fill("acme")
    frame.get_by_role("button", name="Continue").click()
    if shown:
        expect(frame.get_by_text("Ada Admin").or_(frame.get_by_text("Open a messaging session"))).to_be_visible()
    else:
        expect_refused(frame)
