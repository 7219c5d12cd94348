"""A model written with its neurons in the order of another's, after a look at what it computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging.rebasin.aligning import Pair, Progress, check_alike, layout_of
from bayes_merger.merging.rebasin.found import Found, remember, verified
from bayes_merger.merging.rebasin.model import AlignedModel
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted
from bayes_merger.merging.rebasin.settings import ACTIVATIONS, WEIGHTS, as_table

TOLERANCE = 1e-4
"""By which an answer of a network may differ, relative to its largest number: rounding alone gives some 1e-6."""

_STALE = ("bayes_merger.recipe", "sd_merge_recipe", "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""What a file may say that is true of its bytes alone."""


Match = Callable[[Pair], Permutation]
"""Finds an order of the second model's neurons in another way than by weights."""


def rebasin(
    target: Path,
    model: Path,
    out: Path,
    *,
    config: Path | None = None,
    by_activations: Match | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_write: Callable[[int, int], None] | None = None,
) -> Found:
    """Write a model with its neurons in the order of another's; where none moves, nothing is written.

    Args:
        target: the model to be like, A.
        model: the model to permute, B.
        out: the file, with B's keys, dtypes and texts.
        config: a diffusers folder, whose settings are those of models of unusual size.
        by_activations: finds the order by activations; by weights without it.
        overwrite: whether the file may be replaced.
        progress: told how far the matching by weights is.
        on_write: called with the bytes written and their total.

    Raises:
        ConfigError: a place or a config that cannot be used.
        CheckpointError: a model that cannot be used, or the permuted model would compute something else.
    """
    check_out(out, overwrite=overwrite)
    by = ACTIVATIONS if by_activations else WEIGHTS
    with open_checkpoint(target) as a, open_checkpoint(model) as b:
        check_alike(a, b)
        pair = Pair.of(a, b, layout_of(b, config))
        for one in (a, b):
            one.scan()
            one.release()
        found = None if by_activations else pair.found(by, progress=progress)
        if found is None:
            assert by_activations is not None
            found = remember(pair.judged(by_activations(pair)), pair.subject(by))
        found = _verified(pair, by, found, config)
        if found.permutation.moved():
            permuted = pair.permuted(found.permutation)
            write_checkpoint(
                out,
                [TensorEntry(k, b.shapes[k], b.dtypes[k], partial(permuted.tensor, k)) for k in b.shapes],
                lambda: _metadata(a, b, found, by),
                inputs=(a, b),
                replace=overwrite,
                progress=on_write,
            )
    return found


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a place that a file cannot be written to.

    Raises:
        ConfigError: it is taken, or there is no such folder.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"--out: {out} exists; give another name or add --overwrite")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no folder {out.parent}; make it first")


def find_orders(
    models: Iterable[Checkpoint],
    by_activations: Match | None = None,
    progress: Progress | None = None,
    *,
    verifying: bool = True,
) -> list[str]:
    """Find the orders of those models of a merge whose neurons are put in one, and verify those that no recipe has yet.

    Args:
        models: of the merge.
        by_activations: finds an order by activations that was never found here.
        progress: told how far the matching by weights is.
        verifying: whether they are verified.

    Returns:
        What each does to its model, in words.

    Raises:
        CheckpointError: one cannot be found, or a model would answer something else.
    """
    told = []
    for model in models:
        if not isinstance(model, AlignedModel):
            continue
        if by_activations and model.by == ACTIVATIONS and not model.is_found:
            model.take(remember(model.pair.judged(by_activations(model.pair)), model.pair.subject(model.by)))
        found = model.find(progress)
        if model.is_new and verifying:
            model.take(_verified(model.pair, model.by, found, model.config))
        told.append(found.words(model.path.name, model.pair.a.path.name))
    return told


def orders_kept(settings: Mapping[str, Any], models: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Those settings of a run that say whose order models take, with the hashes by which each process recalls them.

    Args:
        settings: of the run, as plain data.
        models: of its merges, by name.
    """
    found = {name: model.find() for name, model in models.items() if isinstance(model, AlignedModel)}
    recipe = settings["recipe"]
    orders = {
        name: {**as_table(f"rebasin.{name}", told), "sha256": found[name].permutation.sha256}
        for name, told in ((recipe or settings).get("rebasin") or {}).items()
        if name in found
    }
    if not orders:
        return {}
    return {"recipe": {**recipe, "rebasin": orders}} if recipe else {"rebasin": orders}


def _verified(pair: Pair, by: str, found: Found, config: Path | None) -> Found:
    """An order, after a look at what the model computes in it, unless somebody has looked before."""
    if not found.permutation.moved() or found.verified:
        return found
    pair.a.release()
    verify(pair.b, pair.permuted(found.permutation), config)
    return verified(found, pair.subject(by))


def verify(model: Checkpoint, permuted: Permuted, config: Path | None = None) -> float:
    """Compare what a model's networks answer to fixed inputs with the answers of the permuted ones, in fp32.

    Returns:
        The largest difference, relative to the largest number of an answer.

    Raises:
        CheckpointError: they answer something else.
    """
    import torch

    from bayes_merger.imaging.pipelines.loading import PART_NAMES, load_model
    from bayes_merger.imaging.responses import difference, responses

    live = load_model(
        Permuted(model, Permutation(()), {}),  # as it is, and out of memory as soon as it is read
        config=config,
        optional=tuple(PART_NAMES),
        device=torch.device("cpu"),
        dtype_of=lambda part, name: torch.float32,
    )
    before = responses(live)
    for key, place in live.destinations().items():
        place.copy_(permuted.tensor(key))
    found = difference(before, responses(live))
    if not found <= TOLERANCE:  # NaN is not
        raise CheckpointError(
            f"{model.path}: with its neurons in another order it answers otherwise, by {found:.1g} of the largest "
            f"number where {TOLERANCE:.0e} may be rounding; nothing was written"
        )
    return found


def _metadata(a: Checkpoint, b: Checkpoint, found: Found, by: str) -> Mapping[str, str]:
    own = {
        "model": {"name": b.path.name, "sha256": b.sha256()},
        "to": {"name": a.path.name, "sha256": a.sha256()},
        "by": by,
        "moved": found.permutation.moved(),
        "neurons": found.permutation.total(),
    }
    kept = {name: text for name, text in b.metadata.items() if name not in _STALE}
    return kept | {"bayes_merger.rebasin": json.dumps(own, sort_keys=True, ensure_ascii=False)}
