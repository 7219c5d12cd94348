"""What a merge may take along: a VAE from a file of its own, and the averages over training beside the weights."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.naming import Naming
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging.models.lora import LoraModel
from bayes_merger.merging.models.sources import is_constant, version_of

if TYPE_CHECKING:
    from torch import Tensor

VAE_FILE = "file"
"""What ``vae`` says in a recipe whose VAE is that of a file, which is its model ``vae``."""

_PREFIXES = ("first_stage_model.", "vae.")
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_EMA = "model_ema."


class VaeFile(Checkpoint):
    """The VAE in a file, by itself or in a whole checkpoint, under the names that it has in model A.

    Args:
        file: the opened file, which is closed with this.
        base: model A.

    Raises:
        CheckpointError: there is no VAE in it, or one of another kind than model A's.
    """

    def __init__(self, file: Checkpoint, base: Checkpoint) -> None:
        wanted = next((p for p in _PREFIXES if any(key.startswith(p) for key in base.shapes)), _PREFIXES[0])
        names = _vae_names(file, wanted)
        self._file, self._names = file, names
        theirs = {key: shape for key, shape in base.shapes.items() if key.startswith(wanted)}
        if not names:
            raise CheckpointError(f"{file.path}: this is {file.kind.words}, and there is no VAE in it")
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
            self._names = {key: names[key] for key in theirs}
        entries = {key: (file.dtypes[n], theirs.get(key, file.shapes[n])) for key, n in self._names.items()}
        super().__init__(file.path, entries, file.metadata, self._named, file.close)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the file."""
        return self._file.files

    def sha256(self) -> str:
        """That of the file."""
        return self._file.sha256()

    def release(self) -> None:
        """Give back what was read of the file."""
        self._file.release()

    def _named(self, key: str) -> Tensor:
        return self._file.tensor(self._names[key]).reshape(self.shapes[key])


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


def ema_key(key: str) -> str:
    """The name that the average over training of a tensor has beside it."""
    return _EMA + key.removeprefix("model.").replace(".", "")


def averages(base: Checkpoint) -> dict[str, str]:
    """The averages that a model has, each with the tensor that it is the average of."""
    return {ema_key(key): key for key in base.shapes if ema_key(key) in base.shapes and not key.startswith(_EMA)}


def with_ema(checkpoint: Checkpoint, wanted: Mapping[str, str]) -> Checkpoint:
    """A model that has an average for each of these tensors: where the file has none, the tensor itself.

    Args:
        checkpoint: the model.
        wanted: key of the average -> key of the tensor.

    Raises:
        ConfigError: it is a LoRA, which says nothing of averages.
    """
    if not any(key in checkpoint.shapes for key in wanted.values()):
        return checkpoint
    if isinstance(checkpoint, LoraModel):
        raise ConfigError(
            f"ema: {checkpoint.path.name} has no averages of its own, a LoRA cannot change them; drop them"
        )
    lacking = {key: own for key, own in wanted.items() if key not in checkpoint.shapes and own in checkpoint.shapes}
    return _WithEma(checkpoint, lacking) if lacking else checkpoint


class _WithEma(Checkpoint):
    def __init__(self, checkpoint: Checkpoint, lacking: Mapping[str, str]) -> None:
        entries = {key: (dtype, checkpoint.shapes[key]) for key, dtype in checkpoint.dtypes.items()}
        entries |= {key: entries[own] for key, own in lacking.items()}
        self._checkpoint, self._lacking = checkpoint, lacking
        super().__init__(checkpoint.path, entries, checkpoint.metadata, self._own, checkpoint.close)

    @property
    def constant(self) -> bool:
        """Whether it never changes."""
        return is_constant(self._checkpoint)

    def version(self, key: str) -> Hashable:
        """That of the tensor itself."""
        return version_of(self._checkpoint, self._lacking.get(key, key))

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the model."""
        return self._checkpoint.files

    def sha256(self) -> str:
        """That of the file."""
        return self._checkpoint.sha256()

    def release(self) -> None:
        """Give back what was read of the file."""
        self._checkpoint.release()

    def _own(self, key: str) -> Tensor:
        return self._checkpoint.tensor(self._lacking.get(key, key))
