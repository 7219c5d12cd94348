"""A run whose models are diffusers folders: the same trials as with the single files of the same models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.cli import main
from bayes_merger.run.folder import RunFolder, load
from tests.user_folder import make_workplace

SETTINGS = ("experiment=tiny", "init_points=3", "n_iters=1", "final.images=0", "final.rescore=1")
FOLDERS = ("run", *SETTINGS, "model_a=a", "model_b=b", "generator.config=null", "name=folders")


@pytest.fixture
def workplace(
    tmp_path: Path, tiny_sd1_config: Path, tiny_a: Path, tiny_b: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Two models, each as a file and as a folder."""
    make_workplace(tmp_path, tiny_sd1_config)
    shutil.copy(tiny_a, tmp_path / "a.safetensors")
    shutil.copy(tiny_b, tmp_path / "b.safetensors")
    monkeypatch.chdir(tmp_path)
    for one, other in ("ab", "ba"):
        pair = [f"model_a={one}.safetensors", f"model_b={other}.safetensors", "alpha=0"]
        assert main(["merge", *pair, "--config", str(tiny_sd1_config), "--out", one]) == 0
    return tmp_path


@pytest.mark.slow
def test_folders_are_drawn_and_merged_as_files_are(workplace: Path) -> None:
    assert main(["run", *SETTINGS, "model_a=a.safetensors", "model_b=b.safetensors", "name=files"]) == 0
    assert main(FOLDERS) == 0
    files, folders = (load(RunFolder(Path("runs") / name)) for name in ("files", "folders"))
    assert len(files.get_trials()) == len(folders.get_trials()) >= 4
    for one_trial, other_trial in zip(files.get_trials(), folders.get_trials(), strict=True):
        assert one_trial.params == other_trial.params
        assert one_trial.value == other_trial.value
    first, second = (load_file(f"runs/{name}/best.safetensors") for name in ("files", "folders"))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


@pytest.mark.slow
def test_a_study_of_folders_goes_on_when_one_has_moved_and_not_when_it_has_changed(workplace: Path) -> None:
    assert main(FOLDERS) == 0
    assert main(["resume", "folders", "n_iters=2"]) == 0
    shutil.move("a", "moved")
    assert main(["resume", "folders", "n_iters=3", "model_a=moved"]) == 0
    shutil.copy("b/unet/diffusion_pytorch_model.safetensors", "moved/unet/diffusion_pytorch_model.safetensors")
    assert main(["resume", "folders", "n_iters=4", "model_a=moved"]) == 2
