"""Prompts that change, second passes and web UIs' noise, against drawings made by hand from the same network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from bayes_merger.imaging import LivePipeline, Payload, payload_from_mapping, resolve
from bayes_merger.imaging.noise import PictureNoise, mixed, stream
from bayes_merger.imaging.payload.hires import Hires
from bayes_merger.imaging.pipelines.passes import Wording, cropped, enlarged_latents, enlarged_pictures, kin_of, passes
from tests.imaging.pipelines.sigma_reference import METHODS, sigmas_of, time_at

FIELDS: dict[str, Any] = {"width": 64, "height": 64, "steps": 4, "seed": 7, "cfg_scale": 3, "sampler_name": "Euler"}


def payload(prompt: str, **fields: Any) -> Payload:
    return resolve([payload_from_mapping("p", FIELDS | {"prompt": prompt} | fields)], 0)[0]


def picture(pipeline: LivePipeline, prompt: str, **fields: Any) -> np.ndarray[Any, Any]:
    (drawn,) = pipeline.draw([payload(prompt, **fields)])
    return np.asarray(drawn.image).astype(int)


class ByHand:
    """Draws in the space of sigmas with the pipeline's own network and text encoder, call by call."""

    def __init__(
        self, pipeline: LivePipeline, prompts: Sequence[str], negative: Sequence[str] = ("",), scale: float = 3
    ) -> None:
        self._pipe = pipeline.pipe
        self._prompts, self._negative, self._scale = prompts, negative, scale
        self.calls = 0

    def _told(self, text: str) -> Tensor:
        encoded: Tensor = self._pipe.encode_prompt(text, "cpu", 1, do_classifier_free_guidance=False)[0]
        return encoded

    def _noise_in(self, x: Tensor, time: float, text: str) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._pipe.unet(x.float(), time, encoder_hidden_states=self._told(text)).sample
        return found.double()

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        prompt, negative = (texts[min(self.calls, len(texts) - 1)] for texts in (self._prompts, self._negative))
        self.calls += 1
        scaled, time = x / (sigma**2 + 1) ** 0.5, time_at(sigma)
        unwanted = self._noise_in(scaled, time, negative)
        return x - sigma * (unwanted + self._scale * (self._noise_in(scaled, time, prompt) - unwanted))

    def draw(self, sampler: str, start: Tensor, sigmas: list[float], noise: Callable[[], Tensor]) -> Tensor:
        return METHODS[sampler](self.denoise, start.double(), sigmas, noise)

    def decoded(self, latents: Tensor) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            decoded = self._pipe.vae.decode(latents.float() / self._pipe.vae.config.scaling_factor).sample
        pixels: np.ndarray[Any, Any] = (decoded / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).numpy()
        return (pixels * 255).round().astype(int)


def drawn_by_hand(
    pipeline: LivePipeline,
    prompts: Sequence[str],
    noise: Callable[[Sequence[int]], Tensor],
    sampler: str = "Euler",
    steps: int = 4,
) -> np.ndarray[Any, Any]:
    hand, sigmas = ByHand(pipeline, prompts), sigmas_of("Uniform", steps)
    start = noise((4, 8, 8))[None].double() * sigmas[0]
    return hand.decoded(hand.draw(sampler, start, sigmas, lambda: noise((4, 8, 8))[None].double()))


def near(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return int(abs(one - other).max()) <= 1


def test_the_pictures_by_hand_are_the_pipelines(pipeline_a: LivePipeline) -> None:
    by_hand = drawn_by_hand(pipeline_a, ["a cat"], stream("cpu", 7))
    assert near(picture(pipeline_a, "a cat"), by_hand)
    assert not near(picture(pipeline_a, "a red dog, big"), by_hand)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a [cat:red dog, big:2]", ["a cat"] * 3 + ["a red dog, big"]),
        ("a [cat:red dog, big:0.25]", ["a cat"] * 2 + ["a red dog, big"]),
        ("a [cat:red dog, big:0]", ["a red dog, big"]),
        ("a [red dog, big::1]", ["a red dog, big"] * 2 + ["a "]),
        ("a [cat|red dog, big]", ["a cat", "a cat", "a red dog, big", "a cat"]),
    ],
)
def test_a_prompt_changes_at_the_step_at_which_web_uis_change_it(
    prompt: str, said: list[str], pipeline_a: LivePipeline
) -> None:
    assert near(picture(pipeline_a, prompt), drawn_by_hand(pipeline_a, said, stream("cpu", 7)))


@pytest.mark.slow
def test_samplers_of_second_order_count_their_calls(pipeline_a: LivePipeline) -> None:
    said = ["a cat"] * 5 + ["a red dog, big"]  # half of 2 * 4 calls, and one
    by_hand = drawn_by_hand(pipeline_a, said, stream("cpu", 7), "Heun")
    assert near(picture(pipeline_a, "a [cat:red dog, big:0.5]", sampler_name="Heun"), by_hand)


def test_neighbours_of_a_changing_prompt_are_drawn_as_ever(pipeline_a: LivePipeline) -> None:
    both = [payload("a [cat:dog:2]"), dataclasses.replace(payload("a cat"), name="q")]
    together = [np.asarray(one.image).astype(int) for one in pipeline_a.draw(both)]
    assert near(together[0], picture(pipeline_a, "a [cat:dog:2]"))
    assert near(together[1], picture(pipeline_a, "a cat"))


@pytest.mark.slow
def test_the_negative_prompt_changes_too(pipeline_a: LivePipeline) -> None:
    drawn = picture(pipeline_a, "a cat", negative_prompt="[red dog, big:blurry:1]", cfg_scale=7)
    said = ["red dog, big"] * 2 + ["blurry"]
    hand, sigmas = ByHand(pipeline_a, ["a cat"], said, scale=7), sigmas_of("Uniform", 4)
    start = stream("cpu", 7)((4, 8, 8))[None] * sigmas[0]
    assert near(drawn, hand.decoded(hand.draw("Euler", start, sigmas, lambda: torch.zeros(1))))
    for constant in (said[0], said[-1]):
        assert (drawn != picture(pipeline_a, "a cat", negative_prompt=constant, cfg_scale=7)).any()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("sampler", ["Euler", "Euler a"])
def test_noise_of_nvidias_cards(sampler: str, pipeline_a: LivePipeline) -> None:
    by_hand = drawn_by_hand(pipeline_a, ["a cat"], stream("nv", 7), sampler)
    assert near(picture(pipeline_a, "a cat", rng="nv", sampler_name=sampler), by_hand)
    assert not near(picture(pipeline_a, "a cat", sampler_name=sampler), by_hand)


def test_variations_are_mixed_on_the_sphere(pipeline_a: LivePipeline) -> None:
    start = mixed(0.4, stream("cpu", 7)((4, 8, 8)), stream("cpu", 9)((4, 8, 8)))
    by_hand = drawn_by_hand(pipeline_a, ["a cat"], lambda shape: start)
    assert near(picture(pipeline_a, "a cat", subseed=9, subseed_strength=0.4), by_hand)


@pytest.mark.slow
def test_the_noise_of_later_steps_may_have_a_seed_of_its_own(pipeline_a: LivePipeline) -> None:
    noise = PictureNoise(7, delta=31337)
    by_hand = drawn_by_hand(pipeline_a, ["a cat"], noise, "Euler a")
    assert near(picture(pipeline_a, "a cat", sampler_name="Euler a", eta_noise_seed_delta=31337), by_hand)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("steps", "strength"), [(0, 0.5), (3, 0.7), (2, 1)])
def test_a_second_pass_is_the_end_of_a_longer_schedule(steps: int, strength: float, pipeline_a: LivePipeline) -> None:
    fields = {"enable_hr": True, "hr_scale": 1.5, "hr_second_pass_steps": steps, "denoising_strength": strength}
    count = steps or 4
    first, sigmas = ByHand(pipeline_a, ["a cat"]), sigmas_of("Uniform", 4)
    small = first.draw("Euler", stream("cpu", 7)((4, 8, 8))[None] * sigmas[0], sigmas, lambda: torch.zeros(1))
    large = interpolate(small, size=(12, 12), mode="bilinear")
    rest = sigmas_of("Uniform", int(count / min(strength, 0.999)))[-count - 1 :]
    second = ByHand(pipeline_a, ["a red dog"])
    start = large + stream("cpu", 7)((4, 12, 12))[None] * rest[0]
    expected = second.decoded(second.draw("Euler", start, rest, lambda: torch.zeros(1)))
    drawn = picture(pipeline_a, "a cat", hr_prompt="a red dog", **fields)
    assert drawn.shape == (96, 96, 3)
    assert near(drawn, expected)


def test_a_second_pass_over_the_enlarged_picture(pipeline_a: LivePipeline) -> None:
    fields = {"enable_hr": True, "hr_resize_x": 96, "hr_resize_y": 64, "hr_upscaler": "Lanczos"}
    gentle = picture(pipeline_a, "a cat", denoising_strength=0.3, **fields)
    assert gentle.shape == (64, 96, 3)
    assert not near(gentle, picture(pipeline_a, "a cat", denoising_strength=0.9, **fields))


def test_colours_in_half_precision_are_cut_and_not_rounded() -> None:
    decoded = torch.full((1, 3, 8, 8), 0.462646484375, dtype=torch.float16)
    (found,) = enlarged_pictures(decoded, Hires(8, 8, 8, 8, 4, 0.5, "Lanczos", "Euler", "Automatic", 3.0))
    assert found.getpixel((0, 0)) == (117, 117, 117)


def test_between_the_passes_the_vae_draws_from_what_is_likely_with_the_picture_s_seed(
    pipeline_a: LivePipeline,
) -> None:
    fields = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Lanczos", "denoising_strength": 0.5}
    vae, scale = pipeline_a.pipe.vae, pipeline_a.pipe.vae.config.scaling_factor
    first, sigmas = ByHand(pipeline_a, ["a cat"]), sigmas_of("Uniform", 4)
    small = first.draw("Euler", stream("cpu", 7)((4, 8, 8))[None] * sigmas[0], sigmas, lambda: torch.zeros(1))
    with torch.no_grad():
        decoded = vae.decode(small.float() / scale).sample
        cut = ((decoded / 2 + 0.5).clamp(0, 1) * 255)[0].permute(1, 2, 0).byte().numpy()
        pixels = np.asarray(Image.fromarray(cut).resize((96, 96), Image.Resampling.LANCZOS)).astype(np.float32)
        likely = vae.encode(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]).latent_dist
    noise = stream("cpu", 7)((4, 12, 12))
    rest = sigmas_of("Uniform", 8)[-5:]
    start = (likely.mean + likely.std * noise) * scale + noise[None] * rest[0]
    second = ByHand(pipeline_a, ["a cat"])
    assert near(
        picture(pipeline_a, "a cat", **fields), second.decoded(second.draw("Euler", start, rest, lambda: noise))
    )


def test_progress_counts_the_steps_of_both_passes(pipeline_a: LivePipeline) -> None:
    seen: list[tuple[int, int]] = []
    second = payload("a cat", enable_hr=True, hr_scale=1.5, hr_second_pass_steps=3)
    pipeline_a.draw([second], on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]


def test_latents_are_cut_as_web_uis_cut_them() -> None:
    hires = payload("a", width=64, height=64, enable_hr=True, hr_resize_x=104, hr_resize_y=64).hires
    assert hires is not None
    latents = torch.arange(13.0).view(1, 1, 13, 1).expand(1, 1, 13, 13)
    assert cropped(latents, hires)[0, 0, :, 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert enlarged_latents(torch.zeros(2, 4, 8, 8), hires).shape == (2, 4, 8, 13)


def test_words_are_those_of_the_pass() -> None:
    changing = payload("a [b:1.5] <lora:x:1>", enable_hr=True, steps=10, hr_second_pass_steps=6)
    first, second = passes(changing, 0)
    assert first.words.wanted == Wording(("a  ",), (1,), (0,))
    wanted = second.words.wanted
    assert [wanted.texts[wanted.at(call)] for call in (0, 3, 4, 5)] == ["a  ", "a  ", "a b ", "a b "]
    assert second.payload.steps == 8


def test_how_often_a_prompt_says_what() -> None:
    several = Wording.of("[a|b|a] [c:1]", 4)
    assert several == Wording(("a ", "b c", "a c"), (1, 1, 2), (0, 0, 1, 2, 2))
    assert kin_of([Wording.of("x", 4), several]) == [{0: 1}, *3 * [{1: 1, 2: 1, 3: 2}]]
