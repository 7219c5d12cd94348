"""The front door: what a notebook uses."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

import bayes_merger
from bayes_merger import demo
from bayes_merger.api import AskTellStudy
from bayes_merger.cli import main
from bayes_merger.errors import CheckpointError, ConfigError, TrialFailed

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with A and B in it."""
    for name in ("a", "b"):
        (tmp_path / f"{name.upper()}.safetensors").symlink_to(demo.MODELS / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs_as_it_stands(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    exec(blocks[0], {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("Stable Diffusion 1.x 959\nSuggestion(number=")
    assert (models / "mix.safetensors").stat().st_size > 10_000_000


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, bayes_merger; print(sorted(m for m in sys.modules if m.startswith('bayes_merger')), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert result.stdout == "['bayes_merger'] False\n"


def test_the_names_of_the_front_door() -> None:
    assert dir(bayes_merger) == ["__version__", "merge", "open_checkpoint", "open_study", "save_merge"]
    for name in dir(bayes_merger):
        assert getattr(bayes_merger, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'marge'"):
        _ = bayes_merger.marge  # type: ignore[attr-defined]
    stub = (Path(bayes_merger.__file__).with_suffix(".pyi")).read_text()
    assert set(re.findall(r" as (\w+)", stub)) | {"__version__"} == set(dir(bayes_merger))


def test_a_state_dict_is_what_the_file_holds(models: Path) -> None:
    settings: dict[str, Any] = {
        "model_a": "A.safetensors",
        "model_b": "B.safetensors",
        "alpha": [0.25] * 26,
        "OUT03-OUT05.alpha": 0.75,
    }
    state = bayes_merger.merge(**settings)
    out = bayes_merger.save_merge("mix.safetensors", **settings)
    with bayes_merger.open_checkpoint(out) as written:
        assert list(written.keys()) == list(state)
        assert all(torch.equal(written.tensor(key), tensor) for key, tensor in state.items())
    again = bayes_merger.merge("mix.safetensors", model_a="A.safetensors", model_b="B.safetensors")
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())
    with pytest.raises(Exception, match="exists"):
        bayes_merger.save_merge(out, **settings)


def test_mistakes_are_named(models: Path) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'alpa'"):
        bayes_merger.merge(model_a="A.safetensors", model_b="B.safetensors", alpa=0.3)
    with pytest.raises(ConfigError, match="no study 'none'"):
        bayes_merger.merge("none")
    with pytest.raises(ConfigError, match="architecture: 'sd9' is unknown"):
        bayes_merger.open_study("s", architecture="sd9")
    with pytest.raises(ConfigError, match="optimiser: no 'tep'; did you mean tpe"):
        bayes_merger.open_study("s", optimiser="tep")
    with pytest.raises(ConfigError, match="name: 'a b' cannot be a folder"):
        bayes_merger.open_study("a b")


def left_open(error: type[Exception], *source: str, **settings: Any) -> list[str]:
    """What Python says of files that nobody closed when a merge is refused."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(error):
            bayes_merger.merge(*source, **settings)
        gc.collect()
    found = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    return [text for text in found if ".safetensors" in text]  # other tests' connections are collected, too


def test_a_wrong_setting_leaves_no_model_open(models: Path) -> None:
    step = "{name: mix, a: a, b: b, alpha: 0.5}"
    (models / "mix.yaml").write_text(f"models: {{a: A.safetensors, b: B.safetensors}}\nsteps: [{step}]\n")
    files: dict[str, Any] = {"model_a": "A.safetensors", "model_b": "B.safetensors"}
    bayes_merger.save_merge("made.safetensors", **files)
    assert left_open(ConfigError, **files, alpa=0.3) == []
    assert left_open(ConfigError, **files, blocks="none.yaml") == []
    assert left_open(CheckpointError, **files, vae="./none.safetensors") == []
    assert left_open(ConfigError, "mix.yaml", beta=0.3) == []
    assert left_open(CheckpointError, "made.safetensors", model_a="B.safetensors") == []


def taste(weights: Mapping[str, Mapping[str, float]]) -> float:
    return 5.0 - sum((value - 0.3) ** 2 for value in weights["alpha"].values())


def opened(**settings: object) -> AskTellStudy:
    return bayes_merger.open_study("mine", frozen={"IN00-OUT10": 0.5}, init_points=4, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimiser", ["bayes", optuna.samplers.TPESampler])
def test_a_study_that_is_opened_again_goes_on(models: Path, optimiser: object) -> None:
    def asked(count: int) -> list[dict[str, dict[str, float]]]:
        found = []
        with opened(optimiser=optimiser) as study:
            for _ in range(count):
                suggestion = study.ask()
                study.tell(suggestion, taste(suggestion.weights))
                found.append({name: dict(blocks) for name, blocks in suggestion.weights.items()})
        return found

    parts = asked(3) + asked(4)
    (models / "runs" / "mine").rename(models / "elsewhere")
    assert asked(7) == parts
    assert [set(row["alpha"].values()) - {0.5} for row in parts[:3]] == [{0.0}, {1.0}, set()]


def test_a_study_knows_its_best_and_is_shown(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened() as study:
        assert study.best is None
        for number in range(5):
            suggestion = study.ask()
            if number == 2:
                study.fail(suggestion, "black")
                continue
            with pytest.raises(TrialFailed):
                study.tell(suggestion, float("nan"))
            study.tell(suggestion, taste(suggestion.weights))
        assert [trial.number for trial in study.trials] == [0, 1, 3, 4]
        best = study.best
        assert best is not None
        assert best.score == max(trial.score for trial in study.trials if trial.score is not None)
    assert main(["show", "mine"]) == 0
    text = capsys.readouterr().out
    assert f"best: trial {best.number}, {best.score:.3f} points" in text
    assert "trial 2 failed: black" in text


def test_what_was_asked_and_never_told_is_asked_again(models: Path) -> None:
    with opened() as study:
        first = study.ask()
    with opened() as study:
        assert study.ask().weights == first.weights


def test_another_space_is_another_study(models: Path) -> None:
    with opened():
        pass
    words = r"cannot continue, because its scores would not be comparable: space\.fixed: .*; and \d+ more\. Undo"
    with pytest.raises(ConfigError, match=words):
        bayes_merger.open_study("mine", init_points=4)
