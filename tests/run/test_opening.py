"""What a run says before its first trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from bayes_merger.config import FinalConfig, GeneratorConfig, ScoringConfig
from bayes_merger.run.attributes import RECIPE, VERSIONS
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.opening import opening_lines
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring import ManualScorer
from bayes_merger.search.study.workers import Worker
from tests.run.fake_run import make_setup, open_study

CPU = GeneratorConfig(device="cpu")


def make(**settings: Any) -> RunSetup:
    """Ten trials of four pictures, and a final round of (1 + 1 + 3) merges of four."""
    return make_setup(**{"generator": CPU, "final": FinalConfig(rescore=1, images=2), **settings})


def said(setup: RunSetup, study: optuna.study.Study, folder: Path, done: int = 0) -> list[str]:
    first, memory = opening_lines(setup, study, RunFolder(folder), done, lambda name: None)
    assert memory.startswith("memory: ")
    return [first]


def drawn(setup: RunSetup, folder: Path, seconds: list[float], device: str = "cpu") -> optuna.study.Study:
    study = open_study(setup, RunFolder(folder))
    study.set_user_attr(VERSIONS, {"device": device})
    with Worker(study, setup.space) as worker:
        for each in seconds:
            trial = worker.claim(20)
            assert trial is not None
            worker.tell(trial, 5.0, {"seconds": each, "weights": trial.user_attrs["weights"]})
    return study


def test_where_and_how_much(tmp_path: Path) -> None:
    setup = make()
    study = drawn(setup, tmp_path / "s", [])
    assert said(setup, study, tmp_path / "s") == [
        "drawing on cpu in fp32: 10 trials of 4 pictures and a final round of 20, 60 in all; the first trial will tell "
        "how long it takes"
    ]
    bare = make(
        init_points=1, n_iters=0, final=FinalConfig(images=0), generator=GeneratorConfig(device="cpu", dtype="bf16")
    )
    (line,) = said(bare, study, tmp_path / "s")
    assert line.startswith("drawing on cpu in bf16: 1 trial of 4 pictures, 4 in all; ")


def test_a_study_that_goes_on_knows_its_own_time(tmp_path: Path) -> None:
    setup = make()
    study = drawn(setup, tmp_path / "s", [6.0, 6.0])
    (line,) = said(setup, study, tmp_path / "s", done=2)
    assert line.startswith(
        "drawing on cpu in fp32: 8 more trials of 4 pictures and a final round of 20, 52 in all; ends about "
    )
    assert line.endswith(" (1 min 18 s)")  # (8 + 5) * 6 s


def test_a_former_study_on_this_machine_tells(tmp_path: Path) -> None:
    drawn(make(), tmp_path / "former", [2.0, 6.0, 90.0])
    setup = make(pictures=8, final=FinalConfig(images=0))  # twice the pictures
    study = drawn(setup, tmp_path / "new", [])
    (line,) = said(setup, study, tmp_path / "new")
    assert line.endswith(" (2 min), if pictures take as long as in former")  # 10 * 12 s


@pytest.mark.parametrize("other", ["device", "architecture", "broken"])
def test_another_kind_of_drawing_tells_nothing(tmp_path: Path, other: str) -> None:
    former = drawn(make(), tmp_path / "former", [6.0], "cuda" if other == "device" else "cpu")
    if other == "architecture":
        former.set_user_attr(RECIPE, {**former.user_attrs[RECIPE], "architecture": "sdxl"})
    if other == "broken":
        (tmp_path / "former" / "study.db").write_bytes(b"no database")
    setup = make()
    (line,) = said(setup, drawn(setup, tmp_path / "new", []), tmp_path / "new")
    assert line.endswith("the first trial will tell how long it takes")


@pytest.mark.parametrize("program", ["webui", "comfyui"])
def test_a_web_ui_draws_where_it_is(program: str, tmp_path: Path) -> None:
    setup = make(generator=GeneratorConfig(program=program, address="http://127.0.0.1:7860"))
    lines = list(opening_lines(setup, drawn(setup, tmp_path / "s", []), RunFolder(tmp_path / "s"), 0, str))
    assert len(lines) == 1
    assert lines[0].startswith("drawing by the web UI at http://127.0.0.1:7860: 10 trials")


@pytest.mark.parametrize(
    ("pictures", "scoring", "done", "line"),
    [
        (4, {}, 0, "you rate 4 pictures of each merge, 40 in all"),
        (4, {"assist": True}, 7, "you rate up to 4 pictures of each merge, up to 12 in all"),
        (4, {"unit": "trial"}, 9, "you rate 1 merge, each by 4 pictures"),
        (
            64,
            {},
            0,
            "you rate 64 pictures of each merge, 640 in all; images_per_prompt=1 draws one of each prompt, "
            "scoring.unit=trial asks for one number of a merge",
        ),
    ],
)
def test_whoever_rates_is_told_how_much(
    tmp_path: Path, pictures: int, scoring: dict[str, Any], done: int, line: str
) -> None:
    setup = make(pictures=pictures, scoring=ScoringConfig(**scoring), final=FinalConfig(images=0))
    setup = replace(setup, scorers={"manual": ManualScorer()})
    study = drawn(setup, tmp_path / "s", [])
    assert list(opening_lines(setup, study, RunFolder(tmp_path / "s"), done, lambda name: None))[1] == line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch has CUDA")
def test_a_card_that_lies_idle_is_named(tmp_path: Path) -> None:
    setup = make(generator=GeneratorConfig())
    study = drawn(setup, tmp_path / "s", [])
    folder = RunFolder(tmp_path / "s")
    assert "no CUDA" in list(opening_lines(setup, study, folder, 0, str))[2]
    refused = replace(setup, config=replace(setup.config, generator=CPU))
    assert len(list(opening_lines(refused, study, folder, 0, str))) == 2
