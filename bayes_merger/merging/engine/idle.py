"""Which weights of a merge change nothing, because the models are equal where they apply.

A weight is *idle* if no number of any tensor that takes it depends on it. That is decided by the method's own result:
it must be the same, bit for bit but for the sign of zeros, at both ends of the weight's range and at two places inside,
for two choices of the other weights. These places are no fractions that rounding favours, as 0.5 is. And it is believed
only where the models leave no room for anything else: all of them round to the same numbers there, or two of them are
equal, and then the results must agree in fp32.

Elsewhere a weight is not idle, and nothing is computed. So of models that differ no more is read than the smallest
tensors of every block, and only what is equal is read to its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.checkpoints.checkpoint import torch_dtypes
from bayes_merger.errors import ConfigError, TrialFailed
from bayes_merger.merging.engine.multi_step import unfold
from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.plan.costs import CHUNK
from bayes_merger.merging.plan.planning import numbers_of, plan_recipe, sources_of
from bayes_merger.merging.plan.routing import SMALL_DTYPES, Checkpoints, MergePlan, PlanItem
from bayes_merger.merging.recipe.postprocess import ADJUST
from bayes_merger.merging.recipe.recipe import MergeRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.merging.engine.combine import Make
    from bayes_merger.merging.parameters import Prepared
    from bayes_merger.merging.saliency.weights import Weights

INSIDE = (0.2917960675, 0.6458980338)
"""Where a weight is tried inside its range, besides its ends."""

OTHERS = (0.1180339887, 0.3262379212)
"""Where the first of the other weights are meanwhile, nearer to the lower end, where methods are defined."""

_DIFFERENT = "different"  # no two models are equal: the weight is not idle
_CERTAIN = "certain"  # all are equal, and a linear interpolation between equals is either of them
_LARGE = 2**20  # numbers; smaller tensors are looked at first, and after larger ones memory is released


def idle_weights(recipe: MergeRecipe, checkpoints: Checkpoints, greatest: BlockWeights) -> set[str]:
    """The weights, as in ``IN00.alpha``, that change no number of a merge, wherever they are in their ranges.

    Args:
        recipe: the merge; its numbers are the lower ends.
        checkpoints: model name to opened file.
        greatest: the upper ends; a number that equals the lower end is not searched, and not looked at.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    least = recipe.weights
    searched = {
        f"{place}.{weight}"
        for weight, row in greatest.items()
        for place, number in row.items()
        if number != least[weight][place] and weight != ADJUST
    }
    choices: list[list[_Step]] = []
    for share in OTHERS if len(least) > 1 else OTHERS[:1]:
        with suppress(ConfigError):  # the method is not defined for these numbers
            choices.append(_steps(recipe.with_weights(_inside(least, greatest, share)), checkpoints))
    if not choices:
        return set()
    active: set[str] = set()
    for steps in zip(*choices, strict=True):
        items = sorted((item for item in steps[0].planned.items if item.action == "merge" and _size(item)), key=_size)
        for some in ([i for i in items if _size(i) < _LARGE], [i for i in items if _size(i) >= _LARGE]):
            _find_active(steps, some, _Ranges(least, greatest), searched, active)
    return searched - active


def idle_by_default(recipe: MergeRecipe, checkpoints: Checkpoints) -> set[str]:
    """The weights of a merge that change no number of it, wherever they are in the ranges of their methods.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    of_steps = {step.weight(name): about for step in recipe.steps for name, about in step.spec.weights.items()}
    ranges = of_steps or recipe.spec.weights
    least, greatest = (
        {
            weight: dict.fromkeys(row, getattr(ranges[weight], end)) if weight in ranges else row
            for weight, row in recipe.weights.items()
        }
        for end in ("low", "high")
    )
    return idle_weights(recipe.with_weights(least), checkpoints, greatest)


def _inside(least: BlockWeights, greatest: BlockWeights, share: float) -> dict[str, dict[str, float]]:
    """Numbers at this share of their ranges; each weight has a share of its own, so that no two cancel out."""
    return {
        weight: {place: low + share / (1 + 0.1 * index) * (greatest[weight][place] - low) for place, low in row.items()}
        for index, (weight, row) in enumerate(least.items())
    }


@dataclass(frozen=True)
class _Ranges:
    """Both ends of every weight's range."""

    least: BlockWeights
    greatest: BlockWeights

    def tried(self, name: str) -> list[float]:
        """The numbers at which the weight of that name is tried."""
        place, _, weight = name.rpartition(".")
        low, high = (float(ends[weight][place]) for ends in (self.least, self.greatest))
        return [low, *(low + share * (high - low) for share in INSIDE), high]


@dataclass(frozen=True)
class _Step:
    """One step of a merge at one choice of all numbers.

    Attributes:
        called: from a weight of its method to what the recipe calls it.
        planned: what it does to each tensor.
        models: what it merges.
        weights: its numbers.
    """

    called: Callable[[str], str]
    planned: MergePlan
    models: Checkpoints
    weights: BlockWeights

    @cached_property
    def method(self) -> MethodSpec:
        """The method, with the models' statistics if it takes any."""
        from bayes_merger.merging.engine.statistics import with_model_statistics

        return with_model_statistics(self.planned.method, self.models, self.planned.items)

    def taken(self, item: PlanItem) -> dict[str, str]:
        """Which of the recipe's weights a tensor takes for each of the method's, less those that a rule gives."""
        sources = sources_of(item, self.weights)
        named = {weight: source for weight, source in sources.items() if isinstance(source, str)}
        return {weight: f"{source}.{self.called(weight)}" for weight, source in named.items()}

    def sources(self, item: PlanItem) -> list[Tensor]:
        """The models' tensors, as far as they are merged."""
        tensors = [self.models[name].tensor(item.key) for name in self.planned.method.models]
        return [tensor[:, : item.common].contiguous() for tensor in tensors] if item.common else tensors

    def release(self, item: PlanItem) -> None:
        """Release the memory of what was read, after a large tensor."""
        if _size(item) >= _LARGE:
            for model in self.models.values():
                model.release()


def _steps(recipe: MergeRecipe, checkpoints: Checkpoints) -> list[_Step]:
    unfolded = unfold(recipe, checkpoints)
    unfolded.set(recipe)
    found = []
    for step in recipe.steps[:-1]:
        model = unfolded.steps[step.name]
        found.append(_Step(step.weight, model.planned, model.models, model.recipe.weights))
    last, called = unfolded.last, recipe.steps[-1].weight if recipe.steps else str
    planned = plan_recipe(last, unfolded.models, checked=False)
    return [*found, _Step(called, planned, unfolded.models, last.weights)]


def _find_active(
    steps: Sequence[_Step], items: Sequence[PlanItem], ranges: _Ranges, searched: set[str], active: set[str]
) -> None:
    """Add to ``active`` the weights of a step, at several choices of all numbers, that change one of these tensors."""
    equal: list[tuple[PlanItem, str]] = []
    for item in items:
        if names := {*steps[0].taken(item).values()} & searched - active:
            compared = _compared_in(steps, item)
            if compared == _DIFFERENT:
                active |= names
            elif compared != _CERTAIN:
                equal.append((item, compared))
    for item, dtype in equal:
        for weight, name in steps[0].taken(item).items():
            if name in searched - active and not _is_constant(steps, item, weight, ranges.tried(name), dtype):
                active.add(name)


def _size(item: PlanItem) -> int:
    return math.prod(item.shape)


def _compared_in(steps: Sequence[_Step], item: PlanItem) -> str:
    """The dtype in which results for a tensor must agree: that of the merge where all models round to the same, fp32
    where only two of them are equal; or that nothing needs to be computed."""
    found = set()
    for step in steps:
        found.add(_compared_at(step, item))
        step.release(item)
    return next((each for each in (_DIFFERENT, "F32", item.dtype) if each in found), _CERTAIN)


def _compared_at(step: _Step, item: PlanItem) -> str:
    try:
        sources = step.sources(item)
    except TrialFailed:  # the result of an earlier step overflows
        return _DIFFERENT
    rounded = "F32" if item.dtype in SMALL_DTYPES.values() else item.dtype
    if step.planned.method.fused and _are_equal(sources[0], sources[1], "F32"):
        return _CERTAIN
    if all(_are_equal(sources[0], other, rounded) for other in sources[1:]):
        return rounded
    return "F32" if any(_are_equal(*pair, "F32") for pair in combinations(sources, 2)) else _DIFFERENT


def _are_equal(one: Tensor, other: Tensor, dtype: str) -> bool:
    import torch

    if one.data_ptr() == other.data_ptr() and one.dtype == other.dtype:  # what a LoRA leaves as it is
        return True
    wanted = torch_dtypes()[dtype]
    if one.dtype == other.dtype and wanted in (one.dtype, torch.float32):  # widening keeps numbers apart
        return torch.equal(one, other)
    return torch.equal(one.to(wanted), other.to(wanted))


def _is_constant(steps: Sequence[_Step], item: PlanItem, weight: str, tried: Sequence[float], dtype: str) -> bool:
    """Whether a tensor has the same numbers wherever one of its method's weights is tried."""
    for step in steps:
        spec, others = step.method, numbers_of(item, step.weights)
        numbers = [{**others, weight: number} for number in tried]
        defined = [each for each in numbers if spec.pole(each) is None]
        once = weight not in spec.prepared_by
        weights = [step.planned.weights_of(item, each) for each in defined]
        whole = step.planned.varies(item) or not spec.elementwise or spec.prepare is not None
        sources = step.sources(item)
        pieces = [sources] if whole else _pieces(sources)
        if len(defined) < 3 or not _agree(spec, pieces, weights, item, dtype, once):
            return False
        step.release(item)
    return True


def _agree(
    spec: MethodSpec,
    pieces: Iterable[Sequence[Tensor]],
    weights: Sequence[Weights],
    item: PlanItem,
    dtype: str,
    once: bool,
) -> bool:
    """Whether a method's result is the same for all these weights; ``once`` if they share the first stage's work."""
    import torch

    from bayes_merger.merging.engine.combine import Scratch, combine

    scratch, wanted = Scratch(), torch_dtypes()[dtype]
    for parts in pieces:
        prepared: list[Prepared] = []

        def first_stage(make: Make, done: list[Prepared] = prepared) -> Prepared:
            if not done or not once:
                done[:] = [make()]
            return done[0]

        results = [torch.empty(parts[0].shape, dtype=wanted) for _ in range(2)]
        for count, each in enumerate(weights):
            out = results[min(count, 1)]
            combine(spec, parts, each, out, wanted, scratch, item.key, first_stage)
            if count and not torch.equal(*results):
                return False
    return True


def _pieces(sources: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The sources of a method that treats a tensor as a plain row of numbers."""
    rows = [source.view(-1) for source in sources]
    for begin in range(0, rows[0].numel(), CHUNK):
        yield [row[begin : begin + CHUNK] for row in rows]
