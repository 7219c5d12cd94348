"""Single-file keys <-> parameters of live diffusers modules: a bijection, for SD1.x.

A checkpoint as people share it ("single file", also called LDM layout) and diffusers hold the same numbers under
different names. `SingleFileNames` is the table; it is read off the names alone, so it fits any width, any number of
VAE levels and of text-encoder layers. Only one tensor operation is needed: the four projections of the VAE's two
attention blocks are 1x1 convolutions `(C, C, 1, 1)` in the file and linear layers `(C, C)` in diffusers. It is a view,
which is why a merged tensor can be written straight into the live parameter, without staging.

Not part of the map, because no module holds them: `...position_ids`, the schedule's buffers, `model_ema.*` and
markers such as `v_pred`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bayes_merger.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
TEXT_OF_NAI = "cond_stage_model.transformer."

_INDEX = r"(\d+)"
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_EDGES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_SQUEEZED = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")


class HasModules(Protocol):
    """What is needed of a pipeline: its three models."""

    unet: Module
    vae: Module
    text_encoder: Module


@dataclass(frozen=True)
class SingleFileNames:
    """The name in a single file of every parameter of a UNet, a VAE and a text encoder.

    Attributes:
        blocks: levels of the UNet (4 in SD1.x).
        layers: resnets per level on the way down (2 in SD1.x).
        attentive: the levels on the way up that have attention; the upsampler stands behind it.
        levels: levels of the VAE (4 in SD1.x).
    """

    blocks: int
    layers: int
    attentive: frozenset[int]
    levels: int

    @classmethod
    def of(cls, unet: Iterable[str], vae: Iterable[str]) -> SingleFileNames:
        """The table for models with these parameter names (as in their state dicts)."""
        unet = list(unet)
        down = _found(rf"down_blocks\.{_INDEX}\.resnets\.{_INDEX}\.", unet)
        levels = _found(rf"decoder\.up_blocks\.{_INDEX}\.resnets\.{_INDEX}\.", vae)
        if not down or not levels:
            raise CheckpointError("these are not the state dicts of a diffusers UNet2DConditionModel and AutoencoderKL")
        return cls(
            blocks=1 + max(block for block, _ in down),
            layers=1 + max(layer for _, layer in down),
            attentive=frozenset(block for block, _ in _found(rf"up_blocks\.{_INDEX}\.attentions\.{_INDEX}\.", unet)),
            levels=1 + max(level for level, _ in levels),
        )

    def unet(self, name: str) -> str:
        """`down_blocks.0.resnets.1.norm1.weight` -> `model.diffusion_model.input_blocks.2.0.in_layers.0.weight`."""
        head, leaf = name.rsplit(".", 1)
        if head in _UNET_EDGES:
            return f"{UNET}{_UNET_EDGES[head]}.{leaf}"
        step = self.layers + 1
        match name.split("."):
            case ["mid_block", "attentions", "0", *rest]:
                return f"{UNET}middle_block.1.{'.'.join(rest)}"
            case ["mid_block", "resnets", i, *rest]:
                return f"{UNET}middle_block.{2 * int(i)}.{_resnet(rest)}"
            case ["down_blocks", b, "downsamplers", "0", "conv", leaf]:
                return f"{UNET}input_blocks.{1 + int(b) * step + self.layers}.0.op.{leaf}"
            case ["up_blocks", b, "upsamplers", "0", *rest]:
                place = 2 if int(b) in self.attentive else 1
                return f"{UNET}output_blocks.{int(b) * step + self.layers}.{place}.{'.'.join(rest)}"
            case ["down_blocks", b, kind, i, *rest] if kind in ("resnets", "attentions"):
                return f"{UNET}input_blocks.{1 + int(b) * step + int(i)}.{_resnet_or_attention(kind, rest)}"
            case ["up_blocks", b, kind, i, *rest] if kind in ("resnets", "attentions"):
                return f"{UNET}output_blocks.{int(b) * step + int(i)}.{_resnet_or_attention(kind, rest)}"
        raise CheckpointError(f"no single-file name for the UNet's {name}: only SD1.x is known here")

    def vae(self, name: str) -> str:
        """`decoder.up_blocks.0.resnets.1.norm1.weight` -> `first_stage_model.decoder.up.3.block.1.norm1.weight`."""
        match name.split("."):
            case [side, "down_blocks", b, "resnets", i, *rest]:
                return f"{VAE}{side}.down.{b}.block.{i}.{_shortcut(rest)}"
            case [side, "up_blocks", b, "resnets", i, *rest]:
                return f"{VAE}{side}.up.{self.levels - 1 - int(b)}.block.{i}.{_shortcut(rest)}"
            case [side, "down_blocks", b, "downsamplers", "0", *rest]:
                return f"{VAE}{side}.down.{b}.downsample.{'.'.join(rest)}"
            case [side, "up_blocks", b, "upsamplers", "0", *rest]:
                return f"{VAE}{side}.up.{self.levels - 1 - int(b)}.upsample.{'.'.join(rest)}"
            case [side, "mid_block", "resnets", i, *rest]:
                return f"{VAE}{side}.mid.block_{int(i) + 1}.{_shortcut(rest)}"
            case [side, "mid_block", "attentions", "0", *rest]:
                return f"{VAE}{side}.mid.attn_1.{_VAE_ATTENTION['.'.join(rest[:-1])]}.{rest[-1]}"
            case [side, "conv_norm_out", leaf]:
                return f"{VAE}{side}.norm_out.{leaf}"
        return VAE + name  # conv_in, conv_out, quant_conv and post_quant_conv have the same name on both sides

    def text(self, name: str) -> str:
        """`final_layer_norm.bias` -> `cond_stage_model.transformer.text_model.final_layer_norm.bias`."""
        return TEXT + name.removeprefix("text_model.")  # transformers before 5.6 had the prefix


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
    names = SingleFileNames.of(unet, vae)
    tensors = {names.unet(name): tensor for name, tensor in unet.items()}
    tensors |= {names.vae(name): tensor for name, tensor in vae.items()}
    tensors |= {names.text(name): tensor for name, tensor in text_encoder.items() if not name.endswith("position_ids")}
    return {key: _in_file_shape(key, tensor) for key, tensor in tensors.items()}


def single_file_views(pipe: HasModules) -> dict[str, Tensor]:
    """Single-file key -> a view, in the single file's shape, on the live parameter: write there to swap weights.

    Made afresh from `named_parameters()` on every call (milliseconds): a kept view would silently go stale as soon as
    somebody calls `.half()` or `.to()` on a module.
    """
    return to_single_file(
        unet=_parameters(pipe.unet), vae=_parameters(pipe.vae), text_encoder=_parameters(pipe.text_encoder)
    )


def normalised(keys: Iterable[str]) -> dict[str, str]:
    """Our key -> the key in the file, for files with NAI-style text-encoder names (which lack `text_model.`)."""
    return {_normal_key(key): key for key in keys}


def _normal_key(key: str) -> str:
    if key.startswith(TEXT_OF_NAI) and not key.startswith(TEXT):
        rest = key.removeprefix(TEXT_OF_NAI)
        if rest.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
            return TEXT + rest
    return key


def _parameters(module: Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def _in_file_shape(key: str, tensor: Tensor) -> Tensor:
    squeezed = key.startswith(VAE) and tensor.dim() == 2 and _VAE_SQUEEZED.search(key)
    return tensor[:, :, None, None] if squeezed else tensor


def _found(pattern: str, names: Iterable[str]) -> set[tuple[int, int]]:
    matches = (re.match(pattern, name) for name in names)
    return {(int(match[1]), int(match[2])) for match in matches if match}


def _resnet(rest: list[str]) -> str:
    return ".".join([_UNET_RESNET[rest[0]], *rest[1:]])


def _resnet_or_attention(kind: str, rest: list[str]) -> str:
    return f"0.{_resnet(rest)}" if kind == "resnets" else f"1.{'.'.join(rest)}"


def _shortcut(rest: list[str]) -> str:
    return ".".join(["nin_shortcut" if part == "conv_shortcut" else part for part in rest])
