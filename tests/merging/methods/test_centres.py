"""Centres of several models against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS, method_spec


def t(*numbers: float | list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def at(degrees: float, length: float = 1.0) -> Tensor:
    return t(length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees)))


@pytest.mark.parametrize(
    ("name", "models", "options", "expected"),
    [
        ("n_average", (t(1, 4), t(3, 8)), {}, t(2, 6)),
        ("n_average", (t(1), t(2), t(6)), {}, t(3)),
        ("n_average", (t(1), t(2), t(6), t(7)), {}, t(4)),
        ("n_average", (t(1, 4), t(3, 8)), {"alpha": 0.5}, t(1.5, 5)),
        # differences at 60 degrees: t = 2 / 3; at 90 and 180: nothing; at 0: all
        ("model_stock", (1 + at(0, 2), 1 + at(60, 2), t(1, 1)), {}, 1 + at(30, 2 / math.sqrt(3))),
        ("model_stock", (1 + at(0, 2), 1 + at(60, 2), t(1, 1)), {"alpha": 0.5}, 1 + at(30, 1 / math.sqrt(3))),
        ("model_stock", (t(2, 1), t(1, 3), t(1, 1)), {}, t(1, 1)),
        ("model_stock", (t(2, 1), t(0, 1), t(1, 1)), {}, t(1, 1)),
        ("model_stock", (t(3, 1), t(5, 1), t(1, 1)), {}, t(4, 1)),
        ("model_stock", (t(3, 1), t(1, 1), t(1, 1)), {}, t(1, 1)),  # a zero difference is like nothing
        # three at 60 degrees from each other in a plane and out of it: cosines 1/2, t = 3/4
        ("model_stock", (t(1, 1, 0), t(1, 0, 1), t(0, 0, 0), t(0, 1, 1)), {}, t(0.5, 0.5, 0.5)),
        ("karcher", (t(3, 0), t(0, 4)), {}, at(45, 3.5)),
        ("karcher", (at(0), at(30), at(90)), {}, at(40)),  # on a circle angles are averaged
        ("karcher", (at(0), at(30), at(90)), {"alpha": 0.5}, (at(0) + at(40)) / 2),
        ("karcher", (at(-80, 2), at(0, 2), at(20, 2), at(100, 6)), {}, at(10, 3)),
        ("karcher", (t(1, 0, 0), t(0, 1, 0), t(0, 0, 1)), {}, t(1, 1, 1) / math.sqrt(3)),
        ("karcher", (t(1, 0), t(-3, 0)), {}, t(-1, 0)),  # they cancel out: the plain mean
        ("karcher", (t(0, 0), t(2, 0), t(0, 4)), {}, at(45, 2)),
        ("karcher", (t(1, 2), t(3, 6)), {}, t(2, 4)),
        (
            "multislerp",
            (t(2, 0, 0), t(0, 4, 0), t(0, 0, 8)),
            {"alpha": 0.25, "beta": 0.25},
            4 / math.sqrt(6) * t(2, 1, 1),
        ),
        ("multislerp", (t(1, 0), t(-1, 0), t(3, 0)), {"alpha": 0.5, "beta": 0.0}, t(0, 0)),
        ("multislerp", (t(1, 0), t(2, 0), t(3, 0)), {"alpha": 0.5, "beta": 0.25}, t(2, 0)),
    ],
)
def test_a_method_gives_the_numbers_of_its_formula(
    name: str, models: tuple[Tensor, ...], options: dict[str, float], expected: Tensor
) -> None:
    torch.testing.assert_close(METHODS[name](*models, **options), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("alpha", "beta", "index"), [(0.0, 0.0, 0), (1.0, 0.0, 1), (0.0, 1.0, 2)])
def test_multislerp_with_all_the_weight_on_one_model_is_that_model(alpha: float, beta: float, index: int) -> None:
    models = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.equal(METHODS["multislerp"](*models, alpha=alpha, beta=beta), models[index])


def test_no_model_of_a_mean_comes_first() -> None:
    models = list(torch.randn(4, 30, 7, generator=torch.Generator().manual_seed(0)).unbind())
    for name in ("n_average", "karcher"):
        one, other = METHODS[name](*models), METHODS[name](*models[::-1])
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_two_fine_tuned_models_have_slerps_middle_as_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(40, 30, generator=generator)
    a, b = (base + 0.02 * torch.randn(40, 30, generator=generator) for _ in range(2))
    torch.testing.assert_close(METHODS["karcher"](a, b), METHODS["slerp"](a, b), rtol=1e-5, atol=1e-6)


def test_weights_of_more_than_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs alpha \+ beta of at most 1, not 1.4"):
        method_spec("multislerp").check({"alpha": 0.7, "beta": 0.7})
