"""Merging into a live model, in place: no file, no copy, no reload, and no memory of what was there before."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from bayes_merger.errors import CheckpointError, TrialFailed
from bayes_merger.merging.architectures import OwnBlocks
from bayes_merger.merging.blocks import BlockWeights
from bayes_merger.merging.checkpoint import torch_dtypes
from bayes_merger.merging.method import MethodSpec, Options, method_spec
from bayes_merger.merging.recipe import check_weights, numbers_of
from bayes_merger.merging.routing import DTYPES, Checkpoints, Step, listed, plan_structure
from bayes_merger.merging.sources import version_of

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.merging.memory import Keeper


class _Written(NamedTuple):
    """What a live tensor was last made of, and where it lay.

    Attributes:
        content: numbers, and versions of the models' tensors; equal for equal results.
        storage: weak reference to its memory: an address alone may be given to another tensor.
        place: address, dtype and strides.
    """

    content: Hashable
    storage: Any
    place: tuple[Any, ...]


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
        memory: int | None = None,
    ) -> None:
        from bayes_merger.merging.combine import Scratch

        self._scratch = Scratch()
        self._spec = method_spec(method).bind(checkpoints, options)
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
        architecture = structure.architecture.whole or structure.architecture
        self._needed = [
            k for k, s in (self._merged | self._kept).items()
            if s.place.role == "block" and architecture.place(k).block != "BASE"
        ]  # fmt: skip
        self._memory = memory
        self._keepers: dict[Any, Keeper] = {}
        self._written: dict[str, _Written] = {}
        self._statistics: tuple[Hashable, Any] | None = None

    def apply(self, weights: BlockWeights, destinations: Mapping[str, Tensor], *, everything: bool = False) -> None:
        """Turn the live model into the merge with these weights.

        Args:
            weights: weight name -> block -> number, every block.
            destinations: single-file key to a view on the live parameter: the file's shape, any float dtype, strides
                and device. What was written there is taken to be still there, unless the destination has moved.
            everything: write all of it again, because somebody else may have written there.

        Raises:
            ConfigError: weights missing, unknown, out of bounds or at a pole.
            CheckpointError: the live model and the checkpoints do not have the same tensors.
            TrialFailed: a tensor overflows; the live model is then half written, and the next merge repairs it.
        """
        import torch

        check_weights(weights, self._structure, self._vae)
        self._check_destinations(destinations)
        if everything:
            self._written.clear()
        with torch.no_grad():
            for key, step in self._kept.items():
                if key in destinations:
                    self._keep(step, destinations[key])
            self._make_keepers(destinations)
            spec, statistics = self._surveyed()
            numbers: dict[Any, Mapping[str, float]] = {}
            for key, step in self._merged.items():
                if key not in destinations:
                    continue
                like = (step.place, step.rules)
                if like not in numbers:
                    numbers[like] = numbers_of(step, weights)
                self._merge(spec, step, numbers[like], destinations[key], statistics)

    def _check_destinations(self, destinations: Mapping[str, Tensor]) -> None:
        strange = [key for key in destinations if key not in self._merged and key not in self._kept]
        if strange:
            raise CheckpointError(f"the live model has parameters that model A has not: {listed(strange)}")
        lacking = [key for key in self._needed if key not in destinations]
        if lacking:
            raise CheckpointError(f"the live model has no parameters for {listed(lacking)} of model A")
        for key, out in destinations.items():
            shape = (self._merged.get(key) or self._kept[key]).shape
            if out.shape != shape:
                raise CheckpointError(
                    f"shapes differ: '{key}' is {list(out.shape)} in the live model and {list(shape)} in A"
                )

    def _surveyed(self) -> tuple[MethodSpec, Hashable]:
        """The method with the statistics of the models as they are now, and these."""
        from bayes_merger.merging.survey import statistics_of

        if self._spec.survey is None:
            return self._spec, None
        versions = tuple(version_of(self._checkpoints[name], key) for key in self._merged for name in self._spec.models)
        if self._statistics is None or self._statistics[0] != versions:
            self._statistics = (versions, statistics_of(self._spec, self._checkpoints, self._merged.values()))
        found = self._statistics[1]
        return self._spec.with_statistics(found), found

    def _keep(self, step: Step, out: Tensor) -> None:
        from bayes_merger.merging.combine import put

        owner = self._checkpoints[step.source]
        version = version_of(owner, step.key)
        if self._is_there(step.key, version, out):
            return
        put(owner.tensor(step.key).to(out.device), out, torch_dtypes()[self._dtype], self._scratch)
        self._note(step.key, version, out)

    def _merge(
        self, spec: MethodSpec, step: Step, numbers: Mapping[str, float], out: Tensor, statistics: Hashable
    ) -> None:
        from bayes_merger.merging.combine import combine, combine_channels
        from bayes_merger.merging.finite import describe_fault

        key = step.key
        versions = tuple([version_of(self._checkpoints[name], key) for name in spec.models])
        content = (tuple(numbers.values()), versions, statistics)
        if self._is_there(key, content, out):
            return
        keeper = self._keepers[out.device]
        sources = keeper.sources(step)
        keep = None
        if spec.prepare is not None:
            keep = partial(keeper.work.get, key, (tuple(numbers[name] for name in spec.prepared_by), versions))
        dtype = torch_dtypes()[self._dtype]
        if step.common:
            combine_channels(spec, sources, numbers, out, dtype, self._scratch, key, step.common, keep)
        else:
            combine(spec, sources, numbers, out, dtype, self._scratch, key, keep)
        if not spec.stays_between(numbers) and (fault := describe_fault(out)):
            raise TrialFailed(f"merge: '{key}' holds {fault}; weights nearer to [0, 1] avoid it")
        self._note(key, content, out)

    def _make_keepers(self, destinations: Mapping[str, Tensor]) -> None:
        from bayes_merger.merging.memory import Keeper, free_memory

        for device in {out.device for out in destinations.values()} - set(self._keepers):
            budget = free_memory(device) // 2 if self._memory is None else self._memory
            steps = [s for k, s in self._merged.items() if k in destinations and destinations[k].device == device]
            self._keepers[device] = Keeper(self._checkpoints, self._spec, steps, device, budget)

    def _is_there(self, key: str, content: Hashable, out: Tensor) -> bool:
        """Whether the result is in place already; if not it is about to be overwritten, and is forgotten."""
        last = self._written.get(key)
        if last is not None and last.content == content and last.place == _place(out):
            return bool(last.storage.cdata == out.untyped_storage()._cdata)
        self._written.pop(key, None)
        return False

    def _note(self, key: str, content: Hashable, out: Tensor) -> None:
        from torch.multiprocessing.reductions import StorageWeakRef

        storage = StorageWeakRef(out.untyped_storage())  # type: ignore[no-untyped-call]
        self._written[key] = _Written(content, storage, _place(out))


def _place(out: Tensor) -> tuple[Any, ...]:
    return out.data_ptr(), out.dtype, out.stride()
