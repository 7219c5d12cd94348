"""A model written with its neurons in the order of another's, after a look at what it computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.naming import VAE
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.writing import TensorEntry, check_no_input, check_out, write_checkpoint
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.plan.routing import MergePlan
from bayes_merger.merging.rebasin.aligning import Pair, Progress, check_alike, layout_of
from bayes_merger.merging.rebasin.found import Found, remember, verified
from bayes_merger.merging.rebasin.model import AlignedModel
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted
from bayes_merger.merging.rebasin.settings import ACTIVATIONS, WEIGHTS, as_table
from bayes_merger.merging.recipe.recipe import MergeRecipe

TOLERANCE = 1e-4
"""By which an answer of a network may differ, relative to its largest number: rounding alone gives some 1e-6."""

_STALE = ("bayes_merger.recipe", "sd_merge_recipe", "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""What a file may say that is true of its bytes alone."""


Match = Callable[[Pair], Permutation]
"""Finds an order of the second model's neurons in another way than by weights."""


def rebasin(
    target: Path,
    model: Path,
    out: Path | None,
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
        out: the file, with B's keys, dtypes and texts; None: the order is only remembered.
        config: a diffusers folder, whose settings are those of models of unusual size.
        by_activations: finds the order by activations; by weights without it.
        overwrite: whether the file may be replaced.
        progress: told how far the matching by weights is.
        on_write: called with the bytes written and their total.

    Raises:
        ConfigError: a place or a config that cannot be used.
        CheckpointError: a model that cannot be used, or the permuted model would compute something else.
    """
    if out is not None:
        check_out(out, overwrite=overwrite)
    with open_checkpoint(target) as a, open_checkpoint(model) as b:
        if out is not None:
            check_no_input(out, (a, b))
        check_alike(a, b)
        pair = Pair.of(a, b, layout_of(b, config))
        for one in (a, b):
            one.scan()
            one.release()
        by = ACTIVATIONS if by_activations else WEIGHTS
        found = _matched(pair, by_activations) if by_activations else pair.by_weights(progress=progress)
        found = _verified(pair, by, found, config)
        if out is not None and found.permutation.moved():
            _write(pair, by, found, out, overwrite, on_write)
    return found


def _matched(pair: Pair, by_activations: Match) -> Found:
    """An order by activations, which is remembered."""
    return remember(pair.judged(by_activations(pair)), pair.subject(ACTIVATIONS))


def _write(
    pair: Pair, by: str, found: Found, out: Path, overwrite: bool, progress: Callable[[int, int], None] | None
) -> None:
    b, permuted = pair.b, pair.permuted(found.permutation)
    write_checkpoint(
        out,
        [TensorEntry(k, b.shapes[k], b.dtypes[k], partial(permuted.tensor, k)) for k in b.shapes],
        lambda: _metadata(pair, by, found),
        inputs=(pair.a, b),
        replace=overwrite,
        progress=progress,
    )


def planned_with_orders(
    recipe: MergeRecipe, models: Mapping[str, Checkpoint], progress: Progress | None = None, *, verifying: bool = True
) -> MergePlan:
    """The plan of a merge whose orders of neurons are found; what is wrong with the merge is said before.

    Args:
        recipe: the merge.
        models: of it, opened.
        progress: told how far the matching is.
        verifying: whether the orders are verified.

    Raises:
        ConfigError: as `plan`.
        CheckpointError: as `plan` and `find_orders`.
    """
    planned = plan(recipe, models)
    return plan(recipe, models) if find_orders(models.values(), progress=progress, verifying=verifying) else planned


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
            model.take(_matched(model.pair, by_activations))
        found = model.find(progress)
        if model.is_new and verifying:
            model.take(_verified(model.pair, model.by, found, model.config))
        told.append(found.words(model.path.name, model.pair.a.path.name))
    return told


def orders_kept(settings: Mapping[str, Any], models: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Those settings of a run that say whose order models take, with layouts and the hashes by which each process
    recalls them.

    Args:
        settings: of the run, as plain data.
        models: of its merges, by name.
    """
    found = {name: model.said() for name, model in models.items() if isinstance(model, AlignedModel)}
    recipe = settings["recipe"]
    orders = {
        name: {**as_table(f"rebasin.{name}", told), **{key: found[name][key] for key in ("layout", "sha256")}}
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

    The VAE is asked only where its neurons move: elsewhere it need not be whole.

    Returns:
        The largest difference, relative to the largest number of an answer.

    Raises:
        CheckpointError: they answer something else.
    """
    from bayes_merger.imaging.pipelines.streamed import streamed_networks
    from bayes_merger.imaging.responses import difference, responses

    as_it_is = Permuted(model, Permutation(()), {})  # out of memory as soon as it is read
    vae = permuted.permutation.moved(VAE) > 0
    before, after = (responses(streamed_networks(one, config, vae=vae)) for one in (as_it_is, permuted))
    found = difference(before, after)
    if not found <= TOLERANCE:  # NaN is not
        raise CheckpointError(
            f"{model.path}: with its neurons in another order it answers otherwise, by {found:.1g} of the largest "
            f"number where {TOLERANCE:.0e} may be rounding; nothing was written"
        )
    return found


def _metadata(pair: Pair, by: str, found: Found) -> Mapping[str, str]:
    own = {
        "model": {"name": pair.b.path.name, "sha256": pair.b.sha256()},
        "to": {"name": pair.a.path.name, "sha256": pair.a.sha256()},
        "by": by,
        "moved": found.permutation.moved(),
        "neurons": found.permutation.total(),
    }
    kept = {name: text for name, text in pair.b.metadata.items() if name not in _STALE}
    return kept | {"bayes_merger.rebasin": json.dumps(own, sort_keys=True, ensure_ascii=False)}
