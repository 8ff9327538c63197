"""A real Chromium for the tests of pages."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Frame, Locator, Page, sync_playwright

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        yield started
        started.close()
