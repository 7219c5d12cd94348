"""Sparse differences against numbers worked out by hand, and the promises of random methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS, method_spec
from bayes_merger.merging.methods.drops import _draw, _ranks, _stays
from bayes_merger.merging.methods.orders import order_statistic, stable_order
from bayes_merger.merging.methods.sparse import keep_largest, ties_sum


def t(*numbers: float | list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


TEN = t(10, 10, 10)
COUNTING = torch.arange(1.0, 11.0)
NOTHING = torch.zeros(10)


@pytest.mark.parametrize(
    ("name", "models", "options", "expected"),
    [
        # differences (1, 3, -1) and (-2, 1, -5)
        ("ties", (t(11, 13, 9), t(8, 11, 5), TEN), {"density": 1.0}, t(8, 12, 7)),
        ("ties", (t(11, 13, 9), t(8, 11, 5), TEN), {"density": 1.0, "vote": "count"}, t(10, 12, 7)),
        ("ties", (t(11, 13, 9), t(8, 11, 5), TEN), {"density": 1.0, "alpha": 0.5}, t(9, 11, 8.5)),
        ("ties", (t(11, 13, 9), t(8, 11, 5), TEN), {"density": 0.34}, t(10, 13, 5)),
        ("ties", (t(11, 13, 9), t(8, 11, 5), TEN), {"density": 0.0}, TEN),
        ("ties", (t(1, -1), t(-1, 1), t(0, 0)), {"density": 1.0}, t(0, 0)),  # a tie: nobody is elected
        ("ties", (t(1, 3), t(-3, 3), t(0, 0), t(1, 6)), {"density": 1.0}, t(-3, 4)),  # a third fine-tuned model
        ("ties", (t(1, 3), t(-3, 3), t(0, 0), t(1, 6)), {"density": 1.0, "vote": "count"}, t(1, 4)),
        ("dropout", (t(2, 0), t(4, 2), t(0, 0)), {"probability": 0.0}, t(3, 1)),
        ("dropout", (t(2, 0), t(4, 2), t(0, 0)), {"probability": 0.0, "combine": "active"}, t(3, 2)),
        ("dropout", (t(2, -1), t(4, 2), t(0, 0)), {"probability": 0.0, "combine": "elect"}, t(3, 2)),
        ("dropout", (t(2, 0), t(4, 2), t(1, 1)), {"probability": 1.0}, t(1, 1)),
        ("della", (t(2, -1), t(4, 2), t(0, 0)), {"probability": 0.0, "window": 0.0}, t(3, 2)),
        ("della", (t(2, 0), t(4, 2), t(1, 1)), {"probability": 1.0, "window": 0.0}, t(1, 1)),
        ("breadcrumbs", (COUNTING, NOTHING, NOTHING), {"density": 0.5, "outliers": 0.2, "alpha": 2.0},
         t(0, 0, 0, 4, 5, 6, 7, 8, 0, 0)),
        ("breadcrumbs", (-COUNTING, NOTHING, NOTHING), {"density": 0.9, "outliers": 0.2, "alpha": 2.0},
         -t(1, 2, 3, 4, 5, 6, 7, 8, 9, 0)),
        ("breadcrumbs", (t(1, 2, 3), t(1, 2, 3), t(0, 0, 0)), {"density": 0.67, "outliers": 0.1}, t(0, 2, 3)),
        ("breadcrumbs", (t(1, 2, 3), t(1, 2, 3), t(0, 0, 0)), {"density": 0.0, "outliers": 0.0}, t(0, 0, 0)),
        ("breadcrumbs", (t(2, -1), t(4, 2), t(0, 0)), {"density": 1.0, "combine": "elect"}, t(3, 2)),
        # sums of squares 6 and 13; signs of the sums +, +, +
        ("sce", (t(1, -1, 2), t(3, 2, 0), t(0, 0, 0)), {}, t(45 / 19, 2, 2)),
        ("sce", (t(1, -1, 2), t(3, 2, 0), t(0, 0, 0)), {"density": 0.4}, t(0, 2, 0)),
        ("sce", (t(1, -1, 2), t(3, 2, 0), t(0, 0, 0)), {"density": 0.0}, t(0, 0, 0)),
        ("sce", (t(1e-6, -1e-6, 2e-6), t(3e-6, 2e-6, 0), t(0, 0, 0)), {"alpha": 1e6}, t(45 / 19, 2, 2)),
        ("ram", (t(1, 0, 2, 0), t(0, 0, 4, 3), t(0, 0, 0, 0)), {}, t(1, 0, 3, 3)),
        ("ram", (t(1, 0, 2, 0), t(0, 0, 4, 3), t(0, 0, 0, 0)), {"reward": 0.5}, t(1.1, 0, 3, 3.3)),
        ("ram", (t(1, 0, 2, 0), t(0, 0, 4, 3), t(0, 0, 0, 0)), {"epsilon": 2.0}, t(0, 0, 4, 3)),
    ],
)  # fmt: skip
def test_a_method_gives_the_numbers_of_its_formula(
    name: str, models: tuple[Tensor, ...], options: dict[str, float], expected: Tensor
) -> None:
    torch.testing.assert_close(METHODS[name](*models, **options), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (1 / 3, t(5, 0, 0, -4, 0, 0)),
        (0.5, t(5, 0, 3, -4, 0, 0)),
        (0.01, t(5, 0, 0, 0, 0, 0)),
        (0.0, t(0, 0, 0, 0, 0, 0)),
    ],
)
def test_the_largest_are_kept_and_one_at_least(share: float, kept: Tensor) -> None:
    assert torch.equal(keep_largest(t(5, -1, 3, -4, 2, 0), share), kept)


def test_numbers_that_tie_are_kept_together() -> None:
    assert torch.equal(keep_largest(t(2, -2, 2, 1), 0.25), t(2, -2, 2, 0))
    assert torch.equal(keep_largest(t(3, 3, 3), 0.1), t(3, 3, 3))


def test_one_difference_is_its_own_election() -> None:
    assert torch.equal(ties_sum(t(1, -2, 0), density=1.0), t(1, -2, 0))


def test_ranks_begin_with_the_largest_and_ties_keep_their_order() -> None:
    assert torch.equal(_ranks(t([3, -5, 1, 5], [0, 0, 0, 0])), t([2, 0, 3, 1], [0, 1, 2, 3]))


def test_the_order_is_that_of_a_stable_sort() -> None:
    rows = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    rows[0, ::3], rows[1, ::5], rows[2, 7], rows[3] = -0.0, 1e-40, float("inf"), 0.0
    assert torch.equal(stable_order(rows), rows.argsort(dim=1, stable=True))
    assert torch.equal(stable_order(rows.double()), rows.argsort(dim=1, stable=True))
    assert stable_order(torch.zeros(1, 0)).shape == (1, 0)


@pytest.mark.parametrize("name", ["dropout", "della"])
@pytest.mark.parametrize("probability", [0.3, 0.9])
def test_the_share_that_is_dropped_is_made_up_for_by_the_rest(name: str, probability: float) -> None:
    generator = torch.Generator().manual_seed(0)
    a, base = 1 + torch.rand(400, 500, generator=generator), torch.zeros(400, 500)
    out = METHODS[name](a, base, base, probability=probability, combine="active")
    assert float((out == 0).float().mean()) == pytest.approx(probability, abs=0.005)
    assert float(out.mean()) == pytest.approx(float(a.mean()), rel=0.02)


def test_della_drops_small_numbers_more_often_and_enlarges_them_more() -> None:
    """Four numbers and a window of 1 around 1/2: dropped with 1/8, 3/8, 5/8 and 7/8, the largest least."""
    a, base = t([-4, 3, 2, 1]).expand(20000, 4), torch.zeros(20000, 4)
    out = METHODS["della"](a, base, base, probability=0.5, window=1.0, combine="active")
    kept = (out != 0).float().mean(0)
    torch.testing.assert_close(kept, t(7, 5, 3, 1) / 8, rtol=0, atol=0.015)
    torch.testing.assert_close(out.abs().amax(0), t(32 / 7, 24 / 5, 16 / 3, 8))
    torch.testing.assert_close(out.mean(0), t(-4, 3, 2, 1), rtol=0.1, atol=0)


@pytest.mark.parametrize("name", ["dropout", "della"])
def test_a_draw_depends_on_seed_and_key_and_on_nothing_else(name: str) -> None:
    a, b, c = (torch.full((300, 401), value) for value in (1.0, 2.0, 0.0))
    first = METHODS[name](a, b, c, seed=1, key="x")
    torch.manual_seed(5)
    other_key, other_seed = METHODS[name](a, b, c, seed=1, key="y"), METHODS[name](a, b, c, seed=2, key="x")
    assert torch.equal(METHODS[name](a, b, c, seed=1, key="x"), first)
    assert not torch.equal(other_key, first)
    assert not torch.equal(other_seed, first)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(METHODS[name](a, b, c, seed=1, key="x"), first)
    finally:
        torch.set_num_threads(threads)


def test_the_draws_are_those_of_every_version() -> None:
    a, b, c = t(1, 1, 1, 1, 1, 1, 1, 1), torch.zeros(8), torch.zeros(8)
    out = METHODS["dropout"](a, b, c, seed=7, key="model.diffusion_model.out.2.weight", combine="active")
    assert out.tolist() == [2, 2, 2, 2, 0, 0, 2, 0]


def test_models_are_dropped_independently() -> None:
    a, base = torch.ones(100_000), torch.zeros(100_000)
    out = METHODS["dropout"](a, a, base, probability=0.5)  # 0, 1 or 2 of 2 kept
    shares = [float((out == value).float().mean()) for value in (0, 1, 2)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ties", {"vote": "sums"}, "vote: 'sums' is unknown; give one of sum, count"),
        ("ties", {"seed": 1}, "ties has no option 'seed'"),
        ("dropout", {"seed": "one"}, "seed: 'one' is not a whole number"),
        ("dropout", {"seed": True}, "seed: True is not a whole number"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(name: str, options: dict[str, str | int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        method_spec(name).bind("abc", options)


def test_an_option_may_be_given_as_text() -> None:
    a, b, c = torch.ones(50), torch.ones(50), torch.zeros(50)
    spec = method_spec("dropout").bind("abc", {"seed": "-3", "combine": "active"})
    assert torch.equal(spec.function(a, b, c), METHODS["dropout"](a, b, c, seed=-3, combine="active"))


@pytest.mark.parametrize("kind", ["normal", "ties", "constant", "tiny", "few"])
def test_an_order_statistic_is_that_of_the_sorted_numbers(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3 if kind == "few" else 300_000, generator=generator)
    numbers = {"ties": numbers.round(), "constant": torch.full((300_000,), 2.5), "tiny": numbers * 1e-40}.get(
        kind, numbers
    )
    ordered = numbers.sort().values
    for rank in {0, 1, 2, numbers.numel() // 5, numbers.numel() // 2, numbers.numel() - 2, numbers.numel() - 1}:
        assert order_statistic(numbers, rank) == ordered[rank]


def test_what_is_drawn_in_pieces_is_what_is_drawn_at_once() -> None:
    stays = _stays(torch.empty(50_001), 0.3, 5, "key", 2)
    assert torch.equal(stays.bool(), _draw(torch.empty(50_001), 5, "key", 2) >= 0.3)
