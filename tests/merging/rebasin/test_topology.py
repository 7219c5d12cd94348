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
from bayes_merger.checkpoints.naming import VAE, Naming
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.spaces import Layout, Space
from bayes_merger.merging.rebasin.topology import spaces_of

CONFIGS = Path(__file__).parents[3] / "bayes_merger" / "checkpoints" / "configs"
UNET = "model.diffusion_model."


def official(tree: str, *, vae: bool = False) -> dict[str, Space]:
    """The spaces of all networks but the VAE, or its alone."""
    return {space.name: space for space in shapes_and_spaces(tree)[1] if space.name.startswith(VAE) == vae}


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


@pytest.mark.parametrize(("tree", "share"), [("sd15", 0.9642), ("sd2", 0.9604), ("sdxl", 0.9700)])
def test_a_random_order_moves_most_numbers_of_the_official_networks(tree: str, share: float) -> None:
    shapes, spaces = shapes_and_spaces(tree)
    order = Permutation.random(spaces, torch.Generator().manual_seed(1))
    fixed = {key: list(shape) for key, shape in shapes.items()}
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


@pytest.mark.parametrize("tree", ["sd15", "sd2", "sdxl"])
def test_a_vae_keeps_the_channels_of_its_pictures_and_latents(tree: str) -> None:
    spaces = official(tree, vae=True)
    assert len(spaces) == 38
    assert Counter(space.cells for space in spaces.values()) == {
        (4,) * 32: 8, (8,) * 32: 9, (16,) * 32: 19, (512,): 2,
    }  # fmt: skip
    assert all(space.exchange for space in spaces.values())
    moving = {(axis.key.removeprefix(VAE), axis.dim) for space in spaces.values() for t in space.tracks for axis in t}
    ties = {
        f"{half}.{layer}.weight": [dim for dim in (0, 1) if (f"{half}.{layer}.weight", dim) in moving]
        for half in ("encoder", "decoder")
        for layer in ("conv_in", "conv_out")
    }
    assert ties == {
        "encoder.conv_in.weight": [0],
        "encoder.conv_out.weight": [1],
        "decoder.conv_in.weight": [0],
        "decoder.conv_out.weight": [1],
    }
    assert not {key for key, _ in moving if "quant_conv" in key or key.endswith("coder.conv_out.bias")}
    attention = [
        [(axis.key.removeprefix(VAE), axis.dim) for axis in track]
        for track in spaces[f"{VAE}decoder.mid.attn_1"].tracks
    ]
    name = "decoder.mid.attn_1"
    assert attention == [
        [(f"{name}.{layer}.{leaf}", 0) for layer in "qk" for leaf in ("weight", "bias")],
        [(f"{name}.v.weight", 0), (f"{name}.v.bias", 0), (f"{name}.proj_out.weight", 1)],
    ]


def test_a_layout_that_says_nothing_of_a_vae_has_the_spaces_of_before() -> None:
    shapes, spaces = shapes_and_spaces("sd15")
    layout = Layout(32, {320: 8, 640: 8, 1280: 8}, {768: 12})
    before = spaces_of(shapes, layout)
    assert before == tuple(space for space in spaces if not space.name.startswith(VAE))
    assert layout.data() == {
        "groups": 32, "heads": {"320": 8, "640": 8, "1280": 8}, "text_heads": {"768": 12},
    }  # fmt: skip
    assert Permutation(before).sha256 == "b6c7edf96998a008f0651adc7124d200f2ad2c2a6e0d49b492bdb0c5ff0fc04c"
    assert spaces_of(shapes, Layout.read({**layout.data(), "vae_groups": 32})) == spaces


def test_a_layout_that_does_not_fit_is_refused() -> None:
    shapes = {f"{UNET}input_blocks.0.0.weight": (30, 4, 3, 3), f"{UNET}out.0.weight": (30,)}
    with pytest.raises(ValueError, match=r"out\.0 has 30 channels, which 32 groups or heads do not divide"):
        spaces_of(shapes | {f"{UNET}time_embed.0.weight": (8, 8), f"{UNET}out.2.weight": (4, 30, 3, 3)},
                  Layout(32, {30: 1}, {}))  # fmt: skip
    text = {"cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (32, 8)}
    with pytest.raises(ValueError, match="is 8 wide, which is none of the text encoder's widths"):
        spaces_of(text, Layout(32, {}, {12: 2}))
    shapes, _ = shapes_and_spaces("sd15")
    vae = {key: shape for key, shape in shapes.items() if key.startswith(VAE)}
    with pytest.raises(ValueError, match=r"down\.0\.block\.0\.norm1 has 128 channels, which 24 groups or heads do not"):
        spaces_of(vae, Layout(32, {}, {}, 24))


@pytest.mark.parametrize(
    "lost",
    [
        f"{UNET}input_blocks.1.0.emb_layers.1.weight",
        f"{UNET}middle_block.1.transformer_blocks.0.attn1.to_k.weight",
        "cond_stage_model.model.transformer.resblocks.3.attn.in_proj_bias",
        "cond_stage_model.model.transformer.resblocks.3.mlp.c_proj.weight",
        f"{VAE}encoder.down.1.block.0.conv2.weight",
        f"{VAE}decoder.mid.attn_1.proj_out.weight",
    ],
)
def test_a_tensor_that_is_missing_is_named(lost: str) -> None:
    shapes, _ = shapes_and_spaces("sd2")
    layout = Layout(32, {320: 5, 640: 10, 1280: 20}, {1024: 16}, 32)
    assert len(spaces_of(shapes, layout)) == 193
    del shapes[lost]
    with pytest.raises(KeyError) as caught:
        spaces_of(shapes, layout)
    assert caught.value.args == (lost,)
