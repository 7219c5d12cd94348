"""A merge as a LoRA: the best approximation of low rank to what it changes in model A.

For each layer the difference D (in fp32, convolutions flattened to [out, in · k · k]) is projected on its leading left
singular vectors, which is the nearest matrix of that rank (Eckart and Young): up = U √s, down = Uᵀ D / √s. They come
from the eigenvectors of D Dᵀ or Dᵀ D, whichever is smaller, in fp64: exact to rounding, and the same on every run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint, torch_dtypes
from bayes_merger.checkpoints.writing import TensorEntry, not_finite, with_culprit, write_checkpoint
from bayes_merger.errors import ConfigError
from bayes_merger.merging.engine.key_merger import KeyMerger
from bayes_merger.merging.engine.merge import prepare
from bayes_merger.merging.export.metadata import merge_metadata
from bayes_merger.merging.models.lora.layers import Layer, layers_of
from bayes_merger.merging.plan.routing import DTYPES, Checkpoints, MergePlan
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.saliency.opening import seen_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_KOHYA_BASE = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


@dataclass(frozen=True)
class Rank:
    """How large the factors are.

    Attributes:
        count: the rank of every layer (never more than its matrix has); 0 for ``energy``.
        energy: the share of the squared difference that a layer's rank must keep; 0 for ``count``.
        rest: also write what is not a matrix (norms and biases), as full differences.
    """

    count: int = 0
    energy: float = 0.0
    rest: bool = False


@dataclass(frozen=True)
class Extracted:
    """How well a LoRA stands for a merge.

    Attributes:
        error: ‖what it lacks‖ / ‖what the merge changes‖ over all tensors, 0 to 1.
        layers: layer to the same for it alone, worst first.
        ranks: layer to rank.
        left_out: tensors that the merge changes and a LoRA cannot hold.
    """

    error: float
    layers: Mapping[str, float]
    ranks: Mapping[str, int]
    left_out: tuple[str, ...]


def read_rank(text: str) -> Rank:
    """The rank in ``rank=32``, ``rank=full``, ``rank=auto:0.95``, each with ``,rest=diff`` or not.

    Raises:
        ConfigError: it is none of these.
    """
    wrong = ConfigError(f"--as-lora: '{text}' is unknown; write  rank=32,  rank=full  or  rank=auto:0.95  (,rest=diff)")
    found = re.fullmatch(r"rank=(\d{1,6}|full|auto:(?:\d*\.)?\d+)(,rest=diff)?", text.strip())
    if not found:
        raise wrong
    size, rest = found[1], bool(found[2])
    if size == "full":
        return Rank(count=1 << 30, rest=rest)
    if size.isdigit():
        if int(size) == 0:
            raise wrong
        return Rank(count=int(size), rest=rest)
    energy = float(size.removeprefix("auto:"))
    if not 0 < energy <= 1:
        raise wrong
    return Rank(energy=energy, rest=rest)


def save_lora(
    recipe: MergeRecipe,
    checkpoints: Checkpoints,
    out: str | Path,
    rank: Rank,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Extracted:
    """Write what a merge changes in model A as a LoRA in kohya's naming, alpha = rank.

    Args:
        recipe: the merge; its dtype is that of the factors.
        checkpoints: model name to opened file.
        out: the file to write.
        rank: of the factors.
        replace: whether a file that is already there may be replaced.
        progress: called with the tensors done and how many there are.

    Raises:
        ConfigError: as ``plan``; the merge changes nothing that a LoRA can hold.
        CheckpointError: as ``plan``; the file cannot be written.
    """
    files = seen_files(recipe.activation_files)
    planned, merger = prepare(recipe, checkpoints)
    _check_shapes(planned, checkpoints[recipe.base])
    dtype = torch_dtypes()[DTYPES.get(planned.dtype, "F16")]
    by_key: dict[str, list[Layer]] = {}
    for layer in layers_of(checkpoints[recipe.base].shapes):
        by_key.setdefault(layer.weight, []).append(layer)
    owners = {layer.bias: layer for layers in by_key.values() for layer in layers if layer.rows is None}
    found, squares = _Found({}, {}, {}, []), [0.0, 0.0]
    for key, change in _changes(planned, merger, checkpoints, checkpoints[recipe.base], progress):
        whole = float(change.double().square().sum())
        if key in by_key and change.dim() >= 2 and "embedding" not in key:  # no UI has factors for tables of words
            lacking = sum(_factor(layer, layer.of(change), rank, dtype, found) for layer in by_key[key])
        elif rank.rest and (key in by_key or key in owners):
            layer, part = (by_key[key][0], "diff") if key in by_key else (owners[key], "diff_b")
            kept = found.tensors[f"{layer.name}.{part}"] = change.to(dtype)
            lacking = float((change - kept.float()).double().square().sum())
        else:
            found.left_out.append(key)
            lacking = whole
        squares[0] += lacking
        squares[1] += whole
    if not found.tensors:
        raise ConfigError("--as-lora: this merge changes nothing that a LoRA can hold; it would be empty")
    worst = dict(sorted(found.errors.items(), key=lambda item: -item[1]))
    result = Extracted(math.sqrt(squares[0] / squares[1]), worst, found.ranks, tuple(found.left_out))
    names = {dtype: name for name, dtype in torch_dtypes().items()}
    entries = [TensorEntry(key, tuple(t.shape), names[t.dtype], t) for key, t in found.tensors.items()]
    metadata = {**merge_metadata(recipe, planned, checkpoints), **_described(planned, rank, found, Path(out))}
    write_checkpoint(out, entries, metadata, inputs=(*checkpoints.values(), *files), replace=replace)
    return result


@dataclass(frozen=True)
class _Found:
    tensors: dict[str, Tensor]
    errors: dict[str, float]
    ranks: dict[str, int]
    left_out: list[str]


def _changes(
    planned: MergePlan,
    merger: KeyMerger,
    models: Checkpoints,
    base: Checkpoint,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that the merge changes, less the first model's, in fp32 and before any rounding."""
    from bayes_merger.checkpoints.nonfinite import find_nonfinite

    items = [item for item in planned.written if item.action == "merge"]
    for number, item in enumerate(items, start=1):
        change = merger.tensor(item, "F32") - base.tensor(item.key).float()
        if fault := find_nonfinite(change):
            raise with_culprit(not_finite(item.key, fault), item.key, models.values())
        if change.numel() and bool(change.any()):
            yield item.key, change
        if progress:
            progress(number, len(items))


def _check_shapes(planned: MergePlan, base: Checkpoint) -> None:
    """Refuse a merge that widens a tensor: a LoRA adds to what is there.

    Raises:
        ConfigError: it does.
    """
    for item in planned.written:
        if item.action == "merge" and item.shape != base.shapes[item.key]:
            own, made = list(base.shapes[item.key]), list(item.shape)
            raise ConfigError(
                f"--as-lora: '{item.key}' is {made} in the merge and {own} in model A, which a LoRA cannot "
                "change; give the model with more channels as model A"
            )


def _factor(layer: Layer, change: Tensor, rank: Rank, dtype: torch.dtype, found: _Found) -> float:
    """Put a layer's factors among what is found; returns the square of what they lack."""
    import torch

    matrix = change.flatten(1).double()
    whole = float(matrix.square().sum())
    if whole == 0:
        return 0.0
    basis, squares = _leading(matrix)
    count = (
        min(rank.count, len(squares)) if rank.count else _enough(squares.tolist(), rank.energy * float(squares.sum()))
    )
    scale = squares[:count].clamp_min(1e-30 * float(squares[0])).pow(0.25)
    if basis.shape[0] == matrix.shape[0]:  # left singular vectors
        up = basis[:, :count] * scale
        down = (basis[:, :count] / scale).T @ matrix
    else:
        up = matrix @ (basis[:, :count] / scale)
        down = (basis[:, :count] * scale).T
    up, down = up.to(dtype), down.to(dtype)
    lacking = float((matrix - up.double() @ down.double()).square().sum())
    kernel = change.shape[2:]
    found.tensors[f"{layer.name}.lora_up.weight"] = up.reshape(-1, count, *[1] * len(kernel))
    found.tensors[f"{layer.name}.lora_down.weight"] = down.reshape(count, -1, *kernel)
    found.tensors[f"{layer.name}.alpha"] = torch.tensor(float(count)).to(dtype)
    found.ranks[layer.name] = count
    found.errors[layer.name] = math.sqrt(lacking / whole)
    return lacking


def _leading(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Singular vectors of the smaller side as columns, largest first, and the squares of the singular values."""
    import torch

    rows, columns = matrix.shape
    squares, basis = torch.linalg.eigh(matrix @ matrix.T if rows <= columns else matrix.T @ matrix)
    return basis.flip(1), squares.flip(0).clamp_min(0)


def _enough(squares: list[float], wanted: float) -> int:
    """How many of the largest reach the wanted sum."""
    total = 0.0
    for number, square in enumerate(squares, start=1):
        total += square
        if total >= wanted:
            return number
    return len(squares)


def _described(planned: MergePlan, rank: Rank, found: _Found, out: Path) -> dict[str, str]:
    """What a LoRA says about itself, in the words of kohya's scripts, which UIs read."""
    ranks = set(found.ranks.values())
    size = str(rank.count) if rank.count and rank.count == max(ranks, default=0) else "Dynamic"
    described = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": size,
        "ss_network_alpha": size,
        "ss_output_name": out.stem,
        "ss_v2": str(planned.architecture.name == "sd2"),
        "modelspec.architecture": f"{planned.architecture.modelspec}/lora",
        "modelspec.title": out.stem,
    }
    if size != "Dynamic":
        described["ss_network_args"] = json.dumps({"conv_dim": size, "conv_alpha": size})
    if planned.architecture.name in _KOHYA_BASE:
        described["ss_base_model_version"] = _KOHYA_BASE[planned.architecture.name]
    return described
