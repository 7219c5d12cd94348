"""The scoring page in a browser, by keyboard and by finger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bayes_merger.config import ScoringConfig
from bayes_merger.run.attributes import PLAYOFF
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.record import complete_trials
from bayes_merger.scoring.people.ledger import Ledger
from tests.run.fake_run import open_study
from tests.run.rating import rated
from tests.web.scenery import paint
from tests.web.serving import RateCommand, served
from tests.web.studies import a_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Response

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def opened(browser: Browser, link: str, **settings: Any) -> Page:
    page = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **settings}).new_page()
    page.set_default_timeout(20_000)
    page.goto(link)
    page.wait_for_selector("#page[data-link]")
    return page


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def place(page: Page) -> str:
    return page.inner_text("#place")


def scores(page: Page) -> list[str]:
    return page.locator("#strip b").all_text_contents()


def settled(page: Page) -> None:
    """Everything that was said is on the disk."""
    page.wait_for_selector("#page[data-unsaved='0']")


def values(folder: RunFolder) -> list[list[float]]:
    return [trial.values for trial in complete_trials(load(folder))]


def test_a_whole_study_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=3, payloads=5)
    paint(folder)
    with served(folder) as link:
        page = opened(browser, link)
        assert "token" not in page.url
        for trial in ("76543", "00000", "99999"):
            press(page, *(f"Digit{digit}" for digit in trial), "Enter")
        page.wait_for_selector("#notice h2:has-text('Nothing waits')")
        settled(page)
    assert values(folder) == [[5.0], [0.0], [9.0]]
    assert [rating.ms is not None for rating in Ledger(folder.ratings).ratings() if rating.kind == "score"] == [
        True
    ] * 15


@pytest.mark.slow
def test_digits_by_place_ten_and_half_points(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, payloads=5)
    with served(folder) as link:
        page = opened(browser, link)
        press(page, "Equal", "Shift+Digit7", "Numpad8", "NumpadAdd", "Shift+Digit0")
        assert scores(page) == ["10", "7½", "8", "10", "½"]
        press(page, "Control+Digit3", "Alt+Digit3")
        assert scores(page) == ["10", "7½", "8", "10", "½"]
        settled(page)
    assert [rating.score for rating in Ledger(folder.ratings).ratings()] == [10, 7.5, 8, 10, 0.5]


def test_undo_goes_back_until_the_merge_is_confirmed(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2, payloads=3)
    with served(folder) as link:
        page = opened(browser, link)
        press(page, "5", "6")
        settled(page)
        press(page, "u")
        page.wait_for_selector("#message:has-text('Undone')")
        assert (place(page), scores(page)) == ("Picture 2 of 3", ["5", "", ""])
        press(page, "7", "8", "Enter")
        settled(page)
        press(page, "Backspace")
        page.wait_for_selector("#message:has-text('what is confirmed stays')")
    assert values(folder) == [[20 / 3]]


@pytest.mark.slow
def test_enter_leads_to_what_has_no_score(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, payloads=3)
    with served(folder) as link:
        page = opened(browser, link)
        press(page, "5", "ArrowRight", "6", "Enter")
        assert page.inner_text("#message") == "1 of 3 pictures have no score yet"
        assert place(page) == "Picture 2 of 3"
    assert values(folder) == []


@pytest.mark.slow
def test_later_and_broken(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=3, payloads=2)
    with served(folder) as link:
        page = opened(browser, link)
        press(page, "s")  # the first one
        press(page, "v", "Escape", "v", "Enter")  # the second one
        press(page, "3", "3", "Enter", "8", "8", "Enter")
        page.wait_for_selector("#notice h2:has-text('Nothing waits')")
        settled(page)
    states = [trial.state.name for trial in load(folder).get_trials()][:3]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert values(folder) == [[8.0], [3.0]]


def test_a_reload_keeps_the_place(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, payloads=4)
    with served(folder) as link:
        page = opened(browser, link)
        press(page, "5", "6")
        settled(page)
        page.reload()
        page.wait_for_selector("#left img")
        assert (place(page), scores(page)) == ("Picture 3 of 4", ["5", "6", "", ""])


def test_new_trials_appear_by_themselves(browser: Browser, tmp_path: Path) -> None:
    folder, setup = a_study(tmp_path, waiting=0, payloads=2)
    with served(folder) as link:
        page = opened(browser, link)
        assert page.is_visible("#notice")
        rated.draw(open_study(setup, folder), setup, folder, 0)
        page.wait_for_selector("#left img")
        assert page.title() == "(1) Rate study"


@pytest.mark.slow
def test_compare_and_blink_with_the_best(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=3, payloads=2)
    paint(folder)
    with served(folder) as link:
        page = opened(browser, link)
        assert page.is_disabled("[data-do=compare]")  # there is no best one yet
        press(page, "9", "9", "Enter", "2", "2", "Enter")
        page.wait_for_selector("[data-do=compare]:enabled")
        own = page.get_attribute("#left img", "src")
        press(page, "c")
        best = page.get_attribute("#right img", "src")
        assert best not in (None, own)
        press(page, "c")
        assert page.is_hidden("#right")
        page.keyboard.down("Space")
        assert page.get_attribute("#left img", "src") == best
        page.keyboard.up("Space")
        assert page.get_attribute("#left img", "src") == own


@pytest.mark.slow
def test_zoom_shows_every_pixel_and_stays_in_place(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, payloads=2)
    paint(folder, 1000)
    with served(folder) as link:
        page = opened(browser, link)
        press(page, "z")
        page.wait_for_selector("#left img[src$='size=whole']")
        first = page.locator("#left img").bounding_box()
        assert first is not None
        assert (first["width"], first["height"]) == (2000, 1332)  # at 1000 it would hardly be larger than fitted
        page.mouse.move(1300, 700)
        moved = page.locator("#left img").bounding_box()
        assert moved != first
        focus = page.evaluate("document.querySelector('#stage').style.getPropertyValue('--x')")
        press(page, "5")
        assert page.evaluate("document.querySelector('#stage').style.getPropertyValue('--x')") == focus
        press(page, "z")
        assert "zoomed" not in (page.get_attribute("#stage", "class") or "")


@pytest.mark.slow
def test_grid_prompt_and_help(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, payloads=3)
    with served(folder) as link:
        page = opened(browser, link)
        press(page, "p")
        assert page.inner_text("#prompt") == "a ring"
        press(page, "g")
        assert page.locator("#grid img").count() == 3
        page.locator("#grid button").nth(2).click()
        assert (place(page), page.is_hidden("#grid")) == ("Picture 3 of 3", True)
        press(page, "?")
        assert page.is_visible("#help")
        press(page, "5")  # nobody rates what lies behind the help
        press(page, "Escape")
        assert scores(page) == ["", "", ""]


@pytest.mark.slow
def test_a_button_that_was_clicked_does_not_swallow_enter(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, payloads=1)
    with served(folder) as link:
        page = opened(browser, link)
        page.click("[data-score='4']")
        press(page, "Enter")
        page.wait_for_selector("#notice h2")
        settled(page)
    assert values(folder) == [[4.0]]


@pytest.mark.slow
def test_a_held_key_rates_one_picture(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, payloads=4)
    with served(folder) as link:
        page = opened(browser, link)
        for _ in range(4):
            page.keyboard.down("6")  # again without an up: repeated by the system
        assert scores(page) == ["6", "", "", ""]


def test_two_tabs_do_not_spoil_each_other(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2, payloads=2)
    with served(folder) as link:
        first, second = opened(browser, link), opened(browser, link)
        second.evaluate("document.hidden || Object.defineProperty(document, 'hidden', {value: true})")  # it sleeps
        press(first, "8", "8", "Enter")
        settled(first)
        press(second, "1")
        second.wait_for_selector("#message:has-text('closed in the meantime')")
        assert scores(second) == ["", ""]  # of the next merge
    assert values(folder) == [[8.0]]


def test_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2, payloads=5)
    paint(folder)
    with served(folder) as link:
        page = opened(browser, link, **PHONE)
        page.wait_for_selector("#left img")
        size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert size == [390, 844]
        for button in page.locator("#scores button, #actions button, header button").all():
            box = button.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 44
        page.tap("[data-do=half]")
        for score in "77777":
            page.tap(f"[data-score='{score}']")
        assert scores(page) == ["7½", "7", "7", "7", "7"]
        page.tap("[data-do=confirm]")
        settled(page)
    assert values(folder) == [[7.1]]


def test_nothing_on_the_page_tells_one_merge_from_another(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=7, payloads=2)
    paint(folder)
    seen: list[str] = []

    def answered(response: Response) -> None:
        seen.append(response.url)
        if "image" not in response.headers["content-type"]:
            seen.append(response.text())

    with served(folder) as link:
        page = opened(browser, link)
        page.on("response", answered)
        page.reload()
        page.wait_for_selector("#left img")
        press(page, "9", "9", "Enter", "c", "z")
        page.wait_for_selector("#left img[src$='size=whole']")
        settled(page)
        seen.append(page.content())
        whole = page.request.get(page.evaluate("document.querySelector('#left img').src")).body()
    weights = {f"{number:.4f}" for trial in load(folder).get_trials() for number in trial.params.values()}
    assert len(weights) == 7
    for told in [*(weights - {"0.0000", "1.0000", "0.5000"}), "alpha", "weights", "images/", ".png", '"number"']:
        assert told not in "\n".join(seen)
    assert {url.split("/")[2].split(":")[0] for url in seen if url.startswith("http")} == {"127.0.0.1"}
    assert b"IHDR" in whole
    assert b"alpha" not in whole


@pytest.mark.slow
def test_killed_servers_lose_no_rating(browser: Browser, tmp_path: Path) -> None:
    folder, _ = a_study(tmp_path, waiting=2, payloads=3)
    command = RateCommand(folder)
    page = opened(browser, command.start())
    for trial, digits in enumerate(("012", "567")):
        for picture, digit in enumerate(digits):
            if (trial, picture) in ((0, 1), (1, 0)):
                command.kill()
                press(page, digit)  # taken if the page has not noticed yet
                page.wait_for_selector("#page[data-link=down]")
                before = scores(page)
                press(page, "9")  # not taken: the page says that nobody answers
                assert scores(page) == before
                command.start()
                page.wait_for_selector("#page[data-link=up]")
            if scores(page)[picture] == "":
                press(page, digit)
        press(page, "Enter")
    page.wait_for_selector("#notice h2:has-text('Nothing waits')")
    settled(page)
    command.kill()
    assert values(folder) == [[1.0], [6.0]]


@pytest.mark.slow
def test_the_best_are_compared_in_pairs_and_the_champion_is_the_best(browser: Browser, tmp_path: Path) -> None:
    settings = {"init_points": 3, "n_iters": 0, "scoring": ScoringConfig(playoff=3)}
    folder, _ = rated.a_study(tmp_path, waiting=3, payloads=2, every=0, **settings)
    rated.rate_all(folder, [3, 6, 9])
    paint(folder)
    with served(folder) as link:
        page = opened(browser, link)
        page.wait_for_selector("#right img")
        assert page.is_hidden("#scores")
        assert page.inner_text("#rest") == "6 of 6 pairs left"
        press(page, "t", "ArrowLeft", "b")
        settled(page)
        press(page, "u")
        page.wait_for_selector("#message:has-text('Undone')")
        assert page.inner_text("#rest") == "4 of 6 pairs left"
        press(page, "Enter")
        assert "4 of 6 pairs are left" in page.inner_text("#enough")
        page.reload()
        page.wait_for_selector("#right img")
        press(page, "a", "a", "t", "b")
        page.wait_for_selector("#notice h2:has-text('All compared')")
        press(page, "Enter")
        page.wait_for_selector("#notice h2:has-text('There is a champion')")
    stored = load(folder).user_attrs[PLAYOFF]
    assert stored["champion"] in (0, 1, 2)
    assert stored["compared"] == 6


@pytest.mark.slow
def test_one_score_for_a_whole_merge(browser: Browser, tmp_path: Path) -> None:
    folder, _ = rated.a_study(tmp_path, payloads=4, every=0, scoring=ScoringConfig(unit="trial"))
    with served(folder) as link:
        page = opened(browser, link)
        page.wait_for_selector("#grid img")
        assert page.locator("#grid img").count() == 4
        press(page, "Enter")
        assert page.inner_text("#message") == "This merge has no score yet"
        press(page, "Shift+Digit6", "Enter")
        settled(page)
    assert values(folder) == [[6.5]]
