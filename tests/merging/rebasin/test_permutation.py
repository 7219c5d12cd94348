"""``merging.rebasin.permutation``: no legal order changes what a network computes, and others do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.naming import VAE
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.demo import config_dir, model_path
from bayes_merger.imaging.pipelines.streamed import streamed_networks
from bayes_merger.imaging.responses import difference, responses
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted
from bayes_merger.merging.rebasin.spaces import Axis, Space
from tests.folders import write_file, write_folder
from tests.merging.rebasin.models import FAMILIES, own_keys, permuted, randomly, spaces


def kind(space: Space) -> str:
    if len(space.tracks) == 2:
        return "heads"
    return "groups" if space.exchange else "free" if len(space.cells) == 1 else "stream"


def answers(model: Checkpoint, config: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return responses(streamed_networks(model, config, dtype, vae=True))


def share_moved(model: Checkpoint, seen: Checkpoint, start: str = "") -> float:
    """Of all numbers of tensors whose names begin so, those that are not where they were."""
    keys = [own for key, own in own_keys(model).items() if key.startswith(start)]
    moved = sum(int((model.tensor(key) != seen.tensor(key)).sum()) for key in keys)
    return moved / sum(model.tensor(key).numel() for key in keys)


def queries_apart(space: Space) -> Space:
    """An attention whose queries come into another order than its keys."""
    inside, outside = space.tracks
    queries = tuple(axis for axis in inside if ".q." in axis.key)
    return replace(space, tracks=(queries, tuple(axis for axis in inside if axis not in queries), outside))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("family", ["demo", *FAMILIES])
def test_legal_orders_change_no_answer_and_others_do(tmp_path: Path, family: str) -> None:
    is_demo = family == "demo"
    config = config_dir() if is_demo else write_folder(tmp_path / "config", family)
    file = model_path("a") if is_demo else write_file(tmp_path / "model.safetensors", family)
    with open_checkpoint(file) as model:
        found = spaces(model, config)
        kinds = {kind(space): tuple(s for s in found if kind(s) == kind(space)) for space in found}
        assert set(kinds) == {"heads", "groups", "free", "stream"}
        before = answers(model, config)
        for some in (*kinds.values(), found):
            assert difference(before, answers(permuted(model, randomly(model, some)), config)) < 1e-5

        order = randomly(model, found)
        assert order.moved() > 0.9 * order.total()
        seen, exact = permuted(model, order), torch.float64
        assert difference(answers(model, config, exact), answers(seen, config, exact)) < 1e-12
        assert min(share_moved(model, seen), share_moved(model, seen, VAE)) > 0.5

        halves = {part for part in before if part.startswith("vae ")}
        assert len(halves) == 2
        for broken, parts in (("groups", {"unet", *halves}), ("heads", {*before} - halves), ("stream", {"unet"})):
            across = tuple(replace(space, cells=(space.size,), exchange=False) for space in kinds[broken])
            after = answers(permuted(model, randomly(model, across)), config)
            for part in parts:
                assert difference({part: before[part]}, after) > 1e-2, (broken, part)
        apart = tuple(queries_apart(space) for space in kinds["heads"] if space.name.startswith(VAE))
        after = answers(permuted(model, randomly(model, apart)), config)
        for part in halves:  # of one head, so that no order is across heads
            assert difference({part: before[part]}, after) > 1e-2, part


def test_tensors_side_by_side_and_halves_move_where_they_are() -> None:
    space = Space("x", (3,), ((Axis("w", 0), Axis("w", 0, 3), Axis("v", 1, 1)),))
    order = Permutation([space], {"x": [torch.tensor([2, 0, 1])]})
    assert order.apply("w", torch.arange(6)).tolist() == [2, 0, 1, 5, 3, 4]
    assert order.apply("v", torch.tensor([[9, 10, 11, 12, 8]])).tolist() == [[9, 12, 10, 11, 8]]
    assert order.apply("other", torch.arange(3)).tolist() == [0, 1, 2]
    assert (order.moved(), order.total()) == (3, 3)
    assert order.inverse().apply("w", order.apply("w", torch.arange(6))).tolist() == [0, 1, 2, 3, 4, 5]


def test_averages_over_training_follow_their_tensors(tmp_path: Path) -> None:
    key = "model.diffusion_model.time_embed.0.bias"
    average = "model_ema.diffusion_modeltime_embed0bias"
    file = write_file(tmp_path / "model.safetensors", "sd1", extra={average: (32,)})
    with open_checkpoint(file) as model:
        space = Space("time", (32,), ((Axis(key, 0),),))
        seen = Permuted(model, Permutation([space], {"time": [torch.arange(32).flip(0)]}), {key: key})
        assert seen._keys == {key: key, average: key}
        assert torch.equal(seen.tensor(key), model.tensor(key).flip(0))
        assert not seen.has_parts


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        ([[1, 0, 3, 2], [2, 3, 0, 1]], "leave their cells"),  # the tracks exchange other cells
        ([[0, 2, 1, 3], [0, 1, 2, 3]], "leave their cells"),
        ([[0, 1, 2, 3], [0, 0, 2, 3]], "is no order of 4 neurons"),
        ([[0, 1, 2, 3], [0, 1, 2]], "is no order of 4 neurons"),
        ([[0, 1, 2, 3], [0, 1, 2, -1]], "is no order of 4 neurons"),
        ([[2, 3, 0, 1], [3, 2, 1, 0]], ""),
    ],
)
def test_orders_are_checked_to_change_nothing(orders: list[list[int]], said: str) -> None:
    space = Space("heads", (2, 2), ((Axis("q", 0),), (Axis("v", 0),)), exchange=True)
    order = Permutation([space], {"heads": [torch.tensor(one) for one in orders]})
    if not said:
        return order.check()
    with pytest.raises(ValueError, match=said):
        order.check()


def test_cells_that_do_not_change_places_are_checked_too() -> None:
    space = Space("stream", (1, 2), ((Axis("w", 0),),))
    Permutation([space], {"stream": [torch.tensor([0, 2, 1])]}).check()
    with pytest.raises(ValueError, match="leave their cells"):
        Permutation([space], {"stream": [torch.tensor([1, 0, 2])]}).check()
