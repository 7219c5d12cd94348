"""Models whose files use different prefixes for the same tensors."""

from __future__ import annotations

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.naming import canonical_keys
from bayes_merger.errors import CheckpointError


def aligned(model: Checkpoint, base: Checkpoint) -> Checkpoint:
    """A model under model A's keys for the same tensors; the model itself where they agree.

    Transformers are distributed with and without ``model.diffusion_model.`` before their keys, and VAEs behind
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
    return ModelView(model, names)
