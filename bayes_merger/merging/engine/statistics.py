"""Statistics of whole models, for the methods that weight a tensor by how it compares with all others."""

from __future__ import annotations

from collections.abc import Iterable

from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.parameters import Statistics
from bayes_merger.merging.plan.routing import Checkpoints, PlanItem


def statistics_of(spec: MethodSpec, checkpoints: Checkpoints, items: Iterable[PlanItem]) -> Statistics:
    """Compute a method's statistic over all merged tensors, one after another.

    Args:
        spec: a method with a model statistic.
        checkpoints: model name to opened file.
        items: of the plan; the merged ones are read, in the order of their keys.
    """
    import torch

    assert spec.statistic is not None
    values = []
    with torch.no_grad():
        for item in sorted(items, key=lambda item: item.key):
            if item.action != "merge":
                continue
            models = [checkpoints[name].tensor(item.key) for name in spec.models]
            if item.common:
                models = [model[:, : item.common].contiguous() for model in models]
            values.append(spec.statistic.per_tensor(*(model.float() for model in models)))
    return spec.statistic.reduce(values)


def with_model_statistics(spec: MethodSpec, checkpoints: Checkpoints, items: Iterable[PlanItem]) -> MethodSpec:
    """The method with the statistics of these models, if it needs any; else the method itself."""
    if spec.statistic is None:
        return spec
    return spec.with_statistics(statistics_of(spec, checkpoints, items))
