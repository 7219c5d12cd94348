"""A sketch has the colours of the finished picture, and looking at latents changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from bayes_merger.imaging import LivePipeline, resolve
from bayes_merger.imaging.pipelines.denoised import Tap
from bayes_merger.imaging.pipelines.flow import build_flow_scheduler
from bayes_merger.imaging.pipelines.schedulers import SAMPLERS, build_scheduler
from bayes_merger.imaging.pipelines.sketches import Sketches
from tests.imaging.pipelines.test_passes import payload
from tests.imaging.pipelines.test_pipeline import CAT, pixels

MAP = torch.tensor([[0.1, -0.05, 0.02], [0.0, 0.08, 0.05], [-0.05, 0.05, 0.1], [0.03, 0.0, -0.1]])


def decoded(latents: torch.Tensor) -> list[Image.Image]:
    """What a VAE would make of latents that is linear, and of 8 pixels a place."""
    colours = (torch.einsum("nchw,ck->nhwk", latents, MAP) + 0.5).clamp(0, 1)
    small = [Image.fromarray(np.uint8(one * 255)) for one in colours.numpy()]
    return [one.resize((8 * one.width, 8 * one.height), Image.Resampling.NEAREST) for one in small]


def latents_of(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 6, 10, generator=torch.Generator().manual_seed(seed)) * 0.9


def test_before_a_picture_is_finished_there_is_no_sketch() -> None:
    assert Sketches().of(latents_of(1), 10) == []


def test_a_sketch_has_the_colours_of_the_picture() -> None:
    sketches = Sketches()
    sketches.learn(latents_of(1), decoded(latents_of(1)))
    found, wanted = sketches.of(latents_of(2), 10), decoded(latents_of(2))
    assert [one.size for one in found] == [(10, 6), (10, 6)]
    small = [np.asarray(one.resize((10, 6), Image.Resampling.BOX), float) for one in wanted]
    assert max(np.abs(np.asarray(a, float) - b).max() for a, b in zip(found, small, strict=True)) <= 4


@pytest.mark.parametrize(("side", "size"), [(1000, (80, 48)), (40, (40, 24)), (10, (10, 6)), (1, (1, 1))])
def test_a_sketch_is_as_large_as_the_picture_and_no_larger_than_asked(side: int, size: tuple[int, int]) -> None:
    sketches = Sketches()
    sketches.learn(latents_of(1), decoded(latents_of(1)))
    assert [one.size for one in sketches.of(latents_of(2), side)] == [size, size]


def test_first_guesses_that_are_far_too_large_do_not_drown_the_picture() -> None:
    sketches = Sketches()
    sketches.learn(latents_of(1), decoded(latents_of(1)))
    (plain,), (large,) = sketches.of(latents_of(2, 1) / 0.9, 10), sketches.of(latents_of(2, 1) * 14, 10)
    assert np.abs(np.asarray(plain, float) - np.asarray(large, float)).max() <= 8


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1e30])
def test_latents_of_a_broken_merge_teach_nothing_and_end_nothing(odd: float) -> None:
    sketches, broken = Sketches(), latents_of(1)
    broken[1, 2, 3, 4] = odd
    sketches.learn(latents_of(1), decoded(latents_of(1)))
    before = [one.tobytes() for one in sketches.of(latents_of(2), 10)]
    sketches.of(broken, 10)
    if odd != 1e30:
        sketches.learn(broken, decoded(latents_of(1)))
        assert [one.tobytes() for one in sketches.of(latents_of(2), 10)] == before


class Looking:
    """Looks at everything, and spoils its copy."""

    is_looking = True

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []
        self.decoded: list[tuple[tuple[int, ...], tuple[int, int]]] = []

    def on_latents(self, latents: torch.Tensor) -> None:
        self.seen.append(tuple(latents.shape))
        latents.clone().zero_()

    def on_decoded(self, latents: torch.Tensor, images: Sequence[Image.Image]) -> None:
        self.decoded += [(tuple(one.shape), image.size) for one, image in zip(latents, images, strict=True)]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_what_the_network_believes_is_known_at_every_step(sampler: str, prediction: str) -> None:
    scheduler = build_scheduler(sampler, prediction_type=prediction)
    tap = Tap(scheduler)
    scheduler.set_timesteps(6)
    given = {"generator": [torch.Generator(), torch.Generator()]} if "SDE" in sampler else {}
    picture, noise = latents_of(3), torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(4))
    for timestep in scheduler.timesteps:
        time, below = float(timestep), int(timestep)
        alphas = scheduler.alphas_cumprod[[below, min(below + 1, 999)]].tolist()
        alpha = alphas[0] + (time - below) * (alphas[1] - alphas[0])
        seen = picture if scheduler.init_noise_sigma > 1 else picture * alpha**0.5
        seen = seen + noise * ((1 - alpha) / alpha if scheduler.init_noise_sigma > 1 else 1 - alpha) ** 0.5
        said = noise if prediction == "epsilon" else noise * alpha**0.5 - picture * (1 - alpha) ** 0.5
        scheduler.scale_model_input(seen, timestep)
        scheduler.step(said, timestep, seen, **given)
        assert torch.allclose(tap.denoised(), picture, atol=2e-3)


def test_what_a_flow_believes_is_known_too() -> None:
    scheduler = build_flow_scheduler("Euler", "Simple", {"scheduler/scheduler_config.json": {}})
    tap = Tap(scheduler)
    scheduler.set_timesteps(4)
    picture, noise = latents_of(3), latents_of(4)
    for time in scheduler.timesteps:
        share = float(time) / 1000
        scheduler.step(noise - picture, time, picture * (1 - share) + noise * share)
        assert torch.allclose(tap.denoised(), picture, atol=1e-4)


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
def test_who_looks_sees_every_step_and_changes_no_bit(sampler: str, pipeline_a: LivePipeline) -> None:
    cat = dataclasses.replace(CAT, sampler_name=sampler)
    payloads, looking = resolve([cat], 0), Looking()
    steps: list[tuple[int, int]] = []
    plain = pixels(pipeline_a.draw(payloads))
    assert pixels(pipeline_a.draw(payloads, on_step=lambda *at: steps.append(at), onlooker=looking)) == plain
    assert looking.seen == [(2, 4, 8, 8)] * len(steps)
    assert looking.decoded == [((4, 8, 8), (64, 64))] * 2


def test_of_a_second_pass_the_larger_latents_are_shown(pipeline_a: LivePipeline) -> None:
    looking = Looking()
    second = payload("a cat", enable_hr=True, hr_scale=1.5, hr_second_pass_steps=3)
    pipeline_a.draw([second], onlooker=looking)
    assert looking.seen == [(1, 4, 8, 8)] * 4 + [(1, 4, 12, 12)] * 3
    assert looking.decoded == [((4, 12, 12), (96, 96))]
