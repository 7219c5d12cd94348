"""Loaded tiny pipelines: one shared for reading, one of its own for whoever writes into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bayes_merger.imaging import LivePipeline, load_pipeline

torch.set_num_threads(1)  # with models this small a second thread only costs


@pytest.fixture(scope="session")
def pipeline_a(tiny_a: Path, tiny_sd1_config: Path) -> LivePipeline:
    return load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu")


@pytest.fixture
def own_pipeline(tiny_a: Path, tiny_sd1_config: Path) -> LivePipeline:
    return load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu")
