"""The pictures of docs/service.md, taken anew: ``python -m tests.web.screenshots``.

What is in them is made up: a study by formula, landscapes in the place of a model's pictures.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright

from bayes_merger.run.folder import RunFolder
from bayes_merger.run.pictures import tiled
from bayes_merger.run.status import StatusReporter
from bayes_merger.testing.progress import RecordingReporter
from bayes_merger.testing.studies import make_study
from bayes_merger.web.api.runs import RunData
from bayes_merger.web.app import build_app
from bayes_merger.web.pages.rating import Sittings
from bayes_merger.web.routes import all_routes
from bayes_merger.web.serving import listen, server_of
from bayes_merger.web.shelf import Shelf
from tests.web.conftest import chromium
from tests.web.scenery import landscape, paint
from tests.web.serving import ROOT, TOKEN
from tests.web.starting import Recorded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAME = "dreamshaper-revAnimated"
PROMPTS = {"valley": "a valley in the evening, soft light", "lake": "a lake under the moon"}
SEEN = """() => [...document.images].every((one) => {
  const { top, bottom } = one.getBoundingClientRect();
  return one.complete || bottom < 0 || top > innerHeight;
})"""
DESKTOP, PHONE = (990, 800), (430, 1000)


def studies(runs: Path, models: Path) -> RunFolder:
    """One that runs, one that is done, and models by name; the one that runs is returned."""
    models.mkdir()
    for name in ("dreamshaper_8", "revAnimated_v122", "realisticVision_v6"):
        (models / f"{name}.safetensors").write_bytes(bytes(64))
    paint(make_study(runs / "portrait-eye", 40, drawn=40, payloads=PROMPTS), 384, square=True)
    folder = make_study(runs / NAME, 31, budget=80, drawn=31, final=False, payloads=PROMPTS)
    paint(folder, 384, square=True)
    return folder


def draw(folder: RunFolder) -> None:
    """As a run that has finished five of its eight pictures."""
    pictures = [landscape(seed, 0.31, 256, 256) for seed in range(8)]
    rough = [one.resize((32, 32)).resize((256, 256), Image.Resampling.BILINEAR) for one in pictures[5:7]]
    shown = [*pictures[:5], *rough, Image.new("RGB", (256, 256))]
    tiled(shown, 4, 256).save(folder.path / f"drawing-{os.getpid()}.png")
    StatusReporter(RecordingReporter(), folder).step("drawing", 97, 160)


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """All that ``bayes-merger serve`` serves, but that nothing is started."""
    shelf = Shelf(runs)
    with Sittings(shelf.folder, "ann") as sittings, listen("127.0.0.1", 0) as listening:
        routes = all_routes(shelf, sittings, RunData(shelf, children=Recorded()))
        server = server_of(build_app(routes, TOKEN, home="/studies"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@contextmanager
def opened(browser: Browser, server: str, size: tuple[int, int], light: str) -> Iterator[Page]:
    """A page that has the cookie."""
    width, height = size
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if light == "dark" else "light",
        device_scale_factor=1 if size == DESKTOP else 1.5,
    )
    page.goto(f"{server}/studies?token={TOKEN}")
    page.wait_for_selector("#studies img")
    yield page
    page.close()


def study(page: Page, server: str) -> Image.Image:
    """The page of the study that runs."""
    page.goto(f"{server}/studies/{NAME}")
    page.wait_for_selector("#newest img")
    page.wait_for_selector("#steps progress")
    page.wait_for_selector(".shots img")
    return shot(page)


def form(page: Page, server: str) -> Image.Image:
    """The form that starts a run, filled."""
    page.goto(f"{server}/new")
    page.wait_for_selector("#others label", state="attached")
    page.fill("[data-setting=model_a]", "dreamshaper_8")
    page.fill("[data-setting=model_b]", "revAnimated_v122")
    page.check("[value=portrait]")
    page.check("[data-several=scorers] [value=clip]")
    page.wait_for_selector("#start:enabled")
    return shot(page)


def comparison(page: Page, server: str) -> Image.Image:
    """Two merges in pairs."""
    page.goto(f"{server}/studies/portrait-eye/compare?first=3&second=best")
    page.wait_for_selector("figure img")
    return shot(page)


def gallery(page: Page, server: str) -> Image.Image:
    """All pictures of a payload, two of them chosen."""
    page.goto(f"{server}/studies/portrait-eye/gallery")
    page.click(".tile >> nth=1")
    page.click(".tile >> nth=6")
    return shot(page)


def shot(page: Page) -> Image.Image:
    """What is seen, once all of it is there."""
    page.mouse.move(0, 0)
    page.wait_for_load_state("load")
    page.wait_for_function(SEEN)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def beside(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write pictures side by side."""
    whole = Image.new("RGB", (sum(one.width + 20 for one in pictures) - 20, pictures[0].height), "#888888")
    at = 0
    for one in pictures:
        whole.paste(one, (at, 0))
        at += one.width + 20
    whole.save(path, "WEBP", quality=82, method=6)


def take(docs: Path) -> None:
    """Take all of them."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        os.chdir(place)  # the pictures show what is typed, and no path of this machine
        os.environ["BAYES_MERGER_MODELS"] = "models"
        runs, models = Path("runs"), Path("models")
        folder = studies(runs, models)
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        with folder.locked(), served(runs) as server:
            draw(folder)
            with opened(browser, server, DESKTOP, "light") as page:
                beside([study(page, server), form(page, server)], docs / "service.webp")
                beside([comparison(page, server), gallery(page, server)], docs / "service-compare.webp")
            with opened(browser, server, DESKTOP, "dark") as page:
                beside([study(page, server), comparison(page, server)], docs / "service-dark.webp")
            for light, name in (("light", "service-phone.webp"), ("dark", "service-phone-dark.webp")):
                with opened(browser, server, PHONE, light) as page:
                    beside([one(page, server) for one in (study, form, comparison)], docs / name)
        browser.close()


if __name__ == "__main__":
    take(ROOT / "docs")
