"""A model of a merge with its neurons in the order of another model's."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.rebasin.aligning import Pair, layout_of
from bayes_merger.merging.rebasin.permutation import Permuted
from bayes_merger.merging.rebasin.settings import Alike
from bayes_merger.merging.rebasin.spaces import Layout
from bayes_merger.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor


class AlignedModel(ModelView):
    """A model in another's order, which is found when a tensor is read for the first time.

    Attributes:
        original: the model as it is, which is closed with this.
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
        self.original, self._alike = model, alike
        self.reordered = True
        self.is_new = "layout" not in alike
        self.config = user_path(alike["config"]) if alike.get("config") else None
        self._layout = layout_of(model, self.config) if self.is_new else _read_layout(model, alike["layout"])
        self._pair = Pair.of(like, model, self._layout)
        self._read_part = None  # a part of a tensor comes from all over it

    @cached_property
    def permuted(self) -> Permuted:
        """The model in that order.

        Raises:
            CheckpointError: the order is not the one that a recipe has.
        """
        found, wanted = self._pair.match(), self._alike["sha256"]
        self._pair.a.release()
        self.original.release()
        if wanted not in ("", found.sha256):
            raise CheckpointError(
                f"{self.path}: its neurons come into another order here than the recipe's ({found.sha256[:10]}, not "
                f"{wanted[:10]}); write it once with  bayes-merger rebasin  and merge that file"
            )
        return self._pair.permuted(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the model, and what is done to it."""
        like = self._pair.a.path.name
        return (*self.original.notes, f"{self.path.name}: its neurons are put in the order of those of {like}")

    def said(self) -> dict[str, Any]:
        """How it is put in order, for a recipe: with the layout, and the hash of the order."""
        own = {key: value for key, value in self._alike.items() if key != "config"}
        return {**own, "layout": self._layout.data(), "sha256": self.permuted.permutation.sha256}

    def _read_model(self, key: str) -> Tensor:
        return self.permuted.tensor(key)


def _read_layout(model: Checkpoint, data: Any) -> Layout:
    try:
        return Layout.read(data)
    except ValueError as error:
        raise CheckpointError(f"{model.path}: {error}; this recipe was not written by this program") from error
