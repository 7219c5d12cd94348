"""``run.rebasin``: what is written draws what it drew, and what would not is not written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import CheckpointError
from bayes_merger.imaging import Payload, load_pipeline, resolve
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted
from bayes_merger.merging.rebasin.spaces import Axis, Space
from bayes_merger.run.rebasin import rebasin, verify
from tests.merging.rebasin.models import scrambled

PAYLOADS = resolve([Payload("ring", "a red ring", steps=2, width=64, height=64, cfg_scale=3)], 0)


@pytest.mark.slow
def test_a_scrambled_model_comes_back_and_its_pictures_stay(
    tmp_path: Path, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    lost, order = scrambled(tiny_a, tiny_sd1_config, tmp_path / "lost.safetensors")
    found = rebasin(tiny_a, lost, tmp_path / "found.safetensors", config=tiny_sd1_config)
    assert found.permutation.moved() == order.moved() > 0
    assert found.before < 0.9 < found.after == pytest.approx(1)
    with open_checkpoint(tiny_a) as own, open_checkpoint(tmp_path / "found.safetensors") as back:
        assert list(back.shapes) == list(own.shapes)
        assert back.dtypes == own.dtypes
        assert all(torch.equal(own.tensor(key), back.tensor(key)) for key in own.shapes)
        said = json.loads(back.metadata["bayes_merger.rebasin"])
        assert said["to"] == {"name": "a.safetensors", "sha256": own.sha256()}
        assert said["moved"] == order.moved()
    drawn = [load_pipeline(file, config=tiny_sd1_config, device="cpu").draw(PAYLOADS)[0].image.tobytes()
             for file in (tiny_a, lost)]  # fmt: skip
    assert max(abs(one - other) for one, other in zip(*drawn, strict=True)) <= 1  # of 255: rounding


@pytest.mark.slow
def test_what_a_file_says_of_its_bytes_is_left_out(tmp_path: Path, tiny_a: Path, tiny_sd1_config: Path) -> None:
    from safetensors.torch import load_file, save_file

    lost, _ = scrambled(tiny_a, tiny_sd1_config, tmp_path / "lost.safetensors")
    said = {"modelspec.title": "mine", "modelspec.hash_sha256": "0x1", "bayes_merger.recipe": "{}"}
    save_file(load_file(lost), tmp_path / "said.safetensors", metadata=said)
    rebasin(tiny_a, tmp_path / "said.safetensors", tmp_path / "out.safetensors", config=tiny_sd1_config)
    with open_checkpoint(tmp_path / "out.safetensors") as out:
        assert set(out.metadata) == {"modelspec.title", "bayes_merger.rebasin"}


def test_an_order_that_changes_answers_is_refused(tiny_a: Path, tiny_sd1_config: Path) -> None:
    key = "model.diffusion_model.input_blocks.0.0.weight"
    space = Space("rows", (8,), ((Axis(key, 0),),))  # of one tensor alone
    order = Permutation([space], {"rows": [torch.arange(8).flip(0)]})
    with open_checkpoint(tiny_a) as model:
        with pytest.raises(CheckpointError, match=r"a\.safetensors: .* it answers otherwise, by .*; nothing was"):
            verify(model, Permuted(model, order, {key: key}), tiny_sd1_config)
        still = Permutation([space])
        assert verify(model, Permuted(model, still, {key: key}), tiny_sd1_config) == 0
