"""``imaging.answers``: samples of what layers answer, the same places of the same drawing in both pipelines."""

from __future__ import annotations

import io

import pytest
import torch

from bayes_merger.errors import ConfigError
from bayes_merger.imaging import LivePipeline, Payload, resolve
from bayes_merger.imaging.answers import SAMPLES, Latents, Place, Samples, Watched, watched
from bayes_merger.imaging.pipelines.pieces import InPieces

MIDDLE = "model.diffusion_model.middle_block.1."
FIRST, SECOND = f"{MIDDLE}transformer_blocks.0.ff.net.0.proj.weight", f"{MIDDLE}transformer_blocks.0.ff.net.2.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.weight"
WATCHED = {
    "hidden": Watched(4, [Place(FIRST, 0, 0), Place(SECOND, 1, 2)]),
    "made": Watched(4, [Place(f"{MIDDLE}proj_in.weight", 0, 0)]),
    "text": Watched(8, [Place(TEXT, 1, 0)]),
    "unknown": Watched(8, [Place("no.such.weight", 1, 0)]),
}


def drawn(pipeline: LivePipeline, latents: Latents, *, steps: int = 3, seed: int = 1) -> Samples:
    samples = Samples(io.BytesIO())
    payload = Payload("ring", "a red ring", steps=steps, width=64, height=64, cfg_scale=3, seed=seed)
    with watched(pipeline, WATCHED, samples, latents, calls=steps):
        pipeline.draw(resolve([payload], 0))
    return samples


def test_the_second_is_fed_what_the_first_was(pipeline_a: LivePipeline) -> None:
    latents = Latents()
    one = drawn(pipeline_a, latents)
    latents.again()
    other = drawn(pipeline_a, latents, seed=2)  # whose own latents are others
    free = drawn(pipeline_a, Latents(), seed=2)
    assert one.count("hidden") == 3 * 2  # a position of one picture, with and without the prompt
    assert one.read("hidden").shape == (6, 4)
    assert one.count("unknown") == 0
    for name in ("hidden", "made", "text"):
        assert torch.equal(one.read(name), other.read(name))
        assert one.read(name).float().std() > 0
    assert not torch.equal(one.read("hidden"), free.read("hidden"))
    assert torch.equal(one.read("text"), free.read("text"))
    network = pipeline_a.architecture.model.modules[pipeline_a.architecture.network]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_layers_that_do_less_are_seen_as_diffusers_has_them(pipeline_a: LivePipeline) -> None:
    network = pipeline_a.architecture.model.modules[pipeline_a.architecture.network]
    before = [type(layer) for layer in network.modules()]
    samples = Samples(io.BytesIO())
    with watched(pipeline_a, WATCHED, samples, Latents(), calls=1):
        assert {type(layer).__module__.partition(".")[0] for layer in network.modules()} == {"diffusers", "torch"}
        samples.add("hidden", torch.zeros(1, 4))
    assert [type(layer) for layer in network.modules()] == before
    assert InPieces in before


def test_models_that_draw_in_other_steps_are_refused(pipeline_a: LivePipeline) -> None:
    latents = Latents()
    drawn(pipeline_a, latents)
    latents.again()
    with pytest.raises(ConfigError, match="do not draw in the same steps"):
        drawn(pipeline_a, latents, steps=4)


def test_what_is_kept_survives_the_way_to_the_disk_and_has_an_end() -> None:
    samples = Samples(io.BytesIO())
    for number in (1.0, 2.0, 1e9, -1e9):
        samples.add("x", torch.full((2, 3), number))
        samples.spill()
    assert samples.count("x") == 8
    assert samples.read("x")[:, 0].tolist() == [1, 1, 2, 2, 65504, 65504, -65504, -65504]
    assert SAMPLES == 2048
