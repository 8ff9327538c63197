"""The sandbox's page in a real browser, with the whole system behind it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from devstack.documents import CHATBOT_SENDER, demo_document
from devstack.stack import Stack

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "demo.png"
PANES = ["#phone", "#faults", "#console", "#wire"]
PASSES_MS = 15_000  # a message through the whole system, on a busy machine
HEALS_MS = 30_000  # design.md section 5: normal again within 30 seconds of the cause going away

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def demo() -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as environment:
        # services of its own: whoever else lives in a given database has other keys for the same org
        environment.delenv("DATABASE_URL", raising=False)
        environment.delenv("REDIS_URL", raising=False)
        with Stack() as stack:
            stack.manage("migrate", "--no-input")
            stack.start()
            stack.wait_ready()
            stack.provision(demo_document(stack.salesforce_port, stack.infobip_port))
            stack.control("POST", "/control/chatbot", {"lag": 0.5})
            yield stack


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console said in errors and warnings, and what scripts threw."""
    return []


@pytest.fixture
def page(demo: Stack, browser: Browser, complaints: list[str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    opened = context.new_page()
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(demo.page_url)
    expect(opened.locator("#org-names")).to_have_text("Acme")
    yield opened
    context.close()


def use_phone(page: Page, number: str, name: str) -> None:
    """Take the phone of an end user, a new one if need be."""
    page.locator("#owner").click()
    person = page.locator("#people-list").get_by_role("button", name=name)
    if person.count():
        person.click()
    else:
        page.get_by_label("WhatsApp number").fill(number)
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#owner")).to_contain_text(name)


def write(page: Page, text: str) -> None:
    """Write on the phone; Enter sends."""
    page.get_by_label("Message, Enter sends").fill(text)
    page.get_by_label("Message, Enter sends").press("Enter")
    expect(page.locator("#chat .bubble.mine").last).to_contain_text(text)


def reply(page: Page, text: str) -> None:
    """Answer as the rep; Enter sends."""
    page.get_by_label("Reply, Enter sends").fill(text)
    page.get_by_label("Reply, Enter sends").press("Enter")
    expect(page.locator("#conversation .message.agent").last).to_contain_text(text)


def open_session(page: Page, name: str) -> None:
    """Open the newest session of an end user in the console."""
    sessions(page, name).first.click(timeout=PASSES_MS)
    expect(page.locator("#session-name")).to_have_text(name)


def sessions(page: Page, name: str) -> Locator:
    return page.locator("#sessions-list").get_by_role("option").filter(has_text=name)


def in_console(page: Page, text: str) -> Locator:
    return page.locator("#conversation .message:not(.agent)").filter(has_text=text)


def way_of(page: Page, text: str) -> Locator:
    return page.locator("#wire-rows .way").filter(has_text=text)


def boxes(page: Page) -> list[object]:
    return [page.locator(pane).bounding_box() for pane in PANES]


def test_a_conversation_goes_both_ways_until_the_session_ends_and_begins_anew(page: Page, complaints: list[str]) -> None:
    before = boxes(page)
    use_phone(page, "+385 99 123 4567", "Ana Horvat")
    write(page, "Hi! Where is my order?")
    open_session(page, "Ana Horvat")
    expect(in_console(page, "Hi! Where is my order?")).to_have_count(1, timeout=PASSES_MS)
    write(page, "It was number 00012.")
    expect(in_console(page, "It was number 00012.")).to_have_count(1, timeout=PASSES_MS)

    reply(page, "Good morning Ana, one moment please.")
    expect(page.locator("#chat .bubble:not(.mine)")).to_contain_text(["one moment please."], timeout=PASSES_MS)
    last = page.locator("#conversation .message.agent").last
    expect(last.get_by_role("img", name="Read")).to_be_visible(timeout=PASSES_MS)
    expect(page.locator("#chat .bubble:not(.mine) .tick")).to_have_count(0)

    ways = page.locator("#wire-rows .way")
    expect(ways).to_have_count(3)
    for way in ways.all():
        expect(way.locator(".total")).to_have_text(re.compile(r"^[\d.]+ m?s$"), timeout=PASSES_MS)
        expect(way.get_by_role("link", name="Stored rows")).to_have_attribute(
            "href", re.compile(r"/admin/messaging/message/\?uuid__exact=[0-9a-f-]{36}$")
        )

    use_phone(page, "447700900555", "Ben Okafor")
    write(page, "Can I change the delivery address?")
    expect(sessions(page, "Ben Okafor").locator(".badge")).to_have_text("1", timeout=PASSES_MS)
    use_phone(page, "385991234567", "Ana Horvat")
    reply(page, "It arrives tomorrow between 9 and 12.")
    expect(last.get_by_role("img", name="Read")).to_be_visible(timeout=PASSES_MS)
    if os.environ.get("SAVE_PICTURES"):
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURE)

    page.get_by_role("button", name="End session").click()
    expect(page.locator("#ended")).to_be_visible()
    expect(page.get_by_label("Reply, Enter sends")).to_be_hidden()
    expect(sessions(page, "Ana Horvat")).to_have_attribute("data-status", "Ended")
    write(page, "One more thing.")
    expect(sessions(page, "Ana Horvat")).to_have_count(2, timeout=PASSES_MS)
    page.get_by_role("button", name="Open the new session").click()
    expect(page.locator("#conversation .message")).to_have_count(1)
    expect(in_console(page, "One more thing.")).to_be_visible()

    assert boxes(page) == before
    assert page.evaluate("document.documentElement.scrollHeight") == 800
    assert complaints == []


def test_a_chatbot_hands_over_and_the_rep_sees_all_that_was_said(demo: Stack, page: Page, complaints: list[str]) -> None:
    demo.control("POST", "/control/chatbot", {"queues": True})
    user = {"from": "385991234560", "to": CHATBOT_SENDER, "name": "Marta Vidal"}
    demo.control("POST", "/control/phone/messages", {**user, "text": "Good morning"})
    use_phone(page, "385991234560", "Marta Vidal")
    page.get_by_role("button", name="Talk to a person").click(timeout=PASSES_MS)
    open_session(page, "Marta Vidal")
    expect(page.locator("#session-status")).to_have_text("Waiting")
    expect(page.get_by_label("Reply, Enter sends")).to_be_hidden()
    lines = page.locator("#conversation .message .text")
    expect(lines).to_have_text(
        [
            "\u25b8 Conversation with the chatbot",
            "Good morning",
            re.compile("^\u25b8 Bot: Hello, I am Acme's bot"),
            "Talk to a person",
            "\u25b8 Bot: One moment, I am calling a colleague.",
            "\u25b8 End of the conversation with the chatbot",
        ],
        timeout=PASSES_MS,
    )
    received = page.locator("#chat .bubble:not(.mine)")
    expect(received.filter(has_text="Hang tight")).to_have_count(1, timeout=PASSES_MS)
    if place := os.environ.get("PICTURES"):
        page.screenshot(path=Path(place) / "handover.png")
    page.get_by_role("button", name="Accept").click()
    expect(page.locator("#session-status")).to_have_text("Active")
    reply(page, "Hello Marta, what can I do?")
    expect(received.filter(has_text="Hello Marta")).to_have_count(1, timeout=PASSES_MS)
    page.get_by_role("button", name="Transfer").click()
    expect(page.locator("#session-detail")).to_contain_text("Petra Novak")
    page.get_by_role("button", name="End session").click()
    expect(received.filter(has_text="This conversation has ended")).to_have_count(1, timeout=PASSES_MS)
    expect(received.filter(has_text="Hang tight")).to_have_count(1)
    demo.control("POST", "/control/chatbot", {"queues": False})
    assert complaints == []


def test_trouble_at_salesforce_is_told_on_the_wire_until_it_heals(page: Page, complaints: list[str]) -> None:
    broken = page.get_by_role("button", name="Salesforce answers 500")
    use_phone(page, "385991234568", "Cara Novak")
    broken.click()
    expect(broken).to_have_attribute("aria-pressed", "true")
    write(page, "Is anybody there?")
    way = way_of(page, "Is anybody there?")
    expect(way.locator(".trouble")).to_contain_text("500", timeout=PASSES_MS)
    expect(broken).to_contain_text(re.compile(r"on, [1-9]\d* time"))
    expect(way.locator(".total")).to_contain_text("…")

    broken.click()
    expect(broken).to_have_attribute("aria-pressed", "false")
    expect(way).to_have_attribute("data-done", "true", timeout=HEALS_MS)
    expect(way).to_contain_text("Went through after trouble")
    open_session(page, "Cara Novak")
    expect(in_console(page, "Is anybody there?")).to_have_count(1)
    assert complaints == []


def test_what_is_refused_for_good_ends_red_with_the_reason(demo: Stack, page: Page) -> None:
    use_phone(page, "385991234581", "Jana Kovac")
    write(page, "Do you have it in blue?")
    open_session(page, "Jana Kovac")
    expect(page.locator("#chat .bubble:not(.mine)")).to_contain_text(["Hang tight"], timeout=PASSES_MS)
    demo.control("POST", "/control/faults", {"where": "send", "what": "success_false", "count": 1})
    reply(page, "We do.")
    way = way_of(page, "We do.")
    expect(way.locator(".pill.bad")).to_have_text("Infobip rejects it: not enough credits", timeout=PASSES_MS)
    expect(way.locator(".total")).to_have_text("Failed")


def test_a_session_that_waits_looks_like_one_that_waits(demo: Stack, page: Page) -> None:
    demo.control("POST", "/control/chatbot", {"queues": True})
    use_phone(page, "385991234582", "Kata Simic")
    write(page, "Anybody there?")
    waiting = sessions(page, "Kata Simic")
    expect(waiting.locator(".when")).to_have_text("Waiting", timeout=PASSES_MS)
    expect(page.locator("#session-count")).to_have_text(f"({page.locator('#sessions-list .session').count()})")
    expect(page.locator("#session-count")).to_have_attribute("title", re.compile(r"^\d+ active, 1 waiting, \d+ ended$"))
    demo.control("POST", "/control/chatbot", {"queues": False})


@pytest.mark.parametrize("width", [320, 380, 880])
def test_a_narrow_page_has_its_panes_under_each_other(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    phone, _, console, wire = (page.locator(pane).bounding_box() for pane in PANES)
    assert phone and console and wire
    assert phone["y"] + phone["height"] <= console["y"] and console["y"] + console["height"] <= wire["y"]
    for each in (phone, console, wire):
        assert each["x"] >= 0 and each["x"] + each["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#wire")).to_be_in_viewport()


def test_a_long_time_stands_on_one_line(page: Page) -> None:
    heights = page.evaluate(
        """() => ["1 s…", "59 min 59 s…"].map((words) => {
            const way = document.createElement("li");
            way.className = "way";
            way.innerHTML = `<time class=at>08:15</time><i></i><span>Hello</span><i></i><b class=total>${words}</b>`;
            document.getElementById("wire-rows").append(way);
            return way.getBoundingClientRect().height;
        })"""
    )
    assert heights[0] == heights[1]


def test_the_next_message_passes_after_the_worker_was_killed(page: Page, complaints: list[str]) -> None:
    worker = page.locator("#processes .process").filter(has_text="worker")
    expect(worker).to_have_attribute("data-alive", "true")
    pid = worker.locator(".weak").inner_text()
    use_phone(page, "385991234569", "Dora Kos")
    page.get_by_role("button", name="Kill the worker").click()
    expect(page.locator("#fault-note")).to_contain_text("Worker killed")
    write(page, "Still there?")
    sessions(page, "Dora Kos").first.click(timeout=HEALS_MS)
    expect(in_console(page, "Still there?").first).to_be_visible(timeout=HEALS_MS)
    expect(worker).to_have_attribute("data-alive", "true", timeout=HEALS_MS)
    expect(worker.locator(".weak")).not_to_have_text(pid)
    assert complaints == []


def test_what_people_write_is_shown_as_they_wrote_it(page: Page, complaints: list[str]) -> None:
    text = f"<img src=x onerror=alert(1)> سلام {'wide' * 40}"
    use_phone(page, "385991234570", "Eva " + "von und zu " * 10 + "Hohenstein")
    write(page, text)
    name = page.locator("#sessions-list .session").filter(has_text="Eva von und zu").first
    name.click(timeout=PASSES_MS)
    shown = in_console(page, text).locator(".text")
    expect(shown).to_have_attribute("dir", "auto", timeout=PASSES_MS)
    assert page.locator("#conversation img, #chat img").count() == 0
    assert page.locator("#conversation").evaluate("pane => pane.scrollWidth <= pane.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    expect(page.locator("#session-name")).to_have_attribute("title", re.compile("Hohenstein$"))
    assert complaints == []


def test_the_session_list_is_walked_with_the_arrow_keys(page: Page) -> None:
    for number, name in (("385991234571", "Filip Babic"), ("385991234572", "Greta Lind")):
        use_phone(page, number, name)
        write(page, f"I am {name}.")
        expect(sessions(page, name)).to_have_count(1, timeout=PASSES_MS)
    open_session(page, "Greta Lind")
    sessions(page, "Greta Lind").press("ArrowDown")
    expect(page.locator("#session-name")).to_have_text("Filip Babic")
    expect(sessions(page, "Filip Babic")).to_be_focused()
    sessions(page, "Filip Babic").press("ArrowUp")
    expect(page.locator("#session-name")).to_have_text("Greta Lind")
    sessions(page, "Greta Lind").press("Enter")
    expect(page.get_by_label("Reply, Enter sends")).to_be_focused()


def test_a_call_that_fails_says_so_at_its_place_and_keeps_the_text(page: Page) -> None:
    use_phone(page, "385991234573", "Hana Juric")
    refuse = '{"error": "the far side is not in the mood"}'

    def refused(route: Route) -> None:
        route.fulfill(status=500, content_type="application/json", body=refuse)

    page.route("**/control/phone/messages", refused)
    page.get_by_label("Message, Enter sends").fill("Do not lose me")
    page.get_by_label("Message, Enter sends").press("Enter")
    expect(page.locator("#write-error")).to_contain_text("the far side is not in the mood")
    expect(page.get_by_label("Message, Enter sends")).to_have_value("Do not lose me")
    page.unroute("**/control/phone/messages")
    page.get_by_label("Message, Enter sends").press("Enter")
    expect(page.locator("#chat .bubble.mine")).to_contain_text(["Do not lose me"])
    expect(page.locator("#write-error")).to_be_hidden()


def test_a_lost_connection_is_told_and_everything_is_back_after_it(page: Page) -> None:
    use_phone(page, "385991234574", "Ivo Maric")
    write(page, "Before the cut")
    expect(page.locator("#lost")).to_be_hidden()
    page.route("**/control/live", lambda route: route.abort())
    page.reload()
    expect(page.locator("#lost")).to_have_text("Connection to the sandbox lost. Trying again…")
    page.unroute("**/control/live")
    expect(page.locator("#lost")).to_be_hidden(timeout=5_000)
    use_phone(page, "385991234574", "Ivo Maric")
    expect(page.locator("#chat .bubble.mine")).to_contain_text(["Before the cut"])
