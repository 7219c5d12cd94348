"""Extensions in a request are no obstacle while they are off, and refused by name while they are on."""

from __future__ import annotations

from typing import Any

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import payload_from_mapping

OFF: dict[str, Any] = {
    "API payload": {"args": []},
    "Comments": {"args": []},
    "Refiner": {"args": [False, "", 0.8]},
    "Sampler": {"args": [20, "DPM++ 2M", "Automatic"]},
    "Seed": {"args": [-1, False, -1, 0, 0, 0]},
    "Hypertile": {"args": []},
    "ADetailer": {"args": [False, False, {"ad_model": "face_yolov8n.pt"}]},
    "adetailer": {"args": [True, False, {"ad_model": "None"}]},
    "ControlNet": {"args": [{"enabled": False, "module": "none"}, {"enabled": False}]},
    "AnimateDiff": {"args": [{"enable": False}]},
    "FreeU Integrated": {"args": [False, 1.01, 1.02, 0.99, 0.95]},
    "Never OOM Integrated": {"args": [True, False]},
    "Dynamic Prompts v2.17.1": {"args": [True, False, 1, False, False, False]},
    "Tiled VAE": {"args": {"0": False, "1": 3072}},
    "nothing": None,
}
ON: dict[str, Any] = {
    "ADetailer": {"args": [{"ad_model": "face_yolov8n.pt"}]},
    "adetailer": {"args": [True, False, {"ad_model": "None"}, {"ad_model": "hand_yolov8n.pt"}]},
    "ControlNet": {"args": [{"enabled": False}, {"module": "canny"}]},
    "FreeU Integrated": {"args": [True, 1.01]},
    "Dynamic Prompts v2.17.1": {"args": [True, True, 1]},
    "mine": {"args": "text"},
}


def test_scripts_that_are_off_change_nothing() -> None:
    assert payload_from_mapping("p", {"prompt": "a", "alwayson_scripts": OFF}) == payload_from_mapping(
        "p", {"prompt": "a"}
    )


@pytest.mark.parametrize("name", ON)
def test_a_script_that_is_on_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"payload p: alwayson_scripts.{name} is not supported \(it is on\); remove"):
        payload_from_mapping("p", {"prompt": "a", "alwayson_scripts": {**OFF, name: ON[name]}})


@pytest.mark.parametrize("odd", ["ADetailer", 1, [1]])
def test_scripts_without_names_are_refused(odd: object) -> None:
    with pytest.raises(ConfigError, match="alwayson_scripts: expected scripts by name"):
        payload_from_mapping("p", {"prompt": "a", "alwayson_scripts": odd})
