from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from bayes_merger.imaging import LivePipeline, load_pipeline
from bayes_merger.imaging.pipelines.architectures.sd2 import predicts_velocity
from tests.folders import write_file, write_folder, write_tokenizers


@pytest.fixture(scope="module")
def unsaid(tmp_path_factory: pytest.TempPathFactory) -> LivePipeline:
    """A model of which neither marks nor settings say what it predicts."""
    place = tmp_path_factory.mktemp("sd2")
    whole = write_tokenizers(write_folder(place / "whole", "sd2", 1), "sd2")
    shutil.copytree(whole, place / "tree", ignore=shutil.ignore_patterns("*.safetensors", "scheduler*"))
    return load_pipeline(write_file(place / "a.safetensors", "sd2", 1), config=place / "tree", device="cpu")


def test_a_network_that_gives_back_its_input_predicts_noise(unsaid: LivePipeline) -> None:
    assert unsaid.prediction_type == "epsilon"


def test_a_network_that_gives_back_a_picture_turned_round_predicts_velocity(unsaid: LivePipeline) -> None:
    bias = unsaid.destinations()["model.diffusion_model.out.2.bias"]
    before = bias.clone()
    bias.fill_(-3)
    assert predicts_velocity(unsaid.pipe.unet)
    bias.copy_(before)
    assert not predicts_velocity(unsaid.pipe.unet)


def test_what_a_folder_says_counts(tmp_path: Path) -> None:
    folder = write_tokenizers(write_folder(tmp_path / "v", "sd2", 1), "sd2")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("epsilon", "v_prediction"))
    pipeline = load_pipeline(folder, config=folder, device="cpu", dtype="bf16")
    assert pipeline.prediction_type == "v_prediction"
    assert pipeline.dtype == torch.bfloat16
