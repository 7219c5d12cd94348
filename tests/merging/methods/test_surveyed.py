"""Methods that compare a tensor with all others of the models, and smooth_add, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bayes_merger.merging import METHODS, merge, method_spec
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.engine.statistics import statistics_of
from bayes_merger.merging.methods.with_statistics import _range
from tests.merging.tiny_models import even, opened, recipe_of

A = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
B = torch.tensor([[4.0, 1.0], [0.0, 0.0]])  # cosines of the columns: 1 and 0; of the whole: 8 / sqrt(85)


def test_cosine_a_keeps_what_is_alike() -> None:
    # their mean is 1/2, so likenesses are 3/4 and 1/4; less alpha: 1/2 of A, and none
    out = METHODS["cosine_a"](A, B, alpha=0.25, statistics=(0.0, 1.0))
    torch.testing.assert_close(out, torch.tensor([[3.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(METHODS["cosine_a"](A, B, alpha=-0.25, statistics=(0.0, 1.0)), out)
    # between 1/4 and 1: likenesses 2/3 and 0
    out = METHODS["cosine_a"](A, B, alpha=0.0, statistics=(0.25, 1.0))
    torch.testing.assert_close(out, torch.tensor([[2 * 2 / 3 + 4 / 3, 1.0], [0.0, 0.0]]))
    assert torch.equal(METHODS["cosine_a"](A, B, alpha=1.0, statistics=(0.3, 0.6)), B)


def test_cosine_b_counts_the_whole_tensor_too() -> None:
    whole = 8 / 85**0.5
    first, second = (1 + whole) / 2 - 0.25, whole / 2 - 0.25
    out = METHODS["cosine_b"](A, B, alpha=0.25, statistics=(0.0, 1.0))
    torch.testing.assert_close(out, torch.tensor([[2 * first + 4 * (1 - first), 1 - second], [0.0, second]]))


def test_the_outermost_percent_at_each_end_does_not_count() -> None:
    shares = [torch.arange(0.0, 60.0).reshape(6, 10), torch.arange(60.0, 101.0)]
    # the 1st percentile is 1; of the 100 numbers from there on the 99th lies between 99 and 100
    assert _range(shares) == (1.0, 99.0)
    assert _range([]) == (0.0, 0.0)


@pytest.mark.parametrize("method", ["cosine_a", "cosine_b"])
def test_all_tensors_of_a_merge_are_compared_with_each_other(tmp_path: Path, method: str) -> None:
    models = opened(tmp_path)
    recipe = recipe_of(models, even("0.2", method), method, "fp32")
    steps = plan(recipe, models).items
    statistics = statistics_of(method_spec(method), models, steps)
    assert statistics == statistics_of(method_spec(method), models, reversed(steps))
    for key, tensor in merge(recipe, models):
        if next(step for step in steps if step.key == key).action == "merge":
            a, b = (models[name].tensor(key).float() for name in "ab")
            assert torch.equal(tensor, METHODS[method](a, b, alpha=0.2, statistics=statistics)), key


def test_smooth_add_takes_away_a_spike_and_leaves_what_is_smooth() -> None:
    a, c = torch.full((2, 3, 3, 3), 5.0), torch.zeros(2, 3, 3, 3)
    spike = c.clone()
    spike[0, 1, 1, 1] = 9.0
    assert torch.equal(METHODS["smooth_add"](a, spike, c), a)
    torch.testing.assert_close(METHODS["smooth_add"](a, c + 2, c, alpha=0.5), a + 1)


def test_smooth_add_is_add_difference_where_there_are_no_taps_unless_all_dimensions_are_asked_for() -> None:
    a, b, c = torch.zeros(5), torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0]), torch.zeros(5)
    assert torch.equal(METHODS["smooth_add"](a, b, c), b)
    assert torch.equal(METHODS["smooth_add"](a, b, c, over="all"), a)
    # medians of (0, 0, 3), (0, 3, 3), (3, 3, 3), (3, 3, 3), then Gaussian weights of one place, mirrored at the edge
    step = METHODS["smooth_add"](torch.zeros(4), torch.tensor([0.0, 3.0, 3.0, 3.0]), torch.zeros(4), over="all")
    weights = [2.718281828 ** (-(x**2) / 2) for x in range(5)]
    total = weights[0] + 2 * sum(weights[1:])
    # after the median 0, 3, 3, 3; beyond the edge 0, 3, 3, 3 again, so place 0 sees zeros at 0, -1 and (mirrored) 7, -8
    zeros = weights[0] + weights[1]
    assert float(step[0]) == pytest.approx(3 * (1 - zeros / total), rel=1e-3)
