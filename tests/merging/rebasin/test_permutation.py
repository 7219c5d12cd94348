"""``merging.rebasin.permutation``: no legal order changes what a network computes, and others do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging.pipelines.loading import LoadedModel
from bayes_merger.imaging.responses import difference, responses
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted
from bayes_merger.merging.rebasin.spaces import Axis, Space
from tests.folders import write_file, write_folder
from tests.merging.rebasin.models import FAMILIES, loaded, permuted, randomly, spaces


def changed_by(live: LoadedModel, model: Checkpoint, permutation: Permutation) -> float:
    """How much the answers of a loaded model change; its own weights are put back."""
    before, seen = responses(live.modules), permuted(model, permutation)
    places = live.destinations()
    keys = [key for key in places if not torch.equal(seen.tensor(key), model.tensor(key))]
    assert keys, "nothing moved"
    for key in keys:
        places[key].copy_(seen.tensor(key))
    found = difference(before, responses(live.modules))
    for key in keys:
        places[key].copy_(model.tensor(key))
    return found


def kind(space: Space) -> str:
    if len(space.tracks) == 2:
        return "heads"
    return "groups" if space.exchange else "free" if len(space.cells) == 1 else "stream"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_order_of_each_kind_and_of_all_changes_no_answer(tmp_path: Path, family: str) -> None:
    config = write_folder(tmp_path / "config", family)
    with open_checkpoint(write_file(tmp_path / "model.safetensors", family)) as model:
        found = spaces(model, config)
        live = loaded(model, config)
        kinds = {kind(space): tuple(s for s in found if kind(s) == kind(space)) for space in found}
        assert set(kinds) == {"heads", "groups", "free", "stream"}
        for some in (*kinds.values(), found):
            assert changed_by(live, model, randomly(model, some)) < 1e-5
        assert randomly(model, found).moved() > 0.9 * randomly(model, found).total()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("broken", ["groups", "heads", "stream"])
def test_neurons_that_leave_their_group_or_head_change_the_answers(tmp_path: Path, broken: str) -> None:
    config = write_folder(tmp_path / "config", "sd1")
    with open_checkpoint(write_file(tmp_path / "model.safetensors", "sd1")) as model:
        some = [replace(space, cells=(space.size,), exchange=False)
                for space in spaces(model, config) if kind(space) == broken]  # fmt: skip
        assert changed_by(loaded(model, config), model, randomly(model, tuple(some))) > 1e-2


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
