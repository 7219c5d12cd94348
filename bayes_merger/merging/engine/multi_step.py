"""Merges in several steps: the result of one step is a model of the next, in fp32 and never written anywhere.

Steps are evaluated on demand, key by key, from the last one back: at most one tensor of each step is in memory, and
nothing is rounded between them.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.kinds import LORA, VAE
from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed
from bayes_merger.merging.engine.key_merger import KeyMerger
from bayes_merger.merging.engine.live import LiveMerge
from bayes_merger.merging.models.aligned import aligned
from bayes_merger.merging.models.ema import averages, with_ema
from bayes_merger.merging.models.lora import LoraModel
from bayes_merger.merging.models.vae import VaeFile
from bayes_merger.merging.plan.planning import check_weights, numbers_of, plan_recipe
from bayes_merger.merging.plan.routing import Checkpoints
from bayes_merger.merging.recipe.recipe import MergeRecipe, RecipeStep
from bayes_merger.merging.recipe.settings import DROP_EMA, KEEP_EMA, VAE_FILE
from bayes_merger.merging.recipe.steps import alone, weights_of

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def named(step: RecipeStep) -> Iterator[None]:
    """Name the step in errors."""
    try:
        yield
    except BayesMergerError as error:
        raise type(error)(f"step {step.name}: {error}") from error


class StepModel(Checkpoint):
    """The result of an earlier step, as a model of a later one.

    Attributes:
        planned: what the step does to each tensor.
        recipe: the step alone, with its numbers.
        models: what it merges, by the names that its method gives them.
        constant: whether neither its numbers nor those of its models ever change.

    Args:
        recipe: the step alone, as a recipe of its own.
        checkpoints: its models: files, LoRAs on them, steps before it.
        name: of the step.
        constant: whether its own numbers never change.
    """

    computed = True
    derived = True

    def __init__(self, recipe: MergeRecipe, checkpoints: Checkpoints, name: str, constant: bool) -> None:
        self.planned = replace(plan_recipe(recipe, checkpoints, checked=False), step=name)
        self.constant = constant and all(model.constant for model in checkpoints.values())
        self.recipe, self.models, self._name = recipe, checkpoints, name
        self._items = {item.key: item for item in self.planned.written}
        base = checkpoints["a"]
        carried = {s.key for s in self.planned.items if s.place.role in ("ema", "schedule") and s.key in base.shapes}
        entries = {
            item.key: ("F32" if item.action == "merge" else checkpoints[item.source].dtypes[item.key], item.shape)
            for item in self.planned.items
            if item.key in self._items or item.key in carried
        }
        super().__init__(Path(f"step {name}"), entries, base.metadata, self._compute, lambda: None)
        self._merger: KeyMerger | None = None
        self._numbers: dict[Hashable, tuple[float, ...]] = {}
        self._last: tuple[str, Hashable, Tensor] | None = None

    @property
    def stored(self) -> Mapping[str, str]:
        """Those of its first model's file."""
        return self.models["a"].stored

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of its own plan."""
        return self.planned.notes

    @property
    def prediction(self) -> str:
        """That of its plan."""
        return self.planned.prediction

    def set(self, weights: BlockWeights) -> None:
        """Change its numbers.

        Raises:
            ConfigError: numbers missing, unknown, out of bounds or at a pole.
        """
        check_weights(weights, self.planned, self.recipe.vae)
        self.recipe = self.recipe.with_weights(weights)
        self._merger = None
        self._numbers = {}
        self._last = None

    def version(self, key: str) -> Hashable:
        """The numbers that its tensor is computed with, and the versions of its models."""
        if self.constant:
            return None
        item = self._items.get(key)
        if item is None or item.action != "merge":
            return self.models[item.source if item else "a"].version(key)
        group = (item.place, item.rules)
        if group not in self._numbers:
            self._numbers[group] = tuple(numbers_of(item, self.recipe.weights).values())
        if self.planned.method.statistic is not None:  # every tensor depends on all others
            return (str(self.recipe.weights), tuple(m.version(k) for m in self.models.values() for k in m.shapes))
        return self._numbers[group], tuple([self.models[name].version(key) for name in self.planned.method.models])

    def release(self) -> None:
        """Release what was read of its models."""
        for model in self.models.values():
            model.release()

    def _compute(self, key: str) -> Tensor:
        from bayes_merger.checkpoints.nonfinite import check_model, find_nonfinite

        item = self._items.get(key)
        if item is None or item.action != "merge":
            return self.models[item.source if item else "a"].tensor(key)
        version = self.version(key)
        if self._last is not None and self._last[:2] == (key, version):
            return self._last[2]
        self._merger = self._merger or KeyMerger(self.planned, self.recipe.weights, self.models)
        tensor = self._merger.tensor(item, "F32")
        if fault := find_nonfinite(tensor):
            for name in self.planned.method.models:
                check_model(self.models[name].path, key, self.models[name].tensor(key))
            raise TrialFailed(f"step {self._name}: '{key}' holds {fault}; weights nearer to [0, 1] avoid it")
        self._last = (key, version, tensor)
        return tensor


@dataclass(frozen=True)
class Unfolded:
    """A recipe in several steps as one in a single step, whose models may be computed.

    Attributes:
        last: the last step, as a recipe of its own.
        models: its models.
        steps: the steps before it, by name.
    """

    last: MergeRecipe
    models: Checkpoints
    steps: Mapping[str, StepModel]

    def set(self, recipe: MergeRecipe) -> None:
        """Set the numbers of the steps before the last.

        Raises:
            ConfigError: numbers missing, unknown, out of bounds or at a pole; the text names the step.
        """
        for step in recipe.steps[:-1]:
            with named(step):
                self.steps[step.name].set(weights_of(step, recipe.weights))


def unfold(recipe: MergeRecipe, checkpoints: Checkpoints, constant: Collection[str] = ()) -> Unfolded:
    """The last step of a recipe and its models; the recipe itself if it has only one step.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file; LoRAs not yet applied.
        constant: the steps whose numbers never change.

    Raises:
        ConfigError: as ``plan``; the text names the step.
        CheckpointError: as ``plan``; the text names the step.
    """
    base = checkpoints.get(recipe.base, None)
    if base is not None and recipe.ema == KEEP_EMA:
        wanted = averages(base)
        checkpoints = {n: c if c.kind in (LORA, VAE) else with_ema(c, wanted) for n, c in checkpoints.items()}
    if base is not None and recipe.vae == VAE_FILE and "vae" in checkpoints:
        baked = checkpoints["vae"]
        checkpoints = {**checkpoints, "vae": baked if isinstance(baked, VaeFile) else VaeFile(baked, base)}
    if not recipe.steps:
        return Unfolded(recipe, checkpoints, {})
    if base is not None:
        checkpoints = {n: c if n == "vae" or c.kind is LORA else aligned(c, base) for n, c in checkpoints.items()}
    computed: dict[str, StepModel] = {}
    *before, last = recipe.steps
    for step in before:
        with named(step):
            models = _models_of(step, checkpoints, computed)
            computed[step.name] = StepModel(alone(recipe, step), models, step.name, step.name in constant)
    with named(last):
        models = _models_of(last, checkpoints, computed)
        if recipe.vae == VAE_FILE:
            models["vae"] = checkpoints["vae"]
        return Unfolded(alone(recipe, last), models, computed)


def _models_of(step: RecipeStep, files: Checkpoints, computed: Mapping[str, StepModel]) -> dict[str, Checkpoint]:
    models: dict[str, Checkpoint] = {}
    for role in sorted(step.models):
        name = step.models[role]
        model: Checkpoint | None = computed.get(name) or files.get(name)
        if model is None:
            raise ConfigError(f"{role}: '{name}' is neither a model nor an earlier step")
        models[role] = LoraModel(models["a"], model) if role != "a" and model.kind is LORA else model
    return models


class LiveSteps:
    """Writes candidates of a recipe in several steps into the parameters of a live model, as ``LiveMerge`` does.

    Args:
        recipe: the merge; its numbers do not matter yet.
        checkpoints: model name to opened file; they must stay open.
        constant: the steps whose numbers never change: their results may be kept in memory.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``.
    """

    def __init__(self, recipe: MergeRecipe, checkpoints: Checkpoints, constant: Collection[str] = ()) -> None:
        self._recipe = recipe
        self._unfolded = unfold(replace(recipe, ema=DROP_EMA), checkpoints, constant)
        self._live = LiveMerge(self._unfolded.models, self._unfolded.last)

    def apply(self, weights: BlockWeights, destinations: Mapping[str, Tensor], *, everything: bool = False) -> None:
        """Turn the live model into the merge with these weights; see ``LiveMerge.apply``.

        Raises:
            ConfigError: weights missing, unknown, out of bounds or at a pole.
            CheckpointError: the live model and the checkpoints do not have the same tensors.
            TrialFailed: a tensor overflows.
        """
        last = self._recipe.steps[-1]
        self._unfolded.set(self._recipe.with_weights(weights))
        with named(last):
            self._live.apply(weights_of(last, weights, adjusted=True), destinations, everything=everything)

    def release(self) -> bool:
        """Keep nothing in memory between candidates any more; whether there was any. See ``LiveMerge.release``."""
        return self._live.release()
