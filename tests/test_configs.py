"""Every shipped choice composes and can be built: a typo in a YAML breaks the tests, not a night of GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bayes_merger import compose
from bayes_merger.checkpoints.architectures import FLUX, SD1, SD3, SD3_LARGE, SDXL
from bayes_merger.config import data_root
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import payload_from_mapping
from bayes_merger.run.spaces import rules_for
from bayes_merger.search.space.guide import space_from_guide

MODELS = ["model_a=a.safetensors", "model_b=b.safetensors"]
ROOT = Path(__file__).resolve().parent.parent


def composed(*overrides: str) -> dict[str, object]:
    return compose.compose_run([*MODELS, *overrides])


@pytest.mark.parametrize("name", compose.choices("payloads"))
def test_every_payload_can_be_drawn(name: str) -> None:
    payloads = composed(f"payloads=[{name}]")["payloads"]
    assert isinstance(payloads, dict)
    for own, mapping in payloads.items():
        assert payload_from_mapping(own, mapping).prompt


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", compose.choices("scorers"))
def test_every_scorer_can_be_built(name: str) -> None:
    scorers = composed(f"scorers=[{name}]")["scorers"]
    assert isinstance(scorers, dict)
    assert set(scorers) == {name}
    assert compose.build(name, scorers[name]).name == name


@pytest.mark.parametrize("name", compose.choices("optimiser"))
def test_every_optimiser_can_be_built(name: str) -> None:
    if name == "botorch":
        pytest.importorskip("botorch")
    optimiser = composed(f"optimiser={name}")["optimiser"]
    assert isinstance(optimiser, dict)
    space = space_from_guide(SD1.blocks, {"alpha": (0.0, 1.0)}, {})
    factory = compose.build("optimiser", optimiser, _partial_=True)
    assert hasattr(factory(space.distributions(), 0), "sample_relative")


@pytest.mark.parametrize("name", compose.choices("space"))
def test_every_space_makes_sense(name: str) -> None:
    space = composed(f"space={name}")["space"]
    assert isinstance(space, dict)
    for architecture, most in ((SD1, 26), (SDXL, 20), (SD3, 25), (SD3_LARGE, 20), (FLUX, 24)):
        if name == "default" or architecture is SD1:
            rules = rules_for(space, architecture)
            assert 0 < len(space_from_guide(architecture.blocks, {"alpha": (0.0, 1.0)}, rules).parameters) <= most


@pytest.mark.parametrize("name", compose.choices("experiment"))
def test_every_experiment_composes(name: str) -> None:
    settings = compose.compose_run([f"experiment={name}"])
    assert compose.validate(settings).init_points > 0


def test_the_first_line_of_a_choice_says_how_it_is_chosen() -> None:
    for group in compose.GROUPS:
        for folder in (data_root(), data_root() / "conf"):
            for path in (folder / group).glob("*.yaml"):
                lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "@package" not in line]
                assert lines[0].startswith("# bayes-merger run "), path


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("model_a=/data/My Model (v1) [abc].safetensors", "/data/My Model (v1) [abc].safetensors"),
        ("model_a=x=y.safetensors", "x=y.safetensors"),
        ("model_a=it's.safetensors", "it's.safetensors"),
        ("model_a='quoted name.safetensors'", "quoted name.safetensors"),
        ("model_a=C:\\models\\a.safetensors", "C:\\models\\a.safetensors"),
        ("model_a=${HOME}.safetensors", "${HOME}.safetensors"),
        ("model_a=1,5.safetensors", "1,5.safetensors"),
    ],
)
def test_file_names_are_taken_as_they_are(given: str, value: str) -> None:
    assert composed(given)["model_a"] == value
    further = given.replace("model_a=", "model_d=")
    assert composed(further)["models"] == {"d": value}
    assert compose.changed(composed(), [further])["models"] == {"d": value}


@pytest.mark.parametrize("path", ["1,5.safetensors", "My Model (v=2) [x].safetensors"])
def test_models_of_a_recipe_are_taken_as_they_are(path: str) -> None:
    steps = {"models": {"a": "a", "b": "b"}, "steps": [{"name": "mix", "a": "a", "b": "b", "alpha": 0.5}]}
    stored = composed(*(f"model_{name}=x" for name in "ab")) | {"recipe": steps}
    assert compose.changed(stored, [f"recipe.models.b={path}"])["recipe"]["models"] == {"a": "a", "b": path}


def test_further_models_are_settings_of_their_own() -> None:
    settings = composed("model_e=My Model (v=2).safetensors", "models.d=d.safetensors")
    assert settings["models"] == {"e": "My Model (v=2).safetensors", "d": "d.safetensors"}
    assert composed("models={f: x y.safetensors}")["models"] == {"f": "x y.safetensors"}
    assert composed("model_d=null")["models"] == {"d": None}
    assert composed()["models"] == {}


def test_a_study_from_before_there_were_further_models_has_none() -> None:
    older = {key: value for key, value in composed().items() if key != "models"}
    assert compose.validate(compose.changed(older, ["n_iters=5"])).models == {}


def test_a_further_model_in_a_yaml_is_told_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (folder / "mine.yaml").write_text("# @package _global_\nmodels: {d: d.safetensors}\n", encoding="utf-8")
    assert composed("experiment=mine")["models"] == {"d": "d.safetensors"}
    assert composed("experiment=mine", "model_d=other.safetensors")["models"] == {"d": "other.safetensors"}
    (folder / "mine.yaml").write_text("# @package _global_\nmodel_d: d.safetensors\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model_d: in a YAML file it is written  models: \{d: FILE\}"):
        composed("experiment=mine")


def test_rules_of_the_space_are_set_on_the_command_line() -> None:
    settings = composed("space.frozen.IN00-IN03=0.5", "space.ranges.OUT11=[0.2,0.8]", "space.groups=[[M00,OUT00]]")
    assert settings["space"] == {
        "frozen": {"IN00-IN03": 0.5},
        "ranges": {"OUT11": [0.2, 0.8]},
        "groups": [["M00", "OUT00"]],
    }


def test_the_user_s_own_files_come_before_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (
        ("payloads/portrait.yaml", "portrait: {prompt: my own}"),
        ("payloads/flat.yaml", "prompt: not wrapped by its name\n"),
        ("conf/optimiser/mine.yaml", "_target_: bayes_merger.search.samplers.random\n"),
        ("runs/x/study.db", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = composed("payloads=[portrait,flat,street]", "optimiser=mine")
    payloads = settings["payloads"]
    assert isinstance(payloads, dict)
    assert payloads["portrait"] == {"prompt": "my own"}
    assert payloads["flat"] == {"prompt": "not wrapped by its name"}
    assert "prompt" in payloads["street"]
    assert settings["optimiser"] == {"_target_": "bayes_merger.search.samplers.random"}


def test_a_yaml_with_a_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "broken.yaml").write_text("broken: {prompt: [", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        composed("payloads=[broken]")


@pytest.mark.slow
def test_a_wheel_finds_its_configuration_and_demo_as_a_checkout_does(tmp_path: Path) -> None:
    """Built, unpacked into an empty folder and used from another one."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    outputs = []
    for folder, variables in ((elsewhere, environment), (elsewhere, {**os.environ, "PYTHONPATH": str(ROOT)})):
        result = subprocess.run(
            [sys.executable, "-m", "bayes_merger", "run", "experiment=demo", "--cfg"],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(result.stdout)
    assert outputs[0].replace(str(site), "HERE") == outputs[1].replace(str(ROOT), "HERE")
    assert (site / "bayes_merger" / "demo" / "models" / "a.safetensors").is_file()
