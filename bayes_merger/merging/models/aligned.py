"""Models whose files call the same tensors by different names, or have dropped the 1x1 of a convolution."""

from __future__ import annotations

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.naming import canonical_keys
from bayes_merger.errors import CheckpointError


def aligned(model: Checkpoint, base: Checkpoint) -> Checkpoint:
    """A model under model A's keys for the same tensors; the model itself where they agree.

    Prefixes differ, the names of Flux's norms, and the places of text encoders (``canonical_keys``); and some files
    hold 1x1 convolutions ``(C, C, 1, 1)`` as matrices, and lone numbers as vectors of one.

    Args:
        model: the model, which is closed with what is returned.
        base: model A.

    Raises:
        CheckpointError: one of them has a tensor under two of these names.
    """
    own: dict[str, str] = {}
    for key, canonical in canonical_keys(base.shapes.keys()).items():
        if (other := own.setdefault(canonical, key)) != key:
            raise _twice(base, other, key)
    names: dict[str, str] = {}
    for key, canonical in canonical_keys(model.shapes.keys()).items():
        if (other := names.setdefault(own.get(canonical, key), key)) != key:
            raise _twice(model, other, key)
    shapes = {name: _shape(model.shapes[key], base.shapes.get(name)) for name, key in names.items()}
    if all(name == key and shapes[name] == model.shapes[key] for name, key in names.items()):
        return model
    return ModelView(model, names, {name: (model.dtypes[key], shapes[name]) for name, key in names.items()})


def _twice(model: Checkpoint, first: str, second: str) -> CheckpointError:
    return CheckpointError(f"{model.path}: '{first}' and '{second}' are the same tensor; remove one of them")


def _shape(own: tuple[int, ...], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Model A's shape of a tensor, where that differs from the model's only by a 1x1, or is one number as well."""
    alike = wanted is not None and own[:2] == wanted[:2] and {own[2:], wanted[2:]} == {(), (1, 1)}
    alike = alike or {own, wanted} == {(), (1,)}
    return wanted if wanted is not None and alike else own
