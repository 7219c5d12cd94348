"""Every page is read in either light, heard, and used without a mouse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from bayes_merger.run.folder import RunFolder
from bayes_merger.run.status import StatusReporter
from bayes_merger.testing.progress import RecordingReporter
from bayes_merger.testing.studies import make_study
from tests.web.browsing import browsed
from tests.web.seeing import faint, nameless, tabbed
from tests.web.serving import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGES = {
    "/studies": "#studies img",
    "/studies/s": "#steps progress",
    "/studies/s/gallery": ".tile img",
    "/studies/s/compare?second=2": "figure img",
    "/new": "#hurry:not([hidden])",
}
"""Page -> what is there once all of it is."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a study that runs."""
    folder = make_study(tmp_path_factory.mktemp("runs") / "s", 12, budget=20, drawn=12, final=False)
    with folder.locked(), browsed(folder.path.parent) as address:
        StatusReporter(RecordingReporter(), RunFolder(folder.path)).step("drawing", 3, 20)
        yield address


@pytest.mark.parametrize("light", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_every_page_is_read_heard_and_used_without_a_mouse(browser: Browser, server: str, light: str) -> None:
    page = browser.new_page(color_scheme="dark" if light == "dark" else "light")
    page.goto(f"{server}/studies?token={TOKEN}")
    page.wait_for_url(f"{server}/studies")  # the token is left behind
    for address, there in PAGES.items():
        page.goto(server + address)
        if address == "/new":
            page.select_option("[data-setting=experiment]", "demo")
        page.wait_for_selector(there)
        assert faint(page) == [], address
        assert nameless(page) == [], address
        stops = tabbed(page)
        assert len(stops) >= 2, address
        assert [stop for stop in stops if not stop[2]] == [], address
    page.evaluate("""() => {
        document.body.innerHTML = "<p>x</p><button></button><img>";
        Object.assign(document.querySelector("p").style, { color: "#999", background: "#ddd" });
    }""")
    assert (len(faint(page)), len(nameless(page))) == (1, 2)
    page.close()
