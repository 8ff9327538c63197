"""What a browser keeps of our pages, where others may read it after the session is over: nothing of what they show."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from tenants.models import WebSession
from tenants.tenancy import every_org
from tests.browser.conftest import sign_in
from tests.conftest import World
from tests.set_up.pages import signed_in

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("rows_beside_a_browser"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def context(browser: Browser, acme: World, settings: Settings) -> Iterator[BrowserContext]:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    with every_org():
        acme.account.base_url = "http://127.0.0.1:1"  # nobody answers, and says so at once
        acme.account.save()
    context = browser.new_context()
    yield context
    context.close()


def kept(page: Page) -> str:
    """Read all that the browser keeps for our pages."""
    return json.dumps(page.evaluate("() => [{...localStorage}, {...sessionStorage}]"))


def open_step(page: Page, name: str, heading: str) -> None:
    page.get_by_role("link", name=name).first.click()
    expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()


def test_no_page_with_a_secret_is_kept_and_the_way_back_asks_the_server(
    context: BrowserContext, acme: World, live_server: LiveServer
) -> None:
    sign_in(context, live_server.url, acme.org)
    page = context.new_page()
    page.goto(f"{live_server.url}/e/{acme.org.handle}/setup/summary")
    open_step(page, "Add Infobip accounts", "main")
    assert page.locator("[data-copy=s-acme]").count() == 1
    open_step(page, "Summary", "What is connected")
    page.goto(f"{live_server.url}/e/{acme.org.handle}/api-access")
    page.get_by_label("Name").fill("CRM")
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Make a token").click()
    expect(page.get_by_role("heading", name="Your new token")).to_be_visible()
    token = page.locator(".values [data-copy]").first.get_attribute("data-copy") or ""
    assert len(token) > 20
    open_step(page, "Add Infobip accounts", "main")
    open_step(page, "Texts and hand-over", "Texts of WhatsApp")
    for heading in ("main", "API tokens"):
        page.go_back()
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
        for secret in (token, "s-acme", "<"):
            assert secret not in kept(page), heading
    expect(page.get_by_role("heading", name="Your new token")).to_have_count(0)
    page.go_forward()
    expect(page.get_by_role("heading", name="main", exact=True)).to_be_visible()
    assert "s-acme" not in kept(page)


def test_the_way_back_works_where_the_page_keeps_the_token_itself(
    context: BrowserContext, acme: World, live_server: LiveServer
) -> None:
    page = context.new_page()
    token = signed_in(acme.org).defaults["HTTP_AUTHORIZATION"].removeprefix("Bearer ")
    page.goto(f"{live_server.url}/e/{acme.org.handle}/")
    page.evaluate(
        """token => {
            document.body.insertAdjacentHTML("beforeend", `<i data-token="${token}"></i>`);
            document.dispatchEvent(new Event("htmx:afterSwap"));
            htmx.ajax("GET", location.pathname + "setup/summary", { target: "#main", select: "#main", swap: "outerHTML" });
        }""",
        token,
    )
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible()
    open_step(page, "Add Infobip accounts", "main")
    open_step(page, "Texts and hand-over", "Texts of WhatsApp")
    page.go_back()
    expect(page.get_by_role("heading", name="main", exact=True)).to_be_visible()
    assert token not in kept(page)


def test_the_way_back_after_the_session_is_over_leads_to_the_door(
    context: BrowserContext, acme: World, live_server: LiveServer
) -> None:
    sign_in(context, live_server.url, acme.org)
    page = context.new_page()
    page.goto(f"{live_server.url}/e/{acme.org.handle}/setup/summary")
    open_step(page, "Add Infobip accounts", "main")
    with every_org():
        WebSession.objects.all().delete()
    page.go_back()
    expect(page.get_by_role("button", name="Sign in with Salesforce")).to_be_visible()
    expect(page.get_by_role("heading", name="main", exact=True)).to_have_count(0)
