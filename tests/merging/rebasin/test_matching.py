"""``merging.rebasin.matching``: the order that was lost is found."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bayes_merger.checkpoints.checkpoint import ModelView
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.demo import config_dir, model_path
from bayes_merger.merging.rebasin.aligning import Pair, layout_of
from bayes_merger.merging.rebasin.matching import likeness, match_weights
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.spaces import Axis, Space
from tests.folders import write_file, write_folder
from tests.merging.rebasin.models import own_keys, permuted, randomly, scrambled, spaces


class Counted(ModelView):
    """A model that counts how often a tensor is read."""

    reads = 0

    def _read_model(self, key: str) -> Tensor:
        self.reads += 1
        return super()._read_model(key)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_every_neuron_of_a_scrambled_model_finds_its_place(tmp_path: Path, family: str) -> None:
    config = write_folder(tmp_path / "config", family)
    with open_checkpoint(write_file(tmp_path / "model.safetensors", family)) as model:
        found, names = spaces(model, config), own_keys(model)
        order = randomly(model, found)
        rounds: list[tuple[int, int, int]] = []
        a = Counted(model)
        matched = match_weights(
            a, permuted(model, order), found, names, names, lambda *progress: rounds.append(progress)
        )
        undone = order.inverse()
        assert all(torch.equal(one, other) for name in undone.orders
                   for one, other in zip(undone.orders[name], matched.orders[name], strict=True))  # fmt: skip
        assert rounds[0] == (1, 1, len(found))
        assert a.reads == {"sd2": 1907, "sdxl": 2267}[family]  # of 1275 and 1538 in all: most spaces are looked at once


@pytest.mark.slow
def test_the_demos_specialists_stay_and_one_that_was_scrambled_comes_back() -> None:
    with open_checkpoint(model_path("a")) as a, open_checkpoint(model_path("b")) as b:
        found, names = spaces(a, config_dir()), own_keys(a)
        assert match_weights(a, b, found, names, names).moved() == 0
        order = randomly(b, found)
        scrambled = permuted(b, order)
        matched = match_weights(a, scrambled, found, names, names)
        assert matched.total() == 12_832
        aligned = permuted(scrambled, matched)
        assert all(torch.equal(aligned.tensor(key), b.tensor(key)) for key in b.shapes)
        assert likeness(a, b, names, names, Permutation(found)) == pytest.approx(
            likeness(a, scrambled, names, names, matched)
        )
        assert likeness(a, scrambled, names, names, Permutation(found)) < 0.5


def with_noise(source: Path, out: Path, seed: int) -> Path:
    """A model with noise in every tensor, norms and biases too, whose spread is that of the tensor itself."""
    generator = torch.Generator().manual_seed(seed)
    with open_checkpoint(source) as model:
        tensors = {key: model.tensor(key).float() for key in model.shapes}
    save_file({k: (t + t.std() * torch.randn(t.shape, generator=generator)).half() for k, t in tensors.items()}, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_noise_as_large_as_the_weights_hides_no_neuron(tmp_path: Path, seed: int) -> None:
    lost, order = scrambled(
        with_noise(model_path("b"), tmp_path / "noisy.safetensors", seed), config_dir(), tmp_path / "lost.safetensors"
    )
    for target in (model_path("a"), model_path("b")):
        with open_checkpoint(target) as a, open_checkpoint(lost) as b:
            matched = match_weights(a, b, spaces(a, config_dir()), own_keys(a), own_keys(b))
            assert matched.total() == 12_832
            assert matched.sha256 == order.inverse().sha256


@pytest.mark.slow
def test_a_recipe_of_the_first_search_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = with_noise(model_path("b"), tmp_path / "noisy.safetensors", 0)
    lost, order = scrambled(noisy, config_dir(), tmp_path / "lost.safetensors", seed=5)
    with open_checkpoint(model_path("a")) as a, open_checkpoint(lost) as b:
        pair = Pair.of(a, b, layout_of(b, config_dir()))
        first = match_weights(a, b, pair.spaces, pair.names_a, pair.names_b, anchored=False)
        assert first.sha256 != order.inverse().sha256  # not all neurons find their places
        for cache in ("empty", "known"):
            monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / cache))
            if cache == "known":
                assert pair.by_weights().permutation.sha256 == order.inverse().sha256
            assert pair.by_weights(first.sha256).permutation.sha256 == first.sha256
            assert pair.by_weights().permutation.sha256 == order.inverse().sha256


def best_of_all(space: Space, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The best inner product of all orders that are allowed, by trying each of them."""
    size = space.cells[0]
    found = []
    for cells in itertools.permutations(range(len(space.cells))):
        inside = itertools.product(*(itertools.permutations(range(size)) for _ in cells))
        orders = [
            torch.tensor([cell * size + i for cell, one in zip(cells, o, strict=True) for i in one]) for o in inside
        ]
        found.append(sum(max(float(sum((a[axis.key] * b[axis.key][order]).sum() for axis in track))
                             for order in orders) for track in space.tracks))  # fmt: skip
    return max(found)


def test_cells_and_what_is_in_them_are_chosen_together(tmp_path: Path) -> None:
    space = Space("heads", (3, 3), ((Axis("q", 0), Axis("k", 0)), (Axis("v", 0),)), exchange=True)
    for seed in range(5):
        torch.manual_seed(seed)
        a, b = ({key: torch.randn(6, 4) for key in "qkv"} for _ in range(2))
        for name, tensors in (("a", a), ("b", b)):
            save_file(tensors, tmp_path / f"{name}.safetensors")
        names = {key: key for key in a}
        with open_checkpoint(tmp_path / "a.safetensors") as one, open_checkpoint(tmp_path / "b.safetensors") as other:
            matched = match_weights(one, other, [space], names, names)
            reached = sum(float((a[key] * matched.apply(key, b[key])).sum()) for key in a)
        assert reached == pytest.approx(best_of_all(space, a, b), rel=1e-5)
        assert reached > sum(float((a[key] * b[key]).sum()) for key in a)


def test_neurons_that_are_equal_stay(tmp_path: Path) -> None:
    save_file({"w": torch.ones(5, 3)}, tmp_path / "a.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as a:
        assert match_weights(a, a, [Space("x", (5,), ((Axis("w", 0),),))], {"w": "w"}, {"w": "w"}).moved() == 0
