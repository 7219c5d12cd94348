"""The report as people use it: its script runs under the page's own policy, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bayes_merger.report.contents import contents_of
from bayes_merger.report.page import page
from bayes_merger.run.folder import load
from bayes_merger.testing.studies import make_study
from tests.web.browsing import client

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    prompts = {"p": "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>"}
    folder = make_study(place / "s", 24, drawn=24, payloads=prompts)
    (place / "report.html").write_text(page(contents_of(load(folder), folder)))
    return place / "report.html"


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Page]:
    """The page from its file; any request and any complaint of the browser is a failure."""
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    tab.goto(report.as_uri())
    yield tab
    tab.close()
    assert complaints == []


def test_it_has_no_part_in_the_server_s_origin(report: Path) -> None:
    with client(report.parent) as asking:
        answer = asking.get("/studies/s/report.html")
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts allow-modals; frame-ancestors 'none'"
    assert "<script>document.title" not in answer.text
    assert "default-src 'none'; img-src data:" in answer.text


def test_the_table_is_sorted_and_filtered(opened: Page) -> None:
    first = "#trials tbody tr:not([hidden]) td:first-child"
    opened.click("#trials th:has-text('trial')")
    assert opened.locator(first).first.text_content() == "23"
    opened.click("#trials th:has-text('trial')")
    assert opened.locator(first).first.text_content() == "0"
    opened.fill("#filter", "black")
    assert opened.locator(first).all_text_contents() == ["19"]


def test_the_best_is_exchanged_for_model_a_while_it_is_held(opened: Page) -> None:
    def best() -> str | None:
        return opened.locator(".best img").first.get_attribute("src")

    own, other = best(), opened.locator(".shots img").first.get_attribute("src")
    assert own != other
    opened.keyboard.down("Space")
    assert best() == other
    opened.keyboard.up("Space")
    assert best() == own


def test_weights_are_copied_as_they_stand(opened: Page) -> None:
    opened.evaluate("""() => {
        document.execCommand = () => { window.taken = document.querySelector("textarea").value };
        delete Navigator.prototype.clipboard;
    }""")
    opened.click("[data-copy=weights-0]")
    opened.wait_for_function("window.taken")
    taken = opened.evaluate("window.taken")
    assert taken == opened.locator("#weights-0").text_content()
    assert len(taken.split(",")) == 26


def test_nothing_of_a_study_runs_and_a_phone_needs_no_sideways_scroll(opened: Page) -> None:
    assert opened.title() == "s"
    beyond = """() => [...document.querySelectorAll("body *")]
        .filter((one) => !one.parentElement.closest(".table, .plot-scroll, code, pre"))
        .filter((one) => one.getBoundingClientRect().right > 391).map((one) => one.outerHTML.slice(0, 80))"""
    assert opened.evaluate(beyond) == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
