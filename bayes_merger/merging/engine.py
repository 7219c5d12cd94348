"""Merging: a stream of tensors, and into a file. (Into a live model: ``live.py``.)"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.merging.checkpoint import Checkpoint, torch_dtypes
from bayes_merger.merging.live import LiveMerge
from bayes_merger.merging.recipe import MergePlan, MergeRecipe, numbers_of, plan
from bayes_merger.merging.routing import Checkpoints, Step
from bayes_merger.merging.writing import TensorEntry, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.merging.combine import Scratch

__all__ = ["LiveMerge", "merge", "save_merge"]


def merge(recipe: MergeRecipe, checkpoints: Checkpoints) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the merged model, one after another, on the CPU and in the recipe's dtype.

    A tensor that is kept as it is may be mapped from its file: do not write to it.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``.
    """
    from bayes_merger.merging.combine import Scratch

    planned = plan(recipe, checkpoints)
    scratch = Scratch()
    return ((step.key, _tensor(step, planned, recipe, checkpoints, scratch)) for step in planned.written)


def _tensor(step: Step, planned: MergePlan, recipe: MergeRecipe, checkpoints: Checkpoints, scratch: Scratch) -> Tensor:
    import torch

    from bayes_merger.merging.combine import combine, combine_channels

    dtype = torch_dtypes()[step.dtype]
    if step.place.role == "position_ids":  # some mergers round them or average them: they can only be 0, 1, 2, ...
        return torch.arange(math.prod(step.shape), dtype=dtype).reshape(step.shape)
    if step.action != "merge":
        return checkpoints[step.source].tensor(step.key).to(dtype)
    out = torch.empty(step.shape, dtype=dtype)
    sources = [checkpoints[name].tensor(step.key) for name in planned.method.models]
    numbers = numbers_of(step, recipe.weights)
    if step.common:
        combine_channels(planned.method, sources, numbers, out, dtype, scratch, step.key, step.common)
    else:
        combine(planned.method, sources, numbers, out, dtype, scratch, step.key)
    return out


def save_merge(
    recipe: MergeRecipe,
    checkpoints: Checkpoints,
    out: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    replace: bool = False,
) -> None:
    """Write the merged model as a safetensors file that other programs load; the same recipe gives the same bytes.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file.
        out: the file to write.
        metadata: texts to add to the file's own.
        progress: told the bytes done and their total after every tensor.
        replace: whether a file that is already there may be replaced; a model of the merge never is.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``; the file cannot be written, or would hold NaN or infinity.
    """
    from bayes_merger.merging.combine import Scratch

    planned = plan(recipe, checkpoints)
    scratch = Scratch()
    entries = [
        TensorEntry(s.key, s.shape, s.dtype, partial(_tensor, s, planned, recipe, checkpoints, scratch))
        for s in planned.written
    ]
    write_checkpoint(
        out,
        entries,
        lambda: {**describe_merge(recipe, planned, checkpoints), **(metadata or {})},
        inputs=[checkpoint.path for checkpoint in checkpoints.values()],
        replace=replace,
        progress=progress,
    )


def describe_merge(recipe: MergeRecipe, planned: MergePlan, checkpoints: Checkpoints) -> dict[str, str]:
    """What a merged file says about itself, in the words of AUTOMATIC1111, ModelSpec and our own.

    File names and hashes are told, folders are not: merged files are given away.
    """
    names = {name: checkpoint.path.name for name, checkpoint in checkpoints.items()}
    own = recipe.to_json() | {
        "models": {name: {"path": names[name], "sha256": c.sha256()} for name, c in checkpoints.items()},
        "dtype": planned.dtype,
    }
    short = {
        "type": "bayes-merger",
        "primary_model_hash": checkpoints["a"].sha256(),
        "secondary_model_hash": checkpoints["b"].sha256() if "b" in checkpoints else None,
        "tertiary_model_hash": checkpoints["c"].sha256() if "c" in checkpoints else None,
        "interp_method": planned.method.name,
        "save_as_half": planned.dtype == "fp16",
        "weights": own["weights"],
    }
    title = " + ".join(Path(name).stem for name in names.values())
    return {
        "format": "pt",
        "bayes_merger.recipe": _json(own),
        "sd_merge_recipe": _json(short),
        "sd_merge_models": _json(_family(checkpoints.values())),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": planned.architecture.modelspec,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": f"{title} ({planned.method.name})",
        "modelspec.resolution": f"{planned.architecture.resolution}x{planned.architecture.resolution}",
        "modelspec.merged_from": ", ".join(names.values()),
        **_prediction(planned),
    }


def _prediction(planned: MergePlan) -> dict[str, str]:
    """What the model predicts, where that is known: Stable Diffusion 2's files do not tell."""
    marked = any(step.key == "v_pred" for step in planned.steps)
    found = "v" if marked else planned.architecture.prediction
    return {"modelspec.prediction_type": found} if found else {}


def _family(checkpoints: Any) -> dict[str, Any]:
    """The models of a merge and, where those are merges that say so, their own."""
    family: dict[str, Any] = {}
    for checkpoint in checkpoints:
        family.update(_table(checkpoint.metadata.get("sd_merge_models", "")))
        family[checkpoint.sha256()] = {
            "name": checkpoint.path.name,
            "legacy_hash": _legacy_hash(checkpoint),
            "sd_merge_recipe": _table(checkpoint.metadata.get("sd_merge_recipe", "")) or None,
        }
    return family


def _table(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # some other program's metadata: not worth refusing a merge
        return {}
    return value if isinstance(value, dict) else {}


def _legacy_hash(checkpoint: Checkpoint) -> str:
    """AUTOMATIC1111's first hash: of 64 KiB at 1 MiB."""
    with checkpoint.path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
