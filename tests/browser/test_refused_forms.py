"""After a form was refused, what is wrong with it is in view, and the field that it is about has the cursor."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from tenants.models import InfobipAccount, SalesforceConnection
from tenants.tenancy import every_org
from tests.browser.conftest import check_fits, sign_in
from tests.conftest import World

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("rows_beside_a_browser"),
    pytest.mark.timeout(120),
]
NOBODY = "http://127.0.0.1:1"  # where nobody answers, and says so at once


@pytest.fixture(params=[(360, "dark"), (1400, "light")], ids=["360 dark", "1400 light"])
def page(
    request: pytest.FixtureRequest, browser: Browser, acme: World, live_server: LiveServer, settings: Settings
) -> Iterator[Page]:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    with every_org():
        InfobipAccount.objects.update(base_url=NOBODY)
        SalesforceConnection.objects.update(base_url=NOBODY, scrt_url=NOBODY)
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 420}, color_scheme=scheme, reduced_motion="reduce")
    sign_in(context, live_server.url, acme.org)
    opened = context.new_page()
    opened.set_default_timeout(10_000)
    opened.goto(f"{live_server.url}/e/{acme.org.handle}/setup/texts")
    yield opened
    context.close()


def press_enter(page: Page, label: str, value: str) -> None:
    field = page.get_by_label(label).last
    field.fill(value)
    field.press("Enter")


def wrong_connection(page: Page) -> None:
    press_enter(page, "Username", "somebody@acme.example")


def wrong_hours(page: Page) -> None:
    page.get_by_label("Tuesday").fill("never")
    press_enter(page, "Chatbot's name", "Bot")


def wrong_translation(page: Page) -> None:
    page.get_by_text("Add a language").click()
    page.get_by_label("Language", exact=True).last.select_option(label="German")
    page.get_by_role("button", name="Add", exact=True).click()


def wrong_account(page: Page) -> None:
    page.get_by_text("Add one").click()
    page.get_by_label("Name").last.fill("second")
    page.get_by_label("Base URL").last.fill("127.0.0.1:1")
    press_enter(page, "API key", "k")


def wrong_change(page: Page) -> None:
    page.get_by_text("Change the key or the address").click()
    page.get_by_label("Base URL").first.fill("https://nobody.example")
    page.get_by_role("button", name="Test and save").click()


def no_subscription(page: Page) -> None:
    page.get_by_role("button", name="Create the subscription").click()


def wrong_phone(page: Page) -> None:
    press_enter(page, "Your own WhatsApp number", "none")


def wrong_scopes(page: Page) -> None:
    for each in page.get_by_role("checkbox").all():
        each.uncheck()
    press_enter(page, "Name", "CRM")


REFUSED: dict[str, tuple[str, Callable[[Page], None], str]] = {
    "connection": ("setup/connect", wrong_connection, "does not answer"),
    "hours": ("setup/texts", wrong_hours, "never"),
    "translation": ("setup/texts", wrong_translation, "Give at least one text"),
    "account": ("setup/accounts", wrong_account, "does not answer"),
    "change": ("setup/accounts", wrong_change, "address"),
    "subscription": ("setup/accounts", no_subscription, "did not take the subscription"),
    "phone": ("test-message", wrong_phone, "An example is"),
    "scopes": ("api-access", wrong_scopes, "Choose what it may do."),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_wrong_is_in_view_and_has_the_cursor(page: Page, form: str) -> None:
    path, work, words = REFUSED[form]
    page.goto(page.url.replace("setup/texts", path))
    work(page)
    reason = page.locator("#main").get_by_role("alert").filter(has_text=words)
    expect(reason).to_be_in_viewport()
    has_cursor = page.locator(":focus")
    expect(has_cursor).to_be_in_viewport()
    # the reason itself, or a field beside it that is marked
    assert has_cursor.evaluate("(each, words) => (each.closest('.wrong') ?? each).textContent.includes(words)", words)
    check_fits(page, f"refused-{form}-{page.evaluate('innerWidth')}", page)
