"""The gallery, and two merges side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bayes_merger.run.folder import RunFolder
from bayes_merger.testing.studies import make_study
from tests.web.browsing import browsed, client
from tests.web.scenery import paint
from tests.web.serving import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "<img src=x onerror=\"document.title='evil'\">"
API = "/api/v1/studies"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 35 trials of two pictures each."""
    runs = tmp_path_factory.mktemp("runs")
    paint(make_study(runs / "s", 35, drawn=35, payloads={"p": EVIL}), square=True)
    return runs


@pytest.fixture
def opened(browser: Browser, runs: Path) -> Iterator[Page]:
    """The gallery; any complaint of the browser is a failure, except that what is not there is refused."""
    tab = browser.new_page(viewport={"width": 1100, "height": 800})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    with browsed(runs) as server:
        tab.goto(f"{server}/studies/s/gallery?token={TOKEN}")
        yield tab
        tab.close()
    assert [one for one in complaints if "422" not in one] == []


def test_from_the_gallery_to_two_merges_and_what_differs(opened: Page) -> None:
    opened.wait_for_selector(".tile img")
    assert opened.locator(".tile").count() == 60
    opened.click("#more")
    opened.wait_for_selector(".tile >> nth=61")
    assert opened.is_hidden("#more")
    opened.click(".tile >> nth=0")
    first = opened.get_attribute(".tile >> nth=0", "data-trial")
    opened.click(".tile >> nth=2")
    opened.click("#two")
    opened.wait_for_selector("figure img >> nth=1")
    assert opened.input_value("[name=first]") == first
    opened.click("#weights summary")
    assert opened.locator("#weights tbody tr").count() > 0
    assert EVIL in (opened.text_content("figcaption") or "")
    assert opened.title() == "Compare · s"


@pytest.mark.slow
def test_the_slider_and_blinking_show_one_in_the_other_s_place(opened: Page) -> None:
    opened.click("nav >> text=Compare")
    opened.wait_for_selector("figure img")
    clip = "getComputedStyle(document.querySelector('.wipe img')).clipPath"
    opened.fill("figure input", "20")
    assert "80%" in opened.evaluate(clip)
    opened.focus("#blink")
    opened.keyboard.down("Space")
    assert opened.evaluate(clip) == "none"
    opened.keyboard.up("Space")
    assert "80%" in opened.evaluate(clip)
    opened.fill("[name=second]", "999")
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#message:has-text('no finished trial 999')")


def test_what_is_compared_is_what_the_command_says(runs: Path) -> None:
    with client(runs) as ask:
        found = ask.get(f"{API}/s/comparison", params={"first": "3", "second": "best"}).json()
        assert found["first"] == "s, trial 3"
        pair = found["pairs"][0]
        assert (pair["payload"], pair["prompt"], pair["first"]["trial"]) == ("p", EVIL, 3)
        assert pair["seed"].isdecimal()  # a browser would round a whole number of twenty digits
        assert ask.get(pair["second"]["address"]).headers["content-type"] == "image/webp"
        assert found["weights"][0].keys() == {"name", "first", "second"}
        for wrong in ("-1", "999", "1e3", "٣", "x" * 500, "../3"):
            answer = ask.get(f"{API}/s/comparison", params={"first": wrong})
            assert answer.status_code == 422, wrong
        assert ask.get(f"{API}/s/comparison", params={"other": "../s"}).status_code == 404


def test_the_gallery_has_the_best_first_and_only_pictures_that_are_there(runs: Path) -> None:
    folder = RunFolder(runs / "s")
    with client(runs) as ask:
        found = ask.get(f"{API}/s/gallery").json()
        points = [one["points"] for one in found["pictures"]]
        assert points == sorted(points, reverse=True)
        lost = found["pictures"][0]["trial"]
        picture = next(folder.images(lost).glob("*.png"))
        picture.rename(picture.with_suffix(".away"))
        later = ask.get(f"{API}/s/gallery", params={"after": "60"}).json()
        picture.with_suffix(".away").rename(picture)
        assert (found["total"] - later["total"], found["payloads"]) == (1, ["p"])
        assert len(later["pictures"]) == later["total"] - 60
        assert ask.get(f"{API}/s/gallery", params={"payload": "../../x"}).json()["pictures"] == []
