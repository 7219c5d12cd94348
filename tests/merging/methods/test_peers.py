"""Our methods beside those of other programs, where both mean the same; run with the extra ``peers`` installed.

Where we differ on purpose the test says how, and the reason stands in the method's docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_merger.merging import METHODS
from bayes_merger.merging.methods.angular import perpendicular_component
from bayes_merger.merging.methods.sparse import ties_sum

SHAPES: list[tuple[int, ...]] = [(17,), (12, 9), (8, 6, 3, 3), (10, 4, 1, 1)]


@pytest.fixture
def meh() -> Any:
    return pytest.importorskip("sd_meh.merge_methods")


@pytest.fixture
def mecha() -> Callable[[str], Any]:
    """sd-mecha's functions, without the recipe around them."""
    package = pytest.importorskip("sd_mecha")
    matrices = pytest.importorskip("sd_mecha.extensions.builtin.merge_methods.svd")

    def find(name: str) -> Any:
        return getattr(matrices if hasattr(matrices, name) else package, name).__wrapped__

    return find


def models(shape: tuple[int, ...], change: float = 0.1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    base = torch.randn(shape, generator=generator)
    return [base + change * torch.randn(shape, generator=generator) for _ in range(2)] + [base]


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_sd_mecha_gives_the_same(mecha: Callable[[str], Any], shape: tuple[int, ...], alpha: float) -> None:
    a, b, c = models(shape)
    number = torch.tensor(alpha)
    for name in ("slerp", "add_cosine_a", "add_cosine_b", "geometric_sum"):
        same(METHODS[name](a, b, alpha=alpha), mecha(name)(a, b, alpha=number))
    same(METHODS["multiply_quotient"](a, b, c, alpha=alpha), mecha("multiply_quotient")(a, b, c, alpha=number))
    mask = mecha("train_difference_mask")(a, b, c, alpha=number)
    same(METHODS["train_difference"](a, b, c, alpha=alpha), a + mask * (b - c))
    mask = mecha("add_strict_opposite_mask")(a, b, c, alpha=number)
    same(METHODS["train_difference"](a, b, c, alpha=alpha, filter="opposite"), a + mask * (b - c))
    for tilt in (0.0, 0.3, 1.0):
        same(METHODS["crossover"](a, b, alpha=alpha, tilt=tilt), mecha("crossover")(a, b, alpha=alpha, tilt=tilt))
    same(perpendicular_component(a - c, b - c), mecha("perpendicular_component")(a - c, b - c))
    same(ties_sum(a - c, b - c, density=1.0), mecha("ties_sum")(a - c, b - c, k=1.0, vote_sgn=True))
    same(ties_sum(a - c, b - c, density=1.0, vote="count"), mecha("ties_sum")(a - c, b - c, k=1.0))
    same(METHODS["n_average"](a, b, c), (a + b + c) / 3)


@pytest.mark.parametrize("shape", [(12, 9), (8, 6, 3, 3), (10, 4, 1, 1)], ids=str)
def test_sd_mecha_rotates_and_truncates_the_same(mecha: Callable[[str], Any], shape: tuple[int, ...]) -> None:
    a, b, c = models(shape)
    for alpha in (0.0, 0.3):
        theirs = mecha("rotate")({"k": a}, {"k": b}, alignment=1.0, alpha=torch.tensor(alpha), key="k")
        same(METHODS["rotate"](a, b, alpha=alpha), theirs)
    theirs = mecha("truncate_rank")(b - c, rank=2, use_approximate_basis=False)
    same(METHODS["truncate_rank"](a, b, c, rank=2 / min(shape[0], b[0].numel())), a + theirs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0])
def test_sd_meh_gives_the_same(meh: Any, shape: tuple[int, ...], beta: float) -> None:
    a, b, c = models(shape)
    for alpha in (0.25, 0.5, 0.75):
        # its alpha of distribution_crossover is the other way round: 0 is B
        theirs = meh.distribution_crossover(a, b, c, alpha=1 - alpha, beta=beta)
        same(METHODS["distribution_crossover"](a, b, c, alpha=alpha, beta=beta), theirs)
        theirs = meh.top_k_tensor_sum(a, b, alpha=alpha, beta=beta % 1)
        same(METHODS["top_k_tensor_sum"](a, b, alpha=alpha, beta=beta % 1), theirs)


@pytest.mark.parametrize("density", [0.25, 0.5, 0.75])
def test_sd_meh_keeps_one_number_more_in_ties(meh: Any, density: float) -> None:
    """It keeps all from the ``int((1 - k) n)``-th smallest up, which are ``k n + 1``; we keep ``k n``."""
    a, b, c = models((10, 10))
    theirs = meh.ties_add_difference(a, b, c, alpha=0.7, beta=density)
    same(METHODS["ties"](a, b, c, alpha=0.7, density=density + 0.01, vote="count"), theirs)


def test_where_sd_mecha_loses_a_difference_we_keep_it(mecha: Callable[[str], Any]) -> None:
    zero, b = torch.zeros(5), torch.arange(5.0)
    assert not mecha("perpendicular_component")(zero, b).any()  # its NaN check turns 0 / 0 into nothing at all
    assert torch.equal(perpendicular_component(zero, b), b)


def test_where_sd_mechas_slerp_loses_the_length_ours_keeps_it(mecha: Callable[[str], Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1000, generator=generator)
    b = -a + 1e-4 * torch.randn(1000, generator=generator)
    assert float(METHODS["slerp"](a, b).norm() / a.norm()) == pytest.approx(1, abs=1e-2)
    theirs = mecha("slerp")(a, b, torch.tensor(0.5))  # divides by a sine that is lost in rounding
    assert abs(float(theirs.norm() / a.norm()) - 1) > 0.1


def test_where_sd_mechas_model_stock_explodes_ours_stays_between(mecha: Callable[[str], Any]) -> None:
    a, b, c = models((8, 4, 1, 1))
    theirs = mecha("model_stock")(a - c, b - c)
    assert float(theirs.abs().max()) > 1e3  # one number per cosine: -1 is its pole
    assert float((METHODS["model_stock"](a, b, c) - c).norm()) < float((a - c).norm())
