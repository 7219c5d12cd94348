"""Limits and adjustments: literal numbers, the same in a file and in a live model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.errors import ConfigError
from bayes_merger.merging import LiveMerge, MergeRecipe, MergeSettings, merge, method_spec
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTED, ADJUSTMENTS, adjusted, clipped, read_adjust
from tests.merging.tiny_models import FIRST, UNET, even, opened, recipe_of

NONE = dict.fromkeys(ADJUSTMENTS, 0.0)


def test_eight_numbers_change_six_tensors_as_supermerger_does() -> None:
    numbers = dict(zip(ADJUSTMENTS, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0), strict=True))
    ones = torch.ones(4)
    made = {key.removeprefix(UNET): adjusted(key, ones, numbers, "sd1").tolist() for key in ADJUSTED}
    assert made == {
        "input_blocks.0.0.weight": pytest.approx([0.99] * 4),
        "input_blocks.0.0.bias": pytest.approx([1.02] * 4),
        "out.0.weight": pytest.approx([0.98] * 4),
        "out.0.bias": pytest.approx([1.04] * 4),
        "out.2.weight": pytest.approx([0.97] * 4),
        # contrast 4; channels 1 to 3: 5 (-1, 1/3, 2/3) + 6 (1, 1, 0) + 7 (0, -1, -1) + 8 (1, 0, 1)
        "out.2.bias": pytest.approx([1 + 0.02 * x for x in (4, 9, 5 / 3 - 1, 10 / 3 + 1)]),
    }
    # 5 (0, 0, 1) + 6 (1, 0, 0) + 7 (-1, -1, 0) + 8 (-1, 1, 0)
    xl = adjusted(UNET + "out.2.bias", ones, numbers, "sdxl").tolist()
    assert xl == pytest.approx([1 + 0.02 * x for x in (4, -9, 1, 5)])
    assert adjusted(UNET + "out.2.biases", ones, numbers, "sd1") is ones
    assert ones.tolist() == [1] * 4


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("1,2,3,4,5,6,7,8", dict(zip(ADJUSTMENTS, range(1, 9), strict=True))),
        ([1, 2, 4, 5, 6, 7, 8], NONE | {"IN": 1, "OUT": 2, "CONT": 4, "BRI": 5, "COL1": 6, "COL2": 7, "COL3": 8}),
        ({"bri": 2, "CONT": "light"}, NONE | {"BRI": 2, "CONT": "light"}),
        ("0,0,0,0,bright,0,0,0", NONE | {"BRI": "bright"}),
    ],
)
def test_adjustments_are_read_in_any_form(given: Any, wanted: dict[str, Any]) -> None:
    assert read_adjust(given) == wanted


@pytest.mark.parametrize(
    "given", ["1,2,3", [1] * 9, {"BRY": 1}, 3, "1,2,3,4,5,6,7,x y", {"BRI": float("nan")}, [True] * 8]
)
def test_adjustments_that_make_no_sense_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="adjust"):
        read_adjust(given)


def test_clipping_keeps_results_between_a_and_b() -> None:
    a, b, c = torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 2.0]), torch.zeros(4)
    function = method_spec("add_difference").function
    assert function(a, b, c, alpha=2.0).tolist() == [2, 2, 7, 6]
    assert clipped(method_spec("add_difference"), "hard").function(a, b, c, alpha=2.0).tolist() == [1, 1, 3, 2]
    soft = clipped(method_spec("add_difference"), "soft").function(a, b, c, alpha=2.0)
    assert soft.tolist() == pytest.approx([1 + 0.5 * 0.9640276, 1.4820138, 3 + 0.9993292, 2], rel=1e-6)
    inside = clipped(method_spec("weighted_sum"), "soft").function(a, b, alpha=0.5)
    assert inside.tolist() == [0.5, 0.5, 2, 2]
    assert clipped(method_spec("ties"), "").function is method_spec("ties").function
    with pytest.raises(ConfigError, match="clip: 'hrad' is unknown; give hard or soft, or leave it out"):
        MergeSettings(clip="hrad").check()


@pytest.mark.parametrize("method", ["weighted_sum", "add_difference", "slerp", "ties"])
def test_a_live_model_and_a_file_are_finished_alike(tmp_path: Path, method: str) -> None:
    models = opened(tmp_path, len(method_spec(method).models))
    plain = recipe_of(models, even("0.9" if method in ("slerp", "ties") else "1.5", method), method)
    last = UNET + "out.2.weight"
    for clip, adjust, touched in (
        ("hard", (), set()),
        ("soft", (1, 2, 3, 4, 5, 6, 7, 8), {FIRST, last}),
        ("", (0, 0, 3, 0, 0, 0, 0, 0), {last}),
    ):
        weights = dict(plain.weights) | (
            {ADJUST: dict(zip(ADJUSTMENTS, map(float, adjust), strict=True))} if adjust else {}
        )
        recipe = replace(plain, clip=clip, weights=weights)
        assert MergeRecipe.from_json(recipe.to_json()) == recipe
        wanted = dict(merge(recipe, models))
        live = LiveMerge(models, MergeSettings(method, clip=clip))
        destinations = {
            key: torch.zeros(shape) for key, shape in models["a"].shapes.items() if "position_ids" not in key
        }
        for _ in range(2):
            live.apply(weights, destinations)
            assert all(torch.equal(out, wanted[key].float()) for key, out in destinations.items())
        bare = dict(merge(replace(plain, clip=clip), models))
        assert {key for key in wanted if not torch.equal(wanted[key], bare[key])} == touched


def test_adjustments_need_a_u_net_and_all_their_numbers(tmp_path: Path) -> None:
    models = opened(tmp_path)
    recipe = recipe_of(models)
    with pytest.raises(ConfigError, match="adjust"):
        plan(recipe.with_weights(even() | {ADJUST: {"IN": 1.0}}), models)
    with pytest.raises(ConfigError, match="adjust: IN is nan"):
        plan(recipe.with_weights(even() | {ADJUST: NONE | {"IN": float("nan")}}), models)
