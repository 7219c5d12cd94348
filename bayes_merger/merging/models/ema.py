"""EMA weights: the averages over training that some checkpoints store beside their weights."""

from __future__ import annotations

from collections.abc import Mapping

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.errors import ConfigError
from bayes_merger.merging.models.lora import LoraModel

_EMA = "model_ema."


def ema_key(key: str) -> str:
    """The name of a tensor's EMA."""
    return _EMA + key.removeprefix("model.").replace(".", "")


def averages(base: Checkpoint) -> dict[str, str]:
    """Key of each average that a model has -> key of the tensor it is the average of."""
    return {ema_key(key): key for key in base.shapes if ema_key(key) in base.shapes and not key.startswith(_EMA)}


def with_ema(checkpoint: Checkpoint, wanted: Mapping[str, str]) -> Checkpoint:
    """A model with an EMA for each of these tensors: where the file has none, the tensor itself is used.

    Args:
        checkpoint: the model.
        wanted: key of the average -> key of the tensor.

    Raises:
        ConfigError: it is a LoRA, which has no EMA weights.
    """
    if not any(key in checkpoint.shapes for key in wanted.values()):
        return checkpoint
    if isinstance(checkpoint, LoraModel):
        raise ConfigError(
            f"ema: {checkpoint.path.name} is a LoRA, which has no EMA weights and cannot change them; drop them"
        )
    lacking = {key: own for key, own in wanted.items() if key not in checkpoint.shapes and own in checkpoint.shapes}
    return ModelView(checkpoint, {key: key for key in checkpoint.shapes} | lacking) if lacking else checkpoint
