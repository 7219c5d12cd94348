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
from PIL import Image

import bayes_merger
from bayes_merger import demo
from bayes_merger.api.asking import AskTellStudy
from bayes_merger.cli import main
from bayes_merger.errors import CheckpointError, ConfigError, TrialFailed
from bayes_merger.run.recipes import embedded_recipe
from tests.sidecars import measured

FOX = '{"prompt": "a fox in the snow", "steps": 20, "batch_size": 2}'
README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with A and B in it."""
    for name in ("a", "b"):
        (tmp_path / f"{name.upper()}.safetensors").symlink_to(demo.MODELS / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, bayes_merger; print(sorted(m for m in sys.modules if m.startswith('bayes_merger')), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert result.stdout == "['bayes_merger', 'bayes_merger.lazy'] False\n"


def test_what_is_public_is_on_the_page_and_nothing_else(models: Path) -> None:
    page = (README.parent / "docs" / "python.md").read_text(encoding="utf-8")
    table = page.partition("| --- | --- |\n")[2].partition("\n\n")[0]
    listed = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert {"__version__", *listed} == set(dir(bayes_merger))
    for name in dir(bayes_merger):
        assert getattr(bayes_merger, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'marge'"):
        _ = bayes_merger.marge  # type: ignore[attr-defined]
    stub = (Path(bayes_merger.__file__).with_suffix(".pyi")).read_text()
    assert set(re.findall(r" as (\w+)", stub)) | {"__version__"} == set(dir(bayes_merger))


@pytest.mark.slow
def test_the_page_on_python_runs_as_it_stands(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (README.parent / "docs" / "python.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    small = {"prompt": "a red ring", "steps": 1, "width": 64, "height": 64}
    for usual, own in (('{"device": "auto"}', {"config": str(demo.config_dir())}), (FOX, small)):
        assert script.count(usual) == 1
        script = script.replace(usual, repr(own))
    exec(script, {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["959 tensors", "Stable Diffusion 1.x 959"]
    assert "13 numbers are searched" in lines
    assert "study fox: 3 of 4 trials finished, going on" in lines
    with bayes_merger.open_study("mine", space=_space_of("mine"), init_points=4) as study:
        assert len(study.trials) == 5
        assert study.best is not None
        assert embedded_recipe(Path("best.safetensors")).weights == study.best.weights
    assert lines[-2] == f"{bayes_merger.load_study('fo').best_value} 4"
    mine = embedded_recipe(Path("mine.safetensors"))
    assert (mine.method, mine.weights["alpha"]["BASE"], mine.weights["alpha"]["IN00"]) == ("slerp", 0.0, 0.4)


def _space_of(name: str) -> bayes_merger.SearchSpace:
    """What a study searches, as it remembers it."""
    return bayes_merger.SearchSpace.from_json(bayes_merger.load_study(name).user_attrs["fingerprint"]["space"])


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


def test_files_of_activations_are_given_as_tables(models: Path) -> None:
    layer = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    for seed, name in enumerate("AB"):
        with bayes_merger.open_checkpoint(f"{name}.safetensors") as model:
            measured(models / f"{name}.act", {layer: model.shapes[layer]}, seed, model=model.sha256())
    settings: dict[str, Any] = {"model_a": "A.safetensors", "model_b": "B.safetensors", "alpha": 0.25}
    state = bayes_merger.merge(**settings, saliency={"a": "A.act", "b": Path("B.act"), "centre": "none"}, strength=2)
    plain = bayes_merger.merge(**settings)
    moved = {key for key, tensor in state.items() if not torch.equal(tensor, plain[key])}
    assert moved == {layer, layer.replace("weight", "bias")}
    acted = bayes_merger.merge(**settings, act={"alpha": "B.act"})
    assert not torch.equal(acted[layer], plain[layer])
    more: dict[str, Any]
    for more in ({"saliency": {"a": "B.act", "b": "A.act"}}, {"act": {"alpha": "A.safetensors"}}):
        assert left_open(CheckpointError, **settings, **more) == []
    assert left_open(ConfigError, **settings, saliency={"x": "B.act"}) == []


def test_none_is_what_is_not_given(models: Path) -> None:
    given: dict[str, Any] = {"model_a": "A.safetensors", "model_b": "B.safetensors", "alpha": 0.3}
    nothing: dict[str, Any] = dict.fromkeys(
        ("model_c", "saliency", "act", "vae", "method", "rebasin", "elements", "dtype")
    )
    merged, plain = bayes_merger.merge(**given, **nothing), bayes_merger.merge(**given)
    assert all(torch.equal(merged[key], tensor) for key, tensor in plain.items())


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
    with pytest.raises(ConfigError, match="images_per_prompt: is about the trials of a run; here"):
        bayes_merger.draw("A.safetensors", "portrait", images_per_prompt=2)


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


def test_a_score_of_anything(tmp_path: Path) -> None:
    """Pictures of Pillow, files, folders; names, functions, objects: and what is none of them."""
    for name, colour in (("black", (0, 0, 0)), ("white", (255, 255, 255))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")

    def brightness(image: Image.Image) -> float:
        return float(image.resize((1, 1)).convert("L").getpixel((0, 0)))  # type: ignore[arg-type]

    assert bayes_merger.score(str(tmp_path), brightness) == [{"brightness": 0.0}, {"brightness": 255.0}]
    mixed: list[Any] = [tmp_path / "white.png", Image.new("L", (8, 8), 7)]
    found = bayes_merger.score(mixed, [brightness, "contrast"])
    assert found == [{"contrast": 0.0, "brightness": 255.0}, {"contrast": 0.0, "brightness": 7.0}]
    with pytest.raises(ConfigError, match="scorers: none chosen"):
        bayes_merger.score(mixed, [])
    with pytest.raises(ConfigError, match="scorers\\.: int has no `name`"):
        bayes_merger.score(mixed, 3)
    with pytest.raises(ConfigError, match="did you mean contrast"):
        bayes_merger.score(mixed, "contrst")
    with pytest.raises(ConfigError, match=r"none\.png: there is no such picture"):
        bayes_merger.score([tmp_path / "none.png"], brightness)
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"words\.png: is no picture"):
        bayes_merger.score([tmp_path / "words.png"], brightness)
    with pytest.raises(TrialFailed, match="scorer <lambda> raised KeyError"):
        bayes_merger.score(mixed, lambda image: image.info["x"])


def test_a_plain_optuna_study_finds_what_is_best() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = bayes_merger.search_space(
        "sdxl", groups=[["IN00-IN08"]], frozen={"BASE": 0.5, "M00": 0.5, "OUT00-OUT08": 0}
    )
    assert [parameter.name for parameter in space.parameters] == ["IN00.alpha"]
    study = optuna.create_study(direction="maximize", sampler=bayes_merger.sampler(space, "tpe", seed=3))
    for _ in range(25):
        trial = study.ask({**space.distributions()})
        study.tell(trial, -abs(space.assemble(trial.params)["alpha"]["IN07"] - 0.3))
    assert abs(study.best_params["IN00.alpha"] - 0.3) < 0.1


def test_a_recipe_is_merged_as_it_is(models: Path) -> None:
    recipe = bayes_merger.recipe(model_a="A.safetensors", model_b="B.safetensors", alpha=0.25)
    a, b = (
        bayes_merger.merge(recipe.with_weights({"alpha": dict.fromkeys(recipe.weights["alpha"], x)}))
        for x in (0.0, 1.0)
    )
    key = "model.diffusion_model.output_blocks.5.0.in_layers.2.weight"
    expected = (0.75 * a[key].float() + 0.25 * b[key].float()).half()
    assert torch.equal(bayes_merger.merge(recipe)[key], expected)
    with pytest.raises(ConfigError, match="a recipe's own settings stay"):
        bayes_merger.merge(recipe, alpha=0.3)
    (models / "A.safetensors").rename(models / "moved.safetensors")
    moved = bayes_merger.merge(recipe, model_a="moved.safetensors")
    assert torch.equal(moved[key], expected)
