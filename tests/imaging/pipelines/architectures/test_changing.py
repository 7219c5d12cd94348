"""What changes on the way, and second passes, where the denoiser is told more than a prompt's words."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.errors import ConfigError
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, payload_from_mapping, resolve
from tests.folders import write_folder, write_tokenizers

FIELDS = {"width": 64, "height": 32, "steps": 4, "seed": 5, "cfg_scale": 3, "sampler_name": "Euler", "prompt": "a ring"}


def payload(**fields: Any) -> Payload:
    return resolve([payload_from_mapping("p", FIELDS | fields)], 0)[0]


def loaded(family: str, place: Path) -> LivePipeline:
    folder = write_tokenizers(write_folder(place, family, 1), family)
    return load_pipeline(folder, config=folder, device="cpu")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> LivePipeline:
    return loaded("sdxl", tmp_path_factory.mktemp("sdxl") / "a")


def drawn_by_diffusers(pipeline: LivePipeline, said: list[str], pooled: str) -> bytes:
    """By plain diffusers, which is told at each call of the network what the prompt says."""
    pipe = pipeline.pipe
    others = {"prompt_2": None, "prompt_3": None} if pooled == "pooled_prompt_embeds" else {}
    told = [pipe.encode_prompt(text, negative_prompt="blue", **others) for text in said]

    def after_step(_: Any, step: int, __: Any, ___: Any) -> dict[str, Any]:
        wanted, unwanted, whole, not_whole = told[min(step + 1, len(told) - 1)]
        return {"prompt_embeds": torch.cat([unwanted, wanted]), pooled: torch.cat([not_whole, whole])}

    pipe.scheduler = pipeline.architecture.scheduler(payload())
    image = pipe(
        prompt=said[0],
        negative_prompt="blue",
        width=64,
        height=32,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=[torch.Generator("cpu").manual_seed(5)],
        callback_on_step_end=after_step,
    ).images[0]
    return bytes(image.tobytes())


def test_sdxl_is_told_both_of_its_views_of_a_changing_prompt(sdxl: LivePipeline) -> None:
    changing = payload(prompt="a [ring:large red dog:1]", negative_prompt="blue")
    sdxl.check([changing])
    (image,) = sdxl.draw([changing])
    assert image.image.tobytes() == drawn_by_diffusers(sdxl, ["a ring"] * 2 + ["a large red dog"], "add_text_embeds")


def test_sdxl_draws_second_passes(sdxl: LivePipeline) -> None:
    second = payload(enable_hr=True, hr_scale=2, hr_second_pass_steps=2, denoising_strength=0.6)
    sdxl.check([second])
    (image,) = sdxl.draw([second])
    assert image.image.size == (128, 64)
    (other,) = sdxl.draw([replace(second, seeds=(6,))])
    assert image.image.tobytes() != other.image.tobytes()


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> LivePipeline:
    return loaded("sd3", tmp_path_factory.mktemp("sd3") / "a")


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> LivePipeline:
    return loaded("flux", tmp_path_factory.mktemp("flux") / "a")


@pytest.mark.slow
def test_sd3_is_told_both_of_its_views_of_a_changing_prompt(sd3: LivePipeline) -> None:
    changing = payload(prompt="a [ring:large red dog:1]", negative_prompt="blue")
    (image,) = sd3.draw([changing])
    said = ["a ring"] * 2 + ["a large red dog"]
    assert image.image.tobytes() == drawn_by_diffusers(sd3, said, "pooled_prompt_embeds")


@pytest.mark.slow
def test_flux_is_told_both_of_its_views_of_a_changing_prompt(flux: LivePipeline) -> None:
    told: list[tuple[torch.Tensor, torch.Tensor]] = []
    (before,) = flux.draw([payload()])
    handle = flux.pipe.transformer.register_forward_pre_hook(
        lambda module, inputs, named: told.append(
            (named["encoder_hidden_states"].clone(), named["pooled_projections"].clone())
        ),
        with_kwargs=True,
    )
    changing = payload(prompt="a [ring:large red dog:1]")
    flux.check([changing])
    (image,) = flux.draw([changing])
    handle.remove()
    views = [flux.pipe.encode_prompt(text, None)[:2] for text in ("a ring", "a large red dog")]
    expected = [views[0], views[0], views[1], views[1]]
    assert len(told) == 4
    for (words, whole), (expected_words, expected_whole) in zip(told, expected, strict=True):
        assert torch.equal(words, expected_words)
        assert torch.equal(whole, expected_whole)
    (after,) = flux.draw([payload()])
    assert before.image.tobytes() == after.image.tobytes() != image.image.tobytes()


def second_pass_by_hand(pipeline: LivePipeline, latents: torch.Tensor, seed: int, first: int) -> torch.Tensor:
    """Euler on the last sigmas of a schedule, from latents with as much noise as the first of these says."""
    pipe = pipeline.pipe
    wanted, unwanted, whole, not_whole = pipe.encode_prompt("a ring", None, None, negative_prompt="blue")
    scheduler = pipeline.architecture.scheduler(payload())
    scheduler.set_timesteps(4)
    sigmas = scheduler.sigmas[first:].tolist()
    draw = torch.Generator("cpu").manual_seed(seed)
    x: torch.Tensor = (1 - sigmas[0]) * latents + sigmas[0] * torch.randn(latents.shape, generator=draw)

    def velocity(x: torch.Tensor, sigma: float, told: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        time = torch.tensor([1000 * sigma])
        with torch.no_grad():
            found: torch.Tensor = pipe.transformer(
                hidden_states=x, timestep=time, encoder_hidden_states=told, pooled_projections=pooled
            ).sample
        return found

    for now, then in pairwise(sigmas):
        away = velocity(x, now, unwanted, not_whole)
        x += (then - now) * (away + 3 * (velocity(x, now, wanted, whole) - away))
    return x


@pytest.mark.slow
def test_sd3_s_second_pass_is_the_end_of_the_flow_of_what_was_enlarged(sd3: LivePipeline) -> None:
    second = payload(
        enable_hr=True, hr_scale=2, hr_second_pass_steps=2, denoising_strength=0.5, hr_upscaler="Latent",
        negative_prompt="blue", width=32, height=16,
    )  # fmt: skip
    sd3.check([second])
    with pytest.raises(ConfigError, match="payload p: width: 96 is more than the 64 that this model knows"):
        sd3.check([payload(enable_hr=True, hr_scale=3, width=32, height=16)])
    kept: list[torch.Tensor] = []
    handle = sd3.pipe.transformer.register_forward_pre_hook(
        lambda module, inputs, named: kept.append(named["hidden_states"]), with_kwargs=True
    )
    (image,) = sd3.draw([second])
    handle.remove()
    assert image.image.size == (64, 32)
    assert [tuple(one.shape) for one in kept] == [(2, 16, 4, 8)] * 4 + [(2, 16, 8, 16)] * 2
    sd3.pipe.scheduler = sd3.architecture.scheduler(payload())
    latents = sd3.pipe(
        prompt="a ring", negative_prompt="blue", width=32, height=16, num_inference_steps=4, guidance_scale=3.0,
        generator=[torch.Generator("cpu").manual_seed(5)], output_type="latent",
    ).images  # fmt: skip
    larger = torch.nn.functional.interpolate(latents, size=(8, 16), mode="bilinear")
    final = second_pass_by_hand(sd3, larger, seed=5, first=2)
    vae = sd3.pipe.vae
    with torch.no_grad():
        decoded = vae.decode(final / vae.config.scaling_factor + vae.config.shift_factor).sample
    pixels = ((decoded[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().int()
    assert (torch.tensor(list(image.image.tobytes())).view(32, 64, 3) - pixels).abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
@pytest.mark.parametrize(("sampler", "calls"), [("Euler", 4 + 2), ("Heun", 7 + 3), ("DPM++ 2M", 4 + 2)])
def test_flux_draws_second_passes(upscaler: str, sampler: str, calls: int, flux: LivePipeline) -> None:
    second = payload(
        enable_hr=True, hr_scale=2, hr_second_pass_steps=2, denoising_strength=0.5, hr_upscaler=upscaler,
        sampler_name=sampler, scheduler="Simple",
    )  # fmt: skip
    flux.check([second])
    kept: list[int] = []
    handle = flux.pipe.transformer.register_forward_pre_hook(
        lambda module, inputs, named: kept.append(named["hidden_states"].shape[1]), with_kwargs=True
    )
    (image,) = flux.draw([second])
    handle.remove()
    assert image.image.size == (128, 64)
    assert len(kept) == calls
    assert set(kept) == {32, 128}  # tokens of 8 x 8 pixels: the VAE is a level short
    (other,) = flux.draw([replace(second, seeds=(6,))])
    assert image.image.tobytes() != other.image.tobytes()
