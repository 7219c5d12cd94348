"""The scoring page: from a key to the next picture, and what a killed server costs.

    python benchmarks/scoring_page.py            # 60 merges of 5 pictures, ten kills; some minutes
    python benchmarks/scoring_page.py --quick    # 4 merges, one kill, to see that it works

Pictures of 1024 x 1024 in headless Chromium. The time runs from the key's event to the frame after the one in which
the next picture stands on the page, decoded. Once the server is killed and started again ten times, at moments drawn
by chance, while one key per picture and one Enter per merge are pressed; then every rating must be in the study.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.record import complete_trials
from tests.run.fake_run import open_study
from tests.run.rating import rated
from tests.web.conftest import chromium
from tests.web.scenery import paint
from tests.web.serving import RateCommand

PICTURES = 5
AHEAD = 3  # merges that wait, as in a run
WATCH = """
window.times = [];
let keys = 0;
addEventListener("keydown", () => {
  const key = ++keys;
  const before = document.querySelector("#left img");
  const since = performance.now();
  const look = () => {
    if (key !== keys) return; // the last picture of a merge has no next one
    const now = document.querySelector("#left img");
    if (now && now !== before && now.complete) requestAnimationFrame(() => times.push(performance.now() - since));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}, true);
"""


def rate(page: Page, command: RateCommand, merges: int, kills: int, supply: Callable[[], None]) -> list[list[int]]:
    """Rate so many merges with one key per picture and one Enter per merge; the scores that were given."""
    chance = random.Random(0)
    when = set(chance.sample(range(merges * PICTURES), kills))
    given = []
    for merge in range(merges):
        scores = [chance.randrange(10) for _ in range(PICTURES)]
        if merge < merges - AHEAD:
            supply()
        page.wait_for_selector(f"#rest:has-text('{merge} of ')")
        page.wait_for_selector("#left img")
        for picture, score in enumerate(scores):
            if merge * PICTURES + picture in when:
                command.kill()
                page.wait_for_selector("#page[data-link=down]")
                command.start()
                page.wait_for_selector("#page[data-link=up]")
            page.wait_for_selector("#page[data-link=up]")
            page.keyboard.press(str(score))
            page.wait_for_timeout(chance.uniform(50, 250))  # nobody rates faster
        page.keyboard.press("Enter")
        given.append(scores)
    page.wait_for_selector("#page[data-unsaved='0']")
    return given


def stored(folder: RunFolder) -> list[float]:
    """The scores that the study has, by number of the trial."""
    return [trial.value or 0.0 for trial in complete_trials(load(folder))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    merges, kills, side = (4, 1, 256) if quick else (60, 10, 1024)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        settings: dict[str, Any] = {"init_points": 4, "n_iters": merges}
        folder, setup = rated.a_study(Path(place), waiting=AHEAD, payloads=PICTURES, every=0, **settings)
        paint(folder, side, square=True)
        study = open_study(setup, folder)

        def supply() -> None:
            rated.draw(study, setup, folder, 0)
            paint(folder, side, square=True, trials=f"{len(study.trials) - 1:04d}")

        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
        page.set_default_timeout(60_000)
        command = RateCommand(folder)
        page.goto(command.start())
        page.wait_for_selector("#left img")
        page.evaluate(WATCH)
        given = rate(page, command, merges, kills, supply)
        times = sorted(page.evaluate("times"))
        command.kill()
        lost = sum(
            abs(sum(scores) / PICTURES - value) > 1e-9 for scores, value in zip(given, stored(folder), strict=True)
        )
    print(f"{len(times)} pictures of {side} x {side}: {statistics.median(times):.0f} ms from the key to the next one, "
          f"nine of ten within {times[len(times) * 9 // 10]:.0f} ms")  # fmt: skip
    print(f"{merges * PICTURES} ratings, the server killed {kills} times: {lost} merges with another score")


if __name__ == "__main__":
    main()
