"""``merging.rebasin.topology``: the spaces of the official networks."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.checkpoints.config_trees import read_tree
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.checkpoints.naming import Naming
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.spaces import Layout, Space
from bayes_merger.merging.rebasin.topology import spaces_of

CONFIGS = Path(__file__).parents[3] / "bayes_merger" / "checkpoints" / "configs"
UNET = "model.diffusion_model."


def official(tree: str) -> dict[str, Space]:
    return {space.name: space for space in shapes_and_spaces(tree)[1]}


def shapes_and_spaces(tree: str) -> tuple[dict[str, tuple[int, ...]], tuple[Space, ...]]:
    networks: dict[str, Any] = empty_networks(read_tree(CONFIGS / tree))
    parts = {part: {name: tuple(t.shape) for name, t in net.state_dict().items()} for part, net in networks.items()}
    naming = Naming.of(parts)
    shapes = {}
    for part, tensors in parts.items():
        for name in tensors:
            found = naming.counterpart(part, name)
            if found is not None:
                shapes[found.key] = found.shape([tensors[other] for other in found.stack or (name,)])
    spaces = spaces_of(shapes, Layout.of(networks))
    for space in spaces:
        for axis in (axis for track in space.tracks for axis in track):
            assert axis.offset + space.size <= shapes[axis.key][axis.dim], (space.name, axis)
    return shapes, spaces


@pytest.mark.parametrize(("tree", "share"), [("sd15", 0.9611), ("sd2", 0.9576), ("sdxl", 0.9693)])
def test_a_random_order_moves_most_numbers_of_the_official_networks(tree: str, share: float) -> None:
    shapes, spaces = shapes_and_spaces(tree)
    order = Permutation.random(spaces, torch.Generator().manual_seed(1))
    fixed = {key: list(shape) for key, shape in shapes.items() if not key.startswith("first_stage_model.")}
    for space in spaces:
        for track, axes in zip(order.orders[space.name], space.tracks, strict=True):
            moved = int((track != torch.arange(space.size)).sum())
            for axis in axes:
                fixed[axis.key][axis.dim] -= moved
    stay = sum(math.prod(kept) for kept in fixed.values())  # a number stays where its row and its column do
    assert 1 - stay / sum(math.prod(shapes[key]) for key in fixed) == pytest.approx(share, abs=1e-4)


def test_stable_diffusion_1_has_heads_of_three_widths_and_groups_of_32() -> None:
    spaces = official("sd15")
    kinds = Counter((space.exchange, len(space.cells) == 1) for space in spaces.values())
    assert len(spaces) == 133
    assert kinds == {(True, False): 66, (False, True): 47, (False, False): 20}
    attention = {s.cells for s in spaces.values() if s.name.endswith("attn1")}
    assert attention == {(40,) * 8, (80,) * 8, (160,) * 8}
    assert spaces["cond_stage_model.transformer.text_model.encoder.layers.11.self_attn"].cells == (64,) * 12
    assert spaces[f"{UNET}input_blocks.1.0.in_layers.2"].cells == (10,) * 32
    assert spaces[f"{UNET}middle_block.1.transformer_blocks.0.ff.net.0.proj"].cells == (5120,)


def test_norms_that_read_streams_side_by_side_divide_both() -> None:
    spaces = official("sd15")
    cells = {
        name: Counter(spaces[UNET + name].cells)
        for name in (
            "input_blocks.0.0",
            "output_blocks.2.0.skip_connection",
            "output_blocks.5.2.conv",
            "output_blocks.7.0.skip_connection",
        )
    }
    assert cells == {
        "input_blocks.0.0": {10: 32},
        "output_blocks.2.0.skip_connection": {1280: 1},  # no norm reads it, only the upsampler
        "output_blocks.5.2.conv": {60: 21, 20: 1},  # 1280 beside 640 in groups of 60: the last is cut by the seam
        "output_blocks.7.0.skip_connection": {10: 22, 20: 21},  # alone in groups of 20, beside 320 in groups of 30
    }


@pytest.mark.parametrize(("tree", "count"), [("sd2", 155), ("sdxl", 345)])
def test_the_other_families_have_heads_of_64(tree: str, count: int) -> None:
    spaces = official(tree)
    assert len(spaces) == count
    assert {s.cells[0] for s in spaces.values() if len(s.tracks) == 2} == {64}


def test_a_layout_that_does_not_fit_is_refused() -> None:
    shapes = {f"{UNET}input_blocks.0.0.weight": (30, 4, 3, 3), f"{UNET}out.0.weight": (30,)}
    with pytest.raises(ValueError, match=r"out\.0 has 30 channels, which 32 groups or heads do not divide"):
        spaces_of(shapes | {f"{UNET}time_embed.0.weight": (8, 8), f"{UNET}out.2.weight": (4, 30, 3, 3)},
                  Layout(32, {30: 1}, {}))  # fmt: skip
    text = {"cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (32, 8)}
    with pytest.raises(ValueError, match="is 8 wide, which is none of the text encoder's widths"):
        spaces_of(text, Layout(32, {}, {12: 2}))
