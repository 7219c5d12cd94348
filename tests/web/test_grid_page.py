"""The page of a grid as people use it: a cell opens large, blinks against the unmerged one, and gives its recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.merging import MergeRecipe
from bayes_merger.merging.recipe.recipe import ModelRef
from bayes_merger.report.grid_page import page_of
from bayes_merger.run.xy.axes import read_axes
from bayes_merger.run.xy.drawing import Pictures
from bayes_merger.run.xy.grid import Cell, Grid, Merge

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "<img src=x onerror=\"document.title='evil'\"></script><script>document.title='evil'</script>"


def merge_at(alpha: float) -> Merge:
    recipe = MergeRecipe(
        models={"a": ModelRef(f"{EVIL}.safetensors", "")}, weights={"alpha": {"BASE": alpha}}, architecture="sd1"
    )
    return Merge(recipe, {}, np.array([[alpha]]), np.array([1.0]), np.array([True]))


@pytest.fixture(scope="module")
def grid_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows of three cells; the last one could not be drawn."""
    folder = tmp_path_factory.mktemp("grid")
    payloads = resolve([Payload("p", EVIL, seed=1)], 0)
    merges = [merge_at(alpha) for alpha in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)]
    cells = {(0, number // 3, number % 3): Cell(merge, payloads) for number, merge in enumerate(merges)}
    pictures = Pictures(
        folder / "pictures", {(m.key, id(payloads)): str(n) for n, m in enumerate(merges)}, {"5": f"NaN {EVIL}"}
    )
    for number in range(5):
        (folder / "pictures" / str(number)).mkdir(parents=True)
        Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(folder / "pictures" / str(number) / "p-0.png")
    axes = read_axes([("x", "alpha=0,1,2"), ("y", f"prompt=a|{EVIL}")])
    grid = Grid(axes, cells, {place: Cell(merges[0], payloads) for place in cells})
    (folder / "grid.html").write_text(page_of(grid, pictures), encoding="utf-8")
    return folder / "grid.html"


@pytest.fixture
def opened(browser: Browser, grid_page: Path) -> Iterator[Page]:
    """The page from its file; any request and any complaint of the browser is a failure."""
    tab = browser.new_page(viewport={"width": 900, "height": 700})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    tab.goto(grid_page.as_uri())
    yield tab
    tab.close()
    assert complaints == []


def source(tab: Page) -> str | None:
    return tab.locator("dialog img").get_attribute("src")


def test_a_cell_opens_large_and_the_keys_lead_to_the_others(opened: Page) -> None:
    assert opened.locator("td button").count() == 5
    assert "NaN" in str(opened.locator("td p").text_content())
    opened.click("td button >> nth=1")
    assert opened.locator("dialog b").text_content() == "a, alpha 1"
    opened.keyboard.press("ArrowDown")
    assert str(opened.locator("dialog b").text_content()).endswith(", alpha 1")
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("ArrowLeft")
    assert opened.locator("dialog b").text_content() == "a, alpha 2"
    opened.keyboard.press("Escape")
    assert not opened.locator("dialog").is_visible()
    # The browser itself first gives the focus back to the button that opened it; its event comes a moment later.
    opened.wait_for_selector("td button[aria-label='a, alpha 2']:focus")


def test_it_blinks_against_the_unmerged_one(opened: Page) -> None:
    unmerged = opened.locator("td img").first.get_attribute("src")
    opened.click("td button >> nth=2")
    own = source(opened)
    assert own == opened.locator("td img >> nth=2").get_attribute("src") != unmerged
    opened.keyboard.down("Space")
    assert (source(opened), opened.locator("dialog b").text_content()) == (unmerged, "unmerged: model A")
    opened.keyboard.up("Space")
    assert source(opened) == own
    opened.keyboard.press("b")
    opened.wait_for_function("src => document.querySelector('dialog img').src === src", arg=unmerged)
    opened.wait_for_function("src => document.querySelector('dialog img').src === src", arg=own)
    opened.keyboard.press("b")
    assert opened.locator("[data-do=blink]").get_attribute("aria-pressed") == "false"


def test_it_gives_its_recipe_and_nothing_typed_runs(opened: Page) -> None:
    opened.evaluate("""() => {
        document.execCommand = () => { window.taken = document.querySelector("textarea").value };
        delete Navigator.prototype.clipboard;
    }""")
    opened.click("td button >> nth=3")
    opened.click("[data-do=copy]")
    opened.wait_for_function("window.taken")
    recipe = MergeRecipe.from_json(json.loads(opened.evaluate("window.taken")))
    assert recipe.weights == {"alpha": {"BASE": 0.3}}
    assert opened.title() == "x: alpha, y: prompt"
