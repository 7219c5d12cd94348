"""What a merge predicts, and whether its models may be merged at all: their outputs must mean the same."""

from __future__ import annotations

from collections.abc import Mapping

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.prediction import EPSILON, MARKS, WORDS, ZERO_SNR
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.method import MethodSpec


def prediction_of_merge(spec: MethodSpec, models: Mapping[str, Checkpoint]) -> str:
    """What a merge predicts, a kind of ``checkpoints.prediction``; empty where none of its models says it.

    Noise and velocity answer different questions, and their mean answers none. A difference of two models that predict
    the same is what training changed, and may be added to a model of another kind.

    Args:
        spec: the method, bound to its models.
        models: model name to what it is; those of the method are read.

    Raises:
        CheckpointError: they predict different things.
    """
    said = _said({name: models[name] for name in spec.models})
    if spec.adds_difference:
        _check_equal({name: kind for name, kind in said.items() if name != "a"}, "subtracted")
        return said["a"]
    _check_equal(said, "merged; method=add_difference adds to A what B has over a C of its kind")
    return next((kind for kind in said.values() if kind), "")


def _said(models: Mapping[str, Checkpoint]) -> dict[str, str]:
    marks = set(MARKS) - {ZERO_SNR}
    marked = any(mark in model.shapes for model in models.values() for mark in marks)
    # where some files are marked, those that are not are so for a reason; elsewhere what says nothing predicts what its
    # architecture does, which may be either. The mark of zero SNR alone, which merges leave behind, says too little
    unsure = any(ZERO_SNR in model.shapes for model in models.values())
    said = {name: "" if unsure else model.architecture.prediction for name, model in models.items()}
    return {name: model.prediction or (EPSILON if marked else said[name]) for name, model in models.items()}


def _check_equal(said: Mapping[str, str], done: str) -> None:
    by_kind: dict[str, list[str]] = {}
    for name, kind in said.items():
        if kind:
            by_kind.setdefault(kind, []).append(name.upper())
    if len(by_kind) > 1:
        (first, a), (second, b), *_ = sorted(by_kind.items(), key=lambda item: item[0] == EPSILON)
        raise CheckpointError(
            f"{', '.join(a)} predicts {WORDS[first]} and {', '.join(b)} {WORDS[second]}: these cannot be {done}"
        )
