"""What changes on the way, and second passes, where the denoiser is told more than a prompt's words."""

from __future__ import annotations

from dataclasses import replace
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


@pytest.mark.slow
@pytest.mark.parametrize(("family", "prompt"), [("sd3", "a [b:c:1]"), ("flux", "a ring")])
def test_what_others_do_not_draw_is_refused_at_the_start(family: str, prompt: str, tmp_path: Path) -> None:
    pipeline = loaded(family, tmp_path / "a")
    with pytest.raises(ConfigError, match="enable_hr: a second pass is not drawn for this kind of model"):
        pipeline.check([payload(prompt=prompt, enable_hr=True)])
    if family == "sd3":
        changing = payload(prompt="a [ring:large red dog:1]", negative_prompt="blue")
        (image,) = pipeline.draw([changing])
        said = ["a ring"] * 2 + ["a large red dog"]
        assert image.image.tobytes() == drawn_by_diffusers(pipeline, said, "pooled_prompt_embeds")
    else:
        with pytest.raises(ConfigError, match=r"\[a:b:0.5\] and \[a\|b\] are not drawn"):
            pipeline.check([payload(prompt="a [b:c:1]")])
