"""Payloads that a web UI draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.imaging.payload.passed_on import payload_for_web_ui, requests


def body(**fields: Any) -> dict[str, Any]:
    (payload,) = resolve([payload_for_web_ui("p", {"prompt": "x", "seed": 1, **fields})], 0)
    assert Payload.from_json(payload.to_json()) == payload
    return next(iter(requests([payload], 1))).body("title")


def test_what_our_own_drawing_refuses_is_the_web_ui_s_business() -> None:
    sent = body(
        prompt="a AND b [c:d:0.5] <lora:x:1>",
        sampler_name="DPM fast",
        enable_hr=True,
        hr_upscaler="R-ESRGAN 4x+",
        tiling=True,
        distilled_cfg_scale=3.5,
        styles=["mine"],
    )
    assert sent["prompt"] == "a AND b [c:d:0.5] <lora:x:1>"
    assert sent["sampler_name"] == "DPM fast"
    assert sent["hr_upscaler"] == "R-ESRGAN 4x+"
    assert (sent["enable_hr"], sent["tiling"], sent["distilled_cfg_scale"]) == (True, True, 3.5)
    assert sent["styles"] == ["mine"]


def test_settings_go_where_the_web_ui_has_them() -> None:
    sent = body(rng="nv", emphasis="No norm", override_settings={"eta_noise_seed_delta": 31337, "samples_save": True})
    assert sent["override_settings"] == {
        "randn_source": "NV",
        "emphasis": "No norm",
        "eta_noise_seed_delta": 31337,
        "sd_model_checkpoint": "title",
    }


def test_wildcards_are_drawn_here_once(tmp_path: Path) -> None:
    (tmp_path / "mood.txt").write_text("dark\n")
    (payload,) = resolve([payload_for_web_ui("p", {"prompt": "__mood__ {one|one}"})], 0, tmp_path)
    assert payload.prompts == ("dark one",)
    assert payload_for_web_ui("p", {"prompt": "x", "hr_prompt": "{a|b}"}).passed_on  # of no second pass


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"promt": "x"}, "unknown field 'promt'; did you mean .*prompt"),
        ({"script_name": "custom code"}, "script_name cannot be passed on"),
        ({"infotext": "Steps: 1"}, "infotext cannot be passed on"),
        ({"override_settings": {"sd_model_checkpoint": "other"}}, "the model is the merge"),
        ({"steps": "many"}, "steps: expected a number"),
        ({"width": 65}, "width: 65 is not a multiple of 8"),
        ({"enable_hr": True, "hr_prompt": "a __mood__ cat"}, "p: hr_prompt: choices .* are drawn in prompt alone"),
        ({"enable_hr": True, "hr_negative_prompt": "{a|b}"}, "p: hr_negative_prompt: choices .*; write its words out"),
        ({"prompt": " "}, "no prompt"),
        ({"prompt": "a\x00"}, "control character"),
    ],
)
def test_what_cannot_be_passed_on_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        payload_for_web_ui("p", {"prompt": "x", **fields})


def test_a_damaged_payload_of_a_study_is_refused() -> None:
    (payload,) = resolve([payload_for_web_ui("p", {"prompt": "x"})], 0)
    with pytest.raises(ConfigError, match="passed_on is no table"):
        Payload.from_json({**payload.to_json(), "passed_on": "x"})
