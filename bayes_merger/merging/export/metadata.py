"""What merged files say about themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import hash_all
from bayes_merger.checkpoints.prediction import prediction_metadata
from bayes_merger.merging.models.opening import with_orders
from bayes_merger.merging.plan.routing import Checkpoints, MergePlan
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.saliency.settings import hashed, unfoldered


def merge_metadata(recipe: MergeRecipe, planned: MergePlan, checkpoints: Checkpoints) -> dict[str, str]:
    """What a merged file says about itself, in the words of AUTOMATIC1111, ModelSpec and our own.

    File names and hashes are written, folders are not: merged files are passed on.
    """
    hash_all(checkpoints.values())
    names = {name: checkpoint.path.name for name, checkpoint in checkpoints.items()}
    passed_on = with_orders(recipe, checkpoints).with_files(lambda name, file: unfoldered(name, hashed(name, file)))
    own = passed_on.to_json() | {
        "models": {name: {"path": names[name], "sha256": c.sha256()} for name, c in checkpoints.items()},
        "dtype": planned.dtype,
    }
    methods = [step.method for step in recipe.steps] or [planned.method.name]
    others = [checkpoint.sha256() for name, checkpoint in checkpoints.items() if name not in (recipe.base, "vae")]
    short = {
        "type": "bayes-merger",
        "primary_model_hash": checkpoints[recipe.base].sha256(),
        "secondary_model_hash": others[0] if others else None,
        "tertiary_model_hash": others[1] if len(others) > 1 else None,
        "interp_method": ", ".join(methods),
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
        "modelspec.title": f"{title} ({', '.join(dict.fromkeys(methods))})",
        "modelspec.resolution": f"{planned.architecture.resolution}x{planned.architecture.resolution}",
        "modelspec.merged_from": ", ".join(names.values()),
        **prediction_metadata(planned.prediction or planned.architecture.prediction),
    }


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
    """AUTOMATIC1111's first hash: of 64 KiB at 1 MiB; empty for a folder, which it does not know."""
    if checkpoint.path.is_dir():
        return ""
    with checkpoint.path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode()  # half a character, as names of files may have, escaped
