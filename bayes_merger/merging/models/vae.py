"""A VAE baked into a merge from another file."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.naming import Naming
from bayes_merger.errors import CheckpointError

_PREFIXES = ("first_stage_model.", "vae.")
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


def vae_keys(shapes: Iterable[str]) -> list[str]:
    """The tensors of the VAE in a whole model, without what training leaves beside them."""
    starts = tuple(prefix + part for prefix in _PREFIXES for part in _PARTS)
    return [key for key in shapes if key.startswith(starts)]


class VaeFile(ModelView):
    """The VAE in a file, alone or in a whole checkpoint, under the names that it has in model A.

    Args:
        file: the opened file, which is closed with this.
        base: model A.

    Raises:
        CheckpointError: it has no VAE, or a VAE of a different kind from model A's.
    """

    def __init__(self, file: Checkpoint, base: Checkpoint) -> None:
        wanted = next((p for p in _PREFIXES if any(key.startswith(p) for key in base.shapes)), _PREFIXES[0])
        names = _vae_names(file, wanted)
        theirs = {key: base.shapes[key] for key in vae_keys(base.shapes) if key.startswith(wanted)}
        if not names:
            raise CheckpointError(f"{file.path}: this is {file.kind.words}, which has no VAE")
        for key, shape in theirs.items():
            if key not in names:
                raise CheckpointError(f"{file.path}: the VAE lacks '{names.get(key, key)}', which model A's has")
            found = file.shapes[names[key]]
            if found != shape and (math.prod(found) != math.prod(shape) or found[:2] != shape[:2]):
                raise CheckpointError(
                    f"{file.path}: shapes differ: '{names[key]}' is {list(found)} there and {list(shape)} in model A's "
                    "VAE; give a VAE of the same kind"
                )
        if theirs:
            names = {key: names[key] for key in theirs}
        super().__init__(
            file, names, {key: (file.dtypes[own], theirs.get(key, file.shapes[own])) for key, own in names.items()}
        )


def _vae_names(file: Checkpoint, wanted: str) -> dict[str, str]:
    """The tensors of a VAE by the names that they have behind this prefix in a single file -> their own."""
    if any(key.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for key in file.shapes):
        naming = Naming.of_vae(file.shapes, wanted)
        try:
            found = {key: naming.counterpart("vae", key) for key in file.shapes}
        except CheckpointError as error:
            raise CheckpointError(f"{file.path}: {error}") from error
        return {counterpart.key: key for key, counterpart in found.items() if counterpart is not None}
    own = next((p for p in (wanted, *_PREFIXES) if any(key.startswith(p) for key in file.shapes)), "")
    return {
        wanted + key.removeprefix(own): key
        for key in file.shapes
        if key.startswith(own) and key.removeprefix(own).startswith(_PARTS)
    }
