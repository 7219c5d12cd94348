"""The words of the final round are the study's from its beginning: lists may change or be gone when it comes to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.run.attributes import CONFIG, FRESH
from bayes_merger.run.folder import RunFolder, load
from tests.command_line import refused
from tests.user_folder import make_workplace

BRIEF = ["init_points=2", "n_iters=0", "final.rescore=1", "final.images=1", "final.predicted=false", "final.save=false"]
RUN = ["run", "experiment=tiny", "wildcards=words", "payloads.tiny.prompt=a __colour__ ring", *BRIEF]


@pytest.fixture
def run(
    tmp_path: Path, tiny_sd1_config: Path, tiny_a: Path, tiny_b: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    monkeypatch.chdir(make_workplace(tmp_path, tiny_sd1_config))
    Path("words").mkdir()
    Path("words/colour.txt").write_text("red\nblue\ngreen\n")
    return [*RUN, f"model_a={tiny_a}", f"model_b={tiny_b}"]


def test_a_study_goes_on_and_is_forked_without_its_lists(run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*run, "name=s"]) == 0
    words = load(RunFolder(Path("runs/s"))).user_attrs[FRESH]
    assert [[payload["name"] for payload in part] for part in words] == [["tiny"], ["tiny"]]
    assert all("__" not in prompt for part in words for payload in part for prompt in payload["prompts"])
    shutil.rmtree("words")
    assert main(["resume", "s"]) == 0
    assert main(["resume", "s", "n_iters=1"]) == 0
    assert main(["fork", "s", "t", "optimiser=random"]) == 0
    assert load(RunFolder(Path("runs/t"))).user_attrs[FRESH] == words
    for more in (["resume", "s", "final.images=2"], ["fork", "s", "u", "seed=5"]):  # these need other words
        assert "wildcard __colour__: no colour.txt in words" in refused(capsys, *more)
    assert not Path("runs/u").exists()


def test_a_list_that_only_the_final_round_asks_for_is_missed_before_the_search(
    run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("words/colour.txt").write_text("red\n__none__\n")
    error = refused(capsys, *run, "name=s", "seed=2")  # with which only a picture of its second part has that
    assert "payload tiny: wildcard __none__: no none.txt in words" in error
    assert not Path("runs").exists()


def test_what_only_the_second_part_misses_is_said_before_a_study_goes_on(
    run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*run, "name=s", "seed=5"]) == 0
    Path("words/colour.txt").write_text("red\n__none__\n")
    error = refused(capsys, "resume", "s", "final.images=2")  # of 2 and 2 pictures one in the second part has that
    assert "payload tiny: wildcard __none__: no none.txt in words" in error
    assert load(RunFolder(Path("runs/s"))).user_attrs[CONFIG]["final"]["images"] == 1
