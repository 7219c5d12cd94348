"""A model of a merge with its neurons in the order of another model's."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.rebasin.aligning import Pair, Progress, layout_of
from bayes_merger.merging.rebasin.found import Found
from bayes_merger.merging.rebasin.permutation import Permuted
from bayes_merger.merging.rebasin.settings import WEIGHTS, Alike
from bayes_merger.merging.rebasin.spaces import Layout
from bayes_merger.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor


class AlignedModel(ModelView):
    """A model in another's order, which is found when a tensor is read for the first time.

    Attributes:
        original: the model as it is, which is closed with this.
        pair: both models.
        by: what their neurons are compared by.
        is_new: whether no recipe has this order yet, so that nobody has looked what the model answers in it.
        config: the diffusers folder of a model of unusual size.

    Args:
        model: the model.
        like: the model whose order it takes.
        alike: how, a value of the setting `rebasin`; of its hash only that order is taken.

    Raises:
        CheckpointError: a model that has no known neurons, or two whose neurons cannot be compared.
        ConfigError: the settings do not fit the models.
    """

    def __init__(self, model: Checkpoint, like: Checkpoint, alike: Alike) -> None:
        super().__init__(model)
        self.original, self._alike, self.by = model, alike, str(alike["by"])
        self._found: Found | None = None
        self.reordered = True
        self.is_new = "layout" not in alike
        self.config = user_path(alike["config"]) if alike.get("config") else None
        self.pair = Pair.of(like, model, self._layout())
        self._read_part = None  # a part of a tensor comes from all over it

    def _layout(self) -> Layout:
        if not self.is_new:
            return _read_layout(self.original, self._alike["layout"])
        layout = layout_of(self.original, self.config)
        # settings that have a hash and no layout are of a study of before VAEs were put in order
        return replace(layout, vae_groups=0) if self._alike["sha256"] else layout

    @property
    def is_found(self) -> bool:
        """Whether the order is known, here or since an earlier time."""
        return (self._found or self.pair.recalled(self.by, self._alike["sha256"])) is not None

    def find(self, progress: Progress | None = None) -> Found:
        """The order.

        Args:
            progress: told how far the matching is.

        Raises:
            CheckpointError: it is not the one that a recipe has; or it is by activations, and was never found here.
        """
        found, wanted = self._found, self._alike["sha256"]
        if found is None and self.by == WEIGHTS:
            found = self.pair.by_weights(wanted, progress)
        found = found or self.pair.recalled(self.by, wanted)
        if found is None:
            raise CheckpointError(
                f"{self.path}: no order by activations is known for it and {self.pair.a.path.name}; find it once with  "
                f"bayes-merger rebasin {self.pair.a.path.name} {self.path.name} --by activations payloads=..."
            )
        return self.take(found)

    def take(self, found: Found) -> Found:
        """Be in this order; returns it.

        Raises:
            CheckpointError: it is not the one that a recipe has.
        """
        own, wanted = found.permutation.sha256, self._alike["sha256"]
        if wanted not in ("", own):
            raise CheckpointError(
                f"{self.path}: its neurons come into another order here than the recipe's ({own[:10]}, not "
                f"{wanted[:10]}); write it once with  bayes-merger rebasin  and merge that file"
            )
        self._found = found
        return found

    @cached_property
    def permuted(self) -> Permuted:
        """The model in that order.

        Raises:
            CheckpointError: as `find`.
        """
        return self.pair.permuted(self.find().permutation)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the model, and what is done to it."""
        name, like = self.path.name, self.pair.a.path.name
        told = f"{name}: its neurons are put in the order of those of {like}"
        return (*self.original.notes, self._found.words(name, like) if self._found else told)

    def scan(self) -> None:
        """As the model's: no order is needed for that."""
        self.original.scan()

    def said(self) -> dict[str, Any]:
        """How it is put in order, for a recipe: with the layout, and the hash of the order."""
        own = {key: value for key, value in self._alike.items() if key != "config"}
        return {**own, "layout": self.pair.layout.data(), "sha256": self.find().permutation.sha256}

    def _read_model(self, key: str) -> Tensor:
        return self.permuted.tensor(key)


def _read_layout(model: Checkpoint, data: Any) -> Layout:
    try:
        return Layout.read(data)
    except ValueError as error:
        raise CheckpointError(f"{model.path}: {error}; this recipe was not written by this program") from error
