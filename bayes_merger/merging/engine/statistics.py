"""Statistics of whole models, for the methods that weigh a tensor by how it compares with all others."""

from __future__ import annotations

from collections.abc import Iterable

from bayes_merger.merging.method import MethodSpec, Statistics
from bayes_merger.merging.plan.routing import Checkpoints, Step


def statistics_of(spec: MethodSpec, checkpoints: Checkpoints, steps: Iterable[Step]) -> Statistics:
    """Read every tensor that is merged, one after another, and conclude.

    Args:
        spec: a method with a survey.
        checkpoints: model name to opened file.
        steps: of the plan; those that merge are read, in the order of their keys.
    """
    import torch

    assert spec.survey is not None
    shares = []
    with torch.no_grad():
        for step in sorted(steps, key=lambda step: step.key):
            if step.action != "merge":
                continue
            models = [checkpoints[name].tensor(step.key) for name in spec.models]
            if step.common:
                models = [model[:, : step.common].contiguous() for model in models]
            shares.append(spec.survey.each(*(model.float() for model in models)))
    return spec.survey.conclude(shares)


def surveyed(spec: MethodSpec, checkpoints: Checkpoints, steps: Iterable[Step]) -> MethodSpec:
    """The method with what it needs to know of the whole models, if it asks for that; else the method itself."""
    if spec.survey is None:
        return spec
    return spec.with_statistics(statistics_of(spec, checkpoints, steps))
