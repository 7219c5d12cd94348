"""The members of the LoRA family that rotate a matrix: OFT and BOFT, in LyCORIS's form and in PEFT's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bayes_merger.errors import CheckpointError
from bayes_merger.merging.models.lora.adapter import Parts, Shape, Shapes, Situation, Unfit, disagreement

if TYPE_CHECKING:
    from torch import Tensor


def blocks_shape(shapes: Shapes, layer: Shape) -> Shape:
    """The shape of the layer that LyCORIS's blocks are for."""
    blocks = shapes["oft_blocks"]
    size, butterfly = blocks[-1] if blocks else 0, len(blocks) == 4
    if len(blocks) not in (3, 4) or blocks[-2] != size or not size:
        raise Unfit(f"oft_blocks of {list(blocks)} are no square matrices; the file is damaged")
    rows = blocks[-3] * size
    levels = blocks[0] if butterfly else 1
    if not 1 <= levels <= rows.bit_length() or (butterfly and (size % 2 or rows % (2 ** (levels - 1) * size))):
        raise Unfit(f"oft_blocks of {list(blocks)} form no butterfly; the file is damaged")
    if "rescale" in shapes and math.prod(shapes["rescale"]) != rows:
        raise disagreement(blocks, shapes["rescale"])
    return (rows, *layer[1:])


def rotated_rows(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    """OFT of kohya and LyCORIS, and BOFT of LyCORIS, whose blocks have one axis more."""
    import torch

    blocks, rows = parts["oft_blocks"], weight.shape[0]
    skew = blocks - blocks.transpose(-1, -2)
    limit = float(parts["alpha"].reshape(())) * rows if "alpha" in parts else 0.0
    if limit > 0:
        skew = skew * min(1.0, limit / (float(skew.norm()) + 1e-8))
    eye = torch.eye(blocks.shape[-1])
    turn = torch.linalg.solve(eye - skew, eye + skew, left=False)
    flat = weight.flatten(1)
    if blocks.dim() == 3:
        turned = torch.einsum("knm,knc->kmc", turn, flat.view(*blocks.shape[:2], -1)).reshape(weight.shape)
    else:
        turned = _butterfly(flat, turn).reshape(weight.shape)
    return turned * parts["rescale"].view(-1, *[1] * (weight.dim() - 1)) if "rescale" in parts else turned


def _butterfly(flat: Tensor, turns: Tensor) -> Tensor:
    """Rows turned in blocks, again and again, of rows ever further apart (https://arxiv.org/abs/2311.06243)."""
    import torch

    size = turns.shape[-1]
    for level, turn in enumerate(turns):
        apart = 2**level * size // 2
        near = flat.unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        near = torch.einsum("bij,bjc->bic", turn, near)
        flat = near.flatten(0, 1).unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    return flat


def _oft_size(shapes: Shapes) -> int:
    """The size of PEFT's blocks, whose upper triangles are in the file."""
    shape = shapes["oft_R"]
    if len(shape) != 2:
        raise Unfit(f"a rotation of {list(shape)} is no list of triangles; the file is damaged")
    size = (1 + math.isqrt(1 + 8 * shape[1])) // 2
    if size * (size - 1) // 2 != shape[1] or size < 2:
        raise Unfit(f"{shape[1]} numbers form no triangle; the file is damaged")
    return size


def oft_shape(shapes: Shapes, layer: Shape) -> Shape:
    """The shape of the layer that PEFT's OFT is for."""
    size, columns = _oft_size(shapes), math.prod(layer[1:])
    count = shapes["oft_R"][0]
    shared = count == 1 and columns % size == 0  # one block for all
    return layer if shared else (layer[0], count * size)


def rotated_columns(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    """OFT of PEFT, whose rotations are a few terms of a series unless its configuration says otherwise."""
    import torch

    triangles = parts["oft_R"]
    size = _oft_size({"oft_R": tuple(triangles.shape)})
    skew = torch.zeros(len(triangles), size, size)
    above = torch.triu_indices(size, size, 1)
    skew[:, above[0], above[1]] = triangles
    skew = skew - skew.transpose(1, 2)
    eye = torch.eye(size)
    if about.config.get("use_cayley_neumann", True) is False:
        turn = torch.linalg.solve(eye + skew, eye - skew, left=False)
    else:
        terms = about.config.get("num_cayley_neumann_terms", 5)
        if not isinstance(terms, int) or not 1 <= terms <= 100:
            raise CheckpointError("num_cayley_neumann_terms is no small whole number; mend the configuration")
        turn = _series(skew, terms)
    return _turned_columns(weight, turn)


def _series(skew: Tensor, terms: int) -> Tensor:
    """1 + 2 Q + 2 Q² ... + Qⁿ, which comes near the rotation (1 + Q) / (1 - Q), with as many terms as PEFT takes."""
    import torch

    total = torch.eye(skew.shape[-1]) + (2 if terms > 1 else 0) * skew
    if terms < 3:
        return total
    power = skew @ skew
    total = total + 2 * power
    for _ in range(3, terms - 1):
        power = power @ skew
        total = total + 2 * power
    return total + power @ skew


def boft_shape(shapes: Shapes, layer: Shape) -> Shape:
    """The shape of the layer that PEFT's BOFT is for."""
    blocks = shapes["boft_R"]
    if len(blocks) != 4 or blocks[2] != blocks[3]:
        raise Unfit(f"boft_R of {list(blocks)} are no square matrices; the file is damaged")
    if blocks[0] != 1:
        raise Unfit(f"boft_R of {list(blocks)}: BOFT of PEFT with several factors is not supported")
    if math.prod(shapes["boft_s"]) != layer[0]:
        raise disagreement(blocks, shapes["boft_s"])
    return (layer[0], blocks[1] * blocks[2])


def boft(weight: Tensor, parts: Parts, about: Situation) -> Tensor:
    """BOFT of PEFT with one factor."""
    import torch

    blocks = parts["boft_R"][0]
    skew = (blocks - blocks.transpose(1, 2)) / 2
    eye = torch.eye(blocks.shape[-1])
    turned = _turned_columns(weight, torch.linalg.solve(eye + skew, eye - skew, left=False))
    return turned * parts["boft_s"].reshape(-1, *[1] * (weight.dim() - 1))


def _turned_columns(weight: Tensor, turn: Tensor) -> Tensor:
    """W · Rᵀ with R in blocks, one for all where there is one."""
    import torch

    flat = weight.flatten(1).unflatten(1, (-1, turn.shape[-1]))
    return torch.einsum("okj,kij->oki", flat, turn.expand(flat.shape[1], -1, -1)).reshape(weight.shape)
