"""The memory that a run needs, told before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.run.needs import judges_bytes, memory_words, model_bytes
from bayes_merger.scoring.weights import WeightFile
from tests.merging.tiny_models import write_model


def test_a_model_needs_what_its_shapes_say(tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain.safetensors", 1)
    count = sum(tensor.numel() for tensor in load_file(plain).values())
    averaged = write_model(tmp_path / "averaged.safetensors", 1, change={"model_ema.x": torch.zeros(1000)})
    for path in (plain, averaged):
        with open_checkpoint(path) as model:
            assert (model_bytes(model, 2), model_bytes(model, 4)) == (2 * count, 4 * count)


def test_a_judge_s_file_counts_once_and_one_that_is_missing_not(tmp_path: Path) -> None:
    (tmp_path / "tower").write_bytes(bytes(3000))
    (tmp_path / "head").write_bytes(bytes(50))
    files = {name: WeightFile(str(tmp_path / name), "scorers.x") for name in ("tower", "head", "missing")}
    scorers = [SimpleNamespace(files=(files["tower"], files["head"])), SimpleNamespace(files=(files["tower"],)),
               SimpleNamespace(files=(files["missing"],)), SimpleNamespace()]  # fmt: skip
    assert judges_bytes(scorers) == 3050


def test_what_is_needed_and_what_is_free_is_one_line() -> None:
    assert memory_words(2_100_000_000, 900_000_000, 24_000_000_000, where="cuda") == (
        "memory: 2.10 GB for the model that draws, 0.90 GB for those that judge, and what pictures take; "
        "24.00 GB are free on cuda"
    )
    both = memory_words(5_000_000_000, 0, 8_000_000_000, where="cpu", workers=2)
    assert both.startswith(
        "memory: 5.00 GB for the model that draws, and what pictures take in each of 2 workers; 8.00 GB are free on "
        "cpu: too little for all at once; "
    )
