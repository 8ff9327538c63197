"""The doctor's page in a real browser, as narrow and as wide as Salesforce shows it."""

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from pytest_django.live_server_helper import LiveServer

from tenants import cache
from tests.browser.conftest import browser, check_fits, rows_beside_a_browser  # noqa: F401 (fixtures)
from tests.set_up.conftest import Company
from tests.set_up.pages import signed_in
from tests.set_up.test_doctor import spoil_signature, spoil_subscription

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("rows_beside_a_browser"),
    pytest.mark.timeout(120),
]
LONG = "Maximiliana-KonstantinopolitanischeDudelsackpfeifenmachergesellschaft"


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (380, "dark"), (1400, "light")])
def test_findings_fit_and_a_button_fixes_what_it_stands_at(
    acme: Company,
    browser: Browser,  # noqa: F811
    live_server: LiveServer,
    width: int,
    scheme: Any,
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        extra_http_headers={"Authorization": signed_in(acme.org).defaults["HTTP_AUTHORIZATION"]},
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{live_server.url}/e/{acme.org.handle}/doctor")
    expect(page.get_by_text("checks passed.")).to_be_visible()
    expect(page.get_by_text("Checked at")).to_have_text(re.compile(r"^Checked at \d\d:\d\d [AP]M$"))  # here, not in UTC
    page.get_by_text("Show the checks").click()
    check_fits(page, f"doctor-passed-{width}", page)
    acme.edit("MessagingChannel.IsActive", False)
    acme.edit("GroupMember", None)
    acme.edit("CustomMsgChannel.HasInboundReceipts", False)
    acme.keep(acme.channel, name=LONG)
    acme.keep(acme.account, name=LONG)
    spoil_signature(acme)
    for reason in ("not stored", "wrong signature"):
        cache.count_refusal(acme.account.pk, reason)
    page.get_by_role("link", name="Run checks again").click()
    expect(page.get_by_text(f"{LONG} is active")).to_be_visible(timeout=15_000)
    expect(page.locator(".dot.note")).to_have_count(1)
    check_fits(page, f"doctor-failed-{width}", page)
    page.get_by_text("checks passed").click()
    spoil_subscription(acme)
    page.get_by_role("link", name="Run checks again").click()
    finding = page.locator(".finding", has_text="Subscription of")
    finding.get_by_role("button", name="Fix it").click()
    expect(finding.get_by_role("button")).to_have_count(0, timeout=15_000)
    expect(page.get_by_text(f"{LONG} is active")).to_be_visible()
    context.close()
