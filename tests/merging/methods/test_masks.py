"""Masked differences, products and powers against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS, method_spec


def t(*numbers: float | list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


R = math.sqrt(0.5)
UNEVEN = t(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 2)


@pytest.mark.parametrize(
    ("name", "models", "options", "expected"),
    [
        # B learned 1; A is 2 away from B: two thirds, times 1.8; then B = C, A = B and all the same
        ("train_difference", (t(1, 1, 3, 2), t(3, 2, 3, 2), t(2, 2, 2, 2)), {"alpha": 1.0}, t(2.2, 1, 3, 2)),
        ("train_difference", (t(1), t(3), t(2)), {"alpha": -0.5}, t(0.4)),
        # differences -1 and 1, 1 and 2, -2 and 1, 0 and 1: opposite by 1, 0, 1/2, 0
        (
            "train_difference",
            (t(1, 3, 0, 2), t(3, 4, 3, 3), t(2, 2, 2, 2)),
            {"alpha": 1.0, "filter": "opposite"},
            t(3, 3, 1, 2),
        ),
        ("geometric_sum", (t(4, -4, -1, 0, 4), t(9, -9, 1, 9, 0)), {"alpha": 0.5}, t(6, -6, 0, 0, 0)),
        ("geometric_sum", (t(4, -4, 1), t(-4, 4, 16)), {"alpha": 0.25}, t(4 * R, -4 * R, 2)),
        ("geometric_sum", (t(5, 1), t(10, 10), t(1, 1)), {"alpha": 0.5}, t(7, 1)),
        # logarithms of the quotients: ln 2 and -ln 2, 2 ln 2 and -ln 2, both up
        ("multiply_quotient", (t(2, 4, 2), t(0.5, 0.5, 8), t(1, 1, 1)), {"alpha": 1.0}, t(1, 2 * math.sqrt(2), 2)),
        ("multiply_quotient", (t(2, 4), t(0.5, 0.5), t(1, 1)), {"alpha": 2.0}, t(0.5, 2)),
        ("multiply_quotient", (t(2, -2), t(-0.5, 0.5), t(1, 1)), {"alpha": 1.0}, t(-1, -1)),
        ("clip", (t(1, 2, 5), t(3, 1, 4), t(2, 3, 3)), {"alpha": 1.0}, t(2, 1, 5)),
        ("clip", (t(1, 2, 5), t(3, 1, 4), t(2, 3, 3)), {"alpha": -1.0}, t(1, 2, 4)),
        # differences .1 to .7 and 2: the median .4 and 1.5 times the range .2 to .6 is 1
        ("arcee_fusion", (torch.zeros(8), UNEVEN), {}, t(0, 0, 0, 0, 0, 0, 0, 2)),
        ("arcee_fusion", (torch.zeros(8), UNEVEN * 1e-4), {"alpha": 0.5e4}, t(0, 0, 0, 0, 0, 0, 0, 1)),
        ("arcee_fusion", (t([1], [2]), t([3], [4])), {}, t([1], [2])),
        ("multiply_quotient", (t(0, 2, 2), t(1, 0, 1), t(2, 1, 0)), {"alpha": 1.0}, t(0, 2, 2)),
    ],
)
def test_a_method_gives_the_numbers_of_its_formula(
    name: str, models: tuple[Tensor, ...], options: dict[str, float], expected: Tensor
) -> None:
    torch.testing.assert_close(METHODS[name](*models, **options), expected, rtol=1e-6, atol=1e-6)


def test_tiny_differences_are_compared_without_underflow() -> None:
    a, b, c = t(-1e-30), t(1e-30), t(0.0)
    assert METHODS["train_difference"](a, b, c, filter="opposite").item() == pytest.approx(1e-30)
    assert METHODS["geometric_sum"](b, b * 4).item() == pytest.approx(2e-30)


def test_numbers_far_apart_have_a_finite_geometric_mean() -> None:
    assert METHODS["geometric_sum"](t(1e-38), t(1e38), alpha=0.5).item() == pytest.approx(1, rel=1e-4)
    assert METHODS["geometric_sum"](t(1e-38), t(1e38), alpha=0.99).isfinite()


@pytest.mark.parametrize(("name", "alpha"), [("geometric_sum", 1.5), ("multiply_quotient", -1.0)])
def test_weights_without_a_meaning_are_refused(name: str, alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"alpha: .* is outside"):
        method_spec(name).check({"alpha": alpha})


def test_arcee_fusion_tells_rows_apart_that_differ_by_less_than_single_precision_sees() -> None:
    """The divergence of rows 1e-5 apart is near 1e-11; as a sum of numbers near 1 / n it is lost in fp32."""
    generator = torch.Generator().manual_seed(0)
    a = 0.05 * torch.randn(64, 100, generator=generator)
    b = a + 1e-5 * torch.randn(64, 100, generator=generator)
    b[7] += 1e-4 * torch.randn(100, generator=generator)
    taken = METHODS["arcee_fusion"](a, b) != a
    assert taken[7].float().mean() > 0.8
    assert taken.float().mean() < 0.2
