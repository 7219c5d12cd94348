"""A run over four models: every one of them counts, and the study knows them all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.cli import main
from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS
from bayes_merger.run.baselines import baselines
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.models import read_recipe
from bayes_merger.search.study.study import FINGERPRINT
from tests.checkpoint_files import make_tiny_sd1
from tests.run.fake_run import Model, make_setup
from tests.user_folder import make_workplace

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
FOURTH = "the fourth=1 (v2).safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path, tiny_a: Path, tiny_b: Path) -> Path:
    folder = make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)
    shutil.copy(tiny_a, folder / "a.safetensors")
    shutil.copy(tiny_b, folder / "b.safetensors")
    for seed, name in ((3, "c.safetensors"), (4, FOURTH)):
        make_tiny_sd1(folder / name, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        models = ("model_a=a.safetensors", "model_b=b.safetensors", "model_c=c.safetensors", f"model_d={FOURTH}")
        settings = ("method=n_average", "vae=d", "n_iters=1", "final.images=1", "final.rescore=1", "name=four")
        assert main(["run", "experiment=tiny", *models, *settings]) == 0
    return folder


@pytest.fixture
def workplace(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the study `four` has five finished trials."""
    monkeypatch.chdir(made)
    return made


def test_the_best_merge_is_made_of_all_models_and_is_written_again_from_the_study(workplace: Path) -> None:
    study = load(RunFolder(Path("runs/four")))
    assert list(study.user_attrs[FINGERPRINT]["models"]) == list("abcd")
    assert main(["merge", "four", "--trial", "3", "--out", "third.safetensors", "--overwrite"]) == 0
    files = ("a.safetensors", "b.safetensors", "c.safetensors", FOURTH)
    a, b, c, d = (load_file(name) for name in files)
    alpha = study.get_trials()[3].user_attrs["weights"]["alpha"]["IN00"]
    third = load_file("third.safetensors")
    expected = METHODS["n_average"](*(model[FIRST].float() for model in (a, b, c, d)), alpha=alpha)
    assert torch.equal(third[FIRST], expected.half())
    vae = "first_stage_model.decoder.conv_in.weight"
    assert torch.equal(third[vae], d[vae])
    assert main(["merge", "four", "--out", "again.safetensors", "--overwrite"]) == 0
    assert Path("again.safetensors").read_bytes() == Path("runs/four/best.safetensors").read_bytes()


def test_every_model_is_shown_and_has_a_row_in_the_closing_table(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "four"]) == 0
    shown = capfd.readouterr().out
    assert f"model D  {workplace.resolve() / FOURTH}" in shown
    for name in ("model A", "model B", "model C", "model D", "even mix of A and B"):
        assert f"│ {name} " in shown


@pytest.mark.slow
def test_a_study_goes_on_when_a_further_model_has_moved(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (workplace / "moved").mkdir(exist_ok=True)
    shutil.copy(FOURTH, workplace / "moved" / "renamed=2.safetensors")
    assert main(["resume", "four", "n_iters=2", "model_d=moved/renamed=2.safetensors", "final.images=0"]) == 0
    assert load(RunFolder(Path("runs/four"))).user_attrs["config"]["models"] == {"d": "moved/renamed=2.safetensors"}
    assert main(["worker", "four", f"model_d={FOURTH}"]) == 0
    assert "nothing left to draw" in capfd.readouterr().out


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume", "four", "model_d=c.safetensors"], "models.d: '"),
        (["resume", "four", "model_d=null"], "vae: 'd' is unknown"),
        (["resume", "four", "model_e=c.safetensors"], "models.e: '"),
        (["resume", "four", "model_d=nothing.safetensors"], "model_d: nothing.safetensors"),
        (["resume", "four", "method=ties"], "start anew with  bayes-merger run"),
        (["worker", "four", "model_d=c.safetensors"], "models.d: '"),
        (["worker", "four", "model_d=nothing.safetensors"], "model_d: nothing.safetensors"),
        (["worker", "four", "n_iters=9"], "models_dir, recipe.models"),
        (["fork", "four", "new", "model_d=c.safetensors"], "models.d: '"),
        (["fork", "four", "new", "method=slerp"], "model_d: method 'slerp' takes no model D"),
    ],
)
def test_what_would_not_compare_is_refused(
    workplace: Path, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    errors = capfd.readouterr().err
    assert words in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not Path("runs/new").exists()


def test_a_run_of_a_recipe_has_no_further_models_beside_it(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = "models: {x: a.safetensors, y: b.safetensors}\nsteps: [{name: m, a: x, b: y, alpha: look}]\n"
    Path("steps.yaml").write_text(steps)
    assert main(["run", "experiment=tiny", "recipe=steps.yaml", "model_d=c.safetensors"]) == 2
    assert "model_d: the recipe names its models; give it as recipe.models.NAME=FILE" in capfd.readouterr().err


def test_a_recipe_says_whose_vae_it_takes_whatever_the_model_is_called() -> None:
    config = make_setup().config
    for name in ("b", "d", "merge"):
        with pytest.raises(ConfigError, match="vae: a run of a recipe takes it from the recipe"):
            read_recipe(replace(config, recipe={"steps": []}, vae=name))


def test_a_winner_is_compared_with_each_of_more_than_three_models() -> None:
    parts = make_setup()
    models: dict[str, Any] = {name: Model() for name in ("a", "b", "c", "d", "vae")}
    three = replace(parts, checkpoints={name: models[name] for name in "abc"})
    assert [row.name for row in baselines(three)] == ["model A", "model B", "even mix"]
    rows = baselines(replace(parts, checkpoints=models))
    assert [(row.name, row.key) for row in rows] == [
        ("model A", "weighted_sum"),
        ("model B", "weighted_sum"),
        ("model C", "alone: c"),
        ("model D", "alone: d"),
        ("even mix of A and B", "weighted_sum"),
    ]


def test_a_model_without_a_vae_is_drawn_with_that_of_another(workplace: Path) -> None:
    vae = "first_stage_model.decoder.conv_in.weight"
    save_file({key: t for key, t in load_file("a.safetensors").items() if "first_stage" not in key}, "bare.safetensors")
    models = ("model_a=bare.safetensors", "model_b=b.safetensors")
    settings = ("init_points=3", "n_iters=0", "final.images=1", "name=bare")
    assert main(["run", "experiment=tiny", *models, *settings]) == 2
    assert main(["run", "experiment=tiny", *models, *settings[:-1], "vae=b", "name=dressed"]) == 0
    best = load_file("runs/dressed/best.safetensors")
    assert torch.equal(best[vae], load_file("b.safetensors")[vae])
    assert main(["merge", "dressed", "--out", "dressed.safetensors"]) == 0
    again = load_file("dressed.safetensors")
    assert best.keys() == again.keys()
    assert all(torch.equal(again[key], best[key]) for key in best)
