"""A browser, if there is one."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def chromium() -> str | None:
    """Where it lies; None if it is not installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")  # while it is driven, no other test can run an event loop
def driven() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright."""
    program = chromium()
    if program is None:
        reason = "THE PAGES ARE NOT TESTED IN A BROWSER: there is no Chromium here (apt-get install chromium)"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Chromium's own sandbox does not work as root or in many containers; it only sees pages of ours
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser(driven: Browser) -> Iterator[Browser]:
    """The same, whose pages end with the test: one that is left asks its server, which is gone, every second."""
    yield driven
    for context in driven.contexts:
        context.close()
