"""The form that starts a run, and a whole demo run from it: started, watched, paused, let go on, through a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bayes_merger.run.control import run_state
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.record import complete_trials
from bayes_merger.web.serving import listen
from tests.processes import Process, environment, program
from tests.web.browsing import browsed
from tests.web.serving import ROOT, TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The form, on a phone; nothing is started."""
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    with browsed(tmp_path) as server:
        tab.goto(f"{server}/new?token={TOKEN}")
        tab.wait_for_selector("#others label", state="attached")
        yield tab
        tab.close()
    assert errors == []


def test_the_form_says_what_is_missing_and_shows_the_command_line(opened: Page) -> None:
    opened.wait_for_selector("#message:not(.wrong):has-text('Choose models A and B')")  # nothing is wrong yet
    assert opened.is_disabled("#start")
    opened.fill("[data-setting=n_iters]", "5")
    opened.wait_for_selector("#message.wrong:has-text(\"'model_a' has no value\")")
    opened.select_option("[data-setting=experiment]", "demo")
    opened.fill("[data-setting=n_iters]", "4")
    opened.fill("[data-setting=images_per_prompt]", "2")
    opened.check("[data-several=scorers] [value=demo_clip]")
    opened.click("summary")
    opened.select_option("[data-setting='final.save']", "false")
    opened.fill("#line", "space.frozen.OUT11=0.5")
    opened.wait_for_selector("#start:enabled")
    command = opened.text_content("#command") or ""
    settings = "n_iters=4 images_per_prompt=2 final.save=false scorers=demo_clip space.frozen.OUT11=0.5"
    assert command.endswith(f"experiment=demo {settings}")
    opened.fill("#line", "runs=/elsewhere")
    opened.wait_for_selector("#message.wrong:has-text('may not be given on a page')")
    assert opened.is_disabled("#start")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_files_of_activations_are_offered_where_there_are_any(browser: Browser, opened: Page, tmp_path: Path) -> None:
    assert opened.is_hidden("[data-setting='saliency.a']")
    models, runs = tmp_path / "models", tmp_path / "runs"
    models.mkdir()
    for name in ("A.safetensors", "B.safetensors", "A.act.safetensors", "B.act.safetensors"):
        (models / name).touch()
    with browsed(runs, models=str(models)) as server:
        page = browser.new_page()
        page.goto(f"{server}/new?token={TOKEN}")
        page.wait_for_selector("#activations option[value='A.act']", state="attached")
        assert page.locator("#models option").count() == page.locator("#activations option").count() == 2
        for setting, name in (("model_a", "A"), ("model_b", "B"), ("saliency.a", "A.act"), ("saliency.b", "B.act")):
            page.fill(f"[data-setting='{setting}']", name)
        page.check("[data-several=payloads] [value=demo]")
        page.check("[data-several=scorers] [value=demo_clip]")
        page.wait_for_selector("#start:enabled")
        command = page.text_content("#command") or ""
        assert "model_a=A model_b=B saliency.a=A.act saliency.b=B.act payloads=demo scorers=demo_clip" in command
        page.fill("[data-setting='saliency.b']", "/etc/passwd")
        page.wait_for_selector("#message.wrong:has-text(\"saliency.b: no file of activations '/etc/passwd'\")")


class Serve:
    """``bayes-merger serve`` in a folder, as often as one likes."""

    def __init__(self, place: Path) -> None:
        self._place = place
        with listen("127.0.0.1", 0) as free:
            self.port = free.getsockname()[1]
        self.process: Process | None = None

    def start(self) -> str:
        """The link that it prints."""
        variables = {**environment(), "PYTHONPATH": str(ROOT), "SSH_CONNECTION": ""}  # of the runs that it starts
        command = ("serve", "--no-browser", "--port", str(self.port))
        self.process = Process(program, *command, folder=self._place, variables=variables)
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """As a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.mark.slow
def test_a_run_from_the_form_is_rated_on_the_same_server(browser: Browser, tmp_path: Path) -> None:
    server, folder = Serve(tmp_path), RunFolder(tmp_path / "runs" / "eye")
    page = browser.new_page()
    page.set_default_timeout(240_000)
    page.goto(server.start())
    page.click("text=New run")
    page.wait_for_selector("#others label", state="attached")
    page.select_option("[data-setting=experiment]", "demo")
    page.fill("[data-setting=init_points]", "2")
    page.fill("[data-setting=n_iters]", "0")
    page.fill("[data-setting=name]", "eye")
    page.check("[data-several=scorers] [value=manual]")
    page.fill("[data-setting=images_per_prompt]", "1")
    page.fill("#line", "scoring.playoff=0 scoring.repeats=0 final.images=0")
    page.wait_for_selector("#start:enabled")
    page.click("#start")
    page.click("#rate:not([hidden])")
    for _ in range(2):
        page.wait_for_selector("#left img")
        while "" in page.locator("#strip b").all_text_contents():
            page.keyboard.press("7")
        page.keyboard.press("Enter")
        page.wait_for_selector("#page[data-unsaved='0']")
    page.goto(f"http://127.0.0.1:{server.port}/studies/eye")
    page.wait_for_selector("#state:text-is('done')")
    server.kill()
    assert [trial.values for trial in complete_trials(load(folder))] == [[7.0]] * 2
    assert "token=" not in folder.output.read_text() + folder.log.read_text()


@pytest.mark.slow
def test_a_demo_run_is_started_paused_and_watched_and_outlives_its_server(browser: Browser, tmp_path: Path) -> None:
    server, folder = Serve(tmp_path), RunFolder(tmp_path / "runs" / "mine")
    page = browser.new_page()
    page.set_default_timeout(240_000)
    page.goto(server.start())
    page.click("text=New run")
    page.wait_for_selector("#others label", state="attached")
    page.select_option("[data-setting=experiment]", "demo")
    page.fill("[data-setting=init_points]", "2")
    page.fill("[data-setting=n_iters]", "2")
    page.fill("[data-setting=name]", "mine")
    page.fill("#line", "final.images=0 payloads.demo_ring.batch_size=1")
    page.wait_for_selector("#start:enabled")
    page.click("#start")
    page.wait_for_selector("#steps:has-text('drawing')")
    page.click("button:has-text('Pause')")
    page.wait_for_selector("#state:text-is('paused')")
    server.kill()
    page.wait_for_selector("#message:has-text('The server does not answer')")
    assert run_state(folder) == "paused"
    server.start()
    page.wait_for_selector("#message", state="hidden")
    page.click("button:has-text('Go on')")
    page.click("summary:has-text('More trials')")
    page.fill("[name=trials]", "1")
    page.click("button:has-text('Add')")
    page.wait_for_selector("#steered:has-text('It has 1 trials more')")
    server.kill()  # the run goes on without it
    server.start()
    page.wait_for_selector("#state:text-is('done')")
    page.wait_for_selector("#trials tbody tr >> nth=4", state="attached")
    page.click("#trials th:has-text('trial')")
    page.click("nav >> text=Compare")
    page.wait_for_selector("figure img")
    server.kill()
    assert len(complete_trials(load(folder))) == 5
    assert "token=" not in folder.output.read_text() + folder.log.read_text()
