"""Models whose files put other prefixes before the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.naming import canonical_keys
from bayes_merger.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def aligned(model: Checkpoint, base: Checkpoint) -> Checkpoint:
    """A model under the keys that model A has for the same tensors; itself where they agree.

    Transformers are given away with and without ``model.diffusion_model.`` before their keys, and VAEs behind
    ``vae.`` or ``first_stage_model.``.

    Args:
        model: the model, which is closed with what is returned.
        base: model A.

    Raises:
        CheckpointError: the model has a tensor under two of these names.
    """
    own = {canonical: key for key, canonical in canonical_keys(base.shapes.keys()).items()}
    names: dict[str, str] = {}
    for key, canonical in canonical_keys(model.shapes.keys()).items():
        other = names.setdefault(own.get(canonical, key), key)
        if other != key:
            raise CheckpointError(f"{model.path}: '{other}' and '{key}' are the same tensor; remove one of them")
    if all(name == key for name, key in names.items()):
        return model
    return _Aligned(model, names)


class _Aligned(Checkpoint):
    def __init__(self, model: Checkpoint, names: Mapping[str, str]) -> None:
        self._model, self._names = model, names
        entries = {name: (model.dtypes[key], model.shapes[key]) for name, key in names.items()}
        super().__init__(
            model.path,
            entries,
            model.metadata,
            self._named,
            model.close,
            model.release,
            self._part if model.has_parts else None,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the model."""
        return self._model.files

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the model."""
        return self._model.notes

    def sha256(self) -> str:
        """That of the model."""
        return self._model.sha256()

    def _named(self, key: str) -> Tensor:
        return self._model.tensor(self._names[key])

    def _part(self, key: str, begin: int, out: Tensor) -> None:
        self._model.read_part(self._names[key], begin, out)
