"""What is kept between candidates: how much of it, and that it is the same as made anew."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bayes_merger.merging import MergeSettings, open_checkpoint
from bayes_merger.merging.engine.memory import Arena, DeviceCache, PreparedCache, free_memory
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.plan.routing import plan_structure
from tests.merging.tiny_models import TEXT, tensors_of, write_model

CPU = torch.device("cpu")


class Work:
    """Makes tensors of a size and counts how often."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.made = 0

    def __call__(self) -> tuple[Tensor, float]:
        self.made += 1
        return torch.full((self.count,), float(self.made)), 2.0


def test_work_is_done_once_for_the_same_numbers() -> None:
    kept, work = PreparedCache(1000), Work(10)
    first = kept.get("x", (0.5,), work)
    assert kept.get("x", (0.5,), work) is first
    assert work.made == 1
    assert kept.size == 40


def test_work_that_is_other_for_every_candidate_is_not_kept_until_it_comes_again() -> None:
    kept, work = PreparedCache(1000), Work(10)
    for number in (0.1, 0.2, 0.3):
        kept.get("x", (number,), work)
    assert (work.made, kept.size) == (3, 0)
    kept.get("x", (0.3,), work)
    kept.get("x", (0.3,), work)
    assert (work.made, kept.size) == (4, 40)


def test_no_more_is_kept_than_the_budget_allows() -> None:
    kept, works = PreparedCache(100), [Work(10) for _ in range(5)]
    for _ in range(3):
        for number, work in enumerate(works):
            kept.get(f"{number}", (), work)
            assert kept.size <= 100
    assert kept.size > 0
    nothing = PreparedCache(0)
    for _ in range(3):
        nothing.get("x", (), works[0])
    assert nothing.size == 0


def test_numbers_alone_are_kept_for_nothing() -> None:
    kept = PreparedCache(0)
    assert kept.get("x", (), lambda: (1.0, 2.0)) == (1.0, 2.0)
    assert kept.get("x", (), lambda: (3.0,)) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("seconds", "size"),
    [(3.0, 44), (2.0, 40)],  # per byte more than twice of the other's 1 s for 40 bytes, and less
)
def test_what_costs_much_more_takes_the_place_of_what_costs_little(seconds: float, size: int) -> None:
    now = 0.0

    def taking(duration: float, count: int) -> tuple[Tensor]:
        nonlocal now
        now += duration
        return (torch.zeros(count),)

    kept = PreparedCache(48, clock=lambda: now)
    for _ in range(2):
        kept.get("cheap", (), lambda: taking(1.0, 10))
    for _ in range(3):
        kept.get("dear", (), lambda: taking(seconds, 11))
    assert kept.size == size


def test_tensors_of_one_dtype_lie_side_by_side_each_at_an_aligned_address() -> None:
    tensors = {"x": torch.arange(16.0), "y": torch.arange(3).half(), "z": torch.ones(2, 3), "0": torch.tensor(4.0)}
    arena = Arena()
    arena.fill(tensors.items(), CPU)
    copies = {name: arena.get(name) for name in tensors}
    for name, copy in copies.items():
        assert copy is not None
        assert torch.equal(copy, tensors[name])
        assert copy.data_ptr() != tensors[name].data_ptr()
    assert arena.get("w") is None
    assert arena.size == 64 * 3 + 64
    x, z, last = arena.get("x"), arena.get("z"), arena.get("0")
    assert x is not None
    assert z is not None
    assert last is not None
    assert z.data_ptr() == x.data_ptr() + x.nbytes
    assert last.data_ptr() == z.data_ptr() + 64


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [(None, None, 2_097_152), ("max", "7", 2_097_152), ("1500000", "1000000", 500_000), ("1000000", "1500000", 0)],
)
def test_memory_is_free_that_the_system_can_give_and_the_control_group_allows(
    tmp_path: Path, limit: str | None, used: str | None, free: int
) -> None:
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  8192 kB\nMemFree:  1024 kB\nMemAvailable:  2048 kB\n")
    for name, content in (("memory.max", limit), ("memory.current", used)):
        if content is not None:
            (group / name).write_text(f"{content}\n")
    assert free_memory(CPU, tmp_path) == free


def test_less_memory_is_free_than_is_built_in() -> None:
    assert 0 < free_memory(CPU) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.gpu
def test_what_torch_keeps_of_a_gpu_for_new_tensors_is_free() -> None:
    device = torch.device("cuda:0")
    before = free_memory(device)
    held = torch.empty(2**26, dtype=torch.uint8, device=device)
    assert free_memory(device) <= before - 2**26
    del held
    assert free_memory(device) == before


def test_as_many_blocks_stay_in_memory_as_find_room(tmp_path: Path) -> None:
    files = [open_checkpoint(write_model(tmp_path / f"{name}.safetensors", n)) for n, name in enumerate("ab")]
    models = dict(zip("ab", files, strict=True))
    spec = method_spec("weighted_sum").bind(models)
    steps = [step for step in plan_structure(spec, models, MergeSettings(spec.name)).items if step.action == "merge"]
    blocks = dict.fromkeys(step.place for step in steps)
    sizes = {place: sum(4 * math.prod(s.shape) for s in steps if s.place == place) for place in blocks}
    for budget in (0, min(sizes.values()), sum(sizes.values()) // 2, sum(sizes.values())):
        cache = DeviceCache(models, spec, steps, CPU, budget)
        kept = {step.place for step in steps if cache.keeps(step)}
        for step in steps:
            assert all(torch.equal(t, m.tensor(step.key)) for t, m in zip(cache.sources(step), files, strict=True))
        assert sum(sizes[place] for place in kept) + cache.prepared.budget == budget
        assert all(sizes[place] > cache.prepared.budget for place in blocks if place not in kept)
        # what aligns the next tensor comes on top
        assert sum(sizes[place] for place in kept) <= cache.arena.size <= budget + 2 * 64 * len(steps)
    assert kept == set(blocks)


def test_a_tensor_stays_valid_when_the_memory_of_its_file_is_given_back(tmp_path: Path) -> None:
    with open_checkpoint(write_model(tmp_path / "a.safetensors", 1)) as checkpoint:
        tensor = checkpoint.tensor(TEXT)
        checkpoint.release()
        assert torch.equal(tensor, tensors_of(1)[TEXT])
