"""``models``, and commands that are given models by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from bayes_merger import compose
from bayes_merger.checkpoints.hashes import sha256_of
from bayes_merger.checkpoints.shelves import VARIABLE
from bayes_merger.cli import main
from tests.command_line import refused
from tests.merging.tiny_models import write_model


@pytest.fixture
def web_ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    folder = tmp_path / "ui" / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    for seed, name in ((1, "dreamshaper_8"), (2, "revAnimated")):
        write_model(folder / f"{name}.safetensors", seed)
    (folder / "broken.safetensors").write_text("<!DOCTYPE html>")
    return tmp_path / "ui"


def test_models_are_listed_with_kind_size_and_hash(web_ui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(web_ui), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    file = web_ui / "models" / "Stable-diffusion" / "dreamshaper_8.safetensors"
    assert (first["name"], second["name"]) == ("dreamshaper_8", "revAnimated")
    assert (first["kind"], first["bytes"], first["sha256"]) == ("sd1", file.stat().st_size, "")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    sha256_of(file, settled=-1)
    assert main(["models", f"models_dir={web_ui}"]) == 0
    out = capsys.readouterr().out
    assert sha256[:10] in out
    assert sha256[:11] not in out
    assert "1 more that cannot be merged: --all" in out
    assert main(["models", str(web_ui), "--all", "--hash", "--json"]) == 0
    kinds = {one["name"]: one["kind"] for one in json.loads(capsys.readouterr().out)}
    assert kinds == {"broken": "damaged", "dreamshaper_8": "sd1", "revAnimated": "sd1"}


def test_a_model_in_several_files_is_one(web_ui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = web_ui / "models" / "Stable-diffusion"
    tensors = list(load_file(folder / "dreamshaper_8.safetensors").items())
    for number in (0, 1):
        save_file(dict(tensors[number::2]), folder / f"two-0000{number + 1}-of-00002.safetensors")
    assert main(["models", str(web_ui), "--json", "--hash"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert sorted(found) == ["dreamshaper_8", "revAnimated", "two-00001-of-00002"]
    two, parts = found["two-00001-of-00002"], folder.glob("two-*")
    assert (two["kind"], two["bytes"], two["sha256"]) == ("sd1", sum(part.stat().st_size for part in parts), "")


def test_without_a_folder_the_way_out_is_said(web_ui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert VARIABLE in refused(capsys, "models")
    assert "no such folder" in refused(capsys, "models", "nowhere")


def test_a_folder_without_models_is_named(web_ui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (web_ui / "models" / "Stable-diffusion" / "other").mkdir()
    error = refused(capsys, "models", str(web_ui / "models" / "Stable-diffusion" / "other"))
    assert error.startswith("error: models: there is none in ")
    assert error.endswith("/other; give the folder of a web UI, or one of models\n")


def test_settings_may_stand_behind_options(web_ui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"models_dir={web_ui}", "model_a=dreamshaper_8", "model_b=revAnimated"]
    assert main(["merge", *models, "--out", "x.safetensors", "alpha=[0.5]"]) == 0
    said = refused(capsys, "merge", *models, "--out", f"{'x' * 300}.safetensors", "alpha=0.5")
    assert said.endswith("is too long a name for this disk; choose a shorter one\n")


def test_every_command_finds_models_by_name(
    web_ui: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(web_ui))
    assert main(["diff", "dreamshaper_8", "revAnimated.safetensors [0123456789]", "--json"]) == 0
    steps = "models: {a: dreamshaper_8, b: revAnimated}\nsteps:\n  - {name: x, method: weighted_sum, a: a, b: b, alpha: 1}\n"
    Path("steps.yaml").write_text(steps)
    assert main(["merge", "--out", "x.safetensors", "steps.yaml"]) == 0
    capsys.readouterr()
    assert main(["recipe", "x.safetensors", "--json"]) == 0
    paths = [model["path"] for model in json.loads(capsys.readouterr().out)["models"].values()]
    assert paths == ["dreamshaper_8.safetensors", "revAnimated.safetensors"]


def test_recipes_find_their_models_in_the_given_folder(web_ui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where, step = f"models_dir={web_ui}", "{name: x, method: weighted_sum, a: one, b: two, alpha: 0.5}"
    Path("steps.yaml").write_text(f"models: {{one: dreamshaper_8, two: revanimated}}\nsteps: [{step}]\n")
    assert main(["merge", "steps.yaml", where, "--out", "x.safetensors"]) == 0
    assert main(["merge", "x.safetensors", where, "--out", "y.safetensors"]) == 0
    assert Path("x.safetensors").read_bytes() == Path("y.safetensors").read_bytes()
    found = compose.compose_run(["recipe=steps.yaml", where])
    folder = web_ui / "models" / "Stable-diffusion"
    assert found["recipe"]["models"]["one"] == found["model_a"] == str(folder / "dreamshaper_8.safetensors")
    moved = compose.changed(found, ["recipe.models.two=dreamshaper_8"])
    assert moved["recipe"]["models"]["two"] == found["model_a"]
    Path("steps.yaml").write_text(f"models: {{one: dreamshaper, two: revanimated}}\nsteps: [{step}]\n")
    said = refused(capsys, "merge", "steps.yaml", where, "--out", "z.safetensors")
    assert said == "error: recipe.models.one: 'dreamshaper': no model is called so; did you mean dreamshaper_8?\n"


def test_a_misspelt_name_is_told_from_a_file_that_is_missing(
    web_ui: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, where = ["model_b=revanimated", "alpha=0.3", "--out=x.safetensors"], f"models_dir={web_ui}"
    near = "'dreamshapr_8': no model is called so; did you mean dreamshaper_8?"
    assert refused(capsys, "merge", "model_a=dreamshapr_8", *words, where) == f"error: model_a: {near}\n"
    assert "there is no such file" in refused(capsys, "merge", "model_a=A.safetensors", *words, where)
    monkeypatch.setenv(VARIABLE, str(web_ui))
    assert near in refused(capsys, "diff", "dreamshapr_8", "revanimated")


def test_merge_and_run_find_models_by_name(
    web_ui: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model_a=dreamshaper_8", "model_b=revanimated"]
    assert "bayes-merger models" in refused(capsys, "merge", *words, "alpha=0.3", "--out=x.safetensors")
    assert main(["merge", *words, "alpha=0.3", f"models_dir={web_ui}", "--out=x.safetensors"]) == 0
    monkeypatch.setenv(VARIABLE, str(web_ui))
    folder = web_ui / "models" / "Stable-diffusion"
    settings = compose.compose_run([*words, "method=n_average", "model_d=dreamshaper_8"])
    assert settings["model_a"] == settings["models"]["d"] == str(folder / "dreamshaper_8.safetensors")
    assert settings["model_b"] == str(folder / "revAnimated.safetensors")
    assert settings["vae"] == "a"
    moved = compose.changed({**settings, "model_b": "revAnimated"}, ["model_a=revAnimated", "n_iters=3"])
    assert (moved["model_a"], moved["model_b"]) == (settings["model_b"], "revAnimated")
    assert moved["n_iters"] == 3
