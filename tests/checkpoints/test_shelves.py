"""Models by name, in folders as web UIs have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bayes_merger.checkpoints.shelves import VARIABLE, find_model, models_on, shelves
from bayes_merger.errors import ConfigError


@pytest.fixture
def web_ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    root = tmp_path / "ui"
    for name in (
        "models/Stable-diffusion/dreamshaper_8.safetensors",
        "models/Stable-diffusion/anime/mix.v1.2.safetensors",
        "models/Lora/style.safetensors",
        "models/checkpoints/style.safetensors",
        "models/7f1c/Pony.ckpt",
        "models/VAE/readme.txt",
        "venv/dreamshaper_8.safetensors",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dreamshaper_8", "Stable-diffusion/dreamshaper_8.safetensors"),
        ("dreamshaper_8.safetensors", "Stable-diffusion/dreamshaper_8.safetensors"),
        ("DreamShaper_8", "Stable-diffusion/dreamshaper_8.safetensors"),
        ("mix.v1.2", "Stable-diffusion/anime/mix.v1.2.safetensors"),
        ("Lora/style", "Lora/style.safetensors"),
        ("pony", "7f1c/Pony.ckpt"),
    ],
)
def test_a_model_is_found_by_its_name(name: str, file: str, web_ui: Path) -> None:
    assert find_model(name, shelves(str(web_ui))) == str(web_ui / "models" / file)


@pytest.mark.parametrize(
    "name", ["", "flux", "B.safetensors", "readme", "../dreamshaper_8", "/dreamshaper_8", "*", "x\0y", " [879db523c3]"]
)
def test_what_has_no_file_stays_as_it_was_typed(name: str, web_ui: Path) -> None:
    assert find_model(name, shelves(str(web_ui))) == name


@pytest.mark.parametrize(
    ("name", "meant"),
    [("dreamshaper", "dreamshaper_8"), ("Dreamshpaer_8.safetensors", "dreamshaper_8"), ("mix.v1.3", "mix.v1.2")],
)
def test_a_misspelt_name_is_told_what_it_may_mean(name: str, meant: str, web_ui: Path) -> None:
    with pytest.raises(ConfigError, match=f"^'{name}': no model is called so; did you mean {meant}[?]$"):
        find_model(name, shelves(str(web_ui)))


def test_a_file_that_is_here_comes_first(web_ui: Path) -> None:
    Path("dreamshaper_8").write_bytes(b"")
    assert find_model("dreamshaper_8", shelves(str(web_ui))) == "dreamshaper_8"


def test_two_models_of_one_name_are_named(web_ui: Path) -> None:
    with pytest.raises(ConfigError, match=r"'style': several models are called so: .*Lora.* write the folder too"):
        find_model("style", shelves(str(web_ui)))


def test_folders_come_from_the_setting_or_the_environment(web_ui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = web_ui / "models" / "Lora"
    assert shelves() == []
    monkeypatch.setenv(VARIABLE, f"{lora}{os.pathsep}{web_ui}")
    assert shelves() == [lora, web_ui / "models"]
    assert shelves(str(lora)) == [lora]
    assert models_on(shelves()).count(lora / "style.safetensors") == 1
    monkeypatch.setenv(VARIABLE, str(web_ui / "none"))
    with pytest.raises(ConfigError, match=f"{VARIABLE}: .*none: there is no such folder"):
        shelves()


@pytest.mark.parametrize("name", ["x" * 50_000, "a\0b"])
def test_what_cannot_be_a_file_s_name_is_left_as_it_is(name: str, web_ui: Path) -> None:
    assert find_model(name, shelves(str(web_ui))) == name


def test_a_name_may_be_written_as_web_uis_show_it(web_ui: Path) -> None:
    folders, models = shelves(str(web_ui)), web_ui / "models"
    wanted = str(models / "Stable-diffusion" / "dreamshaper_8.safetensors")
    assert find_model("dreamshaper_8.safetensors [879db523c3]", folders) == wanted
    assert find_model("dreamshaper_8 [879db523c3]", folders) == wanted
    for name in ("odd [0123456789].ckpt", "cafe\u0301 😀.safetensors"):  # as macOS writes an accent
        (models / name).write_bytes(b"")
    assert find_model("odd [0123456789]", folders) == str(models / "odd [0123456789].ckpt")
    assert find_model("café 😀", folders) == str(models / "cafe\u0301 😀.safetensors")
    (models / "cafe\u0301").mkdir()
    (models / "cafe\u0301" / "odd.ckpt").write_bytes(b"")
    assert find_model("café/odd", folders) == str(models / "cafe\u0301" / "odd.ckpt")


def test_links_to_folders_are_followed_once_and_hidden_folders_are_not_entered(web_ui: Path, tmp_path: Path) -> None:
    models, disk = web_ui / "models", tmp_path / "disk"
    for folder in (disk, models / ".cache"):
        folder.mkdir()
        (folder / "far.safetensors").write_bytes(b"")
    (models / "far").symlink_to(disk)
    (disk / "back").symlink_to(models)
    assert [path for path in models_on(shelves(str(web_ui))) if path.stem == "far"] == [models / "far/far.safetensors"]


def test_comfyui_s_other_folders_are_looked_into(web_ui: Path, tmp_path: Path) -> None:
    comfy = tmp_path / "ComfyUI"
    (comfy / "models" / "checkpoints").mkdir(parents=True)
    (comfy / "extra_model_paths.yaml").write_text(
        f"a111:\n  base_path: {web_ui}\n  checkpoints: models/Stable-diffusion\n  loras: |\n    models/Lora\n    gone\n"
        "comfyui:\n  is_default: true\n"
    )
    assert shelves(str(comfy)) == [
        comfy / "models", web_ui / "models" / "Stable-diffusion", web_ui / "models" / "Lora"]  # fmt: skip
    (comfy / "extra_model_paths.yaml").write_text("a111: [\n")
    with pytest.raises(ConfigError, match=r"extra_model_paths\.yaml: line 2: not valid YAML"):
        shelves(str(comfy))
