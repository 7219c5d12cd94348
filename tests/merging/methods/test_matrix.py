"""Rotations and low ranks against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayes_merger.merging import METHODS


def t(*numbers: float | list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


A = t([1, 0], [-1, 0], [0, 2], [0, -2])
TURNED = t([0, 1], [0, -1], [-2, 0], [2, 0])  # by a right angle
DIAGONAL = torch.diag(t(1, 3, 2))
ZERO = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("name", "models", "options", "expected"),
    [
        ("rotate", (A, TURNED + 5), {"alpha": 0.0}, TURNED + 5),
        ("rotate", (A + 7, 3 * TURNED + 5), {"alpha": 0.0}, TURNED + 5),
        ("rotate", (A + 7, 3 * TURNED + 5), {"alpha": 0.5}, 2 * TURNED + 5),
        ("rotate", (A + 7, 3 * TURNED + 5), {"alpha": 1.0}, 3 * TURNED + 5),
        ("rotate", (t([1, 0, 0], [-1, 0, 0]), t([0, 2, 0], [0, -2, 0])), {"alpha": 0.0}, t([0, 1, 0], [0, -1, 0])),
        # a convolution of one output, two inputs and two taps: one row per input
        ("rotate", (t([1, 0], [-1, 0]).view(1, 2, 1, 2), t([0, 2], [0, -2]).view(1, 2, 1, 2)), {"alpha": 0.0},
         t([0, 1], [0, -1]).view(1, 2, 1, 2)),
        ("rotate", (A, torch.ones(4, 2)), {"alpha": 0.0}, A + 1),  # nothing to turn to
        ("rotate", (t(1, 2), t(3, 4)), {"alpha": 0.5}, t(2, 3)),
        ("truncate_rank", (ZERO, DIAGONAL, ZERO), {"rank": 1 / 3}, torch.diag(t(0, 3, 0))),
        ("truncate_rank", (ZERO + 1, DIAGONAL + 1, ZERO + 1), {"rank": 2 / 3}, torch.diag(t(0, 3, 2)) + 1),
        ("truncate_rank", (ZERO, DIAGONAL, ZERO), {"rank": 0.0}, ZERO),
        ("truncate_rank", (ZERO, DIAGONAL, ZERO), {"rank": 1.0, "alpha": 2.0}, 2 * DIAGONAL),
        ("truncate_rank", (t(1, 2), t(3, 4), t(2, 2)), {"rank": 0.0}, t(2, 4)),
    ],
)  # fmt: skip
def test_a_method_gives_the_numbers_of_its_formula(
    name: str, models: tuple[Tensor, ...], options: dict[str, float], expected: Tensor
) -> None:
    torch.testing.assert_close(METHODS[name](*models, **options), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 7), (7, 20), (9, 9)])
def test_a_rotation_keeps_singular_values_and_comes_as_near_as_a_rotation_can(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    out = METHODS["rotate"](a, b, alpha=0.0)
    torch.testing.assert_close(out.mean(0), b.mean(0))
    x, y, turned = a - a.mean(0), b - b.mean(0), out - out.mean(0)
    torch.testing.assert_close(torch.linalg.svdvals(turned), torch.linalg.svdvals(x), rtol=1e-4, atol=1e-5)
    # the largest inner product that a rotation reaches is the sum of the singular values
    reached = torch.linalg.svdvals(x.mT @ y).sum()
    torch.testing.assert_close((turned * y).sum(), reached, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(20, 7), (7, 20), (6, 5, 3, 3)])
def test_the_nearest_matrix_of_a_rank_is_that_of_the_largest_singular_values(shape: tuple[int, ...]) -> None:
    delta = 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(shape)
    u, s, vh = torch.linalg.svd(delta.reshape(shape[0], -1), full_matrices=False)
    kept = round(0.4 * len(s))
    expected = (u[:, :kept] * s[:kept] @ vh[:kept]).reshape(shape)
    torch.testing.assert_close(METHODS["truncate_rank"](zero, delta, zero, rank=0.4), expected, rtol=1e-4, atol=1e-8)
