"""A guess at the effect of parts before anything is drawn: what activations say of where two models differ.

A channel that a layer is hardly ever fed changes little, however far its weights are moved. So of each matrix and
convolution the squares count by the mean square x_j of what its input channel j is fed:

    sqrt(sum_ij (B_ij - A_ij)^2 x_j / sum_ij A_ij^2 x_j)

which is how far the layer's answer moves, as a share of that answer, if its channels are not correlated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.errors import CheckpointError, printable
from bayes_merger.merging.engine.difference import Difference, Sums

if TYPE_CHECKING:
    from torch import Tensor

_FED = "in_sq"


def weighted_sums(found: Difference, sidecar: Sidecar) -> dict[str, Sums]:
    """The sums of squares of models A and B, by activations of mean 1, for the tensors of which there are any.

    Args:
        found: the difference of A and B.
        sidecar: measured on model A.

    Raises:
        CheckpointError: the file is of another model, or does not fit it.
    """
    _check(sidecar, found.models["a"])
    return {
        row.key: _weighted(row.key, row.sums["a", "b"], found.models, sidecar.mean(row.key, _FED))
        for row in found.rows
        if _FED in sidecar.statistics.get(row.key, ())
    }


def _check(sidecar: Sidecar, model: Checkpoint) -> None:
    if sidecar.about is None:
        raise CheckpointError(
            f"--activations: {sidecar.path} is a plain file, which does not say what layers are fed; "
            "give one of  bayes-merger activations"
        )
    if sidecar.about.model != model.sha256():
        raise CheckpointError(
            f"--activations: {sidecar.path} was measured on another model ({printable(sidecar.about.model[:10])}), not "
            f"on model A, {model.path.name} ({model.sha256()[:10]}); measure that one"
        )
    for key, statistics in sidecar.statistics.items():
        shape = model.shapes.get(key, ())
        if _FED in statistics and (len(shape) < 2 or shape[1] != sidecar.channels(key, _FED)):
            raise CheckpointError(f"--activations: {sidecar.path}: '{printable(key)}' does not fit model A's tensor")


def _weighted(key: str, plain: Sums, models: Mapping[str, Checkpoint], fed: Tensor) -> Sums:
    a, b = (models[name].tensor(key).float() for name in ("a", "b"))
    if not (mean := float(fed.mean())):
        return plain
    first, second, apart = (float(_by_column(tensor) @ fed) / mean for tensor in (a, b, b - a))
    return Sums(plain.tensors, plain.identical, plain.numbers, first, second, apart)


def _by_column(tensor: Tensor) -> Tensor:
    """The sum of squares of each input channel, shape ``(channels,)``, in fp64."""
    return tensor.square().transpose(0, 1).flatten(1).double().sum(1)
