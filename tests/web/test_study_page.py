"""The study browser as people use it: nothing that a person has done to a page is undone when it moves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bayes_merger.run.control import GO_ON, PAUSE, STOP_NOW, wish_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.status import StatusReporter
from bayes_merger.testing.progress import RecordingReporter
from bayes_merger.testing.studies import make_study, more_trials
from tests.web.browsing import browsed
from tests.web.serving import TOKEN
from tests.web.studies import put_together

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study when its search is over."""
    folder = make_study(tmp_path_factory.mktemp("later") / "s", 40, drawn=3, payloads={"p": EVIL})
    put_together(folder)
    return folder.path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A study of which 30 of 40 trials are done, and one that is broken."""
    folder = make_study(tmp_path / "s", 30, budget=40, drawn=30, final=False, payloads={"p": EVIL})
    put_together(folder)
    shutil.copy(next(folder.images(3).glob("*.png")), folder.preview)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.db").write_bytes(b"no database" * 900)
    return tmp_path


@pytest.fixture
def opened(browser: Browser, runs: Path) -> Iterator[Page]:
    """All studies, on a phone; any complaint of the browser is a failure, except that a broken study is refused."""
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    with browsed(runs) as server:
        tab.goto(f"{server}/?token={TOKEN}")
        yield tab
        tab.close()
    assert [one for one in complaints if "422" not in one] == []


def test_from_all_studies_to_one_and_back(opened: Page) -> None:
    opened.wait_for_selector("#studies li")
    states = dict(zip(*(opened.locator(one).all_text_contents() for one in ("h2 a", "h2 .state")), strict=True))
    assert states == {"s": "unfinished", "broken": "unreadable"}
    opened.click("h2 a:has-text('broken')")
    opened.wait_for_selector("#message:has-text('not a study')")
    assert opened.text_content("h1") == "broken"
    opened.click("text=All studies")
    opened.click("h2 a:has-text('s') >> nth=0")
    opened.wait_for_selector("#trials")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_page_moves_and_keeps_what_the_person_did(opened: Page, runs: Path, later: Path) -> None:
    rows = "#trials tbody tr:not([hidden]) td:first-child"
    folder = RunFolder(runs / "s")
    with folder.locked():
        opened.click("h2 a >> text=s >> nth=0")
        opened.wait_for_selector("#state:has-text('running')")
        opened.wait_for_selector("#newest")
        opened.click("#trials th:has-text('trial')")
        opened.click("#trials th:has-text('trial')")
        opened.fill("#filter", "search")
        opened.click("summary:has-text('settings')")
        before = opened.locator(rows).all_text_contents()
        assert before == [str(number) for number in range(12, 30)]
        (folder.path / "later.db").write_bytes((later / "study.db").read_bytes())
        (folder.path / "later.db").replace(folder.database)
        # On a busy machine a report takes seconds, and eight times as long until the next one is made.
        opened.wait_for_selector("#trials td:first-child:text-is('39')", state="attached", timeout=120_000)
    assert opened.locator(rows).all_text_contents() == [str(number) for number in range(12, 39)]  # 39 is predicted
    assert opened.evaluate("document.activeElement.textContent") == "settings"
    assert opened.locator("details[open]").count() == 1
    opened.wait_for_selector("#state:has-text('done')")
    opened.wait_for_selector("#state:text-is('done')")
    assert opened.is_hidden("#newest")
    assert opened.title() == "s"


@pytest.mark.slow
def test_weights_are_copied_and_the_report_is_opened_as_one_file(opened: Page) -> None:
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.click("h2 a >> text=s >> nth=0")
    opened.click("[data-copy=weights-0]")
    opened.wait_for_selector("[data-copy=weights-0]:has-text('copied')")
    taken = opened.evaluate("navigator.clipboard.readText()")
    assert taken == opened.text_content("#weights-0")
    assert len(taken.split(",")) == 26
    opened.click("nav >> text=Report as a file")
    opened.wait_for_selector("footer:has-text('made by bayes_merger')")
    opened.click("#trials th:has-text('trial')")
    opened.click("#trials th:has-text('trial')")
    assert opened.text_content("#trials tbody tr:not([hidden]) td:first-child") == "0"
    assert opened.evaluate("origin") == "null"  # whatever a study holds could not ask this server
    assert opened.title() == "s"


def test_a_run_is_paused_and_let_go_on_and_what_was_said_goes_when_it_has_happened(opened: Page, runs: Path) -> None:
    folder = RunFolder(runs / "s")
    with folder.locked():
        run = StatusReporter(RecordingReporter(), folder)
        run.step("drawing", 3, 20)
        opened.click("h2 a >> text=s >> nth=0")
        opened.wait_for_selector("#steps progress")
        opened.focus("button:has-text('Pause')")
        opened.keyboard.press("Enter")
        opened.wait_for_selector("#steered:has-text('It pauses at its next step.')")
        assert wish_of(folder) == PAUSE
        run.step("paused")
        opened.wait_for_selector("#state:text-is('paused')")
        assert opened.text_content("#steered") == ""
        opened.click("button:has-text('Go on')")
        opened.wait_for_selector("#state:text-is('running')")
        assert wish_of(folder) == GO_ON
        run.budget(1, 7, "final round", "trial 4 on fresh seeds")
        opened.wait_for_selector("#finished:has-text('trials · final round, 2 of 7: trial 4 on fresh seeds')")
        opened.click("button:has-text('Stop after this trial')")
        opened.wait_for_selector("#state:text-is('stopping')")
        opened.click("button:has-text('Stop now')")
        opened.wait_for_selector("#steered:has-text('It stops at its next step.')")
        assert wish_of(folder) == STOP_NOW
    opened.wait_for_selector("#state:text-is('unfinished')")


@pytest.mark.slow
def test_a_new_trial_changes_only_what_it_must(opened: Page, runs: Path) -> None:
    marked = "[...document.querySelectorAll('#page section, #trials tr')].filter((one) => one.mine)"
    folder = make_study(runs / "large", 250, budget=300, final=False)
    with folder.locked():
        opened.click("h2 a:has-text('large')")
        opened.wait_for_selector("#trials tr >> nth=250", state="attached")
        opened.evaluate(
            "document.querySelectorAll('#page section, #trials tr').forEach((one) => { one.mine = one.outerHTML; })"
        )
        assert next(more_trials(folder, 1)) == 250
        opened.wait_for_selector("#trials td:first-child:text-is('250')", state="attached", timeout=120_000)
        kept = opened.evaluate(marked + ".map((one) => one.querySelector('h2')?.textContent ?? 'row')")
        changed = opened.evaluate(marked + ".filter((one) => one.mine !== one.outerHTML && one.matches('tr')).length")
    assert {"Take it home", "How it was made", "Trials"} <= set(kept)
    assert changed == 0  # a row that says something else is another one
    points = [float(text) for text in opened.locator("#trials td:nth-child(2)").all_text_contents() if text]
    assert points == sorted(points, reverse=True)
    assert len(points) == 239  # of 251, one in twenty has failed
    assert opened.locator("#trials tbody").count() == 2
