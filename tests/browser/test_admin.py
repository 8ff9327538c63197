"""An operator's browser, which tells where a form comes from only as far as our own pages let it."""

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, expect
from pytest_django.live_server_helper import LiveServer

from tests.browser.conftest import NARROW
from tests.conftest import World

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("rows_beside_a_browser"),
    pytest.mark.timeout(120),
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
