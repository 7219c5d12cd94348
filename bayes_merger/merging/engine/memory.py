"""What a live merge keeps between candidates: its models, and work that does not depend on the searched numbers.

What is kept changes how long a candidate takes and never a bit of it.
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


def free_memory(device: torch.device) -> int:
    """Bytes that a device has to spare right now, page cache counted as free."""
    if device.type == "cuda":
        # What tensors that are gone have left torch, it gives to new ones; the driver does not count that as free.
        left = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + left
    found = [_available(Path("/proc/meminfo"))]
    group = Path("/sys/fs/cgroup")
    with_limit = _number(group / "memory.max")
    if with_limit is not None:
        found.append(max(with_limit - (_number(group / "memory.current") or 0), 0))
    known = [number for number in found if number is not None]
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
    """Half of what is built in, where the system does not say what is free."""
    names = getattr(os, "sysconf_names", {})
    known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if known else 2**32


class Arena:
    """Copies of tensors, one behind the other in one allocation per group and dtype.

    Each begins at an aligned address, as live tensors do that were laid side by side: a GPU reads several numbers at a
    time only where all that it reads and writes is aligned.
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
            rooms = [_room(tensor) for _, tensor in group]
            flat = torch.empty(sum(rooms), dtype=dtype, device=device)
            for (name, tensor), part in zip(group, torch.split(flat, rooms), strict=True):
                self._tensors[name] = part[: tensor.numel()].view(tensor.shape).copy_(tensor)
            self.size += flat.nbytes


def _room(tensor: Tensor) -> int:
    """Numbers that it takes with what aligns the next one."""
    step = _ALIGNMENT // tensor.element_size()
    return -(-tensor.numel() // step) * step


@dataclass
class _Work:
    cache_key: Hashable  # what it was made of
    prepared: Prepared | None  # None where it is remembered, but not kept
    size: int = 0
    worth: float = 0.0  # seconds that a byte of it saves


class PreparedCache:
    """Prepared work per tensor, as much as a budget allows: what costs most per byte stays.

    Work that depends on numbers which are other ones for every candidate is not kept: only when the same numbers come
    again.

    Args:
        budget: bytes that it may take.
        wait: returns when the device is done; without, work on a GPU would seem to take no time.
    """

    def __init__(self, budget: int, wait: Callable[[], None] = lambda: None) -> None:
        self.budget = budget
        self._wait = wait
        self.size = 0
        self._works: dict[str, _Work] = {}

    def get(self, key: str, cache_key: Hashable, make: Callable[[], Prepared]) -> Prepared:
        """What ``make`` gives, or has given.

        Args:
            key: of the tensor that it belongs to.
            cache_key: equal as long as ``make`` would give the same.
            make: does the work.
        """
        last = self._works.get(key)
        if last is not None and last.cache_key == cache_key and last.prepared is not None:
            return last.prepared
        if last is not None:
            self._drop(key)
        keepable = last is None or last.cache_key == cache_key
        if keepable:
            self._wait()
        begin = time.perf_counter()
        prepared = make()
        if keepable:
            self._wait()
        seconds = time.perf_counter() - begin
        size = sum(part.untyped_storage().nbytes() for part in prepared if isinstance(part, Tensor))
        work = self._works[key] = _Work(cache_key, None, size, seconds / max(size, 1))
        if keepable and self._make_room(work):
            work.prepared = prepared
            self.size += size
        return prepared

    def _drop(self, key: str) -> None:
        work = self._works[key]
        if work.prepared is not None:
            work.prepared = None
            self.size -= work.size

    def _make_room(self, new: _Work) -> bool:
        """Whether there is room, once works that are worth less than half as much have made way."""
        excess = self.size + new.size - self.budget
        if excess <= 0:
            return True
        lesser = [(work.worth, key) for key, work in self._works.items() if work.prepared is not None]
        lesser = sorted(pair for pair in lesser if 2 * pair[0] < new.worth)
        leaving, freed = [], 0
        for _, key in lesser:
            if freed >= excess:
                break
            leaving.append(key)
            freed += self._works[key].size
        if freed < excess:
            return False
        for key in leaving:
            self._drop(key)
        return True


class DeviceCache:
    """What is kept on one device for one method: the models' tensors, of as many blocks as find room, and work.

    A method of two stages leaves half of the budget to its work, which saves more.

    Args:
        checkpoints: model name to model.
        spec: the method.
        items: what is merged, in the order in which the models' tensors are to lie in memory.
        device: where the live tensors are.
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
        self._found: dict[str, list[Tensor]] = {}
        room = budget if spec.prepare is None else budget // 2
        constant = [model for model, same in zip(self._models, self._constant, strict=True) if same]
        self._resident: set[Place] = set()
        for place, keys in self._groups.items():
            size = sum(_size(model, key) for model in constant for key in keys)
            if size <= room:
                room -= size
                budget -= size
                self._resident.add(place)
        on_gpu = device.type == "cuda"
        self.work = PreparedCache(budget, partial(torch.cuda.synchronize, device)) if on_gpu else PreparedCache(budget)

    def keeps(self, item: PlanItem) -> bool:
        """Whether all models' tensors of this key stay where they are in memory."""
        return item.place in self._resident and all(self._constant) and item.key in self._groups[item.place]

    def sources(self, item: PlanItem) -> list[Tensor]:
        """The models' tensors of one key, on the device."""
        found = self._found.get(item.key)
        if found is not None:
            return found
        found = [self._source(number, item) for number in range(len(self._models))]
        if self.keeps(item):
            self._found[item.key] = found
        return found

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
