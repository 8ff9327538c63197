"""What a person sees where a page cannot be had just now, and that nothing of theirs is lost by it."""

from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from tenants.budget import PAGES_AT_ONCE, place
from tenants.models import InfobipAccount
from tenants.tenancy import every_org
from tests.browser.conftest import NARROW, check_fits, sign_in
from tests.conftest import World
from tests.tenants.test_encryption import spoil

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("rows_beside_a_browser"),
    pytest.mark.timeout(120),
]


@pytest.mark.parametrize(("width", "scheme"), [(NARROW, "dark"), (1400, "light")])
def test_a_click_that_finds_no_place_loses_nothing_and_a_page_can_be_tried_again(
    browser: Browser, acme: World, live_server: LiveServer, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    sign_in(context, live_server.url, acme.org)
    page = context.new_page()
    address = f"{live_server.url}/e/{acme.org.handle}/setup/texts"
    page.goto(address)
    page.get_by_label("Monday").fill("9-17")
    with ExitStack() as places:
        for _ in range(PAGES_AT_ONCE):
            places.enter_context(place(f"org {acme.org.handle}"))
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.get_by_role("alert").first).to_contain_text("Try again in a few seconds")
        expect(page.get_by_role("alert").first).to_be_in_viewport()
        expect(page.get_by_role("button", name="Save", exact=True)).to_be_in_viewport()
        expect(page.get_by_label("Monday")).to_have_value("9-17")
        check_fits(page, f"busy-click-{width}", page)
        second = context.new_page()
        second.goto(address)
        expect(second.get_by_role("heading", name="Try again in a moment")).to_be_visible()
        check_fits(second, f"busy-page-{width}", second)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    expect(page.get_by_role("alert").first).to_be_hidden()
    second.get_by_role("link", name="Try again").click()
    expect(second.get_by_label("Monday")).to_have_value("09:00-17:00")
    context.close()


def test_a_panel_that_asks_by_itself_alarms_nobody(browser: Browser, acme: World, live_server: LiveServer) -> None:
    context = browser.new_context(viewport={"width": NARROW, "height": 800})
    sign_in(context, live_server.url, acme.org)
    page = context.new_page()
    page.goto(f"{live_server.url}/e/{acme.org.handle}/templates")
    with ExitStack() as places:
        for _ in range(PAGES_AT_ONCE):
            places.enter_context(place(f"org {acme.org.handle}"))
        with page.expect_response(lambda each: each.status == 503):
            page.evaluate("htmx.trigger('#panel', 'refresh')")
        page.wait_for_timeout(200)
        expect(page.locator("#alert")).to_be_hidden()
    with page.expect_response(lambda each: each.status == 204):
        page.evaluate("htmx.trigger('#panel', 'refresh')")
    context.close()


def test_a_click_that_needs_a_credential_which_cannot_be_read_leads_to_what_to_do(
    browser: Browser, acme: World, live_server: LiveServer, settings: Settings
) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    with every_org():  # nobody answers, and says so at once
        InfobipAccount.objects.update(base_url="http://127.0.0.1:1")
    spoil(acme.org.salesforce)
    context = browser.new_context(viewport={"width": NARROW, "height": 800})
    sign_in(context, live_server.url, acme.org)
    page = context.new_page()
    page.goto(f"{live_server.url}/e/{acme.org.handle}/setup/summary")
    page.get_by_role("link", name="Set up the BYOC connection").click()
    expect(page.get_by_text("no key in FIELD_ENCRYPTION_KEYS fits it")).to_be_visible()
    check_fits(page, "lost-credential", page)
    page.get_by_role("link", name="See what to do").click()
    expect(page.get_by_text("Ask your operator to restore the key that encrypted it")).to_be_visible()
    check_fits(page, "lost-credential-doctor", page)
    context.close()
