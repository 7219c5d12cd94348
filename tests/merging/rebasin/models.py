"""Tiny models of every family whose neurons are known, and what is asked of them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.naming import canonical_keys
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging.pipelines.loading import LoadedModel, load_model
from bayes_merger.merging.rebasin.aligning import Pair, layout_of
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted
from bayes_merger.merging.rebasin.spaces import Space

FAMILIES = ("sd1", "sd2", "sdxl")


def own_keys(model: Checkpoint) -> dict[str, str]:
    """Canonical key -> the model's own."""
    return {canonical: key for key, canonical in canonical_keys(model.shapes.keys()).items()}


def spaces(model: Checkpoint, config: Path) -> tuple[Space, ...]:
    """Those of a model with such a config."""
    return Pair.of(model, model, layout_of(model, config)).spaces


def permuted(model: Checkpoint, permutation: Permutation) -> Permuted:
    """The model in that order."""
    names = own_keys(model)
    return Permuted(model, permutation, {key: names[key] for key in permutation.keys})


def randomly(model: Checkpoint, found: tuple[Space, ...], seed: int = 1) -> Permutation:
    """A random permutation of all these spaces."""
    return Permutation.random(found, torch.Generator().manual_seed(seed))


def loaded(model: Checkpoint, config: Path) -> LoadedModel:
    """Its networks in fp32."""
    return load_model(model, config=config, device=torch.device("cpu"), dtype_of=lambda part, name: torch.float32)


def save(model: Checkpoint, path: Path) -> Path:
    """The model as a file."""
    save_file({key: model.tensor(key).contiguous() for key in model.shapes}, path, metadata=dict(model.metadata))
    return path


def scrambled(source: Path, config: Path, out: Path, seed: int = 1) -> tuple[Path, Permutation]:
    """A model with the neurons of all spaces in a random order, and that order."""
    with open_checkpoint(source) as model:
        order = randomly(model, spaces(model, config), seed)
        return save(permuted(model, order), out), order
