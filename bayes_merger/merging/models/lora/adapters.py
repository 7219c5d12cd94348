"""What each member of the LoRA family makes of a matrix, in fp32, at full strength.

==================  ================================================================================
LoRA, LoCon         W + s · up · down; convolutions flattened, or with a middle factor (Tucker)
LoHa                W + s · (w1_a · w1_b) ⊙ (w2_a · w2_b), each with a core where there is one
LoKr                W + s · kron(w1, w2), each whole or a product; s is 1 when both are whole
GLoRA               W + s · (W · a1 · a2 + b1 · b2)
full difference     W + diff
OFT, BOFT           R · W, R orthogonal in blocks (LyCORIS), or W · Rᵀ (PEFT)
IA3                 W ⊙ (1 + v) (LyCORIS), W ⊙ v (PEFT), along the inputs or the outputs
set_weight          a matrix in the place of W (ComfyUI)
DoRA                m · (W + Δ) / ‖W + Δ‖, after any of the first five; one m per row or per column
==================  ================================================================================

s is the strength (``strength.py``). The definitions are those of https://github.com/kohya-ss/sd-scripts,
https://github.com/KohakuBlueleaf/LyCORIS, https://github.com/huggingface/peft and ``comfy/weight_adapter`` in
https://github.com/comfyanonymous/ComfyUI.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bayes_merger.merging.models.lora.adapter import Adapter, Parts, Shape, Shapes, Situation, Unfit, disagreement
from bayes_merger.merging.models.lora.rotations import (
    blocks_shape,
    boft,
    boft_shape,
    oft_shape,
    rotated_columns,
    rotated_rows,
)

if TYPE_CHECKING:
    from torch import Tensor


def adapter_of(shapes: Shapes) -> Adapter:
    """The member of the family that has these parameters.

    Raises:
        Unfit: none, several, or one with parts missing.
    """
    found = [adapter for adapter in _ADAPTERS if any(part in shapes for part in (*adapter.needs, *adapter.may))]
    if len(found) != 1:
        what = "of which no adapter is made" if not found else "which belong to different adapters"
        raise Unfit(f"{', '.join(sorted(shapes))}, {what}; the file is damaged")
    adapter = found[0]
    if lacking := [part for part in adapter.needs if part not in shapes]:
        raise Unfit(f"lacks its {' and '.join(lacking)}; the file is incomplete")
    return adapter


def decomposed(weight: Tensor, magnitude: Tensor, *, by_rows: bool) -> Tensor:
    """DoRA (https://arxiv.org/abs/2402.09353): the matrix with the length of every row or column given.

    Args:
        weight: [out, in, ...], the change added.
        magnitude: a length for each output or each input, in any shape.
        by_rows: whether for each output; the norm is over all other axes.
    """
    axis = 0 if by_rows else 1
    flat = weight.transpose(0, axis).flatten(1)
    factor = magnitude.reshape(-1) / flat.norm(dim=1).clamp_min(1e-12)
    return weight * _along(factor, weight, axis)


# ---- factors


def _low_rank_shape(shapes: Shapes, layer: Shape) -> Shape:
    up, down = shapes["up"], shapes["down"]
    if min(len(up), len(down)) < 2 or math.prod(up[2:]) != 1:
        raise Unfit(f"factors of {list(up)} and {list(down)} do not form a matrix")
    if "mid" in shapes:
        mid = shapes["mid"]
        if len(mid) < 3 or mid[:2] != (up[1], down[0]) or math.prod(down[2:]) != 1:
            raise disagreement(up, mid, down)
        return (up[0], down[1], *mid[2:])
    if up[1] != down[0] or not down[0]:
        raise disagreement(up, down)
    return (up[0], *down[1:])


def _low_rank(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    product = _product(parts["up"], parts["down"], parts.get("mid"))
    return weight + about.strength * product.reshape(weight.shape)


def _product(up: Tensor, down: Tensor, mid: Tensor | None) -> Tensor:
    import torch

    if mid is None:
        return up.flatten(1) @ down.flatten(1)
    return torch.einsum("or,rs...,si->oi...", up.flatten(1), mid, down.flatten(1))


def _pair_shape(shapes: Shapes, a: str, b: str, core: str) -> Shape:
    if lacking := [part for part in (a, b) if part not in shapes]:
        raise Unfit(f"lacks its {' and '.join(lacking)}; the file is incomplete")
    first, second = shapes[a], shapes[b]
    if len(first) != 2 or len(second) != 2 or 0 in second:
        raise disagreement(first, second)
    if core in shapes:
        middle = shapes[core]
        if len(middle) < 3 or middle[:2] != (first[0], second[0]):
            raise disagreement(first, middle, second)
        return (first[1], second[1], *middle[2:])
    if first[1] != second[0]:
        raise disagreement(first, second)
    return (first[0], second[1])


def _pair(parts: Parts, a: str, b: str, core: str) -> Tensor:
    """LyCORIS's pairs: a · b, or with a core a[i, p], b[j, r] around core[i, j, ...]."""
    import torch

    if core not in parts:
        return parts[a] @ parts[b]
    return torch.einsum("ij...,jr,ip->pr...", parts[core], parts[b], parts[a])


_HADAMARD = tuple((f"hada_w{i}_a", f"hada_w{i}_b", f"hada_t{i}") for i in (1, 2))


def _hadamard_shape(shapes: Shapes, layer: Shape) -> Shape:
    first, second = (_pair_shape(shapes, *names) for names in _HADAMARD)
    if first != second:
        raise disagreement(first, second)
    return first


def _hadamard(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    first, second = (_pair(parts, *names) for names in _HADAMARD)
    return weight + about.strength * (first * second).reshape(weight.shape)


_KRONECKER = (("lokr_w1", "lokr_w1_a", "lokr_w1_b", ""), ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"))


def _kronecker_shape(shapes: Shapes, layer: Shape) -> Shape:
    first, second = (shapes.get(whole) or _pair_shape(shapes, *names) for whole, *names in _KRONECKER)
    if len(first) != 2 or len(second) < 2:
        raise disagreement(first, second)
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def _kronecker(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    import torch

    first, second = (parts[whole] if whole in parts else _pair(parts, *names) for whole, *names in _KRONECKER)
    product = torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - first.dim())), second.contiguous())
    return weight + about.strength * product.reshape(weight.shape)


def _kronecker_rank(shapes: Shapes) -> int:
    return next((shapes[part][0] for part in ("lokr_w2_b", "lokr_w1_b") if part in shapes), 0)


def _glora_order(shapes: Shapes) -> tuple[str, str, str, str]:
    """a1, a2, b1, b2 by today's names; LyCORIS before 2.0 had the two of each pair the other way round."""
    a1, a2, b1, b2 = (shapes[part] for part in ("a1", "a2", "b1", "b2"))
    if min(map(len, (a1, a2, b1, b2))) < 2:
        raise disagreement(a1, a2, b1, b2)
    today, once = a1[1] == a2[0] == b1[1] == b2[0], a1[0] == a2[1] == b1[0] == b2[1]
    if today and once:  # a square layer: the rank is the smaller number
        today = a1[1] <= a1[0]
    return ("a1", "a2", "b1", "b2") if today else ("a2", "a1", "b2", "b1")


def _glora_shape(shapes: Shapes, layer: Shape) -> Shape:
    a1, a2, b1, b2 = (shapes[part] for part in _glora_order(shapes))
    if a1[1] != a2[0] or a1[0] != a2[1] or a1[0] != layer[1] or any(math.prod(s[2:]) != 1 for s in (a1, a2)):
        raise disagreement(a1, a2, b1, b2)
    return _low_rank_shape({"up": b1, "down": b2} | ({"mid": shapes["bm"]} if "bm" in shapes else {}), layer)


def _glora(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    import torch

    a1, a2, b1, b2 = (parts[part] for part in _glora_order({name: tuple(parts[name].shape) for name in _GLORA}))
    inputs = a1.flatten(1) @ a2.flatten(1)
    change = torch.einsum("oi...,ij->oj...", weight, inputs)
    product = _product(b1, b2, parts.get("bm")).reshape(weight.shape)
    return weight + about.strength * (change + product)


_GLORA = ("a1", "a2", "b1", "b2")


# ---- whole matrices


def _same_shape(part: str) -> Callable[[Shapes, Shape], Shape]:
    return lambda shapes, layer: shapes[part] or (1,)


def _full(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    return weight + parts["diff"].reshape(weight.shape)


def _set(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    return parts["set_weight"].reshape(weight.shape).clone()


# ---- factors per input or output


def _ia3_shape(shapes: Shapes, layer: Shape) -> Shape:
    vector = shapes["weight"]
    lengths = [length for length in layer[:2] if vector in ((length,), (1, length, *[1] * (len(layer) - 2)))]
    if not lengths or (len(layer) == 2 and len(vector) != 1):
        raise Unfit(f"on_input of an IA3 goes with one number per input or output, and its weight is {list(vector)}")
    return layer


def _ia3(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    axis = 1 if bool(parts["on_input"].reshape(())) else 0
    if parts["weight"].numel() != weight.shape[axis]:
        raise Unfit("its on_input contradicts its weight; the file is damaged")
    return weight * _along(1 + parts["weight"], weight, axis)


def ia3_axis(vector: Shape, layer: Shape, config: Mapping[str, Any], name: str) -> int:
    """Whether PEFT's IA3 scales a layer's outputs (0) or inputs (1).

    Args:
        vector: shape of its parameter: [1, in] or [out, 1] for matrices, [1, in or out, 1, ...] for convolutions.
        layer: shape of the matrix.
        config: PEFT's, whose ``feedforward_modules`` tell where shapes do not.
        name: of the layer.

    Raises:
        Unfit: it fits neither, or nothing tells.
    """
    if len(layer) == 2:
        axes = [axis for axis, shape in enumerate(((layer[0], 1), (1, layer[1]))) if vector == shape]
    else:
        axes = [axis for axis in (0, 1) if vector == (1, layer[axis], *[1] * (len(layer) - 2))]
    if len(axes) == 2 and isinstance(inputs := config.get("feedforward_modules"), list):
        axes = [int(any(name == end or name.endswith(f".{end}") for end in inputs))]
    if len(axes) != 1:
        raise Unfit(f"ia3_l of {list(vector)} says not whether it is for the inputs or outputs of {list(layer)}")
    return axes[0]


def _along(vector: Tensor, weight: Tensor, axis: int) -> Tensor:
    return vector.reshape([-1 if place == axis else 1 for place in range(weight.dim())])


def _scaled(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    return weight * _along(parts["ia3_l"], weight, about.config["axis"])


def _hadamard_rank(shapes: Shapes) -> int:
    return shapes["hada_w1_b"][0]


_ADAPTERS = (
    Adapter(("down", "up"), ("mid",), _low_rank_shape, _low_rank, lambda s: s["down"][0], decomposes=True),
    Adapter(
        tuple(part for names in _HADAMARD for part in names[:2]), ("hada_t1", "hada_t2"),
        _hadamard_shape, _hadamard, _hadamard_rank, decomposes=True,
    ),
    Adapter((), tuple(part for names in _KRONECKER for part in names if part),
            _kronecker_shape, _kronecker, _kronecker_rank, decomposes=True),
    Adapter(_GLORA, ("bm",), _glora_shape, _glora, lambda s: s[_glora_order(s)[1]][0], decomposes=True),
    Adapter(("diff",), (), _same_shape("diff"), _full, decomposes=True),
    Adapter(("set_weight",), (), _same_shape("set_weight"), _set),
    Adapter(("oft_blocks",), ("rescale",), blocks_shape, rotated_rows),
    Adapter(("oft_R",), (), oft_shape, rotated_columns),
    Adapter(("boft_R", "boft_s"), (), boft_shape, boft),
    Adapter(("weight", "on_input"), (), _ia3_shape, _ia3),
    Adapter(("ia3_l",), (), lambda shapes, layer: layer, _scaled),
)  # fmt: skip
