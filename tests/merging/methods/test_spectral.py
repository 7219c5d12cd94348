"""Order and frequency against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayes_merger.merging import METHODS


def t(*numbers: float | list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


ZERO, ONE = t(0, 0, 0, 0), t(1, 0, 0, 0)  # ONE has 1 at every frequency
A, B = t(1, 2, 3, 4), t(7, 9, 6, 8)  # A's numbers in B's order are 2, 4, 1, 3


@pytest.mark.parametrize(
    ("name", "models", "options", "expected"),
    [
        ("top_k_tensor_sum", (A, B), {"alpha": 1.0}, t(2, 4, 1, 3)),
        ("top_k_tensor_sum", (A, B), {"alpha": 0.0}, A),
        ("top_k_tensor_sum", (A, B), {"alpha": 0.5}, t(2, 2, 1, 4)),  # 1 and 2 are dealt anew
        ("top_k_tensor_sum", (A, B), {"alpha": 0.5, "beta": 0.5}, t(1, 4, 3, 3)),  # 3 and 4
        ("top_k_tensor_sum", (A, B), {"alpha": 0.5, "beta": 0.75}, t(1, 4, 1, 4)),  # 4 and, from the start, 1
        ("top_k_tensor_sum", (A, B), {"alpha": 1.0, "beta": 0.25}, t(2, 4, 1, 3)),
        ("top_k_tensor_sum", (-A, -B), {"alpha": 0.5}, -t(2, 2, 1, 4)),
        ("top_k_tensor_sum", (torch.tensor(1.0), torch.tensor(2.0)), {"alpha": 1.0}, torch.tensor(1.0)),
        # frequencies 0, 1/3, 2/3 of all: the last, the last two, shares 0, 1/3, 2/3
        ("distribution_crossover", (ZERO, ONE, A), {"alpha": 0.5}, t(1, -1, 1, -1) / 4),
        ("distribution_crossover", (ZERO, ONE, t(0, 2, 1, 3)), {"alpha": 0.5}, t(1, 1, -1, -1) / 4),
        ("distribution_crossover", (ZERO, ONE, A), {"alpha": 0.9}, t(3, -1, -1, -1) / 4),
        ("distribution_crossover", (A, A + 4 * ONE, A), {"alpha": 0.9}, t(4, 1, 2, 3)),
        ("distribution_crossover", (ZERO, ONE, A), {"alpha": 0.5, "beta": 1.0}, t(2, -1, 0, -1) / 6),
        ("distribution_crossover", (torch.tensor(1.0), torch.tensor(3.0), torch.tensor(0.0)), {"alpha": 0.25},
         torch.tensor(1.5)),
        # frequencies 0, 1/2, 1
        ("crossover", (ZERO, ONE), {"alpha": 0.4}, t(1, -1, 1, -1) / 4),
        ("crossover", (ZERO, ONE), {"alpha": 0.6}, t(3, -1, -1, -1) / 4),
        ("crossover", (ZERO, ONE), {"alpha": 0.5, "tilt": 0.5}, t(2, -1, 0, -1) / 4),
        ("crossover", (ZERO, ONE), {"alpha": 0.25, "tilt": 1.0}, ONE / 4),
        # radii 0, sqrt(1/2), sqrt(1/2), 1
        ("crossover", (t([0, 0], [0, 0]), t([1, 0], [0, 0])), {"alpha": 0.2}, t([1, -1], [-1, 1]) / 4),
        ("crossover", (t([0, 0], [0, 0]), t([1, 0], [0, 0])), {"alpha": 0.5}, t([3, -1], [-1, -1]) / 4),
        ("crossover", (t([1, 1, 1]), t([1, 1, 4])), {"alpha": 0.5}, t([0, 0, 3])),
        ("crossover", (torch.tensor(1.0), torch.tensor(3.0)), {"alpha": 0.25}, torch.tensor(1.5)),
    ],
)  # fmt: skip
def test_a_method_gives_the_numbers_of_its_formula(
    name: str, models: tuple[Tensor, ...], options: dict[str, float], expected: Tensor
) -> None:
    torch.testing.assert_close(METHODS[name](*models, **options), expected, rtol=1e-6, atol=1e-6)


def test_numbers_of_one_size_are_dealt_together() -> None:
    out = METHODS["top_k_tensor_sum"](t(1, -1, 1, 5), t(3, 1, 2, 0), alpha=0.25)
    assert torch.equal(out, t(1, 1, 1, -1))  # dealt: 5, 1, 1, -1; all but the 5 are of the smallest size
