"""Directions and angles against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bayes_merger.merging import METHODS
from bayes_merger.merging.methods.angular import perpendicular_component


def t(*numbers: float | list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


R = math.sqrt(0.5)
WHOLE = 2 / math.sqrt(10)  # cosine of (1, 1, 0, 0) and (2, 0, 0, 1)


@pytest.mark.parametrize(
    ("name", "models", "options", "expected"),
    [
        # half way round a right angle, at the mean length 3; a third of the way at 8/3
        ("slerp", (t(2, 0), t(0, 4)), {"alpha": 0.5}, t(3 * R, 3 * R)),
        ("slerp", (t(2, 0), t(0, 4)), {"alpha": 1 / 3}, 8 / 3 * t(math.sqrt(0.75), 0.5)),
        ("slerp", (t(2, 0), t(0, 2)), {"alpha": 2.0}, t(-2, 0)),
        ("slerp", (t(3, 1), t(1, 5), t(1, 1)), {"alpha": 0.5}, t(1 + 3 * R, 1 + 3 * R)),
        ("slerp", (t(1, 0), t(-1, 0)), {"alpha": 0.25}, t(0.5, 0)),  # opposite: straight through zero
        ("slerp", (t(1, 2), t(0, 0)), {"alpha": 0.25}, t(0.75, 1.5)),
        ("slerp", (t(1, 2), t(2, 4)), {"alpha": 0.5}, t(1.5, 3)),
        ("slerp", (torch.tensor(2.0), torch.tensor(3.0)), {"alpha": 0.5}, torch.tensor(2.5)),
        ("nuslerp", (t(2, 0), t(0, 4)), {"alpha": 0.5}, t(2 * R, 4 * R)),
        ("nuslerp", (t(3, 1), t(1, 5), t(1, 1)), {"alpha": 0.5}, t(1 + 2 * R, 1 + 4 * R)),
        ("nuslerp", (t([2, 0], [1, 1]), t([0, 4], [3, 3])), {"vectors": "rows"}, t([2 * R, 4 * R], [2, 2])),
        ("nuslerp", (t([1, 0], [0, 0]), t([0, 1], [2, 2])), {"vectors": "rows"}, t([R, R], [1, 1])),
        # A - C is (1, 0) and B - C is (3, 4)
        ("add_perpendicular", (t(2, 1), t(4, 5), t(1, 1)), {"alpha": 1.0}, t(2, 5)),
        ("add_perpendicular", (t(2, 1), t(4, 5), t(1, 1)), {"alpha": -0.5}, t(2, -1)),
        ("add_perpendicular", (t(1, 1), t(4, 5), t(1, 1)), {"alpha": 0.5}, t(2.5, 3)),  # A is the ancestor
        # columns with cosines 1 and 0: k is .25 and 1
        ("add_cosine_a", (t([1, 1], [0, 0]), t([2, 0], [0, 1])), {"alpha": 0.25}, t([1.25, 0], [0, 1])),
        ("add_cosine_a", (t([1, 1], [0, 0]), t([2, 0], [0, 1])), {"alpha": 0.0}, t([1, 0], [0, 1])),
        ("add_cosine_a", (t(1, 0), t(2, 0)), {"alpha": 0.25}, t(1.25, 0)),
        ("add_cosine_a", (torch.tensor(1.0), torch.tensor(3.0)), {"alpha": 0.5}, torch.tensor(2.0)),
        (
            "add_cosine_b",
            (t([1, 1], [0, 0]), t([2, 0], [0, 1])),
            {"alpha": 0.25},
            t([1 + 1.25 - (1 + WHOLE) / 2, WHOLE / 2 - 0.25], [0, 1.25 - WHOLE / 2]),
        ),
        ("add_cosine_b", (t(0, 0), t(2, 1)), {"alpha": 0.5}, t(2, 1)),
    ],
)
def test_a_method_gives_the_numbers_of_its_formula(
    name: str, models: tuple[Tensor, ...], options: dict[str, float], expected: Tensor
) -> None:
    torch.testing.assert_close(METHODS[name](*models, **options), expected, rtol=1e-6, atol=1e-6)


def test_the_component_perpendicular_to_nothing_is_the_whole() -> None:
    assert torch.equal(perpendicular_component(t(1, 0), t(3, 4)), t(0, 4))
    assert torch.equal(perpendicular_component(t(0, 0), t(3, 4)), t(3, 4))
    assert torch.equal(perpendicular_component(t(1e-30, 0), t(3, 4)), t(0, 4))


@pytest.mark.parametrize("angle", [1e-4, 1e-3, 3.1, math.pi - 1e-3, math.pi - 1e-4])
def test_slerp_keeps_the_length_near_identical_and_near_opposite_directions(angle: float) -> None:
    """In fp32 the arc cosine of 1 - 5e-9 is 0; peers lose up to 80 % of the length there."""
    a, b = t(1, 0), t(math.cos(angle), math.sin(angle))
    out = METHODS["slerp"](a, b, alpha=0.5)
    torch.testing.assert_close(out, t(math.cos(angle / 2), math.sin(angle / 2)), rtol=1e-3, atol=1e-3)
    assert abs(float(out.norm()) - 1) < 1e-3


def test_a_zero_column_has_cosine_zero_with_anything() -> None:
    out = METHODS["add_cosine_a"](t([0, 1], [0, 1]), t([1, 1], [2, 1]), alpha=0.0)
    torch.testing.assert_close(out, t([1, 1], [2, 1]))
