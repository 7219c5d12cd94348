"""The text in a picture says all that is needed to draw it again; read, it gives the same payload."""

from __future__ import annotations

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, payload_from_mapping, resolve
from bayes_merger.imaging.payload.infotext import infotext, is_infotext, read_infotext, split_infotext


def test_it_is_what_web_uis_write() -> None:
    payload = Payload("p", "a ring\non blue", "blurry", sampler_name="DDIM", scheduler="Uniform", seed=7, clip_skip=2)
    (resolved,) = resolve([payload], 0)
    assert infotext(resolved, 0) == (
        "a ring\non blue\nNegative prompt: blurry\nSteps: 20, Sampler: DDIM, Schedule type: Uniform, CFG scale: 7.0, "
        "Seed: 7, Size: 512x512, Clip skip: 2, RNG: CPU"
    )
    plain = Payload("p", "a ring", sampler_name="DDIM", scheduler="Uniform", seed=7)
    assert infotext(resolve([plain], 0)[0], 0) == (
        "a ring\nSteps: 20, Sampler: DDIM, Schedule type: Uniform, CFG scale: 7.0, Seed: 7, Size: 512x512, RNG: CPU"
    )


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_it_gives_the_payload_back(clip_skip: int) -> None:
    given = Payload("p", "a, (b:1.2)\n${c}", "x: y", 5, 4.5, 64, 128, "DPM++ 2M", "Karras", 9, clip_skip=clip_skip)
    text = infotext(resolve([given], 0)[0], 0)
    assert is_infotext(text)
    assert payload_from_mapping("p", read_infotext(text)) == given


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("Steps: 20, Hires upscale: 2, Hires upscaler: 4x-UltraSharp", "'4x-UltraSharp' is a network of its own"),
        ("Steps: 20, Seed resize from: 512x512", "seed_resize_from_w is not supported"),
        ("Steps: 20, Size: big", "Size: 'big' is no such number"),
        ("Steps: 20, Sampler: DPM fast", "the nearest is"),
        ("Steps: 20, ControlNet 0: x", "unknown parameter 'ControlNet 0'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(parameters: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        payload_from_mapping("p", read_infotext(f"a ring\n{parameters}"))


@pytest.mark.parametrize(
    ("parameters", "left"),
    [
        ("[X] Foo: 3, Size: 640x448", {"[X] Foo": "3"}),
        ("Dynamic thresholding (CFG scale fix): True, Size: 640x448", {"Dynamic thresholding (CFG scale fix)": "True"}),
        ("odd, more, Hires. fix: on, Size: 640 × 448", {"Hires. fix": "on"}),
        ("Size: 640x448\nTemplate: a {red|blue}\nring\nNegative Template: b", {}),
    ],
)
def test_parameters_behind_odd_ones_are_read(parameters: str, left: dict[str, str]) -> None:
    text = f"a ring\r\nSteps: 20.0, Sampler: Euler a, CFG scale: 7,5, Clip skip: 2.0, {parameters}\r\n"
    assert is_infotext(text)
    fields, others = split_infotext(text)
    assert fields == {"prompt": "a ring", "negative_prompt": "", "rng": "nv", "steps": 20, "sampler_name": "Euler a",
                      "cfg_scale": 7.5, "clip_skip": 2, "width": 640, "height": 448}  # fmt: skip
    assert others == left


def test_other_texts_are_none() -> None:
    for text in ("prompt: a\nsteps: 20", "a ring", "", '{"prompt": "Steps: 20, a"}'):
        assert not is_infotext(text)


@pytest.mark.parametrize(
    "parameters",
    [
        "Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x128",
        "Seed: 1, Size: 64x128, Sampler: Euler a, CFG scale: 7",
    ],
)
def test_parameters_may_begin_with_others_than_the_steps(parameters: str) -> None:
    fields = read_infotext(f"a ring\nNegative prompt: bad\n{parameters}")
    assert fields == {
        "prompt": "a ring", "negative_prompt": "bad", "rng": "nv", "sampler_name": "Euler a", "cfg_scale": 7.0,
        "seed": 1, "width": 64, "height": 128,
    }  # fmt: skip


def test_the_second_pass_of_old_web_uis_is_read() -> None:
    fields = read_infotext("a\nSteps: 9, Size: 1024x768, Denoising strength: 0.7, First pass size: 512x384")
    assert fields == {
        "prompt": "a", "negative_prompt": "", "rng": "nv", "steps": 9, "width": 512, "height": 384,
        "denoising_strength": 0.7, "hr_resize_x": 1024, "hr_resize_y": 768, "enable_hr": True,
    }  # fmt: skip
    fields = read_infotext("a\nSteps: 9, Size: 1024x768, First pass size: 0x0")
    assert (fields["width"], "enable_hr" in fields) == (1024, False)
