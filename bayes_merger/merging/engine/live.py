"""Merging into a live model, in place: no file, no copy, no reload; the result depends on nothing merged before."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.blocks import BlockWeights, Place
from bayes_merger.checkpoints.checkpoint import torch_dtypes
from bayes_merger.errors import CheckpointError, ConfigError, TrialFailed
from bayes_merger.merging.engine.key_merger import KeyMerger
from bayes_merger.merging.method import MethodSpec, Numbers
from bayes_merger.merging.parameters import Statistics
from bayes_merger.merging.plan.planning import check_weights, numbers_of
from bayes_merger.merging.plan.routing import DTYPES, Checkpoints, PlanItem, listed, plan_structure
from bayes_merger.merging.recipe.elements import ElementRule
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTED
from bayes_merger.merging.recipe.settings import DROP_EMA, MergeSettings
from bayes_merger.merging.saliency.weights import Weights, within_0_and_1

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.multiprocessing.reductions import StorageWeakRef

    from bayes_merger.merging.engine.contiguous import ContiguousSpan
    from bayes_merger.merging.engine.memory import DeviceCache

_Group = tuple[Place, tuple[ElementRule, ...]]  # tensors in one place under the same rules have the same numbers
_Address = tuple[int, "torch.dtype", object]  # the first byte, the dtype, and the size or the shape with its strides


SHARING = "BAYES_MERGER_SHARING"
"""The environment variable that says how many processes share a device's memory; a run tells its workers."""


def sharing(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes share the memory of the device that this one merges on.

    Raises:
        ConfigError: the environment does not say a count.
    """
    given = environment.get(SHARING, "1")
    if not (given.isascii() and given.isdecimal() and int(given) > 0):
        raise ConfigError(f"{SHARING}: {given!r} is no count of processes; give 1 or more, or leave it out")
    return int(given)


class LiveMerge:
    """Writes one candidate after another into the parameters of a live model.

    Every number is computed from the models, in fp32, rounded once to the recipe's dtype and then widened to the
    parameter's: bit for bit what ``merge`` gives on the same device, whatever was applied before. Only tensors whose
    numbers have changed are computed. Between candidates the models' tensors are kept in memory if they fit (otherwise
    they are read from the mapped files, which the system may cache), and so are results of the method's first stage
    that do not depend on the searched numbers.

    Args:
        checkpoints: model name to opened file, or to a computed model; they must stay open.
        settings: of the merge; EMA weights are left out, since a live model has none.
        memory: bytes that may be used on each device besides the live model; ``None`` for half of what is free there
            at the first candidate (of several workers, each has its share), 0 to keep nothing.

    Raises:
        ConfigError: a setting that is unknown; elemental rules or blocks that make no sense.
        CheckpointError: models that do not fit together.
    """

    def __init__(self, checkpoints: Checkpoints, settings: MergeSettings, *, memory: int | None = None) -> None:
        from bayes_merger.merging.engine.combine import Scratch

        self._scratch = Scratch()
        self._checkpoints = checkpoints
        self._vae = settings.vae
        self._settings = replace(settings, ema=DROP_EMA)
        self._bound = settings.spec.bind(checkpoints, settings.options)
        self._structure = structure = plan_structure(self._bound, checkpoints, self._settings)
        self._spec = structure.method
        self._dtype = DTYPES[structure.dtype]
        self._group()
        architecture = structure.architecture.whole or structure.architecture
        self._needed = [
            k for k, s in (self._merged | self._kept).items()
            if s.place.role == "block" and architecture.place(k).block != "BASE"
        ]  # fmt: skip
        self._shapes = {key: item.shape for key, item in (self._merged | self._kept).items()}
        self._memory = memory
        # State between candidates, so that only tensors whose numbers have changed are computed. A tensor's content is
        # (numbers, model statistics), and the versions of computed models if there are any. A tensor is left as it is
        # if it would get the content it has and has not moved. Its content is forgotten before the tensor is written,
        # so that after a failure half-way nothing is taken to be valid.
        self._caches: dict[torch.device, DeviceCache] = {}  # the models' tensors and prepared results
        self._places: dict[str, _Address] = {}  # the address of each live tensor at the last candidate,
        self._storages: list[StorageWeakRef] = []  # and the storages: once freed, others may get their addresses
        self._contents: dict[str, Hashable] = {}  # the content of each tensor
        self._copied = False  # whether the tensors that are not merged have been copied
        self._changing = [name for name, model in checkpoints.items() if not model.constant]
        self._computed = any(getattr(model, "computed", False) for model in checkpoints.values())
        self._statistics: tuple[Hashable, Statistics] | None = None  # versions of the models, and their statistics

    def _group(self) -> None:
        # Only what a network computes with: ids, flags and unknown tensors are not parameters.
        items = [item for item in self._structure.written if item.place.role in ("block", "vae")]
        self._merged = {item.key: item for item in items if item.action == "merge"}
        self._kept = {item.key: item for item in items if item.action != "merge"}
        self._groups: dict[_Group, list[PlanItem]] = {}
        for item in self._merged.values():
            self._groups.setdefault((item.place, item.rules), []).append(item)
        self._spans: dict[_Group, list[ContiguousSpan]] = {}  # of the live tensors of each group

    def regroup(self, elements: Sequence[str]) -> None:
        """Go on under other elemental rules: the models stay in memory, and what has its numbers is not written again.

        Args:
            elements: the rules, as in the settings.

        Raises:
            ConfigError: rules that make no sense.
        """
        if tuple(elements) == self._settings.elements:
            return
        settings = replace(self._settings, elements=tuple(elements))
        self._structure = plan_structure(self._bound, self._checkpoints, settings)
        self._settings = settings
        self._group()
        if self._changing:  # a span's version is that of its first tensor
            self._forget()

    def apply(self, weights: BlockWeights, destinations: Mapping[str, Tensor], *, everything: bool = False) -> None:
        """Turn the live model into the merge with these weights.

        Args:
            weights: weight name -> block -> number, every block.
            destinations: single-file key to a view on the live parameter: the file's shape, any float dtype, strides
                and device. What was written is assumed unchanged, unless any of them has moved.
            everything: write all tensors again, because someone else may have written to them.

        Raises:
            ConfigError: weights missing, unknown, out of bounds or at a pole.
            CheckpointError: the live model and the checkpoints do not have the same tensors.
            TrialFailed: a tensor overflows; the live model is then half written, and the next merge repairs it.
        """
        import torch

        check_weights(weights, self._structure, self._vae)
        self._check_places(destinations)
        if everything:
            self._forget()
        with torch.no_grad():
            if not self._copied:
                for key, item in self._kept.items():
                    if key in destinations:
                        self._copy(item, destinations[key])
                self._copied = not self._changing
            spec, statistics = self._with_statistics()
            for group, items in self._groups.items():
                numbers = numbers_of(items[0], weights)
                content = (tuple(numbers.values()), statistics)
                if group not in self._spans:
                    self._spans[group] = self._find_spans(spec, items, destinations)
                for span in self._spans[group]:
                    self._merge(spec, span, numbers, destinations, content)
            if ADJUST in weights:
                self._adjust(spec, weights, destinations)

    def _adjust(self, spec: MethodSpec, weights: BlockWeights, destinations: Mapping[str, Tensor]) -> None:
        """Compute the few small tensors that adjustments change as they are computed for a file."""
        from bayes_merger.checkpoints.nonfinite import find_nonfinite
        from bayes_merger.merging.engine.combine import put

        merger = KeyMerger(replace(self._structure, method=spec), weights, self._checkpoints)
        touched = ADJUSTED & destinations.keys()
        self._copied = False
        for key in touched:
            self._contents.pop(key, None)
        for key in sorted(touched):
            item = self._merged.get(key) or self._kept[key]
            out = destinations[key]
            put(merger.tensor(item, "F32").to(out.device), out, torch_dtypes()[self._dtype], self._scratch)
            if fault := find_nonfinite(out):
                raise TrialFailed(f"merge: '{key}' holds {fault}; adjustments nearer to 0 avoid it")

    def _check_places(self, destinations: Mapping[str, Tensor]) -> None:
        """Check the destinations and forget what was written, unless they have not moved since the last time."""
        from torch.multiprocessing.reductions import StorageWeakRef

        places: dict[str, _Address] = {
            key: (out.data_ptr(), out.dtype, out.numel() if out.is_contiguous() else (out.shape, out.stride()))
            for key, out in destinations.items()
        }
        # If a storage was freed, another tensor may have its address.
        if places == self._places and not any(storage.expired() for storage in self._storages):
            return
        self._check_destinations(destinations)
        self._make_caches(destinations)
        self._spans.clear()
        self._forget()
        storages = {storage._cdata: storage for storage in (out.untyped_storage() for out in destinations.values())}
        self._storages = [StorageWeakRef(storage) for storage in storages.values()]
        self._places = places

    def release(self) -> bool:
        """Keep nothing in memory between candidates any more, and let go of what is kept; whether there was any."""
        from bayes_merger.merging.engine.combine import Scratch

        kept = any(cache.size for cache in self._caches.values())
        self._memory, self._scratch = 0, Scratch()
        self._caches.clear()
        self._places = {}  # at the next candidate, all begins anew
        return kept

    def _forget(self) -> None:
        self._contents.clear()
        self._copied = False

    def _find_spans(
        self, spec: MethodSpec, items: list[PlanItem], destinations: Mapping[str, Tensor]
    ) -> list[ContiguousSpan]:
        """The tensors of a group, joined into spans if the method treats a tensor as a plain row of numbers."""
        from bayes_merger.merging.engine.contiguous import ContiguousSpan, spans_of

        items = [item for item in items if item.key in destinations]
        joined: list[tuple[str, list[Tensor]]] = []
        single: list[ContiguousSpan] = []
        for item in items:
            out = destinations[item.key]
            cache = self._caches[out.device]
            joins = spec.elementwise and spec.prepare is None and not item.common and not self._structure.varies(item)
            if joins and cache.keeps(item):
                joined.append((item.key, [*cache.sources(item), out]))
            else:
                single.append(ContiguousSpan((item.key,), out.numel()))
        joined.sort(key=lambda tensors: tensors[1][-1].data_ptr())
        return spans_of(joined) + single

    def _check_destinations(self, destinations: Mapping[str, Tensor]) -> None:
        unknown = [key for key in destinations if key not in self._shapes]
        if unknown:
            raise CheckpointError(f"the live model has parameters that model A does not have: {listed(unknown)}")
        missing = [key for key in self._needed if key not in destinations]
        if missing:
            raise CheckpointError(f"the live model has no parameters for {listed(missing)} of model A")
        for key, out in destinations.items():
            if out.shape != self._shapes[key]:
                shape = list(self._shapes[key])
                raise CheckpointError(f"shapes differ: '{key}' is {list(out.shape)} in the live model and {shape} in A")

    def _with_statistics(self) -> tuple[MethodSpec, Hashable]:
        """The method with the statistics of the models as they are now, and those statistics."""
        from bayes_merger.merging.engine.statistics import statistics_of

        if self._spec.statistic is None:
            return self._spec, None
        versions = tuple(self._versions(key) for key in self._merged) if self._changing else ()
        if self._statistics is None or self._statistics[0] != versions:
            self._statistics = (versions, statistics_of(self._spec, self._checkpoints, self._merged.values()))
        statistics = self._statistics[1]
        return self._spec.with_statistics(statistics), statistics

    def _versions(self, key: str) -> Hashable:
        return tuple([self._checkpoints[name].version(key) for name in self._changing])

    def _copy(self, item: PlanItem, out: Tensor) -> None:
        from bayes_merger.merging.engine.combine import put

        model = self._checkpoints[item.source]
        content = ("kept", model.version(item.key) if item.source in self._changing else None)
        if self._contents.pop(item.key, None) != content:
            put(model.tensor(item.key).to(out.device), out, torch_dtypes()[self._dtype], self._scratch)
        self._contents[item.key] = content

    def _merge(
        self,
        spec: MethodSpec,
        span: ContiguousSpan,
        numbers: Numbers,
        destinations: Mapping[str, Tensor],
        content: Hashable,
    ) -> None:
        """Merge tensors that have the same numbers, unless they already have this content."""
        key = span.keys[0]
        if self._changing:
            content = (content, self._versions(key))
        # forgotten first, in case of a failure half-way
        before = [self._contents.pop(each, None) for each in span.keys]
        if any(one != content for one in before):
            weights = self._structure.weights_of(self._merged[key], numbers)
            self._combine(spec, span, numbers, weights, destinations[key])
            if self._computed or not (spec.between and all(map(within_0_and_1, weights.values()))):
                self._check_numbers(span, destinations)
        self._contents.update(dict.fromkeys(span.keys, content))

    def _combine(self, spec: MethodSpec, span: ContiguousSpan, numbers: Numbers, weights: Weights, out: Tensor) -> None:
        from bayes_merger.merging.engine.combine import combine, combine_channels
        from bayes_merger.merging.engine.contiguous import whole

        dtype, key = torch_dtypes()[self._dtype], span.keys[0]
        item, cache = self._merged[key], self._caches[out.device]
        sources, cached = cache.sources(item), None
        if spec.prepare is not None:
            cache_key = (tuple(numbers[name] for name in spec.prepared_by), self._versions(key))
            cached = partial(cache.prepared.get, key, cache_key)
        if item.common:
            combine_channels(spec, sources, weights, out, dtype, self._scratch, key, item.common, cached)
            return
        if len(span.keys) > 1:
            sources, out = [whole(source, span.size) for source in sources], whole(out, span.size)
        combine(spec, sources, weights, out, dtype, self._scratch, key, cached)

    def _check_numbers(self, span: ContiguousSpan, destinations: Mapping[str, Tensor]) -> None:
        from bayes_merger.checkpoints.nonfinite import find_nonfinite
        from bayes_merger.merging.engine.contiguous import whole

        if not find_nonfinite(
            whole(destinations[span.keys[0]], span.size) if span.keys[1:] else destinations[span.keys[0]]
        ):
            return
        for key in span.keys:
            if fault := find_nonfinite(destinations[key]):
                raise TrialFailed(f"merge: '{key}' holds {fault}; weights nearer to [0, 1] avoid it")

    def _make_caches(self, destinations: Mapping[str, Tensor]) -> None:
        from bayes_merger.merging.engine.memory import DeviceCache, free_memory, place_of

        for device in {out.device for out in destinations.values()} - set(self._caches):
            budget = free_memory(device) // (2 * sharing()) if self._memory is None else self._memory
            items = [s for k, s in self._merged.items() if k in destinations and destinations[k].device == device]
            items.sort(key=lambda item: destinations[item.key].data_ptr())
            place = place_of(self._spec, device)
            self._caches[device] = DeviceCache(self._checkpoints, self._spec, items, place, budget)
