"""Which models are drawn, and what of their payloads; from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging import Payload
from bayes_merger.imaging.pipelines.architectures import DRAWN, drawn
from bayes_merger.imaging.pipelines.device import check_offload
from tests.folders import make_modules, single_file

UNET = "model.diffusion_model."


def header(family: str, **changes: tuple[int, ...] | None) -> Checkpoint:
    """A model's names and shapes; ``changes`` replaces some, ``None`` removes them."""
    states = {part: dict(module.state_dict()) for part, module in make_modules(family).items()}
    shapes: dict[str, Any] = {key: tuple(t.shape) for key, t in single_file(states).items()}
    shapes |= {key.replace("__", "."): shape for key, shape in changes.items()}
    entries = {key: ("F16", shape) for key, shape in shapes.items() if shape is not None}

    def read(key: str) -> Any:
        raise AssertionError(key)

    return Checkpoint(Path("a.safetensors"), entries, {}, read, lambda: None)


def test_all_that_can_be_merged_and_drawn_has_a_class() -> None:
    assert {name: kind.pipeline for name, kind in DRAWN.items()} == {
        "sd1": "StableDiffusionPipeline",
        "sd2": "StableDiffusionPipeline",
        "sdxl": "StableDiffusionXLPipeline",
        "sd3": "StableDiffusion3Pipeline",
        "sd3-large": "StableDiffusion3Pipeline",
        "flux": "FluxPipeline",
    }


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("sd1", {f"{UNET}input_blocks.0.0.weight": (8, 9, 3, 3)}, "a model for inpainting, which needs a picture"),
        ("sdxl", {f"{UNET}input_blocks.0.0.weight": (8, 8, 3, 3)}, "a model for pix2pix"),
        ("flux", {f"{UNET}img_in.weight": (8, 384)}, r"inpainting \(Flux Fill\)"),
        ("sd1", {f"{UNET}time_embed.cond_proj.weight": (8, 256)}, "an LCM, whose guidance is an input"),
        ("flux", {f"{UNET}distilled_guidance_layer.in_proj.weight": (8, 8)}, "a.safetensors: Chroma can be merged"),
    ],
)
def test_what_cannot_be_drawn_is_named(family: str, changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        drawn(header(family, **changes))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("family", "changes", "usual"),
    [
        ("sd1", {}, {"width": 512, "height": 512}),
        ("sd2", {}, {"width": 768, "height": 768}),
        ("sdxl", {}, {"width": 1024, "height": 1024}),
        ("sd35", {}, {"width": 1024, "height": 1024, "sampler_name": "Euler", "scheduler": "Simple", "steps": 28, "cfg_scale": 4.5}),
        ("flux", {}, {"width": 1024, "height": 1024, "sampler_name": "Euler", "scheduler": "Simple", "steps": 20, "cfg_scale": 3.5}),
        (
            "flux",
            {f"{UNET}guidance_in.{layer}.{leaf}": None for layer in ("in_layer", "out_layer") for leaf in ("weight", "bias")},
            {"width": 1024, "height": 1024, "sampler_name": "Euler", "scheduler": "Simple", "steps": 4, "cfg_scale": 1.0},
        ),
    ],
)  # fmt: skip
def test_what_a_payload_does_not_say_suits_the_model(
    family: str, changes: Mapping[str, Any], usual: Mapping[str, Any]
) -> None:
    model = header(family, **changes)
    kind = drawn(model)
    assert kind.defaults(model) == usual
    kind.check(Payload("a", "a", **kind.defaults(model)), model.shapes)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("sd3", {"sampler_name": "LMS"}, r"'LMS' does not go with SD3 and Flux; use Euler"),
        ("sd3", {"sampler_name": "Euler", "scheduler": "Karras"}, "'Karras' does not go with SD3 and Flux"),
        ("sd3", {"sampler_name": "Euler", "width": 520}, "width: 520 is no multiple of 16"),
        ("flux", {"sampler_name": "Euler a"}, "'Euler a' does not go"),
        ("flux", {"sampler_name": "Euler", "negative_prompt": "b"}, "negative_prompt: Flux does not take one"),
        ("flux", {"sampler_name": "Euler", "negative_prompts": ("", "b")}, "negative_prompt: Flux does not take one"),
    ],
)
def test_what_a_model_cannot_draw_of_a_payload_is_refused(family: str, fields: Mapping[str, Any], message: str) -> None:
    model = header(family)
    with pytest.raises(ConfigError, match=message):
        drawn(model).check(Payload("a", "a", **fields), model.shapes)


def test_schnell_has_no_guidance() -> None:
    model = header("flux")
    keys = [key for key in model.shapes if "guidance_in." not in key]
    with pytest.raises(ConfigError, match="cfg_scale: is 7, and Flux schnell has no guidance; write 1"):
        drawn(model).check(Payload("a", "a", sampler_name="Euler", cfg_scale=7), keys)


@pytest.mark.parametrize(
    ("mode", "message"), [("sequential", "piece by piece, .* lost; give text_encoders"), ("x", "is no way to save")]
)
def test_offloading_that_would_lose_a_merge_is_refused(mode: str, message: str) -> None:
    check_offload("text_encoders")
    check_offload(None)
    with pytest.raises(ConfigError, match=message):
        check_offload(mode)
