"""A whole run on the demo's models, rated on the page that it opens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bayes_merger.run.attributes import PLAYOFF
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.record import complete_trials
from tests.web.serving import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SETTINGS = ("init_points=2", "n_iters=1", "images_per_prompt=1", "scoring.playoff=2", "name=mine", "web.port=0")


def rate(page: Page, link: str) -> None:
    """Three merges of equal worth, of which two play."""
    page.set_default_timeout(240_000)
    page.goto(link)
    for _ in range(3):
        page.wait_for_selector("#left img")
        while "" in page.locator("#strip b").all_text_contents():
            page.keyboard.press("7")
        page.keyboard.press("Enter")
        page.wait_for_selector("#page[data-unsaved='0']")
    page.wait_for_selector("#right img")
    while page.is_visible("#right img"):
        page.keyboard.press("a")
        page.wait_for_selector("#page[data-unsaved='0']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice h2:has-text('There is a champion')")


@pytest.mark.slow
def test_a_demo_run_is_rated_while_it_draws_and_ends_with_a_champion(browser: Browser, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bayes_merger", "run", "experiment=demo", "scorers=[manual]", *SETTINGS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SSH_CONNECTION": ""}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    try:
        link = next(line for line in run.stdout if line.startswith("rate: ")).removeprefix("rate: ").strip()
        rate(browser.new_page(), link)
        assert "play-off" in run.stdout.read()
        assert run.wait() == 0
    finally:
        run.kill()
    study = load(RunFolder(tmp_path / "runs/mine"))
    assert [trial.values for trial in complete_trials(study)] == [[7.0]] * 3
    assert study.user_attrs[PLAYOFF]["champion"] is not None
    assert "token=" not in (tmp_path / "runs/mine/log.txt").read_text()
