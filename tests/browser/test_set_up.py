"""An administrator sets an empty org up, in a frame of another site, in a real browser, until messages go both ways."""

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Page, Response, expect

from devstack.documents import demo_document, empty_document
from devstack.ports import HOST
from devstack.stack import Stack
from tests.browser.conftest import CHROMIUM_OPTIONS, NARROW, check_fits, chromium

PICTURES = Path(__file__).parents[2] / "docs" / "images"
WAIT_MS = 30_000  # on a busy machine

pytestmark = pytest.mark.timeout(300)


class Setup:
    """One browser of an administrator: the console with the frame, and Salesforce's Setup beside it."""

    def __init__(self, stack: Stack, document: dict[str, Any], context: BrowserContext, pictures: bool) -> None:
        self.stack, self.document, self.context, self.pictures = stack, document, context, pictures
        self.org = document["org"]["orgId"]
        self.console = context.new_page()
        self.console.goto(stack.page_url.replace(HOST, "localhost"))
        self.frame: FrameLocator = self.console.frame_locator("#setup-frame")

    def picture(self, name: str) -> None:
        """Keep what the frame shows now, for the set-up guide."""
        if self.pictures and os.environ.get("SAVE_PICTURES"):
            self.console.locator("#setup-page").screenshot(path=PICTURES / f"set-up-{name}.png")
        if self.pictures:
            self.narrow(name)

    def narrow(self, name: str) -> None:
        """See that the frame can be as narrow as a side bar."""
        element = self.console.locator("#setup-frame")
        before = element.get_attribute("style") or ""
        style = f"position: fixed; inset: 0; z-index: 9; width: {NARROW}px; height: 1100px"
        element.evaluate("(each, style) => { each.style = style; }", style)
        frame = element.element_handle().content_frame()
        assert frame is not None
        check_fits(frame, f"set-up-{name}", element)
        opened = "for (const each of document.querySelectorAll('details:not([open])')) each.open = each.dataset.was = true"
        frame.evaluate(opened)
        check_fits(frame, f"set-up-{name}-open", element)
        frame.evaluate("for (const each of document.querySelectorAll('[data-was]')) each.open = false")
        element.evaluate("(each, style) => { each.style = style; }", before)

    def salesforce(self, work: Callable[[Page], None]) -> None:
        """Do something in Salesforce's Setup."""
        page = self.context.new_page()
        page.goto(f"{self.document['org']['baseUrl']}/setup/{self.org}")
        work(page)
        page.close()

    def button(self, name: str) -> Any:
        return self.frame.get_by_role("button", name=name)

    def heading(self, name: str) -> None:
        expect(self.frame.get_by_role("heading", name=name, exact=True)).to_be_visible(timeout=WAIT_MS)

    def sign_in(self, button: str, person: str = "Ada Admin") -> None:
        """Click, and pick somebody in the window that opens."""
        with self.console.expect_popup() as opened:
            self.button(button).click()
        opened.value.get_by_role("button", name=re.compile(person)).click()

    def connect(self) -> None:
        """Say which org it is, make its app by hand, and test the login."""
        self.frame.get_by_label("My Domain").fill(self.document["org"]["baseUrl"])
        self.picture("1-my-domain")
        self.button("Continue").click()
        self.heading("Connect your org")
        self.picture("2-app")
        link = self.frame.get_by_role("link", name="Download the certificate").get_attribute("href") or ""
        certificate = base64.b64decode(link.partition("base64,")[2]).decode()
        callback = f"{self.stack.web_url}/sf/callback"
        expect(self.frame.get_by_text(callback, exact=True)).to_be_visible()
        key = ""

        def create_app(page: Page) -> None:
            nonlocal key
            form = page.locator("#ManageExternalClientApplication form").last
            form.get_by_label("Label").fill("Infobip BYOC")
            form.get_by_label("API name").fill("Infobip_BYOC")
            form.get_by_label("Callback URLs").fill(callback)
            form.get_by_label("Certificate (PEM)").fill(certificate)
            for scope in ("api", "refresh_token", "interaction_api", "openid", "id"):
                form.get_by_label(scope, exact=True).check()
            for profile in ("System Administrator", "Minimum Access - API Only Integrations"):
                form.get_by_label(f"Profile {profile}").check()
            form.get_by_role("button", name="Create").click()
            key = page.locator("#ManageExternalClientApplication code").first.inner_text()

        self.salesforce(create_app)
        self.frame.get_by_label("Consumer key").fill(key)
        self.frame.get_by_label("Username").fill("byoc@acme.example")
        self.button("Test the login").click()
        expect(self.frame.get_by_text("The test login works.")).to_be_visible(timeout=WAIT_MS)

    def install(self) -> None:
        """Let us install, and watch it."""
        self.heading("Set up the BYOC connection")
        self.picture("3-install")
        self.sign_in("Install for me")
        expect(self.frame.get_by_role("progressbar")).to_be_visible(timeout=WAIT_MS)
        self.picture("4-installing")
        expect(self.frame.get_by_text(re.compile("^Installed on"))).to_be_visible(timeout=60_000)
        self.picture("5-installed")
        self.frame.get_by_role("link", name="Continue").click()

    def choose_channel(self) -> None:
        """Create the channel where only Salesforce lets one, and find it."""
        expect(self.frame.get_by_text("There is no messaging channel for WhatsApp in your org yet.")).to_be_visible()

        def create_channel(page: Page) -> None:
            page.locator("#LiveMessageSetup").get_by_role("button", name="Create channel").click()
            form = page.locator("#LiveMessageSetup form", has=page.get_by_label("Omni-Flow")).first
            form.get_by_label("Omni-Flow").select_option(label="Infobip Route Session")
            form.get_by_label("Active").check()
            form.get_by_role("button", name="Save").click()

        self.salesforce(create_channel)
        expect(self.frame.get_by_role("radio", name=re.compile("Infobip WhatsApp"))).to_be_visible(timeout=WAIT_MS)
        self.picture("6-channel")
        self.button("Save").click()

    def add_account(self) -> None:
        """Add the Infobip account, and let its events come."""
        self.heading("Texts of Infobip WhatsApp")
        self.frame.get_by_role("link", name="Continue").click()
        self.heading("Add your Infobip account")
        account = self.document["infobipAccounts"][0]
        self.frame.get_by_label("Base URL").fill(account["baseUrl"])
        self.frame.get_by_label("API key").fill(account["apiKey"])
        self.button("Test and add").click()
        self.button("Create the subscription").click(timeout=WAIT_MS)
        expect(self.frame.get_by_text("Infobip sends WhatsApp events of this account to a subscription.")).to_be_visible(
            timeout=WAIT_MS
        )
        self.picture("7-account")
        self.frame.get_by_role("link", name="Continue").click()

    def choose_sender(self) -> None:
        """Put the first number on the channel."""
        self.heading("Senders of main")
        sender = self.frame.locator("form.sender").first
        sender.get_by_label("Channel").select_option(label="Infobip WhatsApp")
        expect(sender.get_by_text("✓ Saved")).to_be_visible(timeout=WAIT_MS)
        expect(sender.get_by_title("chosen")).to_be_visible(timeout=WAIT_MS)
        self.picture("8-senders")
        self.frame.get_by_role("link", name="Continue").click()

    def talk(self) -> None:
        """Write both ways."""
        number = self.document["infobipAccounts"][0]["numbers"][0]
        text, answer = f"Hello {time.time_ns()}", f"Good day {time.time_ns()}"
        self.stack.control("POST", "/control/phone/messages", {"from": "385991234567", "to": number, "text": text})
        arrived = wait(self.stack, "interaction", text=text)
        reply = {"org": self.org, "conversation": arrived["conversation"], "text": answer}
        self.stack.control("POST", "/control/console/replies", reply)
        wait(self.stack, "send", text=answer)


def wait(stack: Stack, kind: str, **facts: object) -> dict[str, Any]:
    """Wait for an entry of the sandbox's journal."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for entry in stack.control("GET", "/control/journal?after=0")["entries"]:
            if entry["kind"] == kind and all(entry.get(name) == value for name, value in facts.items()):
                return dict(entry)
        time.sleep(0.1)
    raise AssertionError(f"no {kind} with {facts}")


@contextmanager
def running_stack() -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("DATABASE_URL", raising=False)
        environment.delenv("REDIS_URL", raising=False)
        with Stack(processes=("web", "worker", "subscriber")) as running:
            running.manage("migrate", "--no-input")
            running.start()
            running.wait_ready()
            yield running


@pytest.fixture
def stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


@pytest.fixture(scope="module")
def acme() -> Iterator[tuple[Stack, str]]:
    """A stack with an org that is set up, and the address of its page."""
    with running_stack() as running:
        document = demo_document(running.salesforce_port, running.infobip_port)
        yield running, running.provision(document)["org"]["setup"]


def open_context(stack: Stack, browser: Browser, cookies: str, place: Path) -> BrowserContext:
    """Open a browser; one that blocks cookies does so by its own setting, for our pages in frames of the console."""
    looks: Any = {"viewport": {"width": 1400, "height": 1100}, "reduced_motion": "reduce"}
    if cookies == "allowed":
        return browser.new_context(**looks)
    # not what "block third-party cookies" does: that leaves those that are partitioned
    exception = {f"{stack.web_url},{stack.page_url.replace(HOST, 'localhost').rstrip('/')}": {"setting": 2}}
    settings = {"profile": {"content_settings": {"exceptions": {"cookies": exception}}}}
    (place / "Default").mkdir()
    (place / "Default" / "Preferences").write_text(json.dumps(settings))
    found = chromium()
    return browser.browser_type.launch_persistent_context(
        place, executable_path=found, channel=None if found else "chromium", args=CHROMIUM_OPTIONS, **looks
    )


class Cookies:
    """Whether the pages in the frame set cookies, and whether any came back."""

    def __init__(self, stack: Stack, context: BrowserContext) -> None:
        self.address = re.compile(re.escape(stack.web_url) + "/(?!sf/start|sf/callback|static/)")
        self.answers: list[Response] = []
        context.on("response", self.note)

    def note(self, response: Response) -> None:
        if self.address.match(response.url):
            self.answers.append(response)

    def given(self) -> list[str]:
        return [name for each in self.answers for name in each.all_headers().get("set-cookie", "").split("=")[:1] if name]

    def sent(self) -> list[str]:
        return [each.request.url for each in self.answers if "cookie" in each.request.all_headers()]


@pytest.mark.parametrize("cookies", ["allowed", "blocked"])
def test_an_empty_org_becomes_a_working_channel(stack: Stack, browser: Browser, cookies: str, tmp_path: Path) -> None:
    document = empty_document(stack.salesforce_port, stack.infobip_port)
    stack.open_empty_org(document)
    if cookies == "blocked":
        quick = {"path": "switches.deploy_seconds", "value": 0.3}
        stack.control("PATCH", f"/control/orgs/{document['org']['orgId']}/setup", quick)
    context = open_context(stack, browser, cookies, tmp_path)
    seen = Cookies(stack, context)
    setup = Setup(stack, document, context, pictures=cookies == "allowed")
    setup.connect()
    setup.sign_in("Sign in with Salesforce")
    setup.install()
    setup.choose_channel()
    setup.add_account()
    setup.choose_sender()
    setup.heading("What is connected")
    setup.talk()
    with setup.console.expect_response(re.compile("/doctor$")):
        setup.frame.get_by_role("link", name="Run checks again").click()
    expect(setup.frame.locator(".htmx-request")).to_have_count(0, timeout=WAIT_MS)
    expect(setup.frame.get_by_text(re.compile(r"\d+ checks? passed"))).to_be_visible(timeout=WAIT_MS)
    setup.picture("9-summary")
    # what is left are the acts that are the administrator's own: members of the queue, permission sets of the reps
    trouble = setup.frame.locator("#doctor .finding:has(.dot.bad)").all_inner_texts()
    assert trouble == [], json.dumps(trouble, indent=1)
    assert any(name.startswith("__Host-sid-") for name in seen.given())
    assert bool(seen.sent()) == (cookies == "allowed"), seen.sent()
    setup.console.reload()
    if cookies == "allowed":
        setup.console.get_by_role("tab", name="Infobip BYOC").click()
        # the console opens the frame at the bare address again, which knows the org by now
        setup.frame.get_by_label("My Domain").fill(document["org"]["baseUrl"])
        setup.button("Continue").click()
        setup.heading("What is connected")
    context.close()


def test_in_a_tab_of_its_own_the_page_works_too_and_knows_its_reader_again(
    acme: tuple[Stack, str], browser: Browser
) -> None:
    """For a frame that may not sign anybody in: the page offers itself as a tab."""
    _, address = acme
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(address)
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Sign in with Salesforce").click()
    opened.value.get_by_role("button", name=re.compile("Ada Admin")).click()
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible(timeout=WAIT_MS)
    page.reload()
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible(timeout=WAIT_MS)
    context.close()


def test_where_the_window_was_cut_off_a_person_carries_the_code(acme: tuple[Stack, str], browser: Browser) -> None:
    stack, address = acme
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(address)
    # Salesforce may cut the tie between windows; a blocked window is opened by hand, and has none either
    page.add_init_script("window.open = () => null")
    page.reload()
    page.get_by_role("button", name="Sign in with Salesforce").click()
    start = page.get_by_role("link", name="Open it in a tab").get_attribute("href") or ""
    window = context.new_page()
    page.set_viewport_size({"width": NARROW, "height": 700})
    check_fits(page, "sign-in", page)
    window.set_viewport_size({"width": NARROW, "height": 680})
    window.goto(stack.web_url + start)
    window.get_by_role("button", name=re.compile("Ada Admin")).click()
    code = window.locator("#shown-code").inner_text()
    check_fits(window, "popup-code", window)
    page.get_by_label("The window shows a code? Type it here").fill(code)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible(timeout=WAIT_MS)
    context.close()


def test_what_is_refused_is_told_on_a_page_that_fits(acme: tuple[Stack, str], browser: Browser) -> None:
    stack, _ = acme
    page = browser.new_page(viewport={"width": NARROW, "height": 680})
    for path, words, name in (
        ("/sf/start", "This address is not complete.", "popup-refused"),
        (
            f"/sf/callback?error=access_denied&error_description={'end-user-denied-' * 15}",
            "Salesforce says",
            "popup-denied",
        ),
        ("/e/nobodys/", "This address is not known.", "refused"),
        ("/templates?id=undefined", "which Salesforce org is yours?", "templates-start"),
    ):
        page.goto(stack.web_url + path)
        expect(page.get_by_text(words)).to_be_visible()
        check_fits(page, name, page)
    page.close()


def test_a_rep_signs_in_at_the_panel_and_stays_there(acme: tuple[Stack, str], browser: Browser) -> None:
    """The bare address, as it may stand in the component of an org whose administrator has not changed it."""
    stack, address = acme
    context = browser.new_context(viewport={"width": NARROW, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{stack.web_url}/templates?id=0Mw5g00000Unkno")
    page.get_by_label("My Domain").fill(f"http://{HOST}:{stack.salesforce_port}")
    page.get_by_role("button", name="Continue").click()
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Sign in with Salesforce").click()
    opened.value.get_by_role("button", name=re.compile("Marko Babic")).click()
    expect(page.get_by_text("This session is not known yet.")).to_be_visible(timeout=WAIT_MS)
    assert page.url == f"{address}templates?id=0Mw5g00000Unkno"
    check_fits(page, "panel-signed-in", page)
    with page.expect_response(lambda each: each.status == 204, timeout=15_000):
        pass  # it looks again by itself
    hello = {"from": "385991234567", "to": "447700900123", "name": "Ana Horvat", "text": f"Hello {time.time_ns()}"}
    stack.control("POST", "/control/phone/messages", hello)
    arrived = wait(stack, "interaction", text=hello["text"])
    page.goto(f"{address}templates?id={arrived['session']}")
    expect(page.get_by_role("heading", name="Ana Horvat")).to_be_visible(timeout=WAIT_MS)
    reply = {"org": arrived["org"], "conversation": arrived["conversation"], "text": f"Good day {time.time_ns()}"}
    stack.control("POST", "/control/console/replies", reply)
    expect(page.locator(".message", has_text=reply["text"])).to_contain_text(
        re.compile("Sent|Delivered|Read"), timeout=WAIT_MS
    )
    page.goto(address)
    expect(page.get_by_text("This page is for administrators.")).to_be_visible()
    check_fits(page, "refused-rep", page)
    context.close()


def test_a_page_in_a_sandboxed_frame_offers_a_tab_of_its_own(acme: tuple[Stack, str], browser: Browser) -> None:
    stack, address = acme
    page = browser.new_page()
    page.goto(stack.page_url.replace(HOST, "localhost"))
    page.evaluate(
        """address => {
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.src = address + "?id=";
            frame.id = "sandboxed";
            document.body.prepend(frame);
        }""",
        address,
    )
    frame = page.frame_locator("#sandboxed")
    link = frame.get_by_role("link", name="Open in a tab of its own")
    expect(link).to_be_visible(timeout=WAIT_MS)
    expect(link).to_have_attribute("href", f"{address}?id=")
    expect(frame.get_by_role("button", name="Sign in with Salesforce")).to_be_hidden()
    page.close()


@pytest.mark.parametrize("width", [380, 1400])
def test_texts_are_saved_part_by_part_and_what_is_wrong_has_the_cursor(
    acme: tuple[Stack, str], browser: Browser, width: int
) -> None:
    _, address = acme
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.goto(address)
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Sign in with Salesforce").click()
    opened.value.get_by_role("button", name=re.compile("Ada Admin")).click()
    expect(page.get_by_role("heading", name="What is connected")).to_be_visible(timeout=WAIT_MS)
    page.get_by_role("link", name="Texts and hand-over").first.click()
    expect(page.get_by_role("heading", name="Texts of WhatsApp")).to_be_visible(timeout=WAIT_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if os.environ.get("SAVE_PICTURES") and width > 380:
        page.screenshot(path=PICTURES / "set-up-10-texts.png", full_page=True)
    page.get_by_text("Add a language").click()
    languages = page.locator("#languages")
    languages.get_by_label("Welcome").last.fill("Not saved yet")
    page.get_by_label("Wednesday").fill("nine to five")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("is not from one time to another")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_label("Wednesday")).to_be_focused()
    page.get_by_label("Wednesday").fill("9-17")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Saved.")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_label("Wednesday")).to_have_value("09:00-17:00")
    expect(languages.get_by_label("Welcome").last).to_have_value("Not saved yet")
    context.close()
