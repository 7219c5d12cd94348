"""``run.activations``: one payload measured, whatever the memory holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bayes_merger.checkpoints.activations.names import About
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging import DrawnImage, LivePipeline, Payload, load_pipeline, resolve
from bayes_merger.run.activations import measure_payload
from bayes_merger.run.draw import Drawer
from bayes_merger.run.prompt_files import NO_FILES
from tests.sidecars import RUN

PAYLOADS = resolve([Payload("ring", "a red ring", steps=2, width=64, height=64, cfg_scale=3, batch_size=2)], 0)
ABOUT = About("0" * 64, "sd1", 2, (RUN,))


def drawer(model: Checkpoint, pipeline: LivePipeline) -> Drawer:
    def draw(some: Sequence[Payload]) -> tuple[DrawnImage, ...]:
        return tuple(pipeline.draw(some))

    return Drawer(model, tuple(PAYLOADS), pipeline, NO_FILES, draw)


def crowded(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    """A device that holds one picture, with and without its prompt."""
    if len(inputs[0]) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_a_batch_that_did_not_fit_has_added_counts_for_nothing(
    tmp_path: Path, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    with open_checkpoint(tiny_a) as model:
        for most in (1, 2):
            pipeline = load_pipeline(model, config=tiny_sd1_config, device="cpu", max_batch=most)
            pipeline.pipe.unet.conv_out.register_forward_pre_hook(crowded)
            measure_payload(drawer(model, pipeline), PAYLOADS[0], ABOUT, 0, tmp_path / f"{most}.safetensors")
    one, other = ((tmp_path / f"{most}.safetensors").read_bytes() for most in (1, 2))
    assert one == other
