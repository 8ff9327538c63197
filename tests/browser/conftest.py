"""A real Chromium for the tests of pages."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Frame, Locator, Page, sync_playwright

from tenants.access import cookie_name
from tenants.models import Org
from tests.set_up.pages import signed_in

NARROW = 380

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


def chromium() -> str | None:
    """Find the Chromium to use; None: the one that Playwright has installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def check_fits(page: Page | Frame, name: str, shown: Page | Locator) -> None:
    """See that nothing has to be scrolled sideways; where PICTURES names a directory, keep a picture there to look at."""
    if place := os.environ.get("PICTURES"):
        path = Path(place) / f"{name}.png"
        if isinstance(shown, Page):
            shown.screenshot(path=path, full_page=True)
        else:
            shown.screenshot(path=path)
    wide = page.evaluate(
        """() => {
            const most = document.documentElement.clientWidth;
            return [...document.querySelectorAll("body *")]
                .filter((each) => each.getBoundingClientRect().right > most && !each.closest(".unseen"))
                .map((each) => each.outerHTML.slice(0, 120));
        }"""
    )
    assert wide == [], name


def sign_in(context: BrowserContext, server: str, org: Org, *, sites: Sequence[str] = ("",)) -> str:
    """Give a browser the session of an administrator of an org, in the jar of each site that has our page in a frame.

    :param sites: none: for a page in a tab of its own
    """
    token = signed_in(org).defaults["HTTP_AUTHORIZATION"].removeprefix("Bearer ")
    for site in sites:
        context.add_cookies(
            [
                {
                    "name": cookie_name(org.handle),
                    "value": token,
                    "url": server.replace("http:", "https:"),  # a browser trusts this machine without TLS
                    "secure": True,
                    "httpOnly": True,
                    "sameSite": "None",
                    **({"partitionKey": site} if site else {}),
                }
            ]
        )
    return token


@pytest.fixture(scope="module")
def rows_beside_a_browser() -> Iterator[None]:
    """Let a test write rows: Playwright's loop runs in this thread, and Django takes that for code that must not wait."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        yield started
        started.close()
