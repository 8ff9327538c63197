"""What an administrator fills in is kept at the first click, and each way into a dead end leads out of it again."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from devstack.documents import demo_document
from devstack.ports import HOST
from devstack.stack import Stack
from tests.browser.conftest import check_fits
from tests.browser.test_set_up import WAIT_MS, running_stack

pytestmark = pytest.mark.timeout(240)
WIDTHS = (320, 380, 1400)


@pytest.fixture(scope="module")
def acme() -> Iterator[tuple[Stack, str]]:
    with running_stack() as running:
        document = demo_document(running.salesforce_port, running.infobip_port)
        yield running, running.provision(document)["org"]["setup"]


@pytest.fixture
def page(acme: tuple[Stack, str], browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    opened = context.new_page()
    opened.goto(acme[1])
    yield opened
    context.close()


def sign_in(page: Page) -> None:
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Sign in with Salesforce").click()
    opened.value.get_by_role("button", name=re.compile("Ada Admin")).click()


def go(page: Page, step: str, heading: str | re.Pattern[str]) -> None:
    page.get_by_role("navigation", name="Steps of the set-up").get_by_role("link", name=step).click()
    expect(page.get_by_role("heading", name=heading).first).to_be_visible(timeout=WAIT_MS)


def check_widths(page: Page, name: str) -> None:
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        check_fits(page, f"{name}-{width}", page)


def row(page: Page) -> Locator:
    return page.locator("form.sender").first


def test_the_first_form_after_signing_in_is_saved_by_one_click(page: Page) -> None:
    sign_in(page)
    go(page, "Connect your org", "Connect your org")
    page.get_by_text("Disconnect this org").click()
    page.get_by_role("button", name="Disconnect Acme").click()
    page.get_by_role("button", name="Sign in with Salesforce").click()  # whom Salesforce knows already
    expect(page.get_by_text("nothing is read or sent")).to_be_visible(timeout=WAIT_MS)
    assert page.url.endswith("/setup/connect")
    page.get_by_role("button", name="Test and save").click()
    expect(page.get_by_role("heading", name="Set up the BYOC connection")).to_be_visible(timeout=WAIT_MS)
    go(page, "Connect your org", "Connect your org")
    expect(page.get_by_text("nothing is read or sent")).to_have_count(0)


def test_a_chosen_channel_is_saved_as_it_is_chosen_and_who_goes_on_waits_for_that(page: Page) -> None:
    sign_in(page)
    go(page, "Select senders", re.compile("^Senders of"))
    expect(row(page).get_by_role("button", name="Save")).to_be_hidden()
    row(page).get_by_label("Channel").select_option(label="Not used")
    expect(row(page).get_by_text("✓ Not used")).to_be_visible(timeout=WAIT_MS)
    expect(row(page).get_by_title("chosen")).to_have_count(0)
    # two choices at once, and on while they are still on their way
    held: list[Route] = []
    page.route("**/setup/senders", lambda route: held.append(route))
    row(page).get_by_label("Channel").select_option(label="WhatsApp")
    row(page).get_by_label("First").select_option(label="A chatbot")
    page.get_by_role("link", name="Continue").click()
    expect(row(page).locator(".saving")).to_be_visible()
    for each in held:
        each.continue_()
    page.unroute("**/setup/senders")
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible(timeout=WAIT_MS)
    go(page, "Select senders", re.compile("^Senders of"))
    expect(row(page).get_by_label("Channel")).to_have_value(re.compile(r"\d+"))
    expect(row(page).get_by_label("First")).to_have_value("chatbot")
    row(page).get_by_label("First").select_option(label="A rep")
    expect(row(page).get_by_text("✓ Saved")).to_be_visible(timeout=WAIT_MS)
    check_widths(page, "senders-saved")


def test_a_choice_that_is_refused_says_so_at_its_number_and_who_goes_on_stays(page: Page) -> None:
    sign_in(page)
    go(page, "Select senders", re.compile("^Senders of"))
    row(page).get_by_label("Channel").evaluate("each => each.add(new Option('Gone meanwhile', '999999999'))")
    held: list[Route] = []
    page.route("**/setup/senders", lambda route: held.append(route))
    row(page).get_by_label("Channel").select_option(label="Gone meanwhile")
    page.get_by_role("link", name="Continue").click()
    held[0].continue_()
    page.unroute("**/setup/senders")
    expect(row(page).get_by_role("alert")).to_contain_text("Not saved. This channel is no longer there.", timeout=WAIT_MS)
    expect(page).to_have_url(re.compile("/setup/senders$"))
    check_widths(page, "senders-refused")


def no_answer(page: Page) -> None:
    page.evaluate("htmx.config.timeout = 200")
    page.route("**/setup/senders", lambda route: None)


FAILS: dict[str, tuple[Callable[[Page], object], str]] = {
    "no connection": (lambda page: page.context.set_offline(True), "The connector does not answer."),
    "cut off": (lambda page: page.route("**/setup/senders", lambda route: route.abort()), "The connector does not answer."),
    "no answer": (no_answer, "The connector does not answer."),
    "error": (lambda page: page.route("**/setup/senders", lambda route: route.fulfill(status=500)), "Something went wrong"),
}


@pytest.mark.parametrize("how", FAILS)
def test_a_choice_that_was_not_saved_is_taken_back_and_says_so_at_its_number(page: Page, how: str) -> None:
    sign_in(page)
    go(page, "Select senders", re.compile("^Senders of"))
    first, other = row(page).get_by_label("First"), {"chatbot": "A rep", "rep": "A chatbot"}
    was = first.input_value()
    first.select_option(label=other[was])
    expect(row(page).get_by_text("✓ Saved")).to_be_visible(timeout=WAIT_MS)
    saved = first.input_value()
    assert saved != was
    fails, words = FAILS[how]
    fails(page)
    first.select_option(label=other[saved])
    row(page).get_by_label("Channel").select_option(label="Not used")
    expect(row(page).get_by_role("alert")).to_contain_text(f"Not saved. {words}", timeout=WAIT_MS)
    expect(first).to_have_value(saved)
    expect(row(page).get_by_label("Channel")).to_have_value(re.compile(r"\d+"))
    expect(row(page).get_by_text("✓ Saved")).to_have_count(0)
    expect(page.locator("#alert")).to_be_hidden()
    check_widths(page, f"not-saved-{how.replace(' ', '-')}")


def test_without_scripts_a_choice_is_saved_by_its_button(acme: tuple[Stack, str], page: Page, browser: Browser) -> None:
    sign_in(page)
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible(timeout=WAIT_MS)
    context = browser.new_context(java_script_enabled=False, storage_state=page.context.storage_state())
    plain = context.new_page()
    plain.goto(f"{acme[1]}setup/senders")
    row(plain).get_by_label("Channel").select_option(label="WhatsApp")
    row(plain).get_by_role("button", name="Save").click()
    expect(row(plain).get_by_text("✓ Saved")).to_be_visible(timeout=WAIT_MS)
    context.close()


def test_a_sign_in_that_is_refused_or_closed_is_told_where_it_began(page: Page) -> None:
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Sign in with Salesforce").click()
    opened.value.get_by_role("button", name="Cancel").click()
    expect(opened.value.get_by_role("heading", name="Not signed in")).to_be_visible()
    told = page.locator("#not-signed-in")
    expect(told).to_contain_text("you can sign in again. Salesforce says: end-user denied")
    expect(page.locator("#code-form")).to_be_hidden()
    check_widths(page, "sign-in-refused")
    opened.value.close()
    with page.expect_popup() as again:
        page.get_by_role("button", name="Sign in with Salesforce").click()
    expect(told).to_be_hidden()
    expect(again.value.get_by_role("button", name="Cancel")).to_be_visible()
    again.value.close()
    expect(told).to_contain_text("You are not signed in yet.")
    sign_in(page)
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible(timeout=WAIT_MS)


def test_a_mistyped_org_and_a_wrong_key_can_be_taken_back(acme: tuple[Stack, str], page: Page) -> None:
    stack, address = acme
    page.goto(stack.web_url)
    page.get_by_label("My Domain").fill("https://acne.my.salesforce.com")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Use another My Domain").click(timeout=WAIT_MS)
    expect(page.get_by_role("heading", name="Connect your Salesforce org")).to_be_visible(timeout=WAIT_MS)
    page.get_by_label("My Domain").fill(f"http://{HOST}:{stack.salesforce_port}")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Use another My Domain").click(timeout=WAIT_MS)
    page.goto(address)
    page.get_by_text("The external client app was deleted or replaced?").click()
    page.get_by_role("button", name="Connect again").click()
    expect(page.get_by_role("heading", name="Connect your org")).to_be_visible(timeout=WAIT_MS)
    check_widths(page, "connect-draft")


def test_a_number_stays_in_one_line_and_the_present_step_looks_so_under_the_pointer(page: Page) -> None:
    sign_in(page)
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible(timeout=WAIT_MS)
    number = page.locator("dd .number").first
    expect(number).to_have_text("+44 7700 900123")
    number.evaluate("each => each.parentElement.style.width = '80px'")
    assert number.evaluate("each => each.getClientRects().length") == 1
    present = page.locator(".path [aria-current]")
    colour = "each => getComputedStyle(each).backgroundColor"
    before = present.evaluate(colour)
    present.hover()
    assert present.evaluate(colour) == before
