"""Tensors side by side are merged in one call, and only those."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor

from bayes_merger.merging import LiveMerge, MergeSettings
from bayes_merger.merging.engine.contiguous import ContiguousSpan, spans_of
from tests.live_models import equal, full
from tests.merging.tiny_models import SHAPES, even, opened


def flat_model(gap: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Live tensors in one stretch of memory, with as many numbers between them."""
    sizes = {key: int(torch.tensor(shape).prod()) if shape else 1 for key, shape in SHAPES.items()}
    stretch = torch.full((sum(sizes.values()) + gap * len(sizes),), 7.0, dtype=dtype)
    begin, found = 0, {}
    for key in sorted(sizes):
        found[key] = stretch[begin : begin + sizes[key]].view(SHAPES[key])
        begin += sizes[key] + gap
    return found


def test_a_run_ends_at_a_gap_another_dtype_and_another_memory() -> None:
    x, y = torch.zeros(20), torch.zeros(20)
    names = "abcdef"
    live = [x[0:3], x[3:5], x[6:8], x[8:10], y[10:12], y[12:14].double()]
    model = torch.zeros(20)
    ends = [0, 3, 5, 7, 9, 11, 13]
    models = [model[begin:end] for begin, end in itertools.pairwise(ends)]
    runs = spans_of((name, [m, out]) for name, m, out in zip(names, models, live, strict=True))
    assert runs == [
        ContiguousSpan(("a", "b"), 5),
        ContiguousSpan(("c", "d"), 4),
        ContiguousSpan(("e",), 2),
        ContiguousSpan(("f",), 2),
    ]


def test_a_run_ends_where_a_tensor_is_not_solid() -> None:
    x, y = torch.zeros(4, 4), torch.zeros(4, 4)
    assert spans_of([("a", [x[0], y[:, 0]]), ("b", [x[1], y[:, 1]])]) == [
        ContiguousSpan(("a",), 4),
        ContiguousSpan(("b",), 4),
    ]


def test_a_model_in_one_stretch_gets_the_numbers_that_others_get(tmp_path: Path) -> None:
    for method in ("weighted_sum", "add_difference", "triple_sum"):
        (tmp_path / method).mkdir()
        models = opened(tmp_path / method, 2 if method == "weighted_sum" else 3)
        merging = LiveMerge(models, MergeSettings(method))
        for gap in (0, 5):
            for dtype in (torch.float16, torch.float32):
                live = flat_model(gap, dtype)
                merging.apply(even("0.3", method), live)
                assert equal(live, full(models, method, even("0.3", method), {}))


def test_what_lies_between_the_parameters_is_not_touched(tmp_path: Path) -> None:
    live = flat_model(3, torch.float16)
    LiveMerge(opened(tmp_path), MergeSettings()).apply(even("0.3"), live)
    first = min(live.values(), key=lambda out: out.data_ptr())
    stretch = torch.empty(0, dtype=torch.float16).set_(first.untyped_storage())
    used = torch.zeros(stretch.numel(), dtype=torch.bool)
    for out in live.values():
        begin = out.storage_offset()
        used[begin : begin + out.numel()] = True
    assert bool((stretch[~used] == 7).all())
