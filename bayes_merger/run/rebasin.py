"""A model written with its neurons in the order of another's, after a look at what it computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging.rebasin.aligning import Alignment, Progress, align, check_alike
from bayes_merger.merging.rebasin.model import AlignedModel
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted

TOLERANCE = 1e-4
"""By which an answer of a network may differ, relative to its largest number: rounding alone gives some 1e-6."""

_STALE = ("bayes_merger.recipe", "sd_merge_recipe", "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""What a file may say that is true of its bytes alone."""


def rebasin(
    target: Path,
    model: Path,
    out: Path,
    *,
    config: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_write: Callable[[int, int], None] | None = None,
) -> Alignment:
    """Write a model with its neurons in the order of another's; where none moves, nothing is written.

    Args:
        target: the model to be like, A.
        model: the model to permute, B.
        out: the file, with B's keys, dtypes and texts.
        config: a diffusers folder, whose settings are those of models of unusual size.
        overwrite: whether the file may be replaced.
        progress: told how far the matching is.
        on_write: called with the bytes written and their total.

    Raises:
        ConfigError: a place or a config that cannot be used.
        CheckpointError: a model that cannot be used, or the permuted model would compute something else.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"--out: {out} exists; give another name or add --overwrite")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no folder {out.parent}; make it first")
    with open_checkpoint(target) as a, open_checkpoint(model) as b:
        check_alike(a, b)
        for one in (a, b):
            one.scan()
            one.release()
        found = align(a, b, config, progress)
        if found.permutation.moved():
            a.release()
            verify(b, found.model, config)
            write_checkpoint(
                out,
                [TensorEntry(k, b.shapes[k], b.dtypes[k], partial(found.model.tensor, k)) for k in b.shapes],
                lambda: _metadata(a, b, found),
                inputs=(a, b),
                replace=overwrite,
                progress=on_write,
            )
    return found


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


def verify_all(models: Iterable[Checkpoint]) -> None:
    """Verify those models of a merge whose neurons are put in an order that no recipe has yet, where they move.

    Raises:
        CheckpointError: one answers something else.
    """
    for model in models:
        if isinstance(model, AlignedModel) and model.is_new and model.permuted.permutation.moved():
            verify(model.original, model.permuted, model.config)


def _metadata(a: Checkpoint, b: Checkpoint, found: Alignment) -> Mapping[str, str]:
    own = {
        "model": {"name": b.path.name, "sha256": b.sha256()},
        "to": {"name": a.path.name, "sha256": a.sha256()},
        "by": "weights",
        "moved": found.permutation.moved(),
        "neurons": found.permutation.total(),
    }
    kept = {name: text for name, text in b.metadata.items() if name not in _STALE}
    return kept | {"bayes_merger.rebasin": json.dumps(own, sort_keys=True, ensure_ascii=False)}
