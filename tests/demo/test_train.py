"""The script that makes the demo models runs to the end, and what it writes loads in plain diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger import demo
from bayes_merger.demo import grid, landscape, skills, train


@pytest.mark.slow
def test_a_quick_run_makes_every_file(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    train.main(["--out", str(tmp_path), "--quick"])

    for name in ("a", "b", "c"):
        pipe = StableDiffusionPipeline.from_single_file(
            str(tmp_path / "models" / f"{name}.safetensors"),
            config=str(tmp_path / "diffusers"),
            local_files_only=True,
            torch_dtype=torch.float32,
        )
        assert len(pipe.tokenizer) == 49408
    head = load_file(tmp_path / "models" / "head.safetensors")
    assert head["weight"].shape == (1, 64)


def test_the_specialists_change_different_blocks() -> None:
    assert not set(train.CHANGES["a"]) & set(train.CHANGES["b"])


@pytest.mark.slow
def test_a_quick_run_makes_a_pair_of_other_skills(tmp_path: Path) -> None:
    skills.main(["--out", str(tmp_path / "pair"), "--quick"])

    shapes = {name: load_file(tmp_path / "pair" / f"{name}.safetensors") for name in "abc"}
    shipped = load_file(demo.model_path("c"))
    for name, tensors in shapes.items():
        assert {key: tensor.shape for key, tensor in tensors.items()} == {
            key: tensor.shape for key, tensor in shipped.items()
        }, name
    changed = {key for key, tensor in shapes["a"].items() if not torch.equal(tensor, shapes["b"][key])}
    assert changed
    assert all(key.startswith("model.diffusion_model.") for key in changed)
    assert "most_salient" in (tmp_path / "pair" / "README.md").read_text()


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        (
            skills,
            ["--out", "pair", "--seed", "-1"],
            "argument --seed: '-1' is not possible; give a whole number from 0",
        ),
        (skills, ["--out", "pair", "--threads", "0"], "--threads: '0' is not possible; give a whole number from 1"),
        (skills, ["--out", "pair", "--device", "cudaa"], "argument --device: 'cudaa' is not on this machine; cpu is"),
        (skills, ["--out", "file"], "--out: the folder 'file' cannot be made (File exists); give another"),
        (
            skills,
            ["--out", "file/pair"],
            "--out: the folder 'file/pair' cannot be made (Not a directory); give another",
        ),
        (skills, ["--out", "mine"], "--out: 'mine/README.md' exists; give another folder"),
        (train, ["--out", "made", "--threads", "-2"], "--threads: '-2' is not possible; give a whole number from 1"),
        (train, ["--out", "made", "--work", "file"], "--work: the folder 'file' cannot be made (File exists)"),
        (landscape, ["--pictures", "0"], "--pictures: '0' is not possible; give a whole number from 1"),
        (grid, ["sheet.jpgg"], "out: 'sheet.jpgg' is no PNG in a folder that is there; give one"),
        (grid, ["nowhere/sheet.png"], "out: 'nowhere/sheet.png' is no PNG in a folder that is there; give one"),
    ],
)
def test_what_a_script_cannot_use_it_says_before_it_works(
    script: Any,
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("mine").mkdir()
    Path("mine/README.md").write_text("my own")
    with pytest.raises(SystemExit, match="2"):
        script.main(words)
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert Path("mine/README.md").read_text() == "my own"
