"""The names by which LoRA files call the layers of a checkpoint.

A LoRA names layers, not tensors, and every trainer in its own way: kohya's scripts write ``lora_unet_`` and the name of
diffusers (for SDXL that of the checkpoint) with underscores for dots, diffusers and PEFT write ``unet.`` and their own
name with dots, ComfyUI ``diffusion_model.`` and the checkpoint's. With dots replaced by underscores and the part of the
model put first they all become the same name; that is the table here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bayes_merger.checkpoints.naming import OPEN_CLIP, RESNET, UNET, UNET_EDGES, canonical_keys, layers_in

Shapes = Mapping[str, tuple[int, ...]]

_PER_LEVEL = 3  # blocks per level of the U-Nets of Stable Diffusion 1, 2 and XL, up- and downsamplers counted

_TEXT_ENCODERS = (  # start of the keys, short name in LoRA files
    ("cond_stage_model.transformer.text_model.", "te"),
    ("cond_stage_model.model.", "te"),
    ("conditioner.embedders.0.transformer.text_model.", "te1"),
    ("conditioner.embedders.1.model.", "te2"),
    ("text_encoders.clip_l.transformer.text_model.", "te1"),
    ("text_encoders.clip_g.transformer.text_model.", "te2"),
    ("text_encoders.t5xxl.transformer.", "te3"),
)
_RESNET = {file: diffusers for diffusers, file in RESNET.items()}
_EDGES = {file: diffusers for diffusers, file in UNET_EDGES.items()}
_OPEN_CLIP = {file: transformers for transformers, file in OPEN_CLIP.items()}

# Prefix of a layer's name -> the part of the model it means.
_PREFIXES = (
    (re.compile(r"(?:lora|lycoris)_unet_"), "unet_"),
    (re.compile(r"(?:lora|lycoris)_(te[123]?)_"), r"\1_"),
    (re.compile(r"(?:model\.)?diffusion_model\."), "unet_"),
    (re.compile(r"unet\.|transformer\.|(?:lora|lycoris)_transformer_"), "unet_"),
    (re.compile(r"text_encoder_([23])\."), r"te\1_"),
    (re.compile(r"text_encoder\."), "te_"),
    (re.compile(r"lycoris_"), "unet_"),
)


@dataclass(frozen=True)
class Layer:
    """A layer of a checkpoint, as LoRA files mean it.

    Attributes:
        name: by which kohya's scripts call it, ``lora_unet_down_blocks_0_attentions_0_proj_in``.
        weight: key of its matrix.
        bias: key of its bias, which may be absent.
        rows: its rows, where several layers are stacked in one tensor (OpenCLIP's ``in_proj``).
        shape: of its matrix, [out, in, ...].
    """

    name: str
    weight: str
    bias: str
    rows: tuple[int, int] | None
    shape: tuple[int, ...]


def layer_id(name: str) -> str:
    """The table's id of a layer, from its name in a file (without the parameter at the end)."""
    name = name.removeprefix("base_model.model.")
    for prefix, part in _PREFIXES:
        found = prefix.match(name)
        if found:
            return (found.expand(part) + name[found.end() :]).replace(".", "_")
    return "unet_" + name.replace(".", "_")


def layers_by_id(shapes: Shapes) -> dict[str, Layer]:
    """Every id that a LoRA may use -> the layer of the checkpoint with these tensors."""
    table: dict[str, Layer] = {}
    for layer, ids in (*_layers(shapes), *_stacked_layers(shapes)):
        for found in ids:
            table.setdefault(found, layer)
    return table


def layers_of(shapes: Shapes) -> list[Layer]:
    """The layers of a checkpoint, each once, under kohya's names."""
    return [layer for layer, _ in _layers(shapes)]


def _layers(shapes: Shapes) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    xl = any(key.startswith(("conditioner.", UNET + "label_emb.")) for key in shapes)
    canonical = canonical_keys(shapes.keys())
    for key, shape in shapes.items():
        if canonical[key].startswith(UNET) and key.endswith(".weight"):
            own = canonical[key].removeprefix(UNET).removesuffix(".weight")
            known = diffusers_name(own, shapes)
            names = [own] if known is None else [own, known]
            ids = tuple("unet_" + name.replace(".", "_") for name in names)
            name = "lora_" + (ids[0] if xl or known is None else ids[1])
            yield Layer(name, key, key.removesuffix("weight") + "bias", None, shape), ids
        for start, part in _TEXT_ENCODERS:
            if key.startswith(start):
                for name, rows in _text_layers(key.removeprefix(start), shape):
                    yield _text_layer(key, shape, part, name, rows)


def _stacked_layers(shapes: Shapes) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    """The layers of a transformer by diffusers' names, of which several are stacked in one tensor of the file."""
    for key, name in canonical_keys(shapes.keys()).items():
        if not (name.startswith(UNET) and name.endswith(".weight")):
            continue
        shape, parts = shapes[key], layers_in(name.removeprefix(UNET).removesuffix(".weight"))
        # all but the last of a stack, which may be Flux's wide one, are as wide as what goes in
        ends = [min(number * shape[-1], shape[0]) for number in range(len(parts))] + [shape[0]]
        for part, begin, end in zip(parts, ends, ends[1:], strict=False):
            rows = (begin, end) if len(parts) > 1 else None
            flat = f"unet_{part.replace('.', '_')}"
            own = (end - begin, *shape[1:])
            yield Layer(f"lora_{flat}", key, key.removesuffix("weight") + "bias", rows, own), (flat,)


def _text_layer(
    key: str, shape: tuple[int, ...], part: str, name: str, rows: tuple[int, int] | None
) -> tuple[Layer, tuple[str, ...]]:
    flat = name.replace(".", "_")
    own = shape if rows is None else (rows[1] - rows[0], *shape[1:])
    bias = key.removesuffix("weight") + "bias"
    ids = [f"{part}_text_model_{flat}", f"{part}_{flat}"]
    if part == "te1":  # diffusers uses one name for the first of two encoders and for a single one
        ids += [f"te_text_model_{flat}", f"te_{flat}"]
    return Layer(f"lora_{part}_text_model_{flat}", key, bias, rows, own), tuple(ids)


def _text_layers(rest: str, shape: tuple[int, ...]) -> Iterable[tuple[str, tuple[int, int] | None]]:
    """The layers in one tensor of a text encoder, by transformers' names; several in OpenCLIP's ``in_proj``."""
    found = re.match(r"transformer\.resblocks\.(\d+)\.(.*)$", rest)
    if not found:
        return [(rest.removesuffix(".weight"), None)] if rest.endswith(".weight") else []
    start, leaf = f"encoder.layers.{found[1]}.", found[2]
    if leaf == "attn.in_proj_weight":
        width = shape[0] // 3
        return [(f"{start}self_attn.{x}_proj", (i * width, (i + 1) * width)) for i, x in enumerate("qkv")]
    name = leaf.removesuffix(".weight")
    return [(start + _OPEN_CLIP[name], None)] if leaf.endswith(".weight") and name in _OPEN_CLIP else []


def diffusers_name(name: str, shapes: Shapes) -> str | None:
    """``input_blocks.1.1.proj_in`` -> ``down_blocks.0.attentions.0.proj_in``; ``None`` for other networks.

    Args:
        name: of a layer or parameter of a U-Net, without its prefix.
        shapes: tensors of the checkpoint, which tell attention from upsampling.
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
