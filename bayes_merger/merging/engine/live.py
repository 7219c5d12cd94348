"""Merging into a live model, in place: no file, no copy, no reload, and no memory of what was there before."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.architectures import OwnBlocks
from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.checkpoints.checkpoint import torch_dtypes
from bayes_merger.errors import CheckpointError, TrialFailed
from bayes_merger.merging.method import MethodSpec, Numbers, Options, method_spec
from bayes_merger.merging.plan.routing import DTYPES, Checkpoints, PlanItem, listed, plan_structure
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTED, clipped
from bayes_merger.merging.recipe.recipe import check_weights, numbers_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bayes_merger.merging.engine.contiguous import ContiguousSpan
    from bayes_merger.merging.engine.memory import DeviceCache


class LiveMerge:
    """Writes one candidate after another into the parameters of a live model.

    Every number is computed from the models, in fp32, rounded once to the recipe's dtype and then widened to the
    parameter's: bit for bit what ``merge`` gives on the same device, whatever was applied before. Only tensors whose
    numbers have changed since are computed. Between candidates the models' tensors are kept in memory where there is
    room (else they are read from their files' pages, which the system may keep), and so is work of the method that does
    not depend on the numbers that are searched.

    Args:
        checkpoints: model name to opened file, or to what looks like one (see ``sources``); they must stay open.
        method: name of the merge method.
        dtype: of the recipe, ``None`` or ``auto`` for model A's.
        vae: as in a recipe.
        options: as in a recipe.
        elements: as in a recipe.
        compat: as in a recipe.
        blocks: as in a recipe.
        channels: as in a recipe.
        clip: as in a recipe.
        memory: bytes that may be taken on each device besides the live model; ``None`` for half of what is free there
            at the first candidate, 0 to keep nothing.

    Raises:
        ConfigError: unknown method, option, dtype or ``vae``; elemental rules or blocks that make no sense.
        CheckpointError: models that do not fit together.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        method: str,
        dtype: str | None = None,
        vae: str = "a",
        options: Options | None = None,
        *,
        elements: Iterable[str] = (),
        compat: str = "",
        blocks: OwnBlocks = (),
        channels: str = "equal",
        clip: str = "",
        memory: int | None = None,
    ) -> None:
        from bayes_merger.merging.engine.combine import Scratch

        self._scratch = Scratch()
        self._spec = clipped(method_spec(method).bind(checkpoints, options), clip)
        self._checkpoints = checkpoints
        self._vae = vae
        self._structure = structure = plan_structure(
            self._spec, checkpoints, dtype, vae, elements=elements, compat=compat, blocks=blocks, channels=channels
        )
        self._dtype = DTYPES[structure.dtype]
        # Only what a network computes with: ids, flags and strangers are no parameters.
        steps = [step for step in structure.written if step.place.role in ("block", "vae")]
        self._merged = {step.key: step for step in steps if step.action == "merge"}
        self._kept = {step.key: step for step in steps if step.action != "merge"}
        self._alike: dict[Any, list[PlanItem]] = {}
        for step in self._merged.values():
            self._alike.setdefault((step.place, step.rules), []).append(step)
        architecture = structure.architecture.whole or structure.architecture
        self._needed = [
            k for k, s in (self._merged | self._kept).items()
            if s.place.role == "block" and architecture.place(k).block != "BASE"
        ]  # fmt: skip
        self._shapes = {key: step.shape for key, step in (self._merged | self._kept).items()}
        self._memory = memory
        self._keepers: dict[torch.device, DeviceCache] = {}
        self._places: dict[str, tuple[Any, ...]] = {}  # where each live tensor lay when it was last looked at,
        self._storages: list[Any] = []  # and weak references to the storages that they lay in
        self._contents: dict[str, Hashable] = {}  # what the tensors of each run were last made of, by the first one
        self._settled = False  # whether all that is kept is known to be in its place
        self._runs: dict[Any, list[ContiguousSpan]] = {}
        self._changing = [name for name, model in checkpoints.items() if not model.constant]
        self._computed = any(getattr(model, "computed", False) for model in checkpoints.values())
        self._statistics: tuple[Hashable, Any] | None = None

    def apply(self, weights: BlockWeights, destinations: Mapping[str, Tensor], *, everything: bool = False) -> None:
        """Turn the live model into the merge with these weights.

        Args:
            weights: weight name -> block -> number, every block.
            destinations: single-file key to a view on the live parameter: the file's shape, any float dtype, strides
                and device. What was written is taken to be still there, unless any of them has moved.
            everything: write all of it again, because somebody else may have written there.

        Raises:
            ConfigError: weights missing, unknown, out of bounds or at a pole.
            CheckpointError: the live model and the checkpoints do not have the same tensors.
            TrialFailed: a tensor overflows; the live model is then half written, and the next merge repairs it.
        """
        import torch

        check_weights(weights, self._structure, self._vae)
        self._look(destinations)
        if everything:
            self._forget()
        with torch.no_grad():
            if not self._settled:
                for key, step in self._kept.items():
                    if key in destinations:
                        self._keep(step, destinations[key])
                self._settled = not self._changing
            spec, statistics = self._surveyed()
            for like, steps in self._alike.items():
                numbers = numbers_of(steps[0], weights)
                content = (tuple(numbers.values()), statistics)
                if like not in self._runs:
                    self._runs[like] = self._find_runs(spec, steps, destinations)
                for run in self._runs[like]:
                    self._merge(spec, run, numbers, destinations, content)
            if ADJUST in weights:
                self._adjust(spec, weights, destinations)

    def _adjust(self, spec: MethodSpec, weights: BlockWeights, destinations: Mapping[str, Tensor]) -> None:
        """Make the few tensors that adjustments change, as they are made for a file; they are small."""
        from bayes_merger.checkpoints.nonfinite import find_nonfinite
        from bayes_merger.merging.engine.combine import put
        from bayes_merger.merging.engine.merge import KeyMerger

        maker = KeyMerger(replace(self._structure, method=spec), weights, self._checkpoints)
        touched = ADJUSTED & destinations.keys()
        self._settled = False
        for first in [
            *touched,
            *(run.keys[0] for run in chain(*self._runs.values()) if touched.intersection(run.keys)),
        ]:
            self._contents.pop(first, None)
        for key in sorted(touched):
            step = self._merged.get(key) or self._kept[key]
            out = destinations[key]
            put(maker.tensor(step, "F32").to(out.device), out, torch_dtypes()[self._dtype], self._scratch)
            if fault := find_nonfinite(out):
                raise TrialFailed(f"merge: '{key}' holds {fault}; adjustments nearer to 0 avoid it")

    def _look(self, destinations: Mapping[str, Tensor]) -> None:
        """Check the destinations and forget what was written, unless they lie where they did the last time."""
        places = {
            key: (out.data_ptr(), out.dtype, out.numel() if out.is_contiguous() else (out.shape, out.stride()))
            for key, out in destinations.items()
        }
        # Where a storage is gone, another tensor may have its address.
        if places == self._places and not any(storage.expired() for storage in self._storages):
            return
        from torch.multiprocessing.reductions import StorageWeakRef

        self._check_destinations(destinations)
        self._make_keepers(destinations)
        self._runs.clear()
        self._forget()
        storages = {storage._cdata: storage for storage in (out.untyped_storage() for out in destinations.values())}
        self._storages = [StorageWeakRef(storage) for storage in storages.values()]
        self._places = places

    def _forget(self) -> None:
        self._contents.clear()
        self._settled = False

    def _find_runs(
        self, spec: MethodSpec, steps: list[PlanItem], destinations: Mapping[str, Tensor]
    ) -> list[ContiguousSpan]:
        """The tensors that share their numbers, in runs where the method takes a tensor for a row of numbers."""
        from bayes_merger.merging.engine.contiguous import ContiguousSpan, runs_of

        steps = [step for step in steps if step.key in destinations]
        joined: list[tuple[str, list[Tensor]]] = []
        single: list[ContiguousSpan] = []
        for step in steps:
            out = destinations[step.key]
            keeper = self._keepers[out.device]
            if spec.elementwise and spec.prepare is None and not step.common and keeper.keeps(step):
                joined.append((step.key, [*keeper.sources(step), out]))
            else:
                single.append(ContiguousSpan((step.key,), out.numel()))
        joined.sort(key=lambda tensors: tensors[1][-1].data_ptr())
        return runs_of(joined) + single

    def _check_destinations(self, destinations: Mapping[str, Tensor]) -> None:
        strange = [key for key in destinations if key not in self._shapes]
        if strange:
            raise CheckpointError(f"the live model has parameters that model A has not: {listed(strange)}")
        lacking = [key for key in self._needed if key not in destinations]
        if lacking:
            raise CheckpointError(f"the live model has no parameters for {listed(lacking)} of model A")
        for key, out in destinations.items():
            if out.shape != self._shapes[key]:
                shape = list(self._shapes[key])
                raise CheckpointError(f"shapes differ: '{key}' is {list(out.shape)} in the live model and {shape} in A")

    def _surveyed(self) -> tuple[MethodSpec, Hashable]:
        """The method with the statistics of the models as they are now, and these."""
        from bayes_merger.merging.engine.statistics import statistics_of

        if self._spec.statistic is None:
            return self._spec, None
        versions = tuple(self._versions(key) for key in self._merged) if self._changing else ()
        if self._statistics is None or self._statistics[0] != versions:
            self._statistics = (versions, statistics_of(self._spec, self._checkpoints, self._merged.values()))
        found = self._statistics[1]
        return self._spec.with_statistics(found), found

    def _versions(self, key: str) -> Hashable:
        return tuple([self._checkpoints[name].version(key) for name in self._changing])

    def _keep(self, step: PlanItem, out: Tensor) -> None:
        from bayes_merger.merging.engine.combine import put

        owner = self._checkpoints[step.source]
        content = ("kept", owner.version(step.key) if step.source in self._changing else None)
        if self._contents.pop(step.key, None) != content:
            put(owner.tensor(step.key).to(out.device), out, torch_dtypes()[self._dtype], self._scratch)
        self._contents[step.key] = content

    def _merge(
        self,
        spec: MethodSpec,
        run: ContiguousSpan,
        numbers: Numbers,
        destinations: Mapping[str, Tensor],
        content: Hashable,
    ) -> None:
        """Merge tensors that have the same numbers, unless what is there was made of the same."""
        key = run.keys[0]
        if self._changing:
            content = (content, self._versions(key))
        if self._contents.pop(key, None) != content:  # what fails half way leaves nothing that one could rely on
            self._combine(spec, run, numbers, destinations[key])
            if self._computed or not spec.stays_between(numbers):
                self._check_numbers(run, destinations)
        self._contents[key] = content

    def _combine(self, spec: MethodSpec, run: ContiguousSpan, numbers: Numbers, out: Tensor) -> None:
        from bayes_merger.merging.engine.combine import combine, combine_channels
        from bayes_merger.merging.engine.contiguous import whole

        dtype, key = torch_dtypes()[self._dtype], run.keys[0]
        step, keeper = self._merged[key], self._keepers[out.device]
        sources, keep = keeper.sources(step), None
        if spec.prepare is not None:
            sign = (tuple(numbers[name] for name in spec.prepared_by), self._versions(key))
            keep = partial(keeper.work.get, key, sign)
        if step.common:
            combine_channels(spec, sources, numbers, out, dtype, self._scratch, key, step.common, keep)
            return
        if len(run.keys) > 1:
            sources, out = [whole(source, run.size) for source in sources], whole(out, run.size)
        combine(spec, sources, numbers, out, dtype, self._scratch, key, keep)

    def _check_numbers(self, run: ContiguousSpan, destinations: Mapping[str, Tensor]) -> None:
        from bayes_merger.checkpoints.nonfinite import find_nonfinite
        from bayes_merger.merging.engine.contiguous import whole

        if not find_nonfinite(
            whole(destinations[run.keys[0]], run.size) if run.keys[1:] else destinations[run.keys[0]]
        ):
            return
        for key in run.keys:
            if fault := find_nonfinite(destinations[key]):
                raise TrialFailed(f"merge: '{key}' holds {fault}; weights nearer to [0, 1] avoid it")

    def _make_keepers(self, destinations: Mapping[str, Tensor]) -> None:
        from bayes_merger.merging.engine.memory import DeviceCache, free_memory

        for device in {out.device for out in destinations.values()} - set(self._keepers):
            budget = free_memory(device) // 2 if self._memory is None else self._memory
            steps = [s for k, s in self._merged.items() if k in destinations and destinations[k].device == device]
            steps.sort(key=lambda step: destinations[step.key].data_ptr())
            self._keepers[device] = DeviceCache(self._checkpoints, self._spec, steps, device, budget)
