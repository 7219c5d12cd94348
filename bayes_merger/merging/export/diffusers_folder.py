"""A merge as a diffusers folder, which ``from_pretrained`` of diffusers' pipelines loads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.atomic import folder_atomically, sweep_folders
from bayes_merger.checkpoints.checkpoint import Checkpoint, check_all_unchanged
from bayes_merger.checkpoints.config_trees import Settings, check_inside, clip_pads, read_inside, settings_for
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.checkpoints.naming import INDEX, PARTS, Counterpart, Naming, canonical_keys, squeezed, with_text_model
from bayes_merger.checkpoints.prediction import prediction_metadata
from bayes_merger.checkpoints.tokenizer import build_tokenizer, write_tokenizer
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging.engine.key_merger import KeyMerger
from bayes_merger.merging.engine.merge import plan, prepare
from bayes_merger.merging.export.metadata import merge_metadata
from bayes_merger.merging.plan.routing import MergePlan, PlanItem, listed
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.saliency.opening import seen_files

if TYPE_CHECKING:
    from torch import Tensor

_LOADED = (*PARTS, "tokenizer")
_VOCABULARIES = ("vocab.json", "tokenizer.json", "spiece.model")


@dataclass(frozen=True)
class Written:
    """What a folder does not hold.

    Attributes:
        left_out: tensors of the merge that no part has a place for.
        lacking: parts that the merge does not have; whoever loads the folder gives them, or ``None``, by these names.
    """

    left_out: tuple[str, ...]
    lacking: tuple[str, ...]


def save_folder(
    recipe: MergeRecipe,
    checkpoints: Mapping[str, Checkpoint],
    out: Path,
    *,
    config: Path | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the merged model as a diffusers folder: the whole of it, or nothing.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file.
        out: the folder.
        config: a diffusers config tree (its weights are not read); without one, that of the model that
            the merge starts from when this is a folder, else the official one of the architecture.
        replace: whether a diffusers folder that is already there may be replaced.
        progress: called with the bytes done and their total after every tensor.

    Raises:
        ConfigError: as ``plan``; a dtype that cannot be written so, or a tokenizer that is not to be had.
        CheckpointError: as ``plan``; the config is of another model, or the folder cannot be written.
    """
    out = Path(os.path.realpath(out))  # a link to a folder stays one
    sweep_folders(out)
    _check(recipe, checkpoints, out, replace)
    files = seen_files(recipe.activation_files)
    planned, merger = prepare(recipe, checkpoints)
    base = checkpoints[recipe.base]
    tree = config or (base.path if base.path.is_dir() else None)
    settings = _settings(tree, planned)
    tokenizers = _check_tokenizers(tree, settings)
    parts, left_out = _parts(settings, planned, merger, str(tree or "the official config"))
    _check_room(out, _size(parts))
    metadata = merge_metadata(recipe, planned, checkpoints)
    try:
        with folder_atomically(out) as folder:
            _write_settings(folder, settings)
            _write_tokenizers(folder, tree, tokenizers)
            _write_parts(folder, parts, metadata, progress)
            check_all_unchanged((*checkpoints.values(), *files))
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written ({error.strerror}); check that folder") from error
    except CheckpointError as error:  # the folder is written under another name
        inside = Path(error.subject)
        subject = str(out / inside.relative_to(folder)) if inside.is_relative_to(folder) else error.subject
        raise CheckpointError(error.reason, subject=subject) from error
    wanted = [name for name, value in settings[INDEX].items() if value == [None, None] and name.startswith(_LOADED)]
    return Written(left_out, tuple(wanted))


def _check(recipe: MergeRecipe, checkpoints: Mapping[str, Checkpoint], out: Path, replace: bool) -> None:
    planned = plan(recipe, checkpoints)
    if planned.dtype.startswith("fp8"):
        raise ConfigError(f"--format: diffusers folders are not written in {planned.dtype}; give dtype=fp16")
    if out.exists() and not replace:
        raise CheckpointError(f"{out}: exists already; give another name, or allow to replace it")
    if out.exists() and not (out / INDEX).is_file():
        raise CheckpointError(f"{out}: is not a diffusers folder and is not replaced; give another name")
    for checkpoint in checkpoints.values():
        read = [file for path in (checkpoint.path, *checkpoint.files) for file in (path.absolute(), path.resolve())]
        if out.exists() and any(out in (file, *file.parents) for file in read):
            raise CheckpointError(f"{out}: holds model {checkpoint.path}, which is read for this; give another name")
    if out.exists():
        _check_replaced(out)


def _check_replaced(out: Path) -> None:
    """Refuse to delete what does not belong to a diffusers folder."""
    known = {INDEX, *read_inside(out, INDEX)}
    strange = sorted(path.name for path in out.iterdir() if path.name not in known)
    if strange:
        raise CheckpointError(f"{out}: holds {listed(strange)} beside a model; move that away, or give another name")


def _check_room(out: Path, total: int) -> None:
    if not out.parent.is_dir():
        raise CheckpointError(f"{out}: there is no folder {out.parent}; make it first")
    free = shutil.disk_usage(out.parent).free
    if free < total + 2**24:
        raise CheckpointError(f"{out}: needs {total / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB free")


def _settings(tree: Path | None, planned: MergePlan) -> Settings:
    """The folder's JSON files but for those of tokenizers, by relative name."""
    shapes = {item.key: item.shape for item in planned.written}
    return settings_for(tree, planned.architecture.name, shapes, prediction_metadata(planned.prediction))


def _check_tokenizers(tree: Path | None, settings: Settings) -> dict[str, str]:
    """The tokenizers that are built: name to the token that fills prompts up. The others are those of the tree."""
    pads = clip_pads(settings)
    for name, value in settings[INDEX].items():
        own = tree is not None and any((tree / name / file).is_file() for file in _VOCABULARIES)
        if own:
            pads.pop(name, None)
        elif name.startswith("tokenizer") and value != [None, None] and name not in pads:
            raise ConfigError(
                f"--config: the {name} ({value[1]}) of this model is not shipped here; give --config FOLDER, a "
                "diffusers folder of a model of this kind (its weights are not needed)"
            )
    return pads


def _parts(
    settings: Settings, planned: MergePlan, merger: KeyMerger, tree: str
) -> tuple[dict[str, list[TensorEntry]], tuple[str, ...]]:
    """The tensors of each part under diffusers' names, and those of the merge that have no place there."""
    states = {
        part: {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for part, network in empty_networks(settings).items()
    }
    naming = Naming.of(states)
    if naming.family != planned.architecture.name.partition("-")[0]:
        raise CheckpointError(f"{tree} is of a model of the kind {naming.family}; give the config of one like these")
    keys = canonical_keys([item.key for item in planned.written])
    items = {keys[item.key]: item for item in planned.written}
    made = _Stacks(merger)
    parts = {part: [*_entries(part, state, naming, items, made, tree)] for part, state in states.items()}
    left = [
        item.key
        for key, item in items.items()
        if key not in made.used and item.place.role not in ("position_ids", "marker")
    ]
    return parts, tuple(left)


def _entries(
    part: str,
    state: Mapping[str, tuple[int, ...]],
    naming: Naming,
    items: Mapping[str, PlanItem],
    made: _Stacks,
    tree: str,
) -> Iterator[TensorEntry]:
    for name, shape in state.items():
        found = naming.counterpart(part, name)
        if found is None:
            continue
        key = next(iter(canonical_keys([found.key]).values()))
        stack = found.stack or (name,)
        whole = found.shape([state[other] for other in stack])
        item = items.get(key)
        if item is None or squeezed(item.shape) != squeezed(whole):
            have = "no such tensor" if item is None else f"shape {list(item.shape)}"
            raise CheckpointError(f"{part}'s {name} is {list(shape)} in {tree} and the merge has {have}; "
                                  "give --config FOLDER, a diffusers config tree for this model")  # fmt: skip
        made.used.add(key)
        # transformers before 5.6 look for the text encoders' names with this in front; later ones take both
        full = with_text_model(name) if part.startswith("text_encoder") else name
        begin = sum(state[other][0] for other in stack[: stack.index(name)]) if found.stack else 0
        yield TensorEntry(full, shape, item.dtype, made.maker_of(item, found, shape, begin))


class _Stacks:
    """Makes the tensors of the folder; one that several lie in is made once and kept until the last of them is written.

    Attributes:
        used: keys of the merge that have a place in the folder.
    """

    def __init__(self, merger: KeyMerger) -> None:
        self.used: set[str] = set()
        self._merger = merger
        self._kept: dict[str, tuple[Tensor, int]] = {}

    def maker_of(
        self, item: PlanItem, found: Counterpart, shape: tuple[int, ...], begin: int
    ) -> Callable[[], Tensor | Iterator[Tensor]]:
        """What makes one tensor when its turn comes.

        Args:
            item: of the merge's tensor that it is in.
            found: where in that.
            shape: its own.
            begin: the first of its rows there.
        """
        if found.stack:
            return partial(self._rows, item, begin, begin + shape[0], len(found.stack))
        if found.swapped or found.transposed:
            return partial(self._turned, item, found)
        return partial(self._merger.pieces, item)

    def _rows(self, item: PlanItem, begin: int, end: int, count: int) -> Tensor:
        tensor, left = self._kept.pop(item.key) if item.key in self._kept else (self._merger.tensor(item), count)
        if left > 1:
            self._kept[item.key] = tensor, left - 1
        return tensor[begin:end]

    def _turned(self, item: PlanItem, found: Counterpart) -> Tensor:
        import torch

        tensor = self._merger.tensor(item)
        if found.transposed:
            return tensor.t().contiguous()
        return torch.cat(tensor.chunk(2)[::-1])


def _size(parts: Mapping[str, list[TensorEntry]]) -> int:
    return sum(entry.size for entries in parts.values() for entry in entries)


def _write_parts(
    folder: Path,
    parts: Mapping[str, list[TensorEntry]],
    metadata: Mapping[str, str],
    progress: Callable[[int, int], None] | None,
) -> None:
    done, total = 0, _size(parts)
    for part, entries in parts.items():
        within_all = (lambda now, _, before=done: progress(before + now, total)) if progress else None
        stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        write_checkpoint(folder / part / f"{stem}.safetensors", entries, metadata, progress=within_all)
        done += sum(entry.size for entry in entries)


def _write_settings(folder: Path, settings: Settings) -> None:
    for name, data in settings.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _write_tokenizers(folder: Path, tree: Path | None, built: Mapping[str, str]) -> None:
    for name, pad in built.items():
        write_tokenizer(build_tokenizer(pad), folder / name)
    if tree is None:
        return
    for place in sorted(place for place in tree.glob("tokenizer*") if place.is_dir() and place.name not in built):
        (folder / place.name).mkdir(parents=True)
        for file in sorted(file for file in place.iterdir() if file.is_file()):
            check_inside(tree, file)
            shutil.copyfile(file, folder / place.name / file.name)
