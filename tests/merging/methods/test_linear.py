"""Every method against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS, method_spec


def t(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


A, B, C = t(1, 2, -4), t(3, 2, 4), t(0, 1, 2)


@pytest.mark.parametrize(
    ("name", "models", "weights", "expected"),
    [
        ("weighted_sum", (A, B), {"alpha": 0.25}, t(1.5, 2, -2)),
        ("weighted_sum", (A, B), {"alpha": 1.5}, t(4, 2, 8)),
        ("add_difference", (A, B, C), {"alpha": 1.0}, t(4, 3, -2)),
        ("add_difference", (A, B, C), {"alpha": -0.5}, t(-0.5, 1.5, -5)),
        ("weighted_subtraction", (A, B), {"alpha": 0.5, "beta": 0.4}, t(0.5, 2, -6)),  # (A - .2 B) / .8
        ("sum_twice", (A, B, C), {"alpha": 0.5, "beta": 0.25}, t(1.5, 1.75, 0.5)),
        ("triple_sum", (A, B, C), {"alpha": 0.25, "beta": 0.25}, t(1.25, 1.75, -0.5)),
        ("triple_sum", (A, B, C), {"alpha": 0.0, "beta": 1.0}, C),
        ("triple_sum", (A, B, C), {"alpha": 1.0, "beta": 0.0}, B),
        ("triple_sum", (A, B, C), {"alpha": 0.5, "beta": -0.5}, t(2.5, 2.5, -3)),
        # differences 1, 1, -6 and 3, 1, 2; the mix by beta = 0 has A's signs
        ("multiply_difference", (A, B, C), {"alpha": 0.5, "beta": 0.0}, t(math.sqrt(3), 2, 2 - math.sqrt(12))),
        ("multiply_difference", (A, B, C), {"alpha": 0.5, "beta": 1.0}, t(math.sqrt(3), 2, 2 + math.sqrt(12))),
        ("multiply_difference", (A, B, C), {"alpha": 0.5, "beta": 0.75}, t(math.sqrt(3), 2, 2)),  # the mix lies on C
        # u = (.6, .8), v = (1, 0), L = (4, 2), d = (sqrt(.68), sqrt(.32)) has length 1 and is made as long as L
        (
            "euclidean_add_difference",
            (t(3, 4), t(5, 0), t(0, 0)),
            {"alpha": 0.5},
            math.sqrt(20) * t(math.sqrt(0.68), math.sqrt(0.32)),
        ),
        # similarities 2/4, -1, 1 (both zero): s = .75, 0, 1
        (
            "similarity_add_difference",
            (t(2, 1, 0), t(4, -1, 0), t(0, 0, 1)),
            {"alpha": 1.0, "beta": 1.0},
            t(0.25 * 6 + 0.75 * 3, 0, 0),
        ),
        ("similarity_add_difference", (A, B, C), {"alpha": 0.5, "beta": 0.0}, t(2.5, 2.5, -3)),
    ],
)
def test_a_method_gives_the_numbers_of_its_formula(
    name: str, models: tuple[Tensor, ...], weights: dict[str, float], expected: Tensor
) -> None:
    torch.testing.assert_close(METHODS[name](*models, **weights), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("alpha", "beta", "from_b"),
    [
        (0.5, 0.0, range(5)),
        (0.5, 0.2, range(2, 7)),
        (0.2, 0.7, range(7, 9)),  # 0.2 + 0.7 is 0.8999999999999999
        (0.5, 0.8, (8, 9, 0, 1, 2)),  # the window goes on at the start
        (0.5, 1.0, range(5)),
        (1.0, 0.3, range(10)),
        (0.0, 0.3, ()),
        (0.05, 0.0, ()),
    ],
)
def test_tensor_sum_takes_a_window_of_rows(alpha: float, beta: float, from_b: range | tuple[int, ...]) -> None:
    out = METHODS["tensor_sum"](torch.zeros(10, 2), torch.ones(10, 2), alpha=alpha, beta=beta)
    assert set(out[:, 0].nonzero().flatten().tolist()) == set(from_b)
    assert torch.equal(out[:, 0], out[:, 1])


def test_tensor_sum_takes_a_single_number_as_one_row() -> None:
    a, b = torch.tensor(1.0), torch.tensor(2.0)
    assert METHODS["tensor_sum"](a, b, alpha=0.9, beta=0.0) == 1
    assert METHODS["tensor_sum"](a, b, alpha=1.0, beta=0.0) == 2


def test_a_half_precision_difference_is_not_rounded_before_it_is_added() -> None:
    a, b, c = (torch.tensor([x], dtype=torch.float16) for x in (1.0, 0.50048828125, 0.5))
    exact = METHODS["add_difference"](a.float(), b.float(), c.float(), alpha=4.0)
    assert exact.item() == 1.001953125
    assert exact.half().item() == 1.001953125


def test_small_numbers_are_compared_without_underflow() -> None:
    """A product of two numbers of 1e-30 is zero in fp32; peers then call opposite numbers half alike."""
    a, b, c = t(1e-30), t(-1e-30), t(0.0)
    out = METHODS["similarity_add_difference"](a, b, c, alpha=1.0, beta=1.0)
    assert out.item() == 0  # similarity 0 to 1 is 0: A + B


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("weighted_subtraction", {"alpha": 1.0, "beta": 1.0}, "1 is not below 1"),
        ("weighted_subtraction", {"alpha": 2.0, "beta": 3.0}, "6 is not below 1"),
        ("multiply_difference", {"alpha": 1.5, "beta": 0.5}, r"alpha of IN00: 1.5 is outside .*\[0, 1\]"),
        ("euclidean_add_difference", {"alpha": -0.1}, r"outside .*\[0, 1\]"),
        ("tensor_sum", {"alpha": 0.5, "beta": 1.1}, r"outside .*\[0, 1\]"),
        ("weighted_sum", {"alpha": math.inf}, "inf is outside"),
    ],
)
def test_weights_without_a_meaning_are_refused(name: str, weights: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        method_spec(name).check(weights, "IN00")
