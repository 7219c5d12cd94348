"""How models differ: the sums against what torch says of whole tensors, and who is whose relative."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.merging.engine.difference import Difference, difference
from bayes_merger.merging.models.opening import open_each
from tests.merging.tiny_models import FIRST, PROJECTION, TEXT, UNET, VAE, tensors_of, write_model

A, B, C = (tensors_of(seed, torch.float32) for seed in (1, 2, 3))
LAST = f"{UNET}out.2.weight"


def compared(tmp_path: Path, **changes: Mapping[str, torch.Tensor | None]) -> Difference:
    """Models whose tensors are model A's but for these."""
    paths = {
        name: str(write_model(tmp_path / f"{name}.safetensors", 1, torch.float32, change=change))
        for name, change in changes.items()
    }
    models = open_each(paths)
    found = difference(models)
    for model in models.values():
        model.close()
    return found


def test_the_sums_are_those_of_whole_tensors(tmp_path: Path) -> None:
    found = compared(tmp_path, a={}, b={FIRST: B[FIRST], LAST: A[LAST].half()})
    rows = {row.key: row for row in found.rows}
    first = rows[FIRST]
    assert (first.place, first.part, first.matrix) == ("IN00", "conv", True)
    sums = first.sums["a", "b"]
    one, two = A[FIRST].flatten().double(), B[FIRST].flatten().double()
    assert sums.cosine == pytest.approx(float(torch.cosine_similarity(one, two, dim=0)), abs=1e-6)
    assert sums.relative == pytest.approx(float((two - one).norm() / one.norm()), rel=1e-6)
    assert (sums.tensors, sums.identical, sums.numbers) == (1, 0, 288)
    assert 0 < rows[LAST].sums["a", "b"].relative < 0.001  # what rounding to 16 bits loses
    assert [row.key for row in found.rows if not row.sums["a", "b"].identical] == [FIRST, LAST]
    assert (rows[VAE].place, rows[TEXT].place, rows[TEXT].matrix, rows[VAE].matrix) == ("VAE", "TE", True, False)


def test_a_tensor_larger_than_a_piece_is_read_to_its_end(tmp_path: Path) -> None:
    large = torch.zeros(700, 400)
    other = large.clone()
    other[0, 0], other[-1, -1] = 3.0, 4.0
    found = compared(tmp_path, a={PROJECTION: large}, b={PROJECTION: other})
    row = next(row for row in found.rows if row.key == PROJECTION)
    assert (row.sums["a", "b"].apart, row.sums["a", "b"].second, row.sums["a", "b"].identical) == (25.0, 25.0, 0)


def test_differences_too_small_to_be_squared_are_differences(tmp_path: Path) -> None:
    found = compared(tmp_path, a={LAST: torch.zeros(4, 3, 3, 3)}, b={LAST: torch.full((4, 3, 3, 3), 1e-30)})
    assert [row.key for row in found.rows if not row.sums["a", "b"].identical] == [LAST]


def test_what_only_one_has_what_has_another_shape_and_what_is_no_number(tmp_path: Path) -> None:
    wide = torch.zeros(8, 9, 3, 3)
    broken = A[LAST].clone()
    broken[0, 0, 0, 0] = float("nan")
    found = compared(tmp_path, a={TEXT: None}, b={FIRST: wide, LAST: broken, "leftover": torch.ones(2)})
    assert found.lacking == {"a": [TEXT, "leftover"], "b": []} or found.lacking == {"a": ["leftover", TEXT], "b": []}
    assert found.shapes == {FIRST: {"a": (8, 4, 3, 3), "b": (8, 9, 3, 3)}}
    assert found.broken == [("b", LAST)]
    assert {FIRST, LAST, TEXT} & {row.key for row in found.rows} == set()


def test_of_three_with_two_shapes_those_of_one_shape_are_compared(tmp_path: Path) -> None:
    wide = torch.zeros(8, 9, 3, 3)
    found = compared(tmp_path, a={}, b={FIRST: wide}, c={FIRST: wide})
    row = next(row for row in found.rows if row.key == FIRST)
    assert set(row.sums) == {("c", "b")}


def test_the_angle_at_an_ancestor_at_a_mix_and_at_siblings(tmp_path: Path) -> None:
    steps = [torch.zeros(8, 4, 3, 3) for _ in range(3)]
    for number, step in enumerate(steps):
        step[number, 0, 0, 0] = 1.0
    one, two, three = ({FIRST: A[FIRST] + step} for step in steps)
    star = compared(tmp_path, a=one, b=two, c={})
    assert star.agreement("c") == pytest.approx(0.0, abs=1e-5)
    assert star.agreement("a") == star.agreement("b") == pytest.approx(0.5**0.5, abs=1e-5)
    mix = compared(tmp_path, a=one, b=two, c={FIRST: A[FIRST] + 0.3 * steps[0] + 0.7 * steps[1]})
    assert mix.agreement("c") == pytest.approx(-1.0, abs=1e-5)
    siblings = compared(tmp_path, a=one, b=two, c=three)
    assert [siblings.agreement(name) for name in "abc"] == pytest.approx([0.5, 0.5, 0.5], abs=1e-5)


def test_a_lora_is_compared_with_the_model_it_changes(tmp_path: Path) -> None:
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    factors = {f"{name}.lora_up.weight": torch.ones(6, 1), f"{name}.lora_down.weight": torch.ones(1, 7)}
    save_file(factors, tmp_path / "lora.safetensors")
    models = open_each({"a": str(write_model(tmp_path / "a.safetensors", 1)), "b": str(tmp_path / "lora.safetensors")})
    found = difference(models)
    changed = {row.key: row.sums["a", "b"].apart for row in found.rows if not row.sums["a", "b"].identical}
    assert changed == {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": pytest.approx(42.0, rel=1e-3)}
    for model in models.values():
        model.close()
