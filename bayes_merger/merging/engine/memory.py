"""What a live merge caches between candidates: its models, and results that do not depend on the searched numbers.

Caching changes how long a candidate takes, and never a bit of its tensors.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bayes_merger.checkpoints.blocks import Place
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.header import ITEM_SIZES
from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.parameters import Prepared
from bayes_merger.merging.plan.routing import Checkpoints, PlanItem

_ALIGNMENT = 64  # bytes: that of live tensors, see imaging/layout.py


def free_memory(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that are free on a device right now, page cache included.

    Args:
        device: a CPU or a GPU.
        root: the folder that holds ``proc`` and ``sys``.
    """
    if device.type == "cuda":
        # torch reuses what freed tensors have left; the driver does not count that as free.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    available = [_available(root / "proc" / "meminfo")]
    group = root / "sys" / "fs" / "cgroup"
    with_limit = _number(group / "memory.max")
    if with_limit is not None:
        available.append(max(with_limit - (_number(group / "memory.current") or 0), 0))
    known = [number for number in available if number is not None]
    return min(known) if known else _physical()


def _available(table: Path) -> int | None:
    try:
        lines = table.read_text().splitlines()
    except OSError:  # no Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:  # no control group
        return None
    return int(text) if text.isdecimal() else None


def _physical() -> int:
    """Half of the installed memory, where the system does not say what is free."""
    names = getattr(os, "sysconf_names", {})
    known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if known else 2**32


def place_of(spec: MethodSpec, device: torch.device) -> torch.device:
    """Where a method is computed for live tensors on a device: there, if the device can.

    Apple's MPS has no fp64 and few decompositions of matrices, which methods of whole tensors and of two stages need;
    its memory is the CPU's.
    """
    able = device.type != "mps" or (spec.elementwise and spec.prepare is None)
    return device if able else torch.device("cpu")


class Arena:
    """Copies of tensors, one after another in one allocation per group and dtype.

    Each begins at an aligned address, like the live tensors: a GPU reads several numbers at a time only if everything
    it reads and writes is aligned.
    """

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Tensor] = {}
        self.size = 0

    def get(self, name: Hashable) -> Tensor | None:
        """The copy of that name, if there is one."""
        return self._tensors.get(name)

    def fill(self, tensors: Iterable[tuple[Hashable, Tensor]], device: torch.device) -> None:
        """Copy a group of tensors to ``device``.

        Args:
            tensors: name and tensor of each, of any shapes and dtypes.
            device: where the copies are to be.
        """
        groups: dict[torch.dtype, list[tuple[Hashable, Tensor]]] = defaultdict(list)
        for name, tensor in tensors:
            groups[tensor.dtype].append((name, tensor))
        for dtype, group in groups.items():
            rooms = [_padded_size(tensor) for _, tensor in group]
            flat = torch.empty(sum(rooms), dtype=dtype, device=device)
            for (name, tensor), part in zip(group, torch.split(flat, rooms), strict=True):
                self._tensors[name] = part[: tensor.numel()].view(tensor.shape).copy_(tensor)
            self.size += flat.nbytes


def _padded_size(tensor: Tensor) -> int:
    """Its count of numbers, with the padding that aligns the next one."""
    step = _ALIGNMENT // tensor.element_size()
    return -(-tensor.numel() // step) * step


@dataclass
class _Result:
    cache_key: Hashable  # equal if the inputs are
    prepared: Prepared | None  # None if it is known, but not kept
    size: int = 0
    value_per_byte: float = 0.0  # seconds saved per byte


class PreparedCache:
    """Prepared results per tensor, as many as a budget allows: those that cost most per byte stay.

    Results whose inputs change with every candidate are cached only once the same inputs repeat.

    Args:
        budget: bytes that it may take.
        wait: returns when the device is done; otherwise work on a GPU would seem to take no time.
        clock: seconds since some moment, to measure the cost of a result.
    """

    def __init__(
        self, budget: int, wait: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.budget = budget
        self._wait = wait
        self._clock = clock
        self.size = 0
        self._results: dict[str, _Result] = {}

    def get(self, key: str, cache_key: Hashable, make: Callable[[], Prepared]) -> Prepared:
        """The result of ``make``, computed or cached.

        Args:
            key: of the tensor that it belongs to.
            cache_key: equal as long as ``make`` would return the same.
            make: computes the result.
        """
        last = self._results.get(key)
        if last is not None and last.cache_key == cache_key and last.prepared is not None:
            return last.prepared
        if last is not None:
            self._drop(key)
        keepable = last is None or last.cache_key == cache_key
        if keepable:
            self._wait()
        begin = self._clock()
        prepared = make()
        if keepable:
            self._wait()
        seconds = self._clock() - begin
        size = sum(part.untyped_storage().nbytes() for part in prepared if isinstance(part, Tensor))
        result = self._results[key] = _Result(cache_key, None, size, seconds / max(size, 1))
        if keepable and self._make_room(result):
            result.prepared = prepared
            self.size += size
        return prepared

    def _drop(self, key: str) -> None:
        result = self._results[key]
        if result.prepared is not None:
            result.prepared = None
            self.size -= result.size

    def _make_room(self, new: _Result) -> bool:
        """Whether there is room, after evicting results of less than half the value if that is enough."""
        excess = self.size + new.size - self.budget
        if excess <= 0:
            return True
        cheaper = [(result.value_per_byte, key) for key, result in self._results.items() if result.prepared is not None]
        cheaper = sorted(pair for pair in cheaper if 2 * pair[0] < new.value_per_byte)
        evicted, freed = [], 0
        for _, key in cheaper:
            if freed >= excess:
                break
            evicted.append(key)
            freed += self._results[key].size
        if freed < excess:
            return False
        for key in evicted:
            self._drop(key)
        return True


class DeviceCache:
    """The cache on one device for one method: the models' tensors, of as many blocks as fit, and prepared results.

    For a method of two stages half of the budget is reserved for prepared results, which save more.

    Args:
        checkpoints: model name to model.
        spec: the method.
        items: what is merged, in the order in which the models' tensors are to be stored.
        device: where it is computed.
        budget: bytes.
    """

    def __init__(
        self, checkpoints: Checkpoints, spec: MethodSpec, items: Sequence[PlanItem], device: torch.device, budget: int
    ) -> None:
        self._models = [checkpoints[name] for name in spec.models]
        self._constant = [model.constant for model in self._models]
        self._device = device
        self._groups: dict[Place, list[str]] = defaultdict(list)
        for item in items:
            self._groups[item.place].append(item.key)
        self.arena = Arena()
        self._sources: dict[str, list[Tensor]] = {}
        room = budget if spec.prepare is None else budget // 2
        constant = [model for model in self._models if model.constant]
        self._resident: set[Place] = set()
        for place, keys in self._groups.items():
            size = sum(_size(model, key) for model in constant for key in keys)
            if size <= room:
                room -= size
                budget -= size
                self._resident.add(place)
        wait = (partial(torch.cuda.synchronize, device),) if device.type == "cuda" else ()
        self.prepared = PreparedCache(budget, *wait)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self.arena.size + self.prepared.size

    def keeps(self, item: PlanItem) -> bool:
        """Whether all models' tensors of this key stay at the same address."""
        return item.place in self._resident and all(self._constant) and item.key in self._groups[item.place]

    def sources(self, item: PlanItem) -> list[Tensor]:
        """The models' tensors of one key, on the device."""
        tensors = self._sources.get(item.key)
        if tensors is not None:
            return tensors
        tensors = [self._source(number, item) for number in range(len(self._models))]
        if self.keeps(item):
            self._sources[item.key] = tensors
        return tensors

    def _source(self, number: int, item: PlanItem) -> Tensor:
        model, name = self._models[number], (number, item.key)
        if item.place in self._resident and self._constant[number]:
            group = self._groups[item.place]
            if self.arena.get(name) is None and item.key in group:
                self.arena.fill((((number, key), model.tensor(key)) for key in group), self._device)
                model.release()
            kept = self.arena.get(name)
            if kept is not None:
                return kept
        return model.tensor(item.key).to(self._device)


def _size(model: Checkpoint, key: str) -> int:
    return math.prod(model.shapes[key]) * ITEM_SIZES[model.dtypes[key]]
