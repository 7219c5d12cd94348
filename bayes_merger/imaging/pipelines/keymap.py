"""Single-file keys <-> parameters of live diffusers modules: a bijection, for SD1.x.

The names are those of ``bayes_merger.checkpoints.naming``. Only one tensor operation is needed here: the four
projections of the VAE's two attention blocks are 1x1 convolutions `(C, C, 1, 1)` in the file and linear layers `(C, C)`
in diffusers. It is a view, which is why a merged tensor can be written straight into the live parameter, without
staging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from bayes_merger.checkpoints.naming import UNET, VAE, Naming
from bayes_merger.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["TEXT", "UNET", "VAE", "HasModules", "single_file_views", "to_single_file"]

TEXT = "cond_stage_model.transformer.text_model."


class HasModules(Protocol):
    """What is needed of a pipeline: its three models."""

    unet: Module
    vae: Module
    text_encoder: Module


def to_single_file(
    *, unet: Mapping[str, Tensor], vae: Mapping[str, Tensor], text_encoder: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of three diffusers state dicts under the names and in the shapes of a single file.

    Args:
        unet: state dict of a `UNet2DConditionModel` with the blocks of SD1.x, any width.
        vae: state dict of an `AutoencoderKL`, any number of levels.
        text_encoder: state dict of a `CLIPTextModel`, any number of layers.

    Returns:
        Views on the given tensors, nothing is copied: 1130 of them for SD1.5's topology. Call `.contiguous()` before
        saving with safetensors.

    Raises:
        CheckpointError: for a parameter that SD1.x does not have.
    """
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    naming = Naming.of({part: {n: tuple(t.shape) for n, t in state.items()} for part, state in parts.items()})
    if naming.family != "sd1":
        raise CheckpointError(f"these are the modules of {naming.family}, and only SD1.x's can be drawn here")
    found = {}
    for part, state in parts.items():
        for name, tensor in state.items():
            counterpart = naming.counterpart(part, name)
            if counterpart is not None:
                shape = counterpart.shape([tuple(tensor.shape)])
                found[counterpart.key] = tensor if len(shape) == tensor.dim() else tensor.view(shape)
    return found


def single_file_views(pipe: HasModules) -> dict[str, Tensor]:
    """Single-file key -> a view, in the single file's shape, on the live parameter: write there to swap weights.

    Made afresh from `named_parameters()` on every call (milliseconds): a cached view would silently go stale as soon as
    a caller uses `.half()` or `.to()` on a module.
    """
    return to_single_file(
        unet=_parameters(pipe.unet), vae=_parameters(pipe.vae), text_encoder=_parameters(pipe.text_encoder)
    )


def _parameters(module: Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}
