"""``imaging.pipelines.streamed``: networks that hold no more than the layer that works answer what they answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import CheckpointError
from bayes_merger.imaging.pipelines.streamed import streamed_networks
from bayes_merger.imaging.responses import responses
from tests.folders import write_file, write_folder
from tests.merging.rebasin.models import FAMILIES, loaded


@pytest.mark.sampled(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_they_answer_bit_for_bit_what_loaded_ones_do_with_one_layer_in_memory(tmp_path: Path, family: str) -> None:
    config = write_folder(tmp_path / "config", family)
    with open_checkpoint(write_file(tmp_path / "model.safetensors", family)) as model:
        networks = streamed_networks(model, config, vae=True)
        held = 0

        def look(layer: torch.nn.Module, inputs: Any) -> None:
            nonlocal held
            tensors = [t for network in networks.values() for t in network.parameters() if not t.is_meta]
            held = max(held, sum(t.numel() for t in tensors))

        layers = [layer for network in networks.values() for layer in network.modules() if layer._parameters]
        for layer in layers:
            layer.register_forward_pre_hook(look)
        answers = responses(networks)
        expected = responses(loaded(model, config).modules)
    assert answers.keys() == expected.keys()
    assert all(torch.equal(answers[part], expected[part]) for part in expected)
    assert held == max(sum(t.numel() for t in layer._parameters.values() if t is not None) for layer in layers)
    assert all(t.is_meta for network in networks.values() for t in network.parameters())


def test_a_tensor_that_is_missing_is_one_line_and_one_that_is_read_from_outside_fails(tmp_path: Path) -> None:
    config = write_folder(tmp_path / "config", "sd1")
    with open_checkpoint(write_file(tmp_path / "model.safetensors", "sd1")) as model:
        network = streamed_networks(model, config)["unet"]
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            (torch.ones(1, 4, 3, 3) * network.conv_in.weight).cpu()  # type: ignore[union-attr, operator]
    cut = {key: torch.zeros(shape) for key, shape in model.shapes.items() if not key.endswith("time_embed.2.bias")}
    from safetensors.torch import save_file

    save_file(cut, tmp_path / "cut.safetensors")
    half = {key: t for key, t in cut.items() if not key.startswith("first_stage_model.encoder.")}
    save_file(half | {"model.diffusion_model.time_embed.2.bias": torch.zeros(32)}, tmp_path / "half.safetensors")
    with open_checkpoint(tmp_path / "half.safetensors") as model:
        assert set(streamed_networks(model, config)) == {"unet", "text_encoder"}
        with pytest.raises(
            CheckpointError, match=r"half\.safetensors: \d+ of \d+ tensors are missing, first .*encoder"
        ):
            streamed_networks(model, config, vae=True)
    with (
        open_checkpoint(tmp_path / "cut.safetensors") as model,
        pytest.raises(CheckpointError, match=r"cut\.safetensors: 1 of \d+ tensors are missing"),
    ):
        streamed_networks(model, config)
