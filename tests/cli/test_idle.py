"""Weights that change nothing: said, left out of the search, remembered; and who may join with which versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.architectures import SD1
from bayes_merger.cli import main
from bayes_merger.run.folder import RunFolder, load
from tests.command_line import planned, refused
from tests.user_folder import make_workplace

MODELS = ["model_a=a.safetensors", "model_b=b.safetensors"]
RUN = ["run", "experiment=tiny", *MODELS, "final.images=0", "final.save=false", "init_points=3", "n_iters=1",
       "payloads.tiny.sampler_name=DDIM", "payloads.tiny.steps=3"]  # fmt: skip
IDLE = ("BASE", "IN03", "OUT00", "OUT01", "OUT02")
LINE = "5 of 26 weights change nothing: the models are equal there (BASE, IN03, OUT00-OUT02)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path, tiny_a: Path, tiny_b: Path) -> Path:
    folder = make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)
    a, b = load_file(tiny_a), load_file(tiny_b)
    save_file(a, folder / "a.safetensors")
    save_file(b | {key: a[key] for key in a if SD1.place(key).block in IDLE}, folder / "b.safetensors")
    save_file(a, folder / "same.safetensors", {"title": "another file with the same tensors"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*RUN, "name=made"]) == 0
    return folder


@pytest.fixture
def workplace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the study `made` has four finished trials."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials(name: str) -> list[Any]:
    return load(RunFolder(Path("runs", name))).get_trials(deepcopy=False)


@pytest.mark.slow
def test_they_are_left_out_and_said_once(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = Path("runs/made/log.txt").read_text()
    assert log.count(f"{LINE}; space.idle=keep searches them all the same") == 1
    searched = {f"{block}.alpha" for block in SD1.blocks if block not in IDLE}
    for trial in trials("made"):
        assert set(trial.params) == searched
        assert {trial.user_attrs["weights"]["alpha"][block] for block in IDLE} == {0.0}
    assert main(["show", "made"]) == 0
    shown = capfd.readouterr().out
    assert LINE in shown
    assert "│ IN03  │ idle  │" in shown
    assert json.loads(Path("runs/made/best/summary.json").read_text())["idle"] == [f"{block}.alpha" for block in IDLE]


@pytest.mark.slow
def test_a_study_goes_on_in_the_space_it_began_with(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "made", "n_iters=2"]) == 0
    assert "IN03.alpha" not in trials("made")[-1].params
    assert len(trials("made")) == 5
    assert "fork made NEW space.idle=keep" in refused(capfd, "resume", "made", "space.idle=keep")


@pytest.mark.slow
def test_forks_with_and_without_them_take_everything_over(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fork", "made", "whole", "space.idle=keep", "n_iters=1"]) == 0
    assert "4 of 4 trials of made taken over" in capfd.readouterr().out
    assert len(trials("whole")[-1].params) == 26
    assert "idle" not in load(RunFolder(Path("runs/whole"))).user_attrs["design"]["space"]
    assert main(["fork", "whole", "again", "space.idle=freeze", "n_iters=0"]) == 0
    out = capfd.readouterr().out
    assert "5 of 5 trials of whole taken over" in out
    assert LINE in out
    assert trials("again")[-1].user_attrs["weights"] == trials("whole")[-1].user_attrs["weights"]


def test_plan_says_them(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = planned(capfd, *MODELS, "alpha=0.3")
    assert found["idle"] == [f"{block}.alpha" for block in IDLE]
    assert {group["block"]: group["says"] for group in found["groups"]}["IN03"] == ["IN03", "changes nothing"]
    assert main(["plan", "made"]) == 0
    assert f"note: {LINE}, compared in" in capfd.readouterr().out


@pytest.mark.parametrize("rules", [[], ["space.frozen={IN00-OUT11: 0.5}"]])
def test_models_that_are_equal_wherever_a_weight_is_searched_are_refused(
    workplace: Path, capfd: pytest.CaptureFixture[str], rules: list[str]
) -> None:
    model = "same.safetensors" if not rules else "b.safetensors"
    said = refused(capfd, *RUN, "name=new", f"model_b={model}", *rules)
    assert "nothing is left to search: the models are equal wherever a weight is searched" in said
    assert not Path("runs/new").exists()


def test_an_unknown_way_to_treat_them_is_refused(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "space.idle: 'maybe' is unknown; give freeze or keep" in refused(capfd, *RUN, "name=new", "space.idle=maybe")


def with_versions(**changes: str) -> None:
    """The study as if it had been begun with other versions."""
    path = Path("runs/made/study.db").absolute()
    study = optuna.load_study(study_name="made", storage=f"sqlite:///{path}")
    study.set_user_attr("versions", {**study.user_attrs["versions"], **changes})


def test_a_worker_with_another_version_is_refused_with_what_to_install(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with_versions(diffusers="0.1.0", torch="1.0")
    said = refused(capfd, "worker", "made")
    assert "diffusers is" in said
    assert "was 0.1.0 in the study" in said
    assert said.endswith("pip install diffusers==0.1.0\n")
    assert main(["resume", "made", "n_iters=1"]) == 0  # who goes on has upgraded on purpose
    assert "new scores may not compare exactly with earlier ones" in capfd.readouterr().out
    assert main(["worker", "made"]) == 0
    assert "versions" not in capfd.readouterr().err


def test_what_changes_the_last_digits_is_a_note(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with_versions(torch="1.0", device="tpu")
    assert main(["worker", "made"]) == 0
    said = capfd.readouterr().out
    assert "was 1.0 in the study" in said
    assert "scores may differ in their last digits" in said


def test_a_worker_says_which_samplers_draw_otherwise_than_where_the_study_began(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path("runs/made/study.db").absolute()
    optuna.load_study(study_name="made", storage=f"sqlite:///{path}").set_user_attr("versions", {})
    assert main(["worker", "made"]) == 0
    assert "DDIM: drawn as A1111 draws since bayes_merger 0.2.0" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize("version", ["0.1; rm -rf ~", "1 evil-package", "", "\x1b[31m", "1" * 61])
def test_a_version_that_is_none_is_not_shown(workplace: Path, capfd: pytest.CaptureFixture[str], version: str) -> None:
    with_versions(diffusers=version)
    assert "its 'versions' is not what a run writes (no versions)" in refused(capfd, "worker", "made")
