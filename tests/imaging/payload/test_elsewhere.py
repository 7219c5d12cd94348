"""What programs other than A1111 and ComfyUI say of a picture: LoRAs, layers, old forms."""

from __future__ import annotations

from typing import Any

import pytest

from bayes_merger.imaging.payload.elsewhere import fields_of, fields_of_dream, unwrapped


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        ({"positive_prompt": "a", "loras": [{"model": {"name": "fur"}, "weight": 0.75}]}, "a <lora:fur:0.75>"),
        ({"prompt": "a", "loras": [{"lora": {"model_name": "fur"}, "weight": 1}]}, "a <lora:fur:1>"),
        ({"prompt": "a", "loras": ["s/fur", "b"], "loraweights": ["0.8", "-1"]}, "a <lora:fur:0.8> <lora:b:-1>"),
        ({"prompt": "a", "use_lora_model": "fur", "lora_alpha": 0.5}, "a <lora:fur:0.5>"),
        ({"Prompt": "a", "LoRA 1": "x/fur.v1.safetensors : 0.1"}, "a <lora:fur.v1:0.1>"),
        ({"prompt": "a <lora:fur:0.8>", "loras": ["fur"], "loraweights": ["0.8"]}, "a <lora:fur:0.8>"),
    ],
)
def test_loras_are_tags_of_the_prompt(data: dict[str, Any], prompt: str) -> None:
    assert fields_of(data) == ({"prompt": prompt}, [])


@pytest.mark.parametrize("loras", [None, 1, [1], [[]], [{"model": "x"}], [{"model": {"name": 1}, "weight": "x"}]])
def test_odd_loras_are_left_out_and_named(loras: object) -> None:
    assert fields_of({"prompt": "a", "loras": loras}) == ({"prompt": "a"}, ["loras"])


@pytest.mark.parametrize(
    ("data", "layer"),
    [
        ({"prompt": "a", "clip_skip": False}, 1),  # Easy Diffusion
        ({"prompt": "a", "clip_skip": True}, 2),
        ({"positive_prompt": "a", "clip_skip": 0}, 1),  # InvokeAI: layers that are left out
        ({"positive_prompt": "a", "clip_skip": 1}, 2),
        ({"prompt": "a", "clip_skip": 2}, 2),
    ],
)
def test_layers_are_counted_as_web_uis_do(data: dict[str, Any], layer: int) -> None:
    assert fields_of(data)[0]["clip_skip"] == layer


def test_what_invokeai_wrote_at_first() -> None:
    image = {"prompt": [{"prompt": "a ring [blurry, bad]", "weight": 1.0}], "steps": 30, "sampler": "k_lms"}
    expected = {"prompt": "a ring", "negative_prompt": "blurry, bad", "steps": 30, "sampler_name": "k_lms"}
    assert fields_of(unwrapped({"model": "x", "image": image})) == (expected, [])
    assert fields_of_dream('"a ring [bad]" -s 50 -S42 -W 512 -H 768 -C 7.5 -A k_lms') == {
        "prompt": "a ring", "negative_prompt": "bad", "steps": "50", "seed": "42", "width": "512", "height": "768",
        "cfg_scale": "7.5", "sampler_name": "k_lms",
    }  # fmt: skip
    assert fields_of_dream("") == fields_of_dream('"a') == fields_of_dream("a ring") == {}


def test_invokeais_karras_is_a1111s() -> None:
    assert fields_of({"positive_prompt": "a", "scheduler": "dpmpp_2m_k"})[0]["sampler_name"] == "dpmpp_2m_ka"
