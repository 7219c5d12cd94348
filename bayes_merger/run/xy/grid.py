"""A grid as data: its cells, their distinct merges, and the order in which these change least."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.imaging.payload import Payload
from bayes_merger.merging.plan.planning import numbers_of
from bayes_merger.merging.plan.routing import MergePlan
from bayes_merger.merging.recipe.postprocess import ADJUST
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.settings import VAE_FILE
from bayes_merger.run.xy.axes import Axis

if TYPE_CHECKING:
    import numpy as np

Place = tuple[int, int, int]
"""Of a cell: its page, row and column, from 0."""

_OF_NUMBERS = ("weights", "elements", "compat", "note")  # of a recipe: what only says which tensor has which numbers


class Form:
    """What merges under the same rules have in common: which of their tensors have numbers together.

    Args:
        structure: their plan, as far as it does not depend on weights.

    Attributes:
        sizes: numbers in each tensor that is merged.
        texts: the places of those that a text encoder may have.
    """

    def __init__(self, structure: MergePlan) -> None:
        import numpy as np

        items = [item for item in structure.items if item.action == "merge" and item.place.role in ("block", "vae")]
        groups: dict[object, int] = {}
        self._group = np.array([groups.setdefault((item.place, item.rules), len(groups)) for item in items])
        self._items = [items[int(place)] for place in np.unique(self._group, return_index=True)[1]]  # one of each group
        network = structure.architecture.blocks[1:] if structure.architecture.whole is None else ()
        self.structure = structure
        self.sizes = np.array([float(math.prod(item.shape)) for item in items])
        self.texts = np.array([item.place.block not in network for item in items])

    def numbers(self, weights: BlockWeights) -> np.ndarray:
        """Those of each tensor that is merged, ``(tensors, weights)``."""
        import numpy as np

        of_groups = np.array([tuple(numbers_of(item, weights).values()) for item in self._items])
        return np.take(of_groups, self._group, 0)


@dataclass(frozen=True, eq=False)
class Merge:
    """A merge of a grid.

    Attributes:
        recipe: all that is needed to make it again.
        checkpoints: its opened models.
        numbers: those of each tensor that is merged, ``(tensors, weights)``.
        sizes: numbers in each of these tensors.
        texts: the places of those that a text encoder may have.
    """

    recipe: MergeRecipe
    checkpoints: Mapping[str, Checkpoint]
    numbers: np.ndarray
    sizes: np.ndarray
    texts: np.ndarray

    @cached_property
    def kind(self) -> str:
        """What two merges have in common that differ in nothing but numbers."""
        data = {key: value for key, value in self.recipe.to_json().items() if key not in _OF_NUMBERS}
        data["models"] = {name: model.sha256 or model.path for name, model in self.recipe.models.items()}
        return json.dumps([data, self.recipe.compat], sort_keys=True)

    @cached_property
    def key(self) -> str:
        """The same for all recipes that give the same tensors, wherever their models lie."""
        adjust = sorted(self.recipe.weights.get(ADJUST, {}).items())
        text = f"{self.kind} {adjust} {hashlib.sha256(self.numbers.tobytes()).hexdigest()}"
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def words_key(self) -> str:
        """The same for all that read words alike."""
        return f"{self.kind} {hashlib.sha256(self.numbers[self.texts].tobytes()).hexdigest()}"

    @property
    def loaded(self) -> tuple[str, ...]:
        """The files that its pipeline is loaded from."""
        return tuple(str(self.checkpoints[name].path) for name in ("a", "vae") if name in self.checkpoints)


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    Attributes:
        merge: what draws.
        payloads: what is drawn, resolved.
    """

    merge: Merge
    payloads: tuple[Payload, ...]


@dataclass(frozen=True)
class Grid:
    """A grid.

    Attributes:
        axes: ``x``, then ``y`` and ``z`` where there are such.
        cells: place to cell, page by page and row by row.
        unmerged: for each of these, model A with the same payloads.
    """

    axes: tuple[Axis, ...]
    cells: Mapping[Place, Cell]
    unmerged: Mapping[Place, Cell]

    @property
    def shape(self) -> Place:
        """Pages, rows and columns."""
        counts = {axis.place: len(axis.values) for axis in self.axes}
        return counts.get("z", 1), counts.get("y", 1), counts["x"]

    def titles(self, place: str) -> list[str]:
        """Those of ``x``, ``y`` or ``z`` for people; one that is empty where there is no such axis."""
        axis = next((axis for axis in self.axes if axis.place == place), None)
        return [axis.title(number) for number in range(len(axis.values))] if axis else [""]

    @property
    def every(self) -> list[Cell]:
        """All cells, those of model A first."""
        return [*self.unmerged.values(), *self.cells.values()]


def in_order(merges: Iterable[Merge]) -> list[Merge]:
    """Distinct merges in the order in which least changes from one to the next.

    Those of the same loaded files stay together, and of these the same methods; from a merge the next is the one with
    the fewest numbers in tensors that change, of equals the first.
    """
    named: dict[str, Merge] = {}
    for merge in merges:
        named.setdefault(merge.key, merge)
    distinct = list(named.values())
    loaded = list(dict.fromkeys(merge.loaded for merge in distinct))
    kinds = list(dict.fromkeys(merge.kind for merge in distinct))
    found: list[Merge] = []
    for files in loaded:
        for kind in kinds:
            found += _nearest([merge for merge in distinct if (merge.loaded, merge.kind) == (files, kind)])
    return found


def _nearest(merges: Sequence[Merge]) -> list[Merge]:
    import numpy as np

    if len(merges) < 3:
        return list(merges)
    every = np.stack([merge.numbers for merge in merges])  # merges, tensors, weights
    flat = np.ascontiguousarray(np.moveaxis(every, 1, 0).reshape(every.shape[1], -1))
    _, first, group = np.unique(flat, axis=0, return_index=True, return_inverse=True)  # tensors that go together
    sizes = np.bincount(group.ravel(), merges[0].sizes)
    together = every[:, first]
    rest, order = list(range(1, len(merges))), [0]
    while rest:
        changed = (together[rest] != together[order[-1]]).any(-1)
        order.append(rest.pop(int((changed @ sizes).argmin())))
    return [merges[number] for number in order]


def unmerged_recipe(recipe: MergeRecipe) -> MergeRecipe:
    """Model A of a merge, as one of it: with nothing of the others."""
    blocks = dict.fromkeys(recipe.architecture_blocks.blocks, 0.0)
    models = {name: model for name, model in recipe.models.items() if name in ("a", "b", "vae")}
    models.setdefault("b", models["a"])
    return replace(
        recipe, method="weighted_sum", models=models, weights={"alpha": blocks}, elements=(), options={}, clip="",
        saliency={}, act={}, rebasin={}, vae=recipe.vae if recipe.vae == VAE_FILE else "a",
    )  # fmt: skip
