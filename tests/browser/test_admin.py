"""An operator's browser, which tells where a form comes from only as far as our own pages let it."""

import os
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from messaging.models import Attempt, Outcome, Status
from tenants.models import Checkup
from tenants.tenancy import every_org
from tests.browser.conftest import NARROW
from tests.conftest import World
from tests.templates_ui.test_panel import converse, send
from tests.test_admin_search import keep_address

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("rows_beside_a_browser"),
    pytest.mark.timeout(120),
]
FINDINGS = [
    {"title": "Login to Salesforce", "state": "ok", "found": "logged in as byoc@acme.example", "remedy": ""},
    {
        "title": "WhatsApp is active",
        "state": "failed",
        "found": "not active",
        "remedy": "Open the channel in Messaging Settings, and choose Activate.",
    },
]


def test_an_operator_signs_in_by_filling_the_form(browser: Browser, acme: World, live_server: LiveServer) -> None:
    User.objects.create_superuser("operator", password="correct horse battery staple")
    page = browser.new_page()
    page.goto(f"{live_server.url}/admin/")
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill("correct horse battery staple")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Site administration")).to_be_visible()
    page.get_by_role("link", name="Orgs").click()
    expect(page.get_by_role("link", name=acme.org.name)).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Logged out")).to_be_visible()
    page.close()


def test_a_form_of_ours_is_taken_from_a_browser_without_scripts(browser: Browser, live_server: LiveServer) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": NARROW, "height": 700})
    page = context.new_page()
    page.goto(live_server.url)
    page.get_by_label("My Domain").fill("not an org's address!")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("This is not a Salesforce org's address.")).to_be_visible()
    context.close()


@pytest.mark.parametrize("width", [320, NARROW, 1400])
def test_an_operator_goes_from_an_org_to_what_is_kept_of_it(
    browser: Browser, acme: World, rival: World, live_server: LiveServer, width: int
) -> None:
    conversation = converse(acme)
    failed = send(conversation, "Good day", Status.FAILED, error="the customer has blocked this number")
    waiting = send(conversation, "One moment", Status.PENDING)
    send(converse(rival), "Not yours")
    with every_org():
        Attempt.objects.create(org=acme.org, message=waiting, started_at=timezone.now(), outcome=Outcome.RETRY, status=503)
        Attempt.objects.create(
            org=acme.org,
            message=failed,
            started_at=timezone.now(),
            outcome=Outcome.REFUSED,
            status=403,
            code="BLOCKED",
            detail="The recipient does not want messages of this business.",
        )
        Checkup.objects.create(org=acme.org, at=timezone.now(), findings=FINDINGS)
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    enter(page, live_server.url)
    page.goto(f"{live_server.url}/admin/tenants/org/")
    picture(page, f"admin-orgs-{width}")
    page.get_by_role("link", name="Acme").click()
    expect(page.get_by_text("What is kept of it")).to_be_visible()
    picture(page, f"admin-org-{width}")
    page.get_by_role("link", name="Messages", exact=True).last.click()
    expect(page.get_by_text("2 messages", exact=True)).to_be_visible()
    picture(page, f"admin-messages-{width}")
    page.goto(f"{live_server.url}/admin/messaging/message/?state=failed")
    expect(page.get_by_role("link", name=str(failed.uuid))).to_be_visible()
    expect(page.get_by_role("link", name=str(waiting.uuid))).to_have_count(0)
    page.get_by_role("link", name=str(failed.uuid)).click()
    expect(page.get_by_text("the customer has blocked this number")).to_be_visible()
    check_attempts(page, width)
    picture(page, f"admin-message-{width}")
    page.goto(f"{live_server.url}/admin/messaging/message/")
    page.get_by_role("textbox", name="Search").fill(str(waiting.uuid))
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 message", exact=True)).to_be_visible()
    picture(page, f"admin-search-{width}")
    keep_address(conversation)
    page.goto(f"{live_server.url}/admin/messaging/message/?q=%2B385+99+123-4567")
    picture(page, f"admin-nothing-found-{width}")
    page.get_by_role("link", name="Search the conversations for").click()
    expect(page.get_by_text("1 conversation", exact=True)).to_be_visible()
    page.goto(f"{live_server.url}/admin/messaging/message/?q={waiting.uuid}")
    page.get_by_role("link", name="Ana Horvat 385991234567").click()
    picture(page, f"admin-conversation-{width}")
    page.locator(".field-kept").get_by_role("link", name="Messages").click()
    expect(page.get_by_text("2 messages", exact=True)).to_be_visible()
    picture(page, f"admin-messages-of-conversation-{width}")
    page.goto(f"{live_server.url}/admin/tenants/checkup/")
    picture(page, f"admin-checkups-{width}")
    page.get_by_role("link", name="Acme").click()
    expect(page.get_by_text("Open the channel in Messaging Settings")).to_be_visible()
    picture(page, f"admin-checkup-{width}")
    page.context.close()


def check_attempts(page: Page, width: int) -> None:
    """See that the reason is within the window, without scrolling, and that attempts are numbered within their message."""
    rows = page.locator(".stacking tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.locator("td").first).to_have_text("1")
    for words in ("BLOCKED", "The recipient does not want messages of this business."):
        box = rows.get_by_text(words).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width


def enter(page: Page, server: str) -> None:
    User.objects.create_superuser("operator", password="correct horse battery staple")
    page.goto(f"{server}/admin/")
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill("correct horse battery staple")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Site administration")).to_be_visible()


def picture(page: Page, name: str) -> None:
    """Keep a picture where PICTURES names a directory; the admin's wide tables scroll by themselves."""
    if place := os.environ.get("PICTURES"):
        page.screenshot(path=Path(place) / f"{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
