"""Inpainting (9 input channels) and pix2pix (8) models merged with ordinary ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging import Checkpoint, LiveMerge, MergeRecipe, MergeSettings, merge, open_checkpoint, save_merge
from bayes_merger.merging.engine.merge import plan
from tests.merging.tiny_models import FIRST, even, recipe_of, tensors_of, write_model


def model(folder: Path, name: str, seed: int, channels: int) -> Checkpoint:
    first = torch.randn(8, channels, 3, 3, generator=torch.Generator().manual_seed(seed)).half()
    return open_checkpoint(write_model(folder / f"{name}.safetensors", seed, change={FIRST: first}))


def models(folder: Path, *channels: int) -> dict[str, Checkpoint]:
    return {name: model(folder, name, i, count) for i, (name, count) in enumerate(zip("abc", channels, strict=False))}


def padded(given: dict[str, Checkpoint], method: str = "weighted_sum", alpha: str = "0.25") -> MergeRecipe:
    return replace(recipe_of(given, even(alpha, method), method), channels="pad")


@pytest.mark.parametrize(("channels", "source"), [((9, 4), "a"), ((4, 9), "b"), ((8, 4), "a"), ((5, 4), "a")])
def test_common_channels_are_merged_and_the_others_kept(tmp_path: Path, channels: tuple[int, int], source: str) -> None:
    given = models(tmp_path, *channels)
    recipe = padded(given)
    assert MergeRecipe.from_json(recipe.to_json()) == recipe
    merged = dict(merge(recipe, given))
    a, b = given["a"].tensor(FIRST).float(), given["b"].tensor(FIRST).float()
    assert torch.equal(merged[FIRST][:, :4], torch.lerp(a[:, :4], b[:, :4], 0.25).half())
    assert torch.equal(merged[FIRST][:, 4:], given[source].tensor(FIRST)[:, 4:])
    assert any("first 4 input channels" in note for note in plan(recipe, given).notes)
    save_merge(recipe, given, tmp_path / "out.safetensors")
    assert all(torch.equal(tensor, merged[key]) for key, tensor in load_file(tmp_path / "out.safetensors").items())


def test_an_inpainting_model_takes_a_difference_of_ordinary_ones(tmp_path: Path) -> None:
    given = models(tmp_path, 9, 4, 4)
    recipe = padded(given, "add_difference", "1")
    first = dict(merge(recipe, given))[FIRST].float()
    a, b, c = (given[name].tensor(FIRST).float() for name in "abc")
    assert torch.equal(first[:, :4], (a[:, :4] + (b - c)).half().float())
    assert torch.equal(first[:, 4:], a[:, 4:])
    live = LiveMerge(given, MergeSettings("add_difference", channels="pad"))
    shapes = {key: tensor.shape for key, tensor in tensors_of(1).items()} | {FIRST: first.shape}
    destinations = {key: torch.zeros(shape) for key, shape in shapes.items()}
    live.apply(recipe.weights, destinations)
    assert all(torch.equal(destinations[k], t.float()) for k, t in merge(recipe, given) if k in destinations)


def test_ends_stay_exact(tmp_path: Path) -> None:
    given = models(tmp_path, 9, 4)
    assert torch.equal(dict(merge(padded(given, alpha="0"), given))[FIRST], given["a"].tensor(FIRST))
    assert torch.equal(dict(merge(padded(given, alpha="1"), given))[FIRST][:, :4], given["b"].tensor(FIRST))


def test_other_mismatches_stay_errors(tmp_path: Path) -> None:
    given = models(tmp_path, 9, 4)
    with pytest.raises(CheckpointError, match="A is made for inpainting; channels=pad merges"):
        plan(recipe_of(given), given)
    with pytest.raises(ConfigError, match="channels: 'pda' is unknown; give equal or pad"):
        plan(replace(recipe_of(given), channels="pda"), given)
    mixed = models(tmp_path, 9, 8)
    with pytest.raises(CheckpointError, match=r"B is made for pix2pix$"):
        plan(padded(mixed), mixed)
    other = {
        "a": given["a"],
        "b": open_checkpoint(write_model(tmp_path / "o.safetensors", 2, change={FIRST: torch.ones(6, 4, 3, 3)})),
    }
    with pytest.raises(CheckpointError, match="shapes differ"):
        plan(padded(other), other)
    three = models(tmp_path, 9, 8, 4)
    with pytest.raises(CheckpointError, match="shapes differ"):
        plan(padded(three, "add_difference"), three)
