"""A merge as a diffusers folder, which ``StableDiffusionPipeline.from_pretrained`` loads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.atomic import sync_folder
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging.keymap import SingleFileNames
from bayes_merger.imaging.loading import SD15, empty_modules
from bayes_merger.imaging.tokenizer import load_tokenizer
from bayes_merger.merging.checkpoint import Checkpoint
from bayes_merger.merging.describe import describe_merge
from bayes_merger.merging.engine import Maker, prepare
from bayes_merger.merging.recipe import MergeRecipe, Step, plan
from bayes_merger.merging.writing import TensorEntry, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_DRAWN = "sd1"


def save_folder(
    recipe: MergeRecipe,
    checkpoints: Mapping[str, Checkpoint],
    out: Path,
    *,
    config: Path | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the merged model as a diffusers folder: the whole of it, or nothing.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file.
        out: the folder.
        config: a diffusers config tree, for a model of unusual size; Stable Diffusion 1.5's by default.
        replace: whether a diffusers folder that is already there may be replaced.
        progress: told the bytes done and their total after every tensor.

    Raises:
        ConfigError: as ``plan``; an architecture or dtype that cannot be written so.
        CheckpointError: as ``plan``; the config is of another model, or the folder cannot be written.
    """
    _check(recipe, checkpoints, out, replace)
    planned, maker = prepare(recipe, checkpoints)
    tree = SD15 if config is None else config
    parts = _parts(tree, {step.key: step for step in planned.written}, maker, out)
    total = sum(entry.size for entries in parts.values() for entry in entries)
    if not out.parent.is_dir():
        raise CheckpointError(f"{out}: there is no folder {out.parent}; make it first")
    free = shutil.disk_usage(out.parent).free
    if free < total + 2**21:
        raise CheckpointError(f"{out}: needs {total / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB free")
    metadata = describe_merge(recipe, planned, checkpoints)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    done = 0
    try:
        _write_settings(temporary, tree, metadata)
        for part, entries in parts.items():
            told = (lambda now, _, before=done: progress(before + now, total)) if progress else None
            write_checkpoint(temporary / part / f"{_FILES[part]}.safetensors", entries, metadata, progress=told)
            done += sum(entry.size for entry in entries)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written ({error.strerror}); check that folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(recipe: MergeRecipe, checkpoints: Mapping[str, Checkpoint], out: Path, replace: bool) -> None:
    planned = plan(recipe, checkpoints)
    if planned.architecture.name != _DRAWN:
        raise ConfigError(f"--format: {planned.architecture.title} cannot be written as a diffusers folder yet; "
                          "write one .safetensors file, which diffusers loads with from_single_file")  # fmt: skip
    if planned.dtype.startswith("fp8"):
        raise ConfigError(f"--format: diffusers folders are not written in {planned.dtype}; give dtype=fp16")
    if out.exists() and not replace:
        raise CheckpointError(f"{out}: exists already; give another name, or allow to replace it")
    if out.exists() and not (out / "model_index.json").is_file():
        raise CheckpointError(f"{out}: is no diffusers folder and is not replaced; give another name")
    for checkpoint in checkpoints.values():
        if out.exists() and out.resolve() in checkpoint.path.resolve().parents:
            raise CheckpointError(f"{out}: holds model {checkpoint.path}, which is read for this; give another name")


def _parts(tree: Path, steps: Mapping[str, Step], maker: Maker, out: Path) -> dict[str, list[TensorEntry]]:
    """The tensors of each part under diffusers' names."""
    modules = empty_modules(tree)
    states = {part: module.state_dict() for part, module in modules.items()}
    names = SingleFileNames.of(states["unet"], states["vae"])
    known = {"unet": names.unet, "vae": names.vae, "text_encoder": names.text}
    found: dict[str, list[TensorEntry]] = {}
    for part, state in states.items():
        entries = found[part] = []
        for name, tensor in state.items():
            if name.endswith("position_ids"):
                continue
            key, shape = known[part](name), tuple(tensor.shape)
            step = steps.get(key)
            if step is None or step.shape[: len(shape)] != shape or tensor.numel() != _count(step):
                have = "no such tensor" if step is None else f"shape {list(step.shape)}"
                raise CheckpointError(f"{out}: {part}'s {name} is {list(shape)} in {tree} and the merge has {have}; "
                                      "give --config FOLDER, a diffusers config tree for this model")  # fmt: skip
            # transformers before 5.6 look for the text encoder's names with this in front; later ones take both
            full = f"text_model.{name.removeprefix('text_model.')}" if part == "text_encoder" else name
            entries.append(TensorEntry(full, shape, step.dtype, partial(_shaped, maker, step, shape)))
    return found


def _count(step: Step) -> int:
    count = 1
    for side in step.shape:
        count *= side
    return count


def _shaped(maker: Maker, step: Step, shape: tuple[int, ...]) -> Tensor:
    return maker.tensor(step).reshape(shape)


def _write_settings(folder: Path, tree: Path, metadata: Mapping[str, str]) -> None:
    """Everything but the weights."""
    for source in sorted(tree.rglob("*.json")):
        place = folder / source.relative_to(tree)
        place.parent.mkdir(parents=True, exist_ok=True)
        settings: Any = json.loads(source.read_text(encoding="utf-8"))
        if source.name == "scheduler_config.json" and metadata.get("modelspec.prediction_type") == "v":
            settings["prediction_type"] = "v_prediction"
        place.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if not (folder / "model_index.json").exists():
        shutil.copy(SD15 / "model_index.json", folder / "model_index.json")
    load_tokenizer(tree).save_pretrained(str(folder / "tokenizer"))
