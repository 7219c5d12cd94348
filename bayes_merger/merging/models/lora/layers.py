"""The layers of a checkpoint under the names by which LoRA files call them.

A LoRA names layers, not tensors, and every trainer in its own way: kohya's scripts write ``lora_unet_`` and the name of
diffusers (for SDXL that of the checkpoint) with underscores for dots, diffusers and PEFT write ``unet.`` and their own
name with dots, ComfyUI ``diffusion_model.`` and the checkpoint's, OneTrainer the checkpoint's with a number for each
of several stacked layers. With dots replaced by underscores and the part of the
model put first they all become the same name, a layer's id; that is the table here.

The text encoders' names follow https://github.com/kohya-ss/sd-scripts, https://github.com/Nerogar/OneTrainer and
``comfy/lora.py`` of https://github.com/comfyanonymous/ComfyUI.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.naming import (
    OPEN_CLIP,
    OPEN_CLIP_EDGES,
    RESNET,
    UNET,
    UNET_EDGES,
    canonical_keys,
    layers_in,
)

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_PER_LEVEL = 3  # blocks per level of the U-Nets of Stable Diffusion 1, 2 and XL, up- and downsamplers counted

_RESNET = {file: diffusers for diffusers, file in RESNET.items()}
_EDGES = {file: diffusers for diffusers, file in UNET_EDGES.items()}
_OPEN_CLIP = {file: transformers for transformers, file in OPEN_CLIP.items()}
_OPEN_CLIP_EDGES = {file: transformers for transformers, file in OPEN_CLIP_EDGES.items()}


@dataclass(frozen=True)
class _TextEncoder:
    """Where a text encoder is in a file, and the parts that its layers' ids begin with, kohya's first."""

    prefix: str
    parts: tuple[str, ...]


# Trainers call the first of several encoders te1, and diffusers te; ComfyUI's names are clip_l, ...
_TEXT_ENCODERS = (
    _TextEncoder("cond_stage_model.transformer.", ("te", "te1", "clip_l")),
    _TextEncoder("cond_stage_model.model.", ("te", "te1", "clip_h")),
    _TextEncoder("conditioner.embedders.0.transformer.", ("te1", "te", "clip_l")),
    _TextEncoder("conditioner.embedders.1.model.", ("te2", "clip_g")),
    _TextEncoder("text_encoders.clip_l.transformer.", ("te1", "te", "clip_l")),
    _TextEncoder("text_encoders.clip_g.transformer.", ("te2", "clip_g")),
    _TextEncoder("text_encoders.t5xxl.transformer.", ("te3", "t5xxl", "t5")),
)
# Flux has two: te2 to most, te3 to kohya; Chroma has no other
_FLUX_T5 = _TextEncoder(_TEXT_ENCODERS[-1].prefix, ("te3", "te2", "te", "t5xxl", "t5"))

_OMI = {"img_in": ("img_in.proj",)}  # what OneTrainer calls otherwise than the checkpoint
_WRAPPERS = re.compile(r"(?:base_model\.model\.|_orig_mod\.|module\.){0,3}")
_MEANINGLESS = re.compile(r"_orig_mod[._]|processor\.(?=to_)")  # of compiled models; of diffusers' first attention
_TO_OUT = re.compile(r"(?<=[._])to_out$")  # ComfyUI leaves its number out
_PARTS = (  # prefix of a layer's name, and the part of the model that it means
    (re.compile(r"(?:(?:(?:model\.)?diffusion_model|unet|transformer)\.){1,2}"), "unet"),
    (re.compile(r"(?:lora|lycoris|oft)_(?:unet|transformer)[_.]"), "unet"),
    (re.compile(r"(?:lora|lycoris|oft)_(te[123]?)[_.]"), r"\1"),
    (re.compile(r"(?:lora|lycoris|oft)_text_encoder(?:_([123]))?[_.]"), r"te\1"),
    (re.compile(r"text_encoder_([123])\."), r"te\1"),
    (re.compile(r"text_encoder\."), "te"),
    (re.compile(r"(?:text_encoders\.)?(clip_[lgh]|t5(?:xxl)?)\.(?:transformer\.)?"), r"\1"),
    (re.compile(r"(?:lycoris_)?(?=text_model[._])"), "te"),  # of an encoder alone
    (re.compile(r"lycoris_"), "unet"),
)


@dataclass(frozen=True)
class Layer:
    """A layer of a checkpoint, as LoRA files mean it.

    Attributes:
        name: by which kohya's scripts call it, ``lora_unet_down_blocks_0_attentions_0_proj_in``.
        weight: key of its matrix.
        bias: key of its bias, which may be absent.
        shape: of its matrix, [out, in, ...].
        rows: its rows, where several layers are stacked in one tensor (OpenCLIP's ``in_proj``).
        swapped: whether the halves of its rows are swapped in the checkpoint.
        transposed: whether its matrix lies transposed in the checkpoint.
    """

    name: str
    weight: str
    bias: str
    shape: Shape
    rows: tuple[int, int] | None = None
    swapped: bool = False
    transposed: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """The layer's part of its tensor or bias in the checkpoint, as LoRA files mean it: do not write to it."""
        own = self._rows_of(tensor)
        if self.transposed:
            return own.T
        return own.roll(own.shape[0] // 2, 0) if self.swapped else own

    def put(self, tensor: Tensor, own: Tensor) -> None:
        """Write the layer's part of a tensor of the checkpoint: what ``of`` reads."""
        if self.transposed:
            own = own.T
        elif self.swapped:
            own = own.roll(own.shape[0] // 2, 0)
        self._rows_of(tensor).copy_(own)

    def _rows_of(self, tensor: Tensor) -> Tensor:
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]


def find_layer(name: str, table: Mapping[str, Layer]) -> Layer | None:
    """The layer that a LoRA calls so, in any naming.

    Args:
        name: from the file, without the parameter at its end: an optional wrapper (``base_model.model.``), an optional
            part of the model, again a wrapper, and the layer.
        table: of the checkpoint, from ``layers_by_id``.
    """
    name = _TO_OUT.sub(r"\g<0>.0", _MEANINGLESS.sub("", name))
    return next((table[found] for found in _ids(name) if found in table), None)


def _ids(name: str) -> Iterator[str]:
    """Every reading of a name: ``lycoris_transformer_blocks`` has a prefix of one word or of two."""
    name = _WRAPPERS.sub("", name, count=1)
    for prefix, part in _PARTS:
        if found := prefix.match(name):
            rest = _WRAPPERS.sub("", name[found.end() :], count=1)
            yield f"{found.expand(part)}_{rest}".replace(".", "_")
    yield f"unet_{name}".replace(".", "_")
    yield name.replace(".", "_")


def layers_by_id(shapes: Shapes) -> dict[str, Layer]:
    """Every id that a LoRA may use -> the layer of the checkpoint with these tensors."""
    table: dict[str, Layer] = {}
    for layer, ids in _layers(shapes):
        own = layer.weight.removesuffix(".weight").replace(".", "_")
        for found in ids if layer.rows or layer.swapped or layer.transposed else (*ids, own):
            table.setdefault(found, layer)
    return table


def layers_of(shapes: Shapes) -> list[Layer]:
    """The layers of a checkpoint that have a matrix or are a norm, each once, under kohya's names."""
    found: dict[str, Layer] = {}
    for layer, _ in _layers(shapes):
        whole = layer.weight.endswith(".weight") and layer.rows is None and not layer.swapped
        if whole or layer.transposed or layer.weight.endswith(".in_proj_weight"):
            found.setdefault(layer.name, layer)
    return list(found.values())


def _layers(shapes: Shapes) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    xl = any(key.startswith(("conditioner.", UNET + "label_emb.")) for key in shapes)
    canonical = canonical_keys(shapes.keys())
    flux = any(key.startswith(UNET + "double_blocks.") for key in canonical.values())
    for key, name in canonical.items():
        if name.startswith(UNET):
            yield from _of_network(key, name.removeprefix(UNET), shapes, xl=xl)
            continue
        for encoder in (*_TEXT_ENCODERS[:-1], _FLUX_T5 if flux else _TEXT_ENCODERS[-1]):
            if name.startswith(encoder.prefix):
                yield from _of_text_encoder(key, name.removeprefix(encoder.prefix), shapes[key], encoder)


def _of_network(key: str, name: str, shapes: Shapes, *, xl: bool) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    """The layers in one tensor of a U-Net or transformer; what is no weight has its whole name, as in ComfyUI."""
    shape, own = shapes[key], name.removesuffix(".weight")
    bias = key.removesuffix("weight") + "bias" if key.endswith(".weight") else ""
    known = diffusers_name(own) if bias else None
    parts, swapped = layers_in(own, shape[0], shape[-1]) if bias and shape else ((), False)
    stacked = len(parts) > 1 or swapped
    ids = [own, *([known] if known else []), *(() if stacked else parts), *_OMI.get(own, ())]
    flat = [_flat("unet", each) for each in ids]
    layer = Layer(f"lora_{flat[0] if xl or known is None else flat[1]}", key, bias, shape)
    yield layer, tuple(flat)
    if not stacked:
        return
    # all but the last of a stack, which may be Flux's wide one, are as wide as what goes in
    ends = [min(number * shape[-1], shape[0]) for number in range(len(parts))] + [shape[0]]
    for number, (part, begin, end) in enumerate(zip(parts, ends, ends[1:], strict=False)):
        rows = None if swapped else (begin, end)
        flat_part, size = _flat("unet", part), (end - begin, *shape[1:])
        both = (flat_part,) if swapped else (flat_part, f"{flat[0]}_{number}")
        yield replace(layer, name=f"lora_{flat_part}", rows=rows, shape=size, swapped=swapped), both
    if own.endswith(".linear1"):  # Flux's wide one, without its wide part
        flat_part, end = f"{flat[0]}_qkv", min(3 * shape[-1], shape[0])
        yield replace(layer, name=f"lora_{flat_part}", rows=(0, end), shape=(end, *shape[1:])), (flat_part,)


def _of_text_encoder(
    key: str, rest: str, shape: Shape, encoder: _TextEncoder
) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    """The layers in one tensor of a text encoder, by transformers' names; three in OpenCLIP's ``in_proj``."""
    in_proj = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_weight", rest)
    if in_proj:
        width, start = shape[0] // 3, f"encoder.layers.{in_proj[1]}.self_attn"
        places = {f"{start}.{x}_proj": (i * width, (i + 1) * width) for i, x in enumerate("qkv")}
        for name, rows in places.items():
            layer, ids = _text_layer(key, (width, *shape[1:]), encoder, name)
            yield replace(layer, rows=rows), ids
    elif rest == "text_projection":
        layer, ids = _text_layer(key, shape[::-1], encoder, rest)
        yield replace(layer, transposed=True), ids
    elif (known := _by_transformers(rest)) is not None:
        yield _text_layer(key, shape, encoder, known)


def _by_transformers(rest: str) -> str | None:
    """The layer of a text encoder's tensor; ``None`` for biases and what is in no layer."""
    if rest in _OPEN_CLIP_EDGES:
        rest = _OPEN_CLIP_EDGES[rest]
    elif block := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.weight", rest):
        return f"encoder.layers.{block[1]}.{_OPEN_CLIP[block[2]]}" if block[2] in _OPEN_CLIP else None
    return rest.removesuffix(".weight").removeprefix("text_model.") if rest.endswith(".weight") else None


def _text_layer(key: str, shape: Shape, encoder: _TextEncoder, name: str) -> tuple[Layer, tuple[str, ...]]:
    ids = [_flat(part, each) for part in encoder.parts for each in (f"text_model.{name}", name)]
    clip = "t5xxl" not in encoder.parts and name != "text_projection"
    return Layer(f"lora_{ids[0 if clip else 1]}", key, key.removesuffix("weight") + "bias", shape), tuple(ids)


def _flat(part: str, name: str) -> str:
    return f"{part}_{name}".replace(".", "_")


def diffusers_name(name: str) -> str | None:
    """``input_blocks.1.1.proj_in`` -> ``down_blocks.0.attentions.0.proj_in``; ``None`` for other networks.

    Args:
        name: of a layer of a U-Net, without its prefix.
    """
    if name in _EDGES:
        return _EDGES[name]
    match name.split("."):
        case ["input_blocks", number, sub, *rest] if number.isdigit():
            level, place = divmod(int(number) - 1, _PER_LEVEL)
            if place == _PER_LEVEL - 1:
                return f"down_blocks.{level}.downsamplers.0.conv"
            return f"down_blocks.{level}.{_inner(sub == '0', place, rest)}"
        case ["middle_block", sub, *rest] if sub.isdigit():
            return f"mid_block.{_inner(sub != '1', int(sub) // 2 if sub != '1' else 0, rest)}"
        case ["output_blocks", number, sub, *rest] if number.isdigit():
            level, place = divmod(int(number), _PER_LEVEL)
            if sub != "0" and rest == ["conv"]:
                return f"up_blocks.{level}.upsamplers.0.conv"
            return f"up_blocks.{level}.{_inner(sub == '0', place, rest)}"
    return None


def _inner(resnet: bool, place: int, rest: list[str]) -> str:
    name = ".".join(rest)
    return f"resnets.{place}.{_RESNET.get(name, name)}" if resnet else f"attentions.{place}.{name}"
