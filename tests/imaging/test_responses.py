"""``imaging.responses``: fixed questions to a model's networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging.responses import difference, responses
from tests.folders import write_file, write_folder
from tests.merging.rebasin.models import loaded


@pytest.mark.parametrize(
    ("family", "parts"),
    [("sd1", {"text_encoder", "unet", "vae"}), ("sdxl", {"text_encoder", "text_encoder_2", "unet", "vae"})],
)
def test_every_network_is_asked_the_same_each_time(tmp_path: Path, family: str, parts: set[str]) -> None:
    config = write_folder(tmp_path / "config", family)
    with open_checkpoint(write_file(tmp_path / "model.safetensors", family)) as model:
        live = loaded(model, config)
    networks = {part: live.modules[part] for part in parts}
    before = responses(networks)
    assert set(before) == parts - {"vae"} | {"vae encoder", "vae decoder"}
    assert before["vae encoder"].shape == (1, 8, 16, 16)  # of 64 pixels, at three levels; means and variances
    assert before["vae decoder"].shape == (1, 3, 64, 64)
    torch.manual_seed(5)
    assert difference(before, responses(networks)) == 0
    with torch.no_grad():
        for part in parts:
            next(live.modules[part].parameters()).mul_(1.5)
        live.modules["vae"].decoder.conv_in.weight.mul_(1.5)
    after = responses(networks)
    assert all(difference({part: before[part]}, {part: after[part]}) > 1e-3 for part in before)


def test_the_difference_is_relative_to_the_largest_number_of_each_network() -> None:
    before = {"unet": torch.tensor([1.0, -4.0]), "text_encoder": torch.tensor([100.0, 0.0])}
    after = {"unet": torch.tensor([1.0, -5.0]), "text_encoder": torch.tensor([101.0, 0.0])}
    assert difference(before, after) == 0.25
