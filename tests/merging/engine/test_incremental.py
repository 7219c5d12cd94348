"""One candidate after another: only what changed is computed, and the result is that of a full merge, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import TrialFailed
from bayes_merger.merging import METHODS, SD1, Checkpoint, LiveMerge, MergeSettings, method_spec, open_checkpoint
from tests.live_models import equal, full, live, parameter, plain, shifted, strided, transposed
from tests.merging.tiny_models import FIRST, SHAPES, TEXT, VAE, even, opened, tensors_of, uneven, write_model
from tests.merging.variants import SAMPLED, Variant, title

Weights = dict[str, dict[str, float]]


def changed(weights: Weights, method: str, random: random.Random) -> Weights:
    """The weights with new numbers, each inside the range that is searched, in a few blocks."""
    ranges = method_spec(method).weights
    new = {name: dict(blocks) for name, blocks in weights.items()}
    for block in random.sample(SD1.blocks, random.choice([0, 1, 3, 26])):
        for name in random.sample(sorted(new), random.randint(1, len(new))):
            new[name][block] = random.choice([ranges[name].low, random.uniform(ranges[name].low, ranges[name].high)])
    return new


@pytest.mark.sampled(5)
@pytest.mark.parametrize("variant", SAMPLED, ids=title)
def test_a_sequence_of_candidates_is_a_sequence_of_full_merges(tmp_path: Path, variant: Variant) -> None:
    method, given, options = variant[0], variant[1], dict(variant[2])
    models = opened(tmp_path, len(given))
    chance = random.Random(title(variant))
    merges = [LiveMerge(models, MergeSettings(method, options=options), memory=memory) for memory in (None, 20_000)]
    makes = [plain, transposed, strided, shifted, parameter]
    dtypes = [torch.float32, torch.float16, torch.bfloat16]
    places = [live(chance.choice(makes), chance.choice(dtypes)) for _ in merges]
    weights: Weights = uneven(method)
    for number in range(5):
        weights = changed(weights, method, chance)
        if method_spec(method).pole({name: max(blocks.values()) for name, blocks in weights.items()}):
            weights = uneven(method)
        if number == 2:  # the live model has moved
            places = [live(chance.choice(makes), chance.choice(dtypes)) for _ in merges]
        expected = full(models, method, weights, options)
        for merging, destinations in zip(merges, places, strict=True):
            merging.apply(weights, destinations, everything=number == 3)
            assert equal(destinations, expected), number


def marked(destinations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same memory, filled with a number that no merge gives, to see what is written next."""
    for out in destinations.values():
        out.fill_(7)
    return dict(destinations)


def untouched(destinations: Mapping[str, Tensor]) -> set[str]:
    return {key for key, out in destinations.items() if bool((out == 7).all())}


def test_only_the_blocks_that_changed_are_written(tmp_path: Path) -> None:
    merging = LiveMerge(opened(tmp_path), MergeSettings())
    destinations = live(plain, torch.float32)
    weights = even("0.5")
    merging.apply(weights, destinations)
    marked(destinations)
    merging.apply(weights, destinations)
    assert untouched(destinations) == set(destinations)
    merging.apply({"alpha": weights["alpha"] | {"IN00": 0.25}}, destinations)
    assert set(destinations) - untouched(destinations) == {FIRST}
    merging.apply({"alpha": weights["alpha"] | {"IN00": 0.25}}, destinations, everything=True)
    assert not untouched(destinations)


def test_all_is_written_again_once_a_tensor_moved(tmp_path: Path) -> None:
    merging = LiveMerge(opened(tmp_path), MergeSettings())
    destinations = live(plain, torch.float32)
    merging.apply(even(), destinations)
    marked(destinations)
    merging.apply(even(), destinations)
    assert untouched(destinations) == set(destinations)
    for _ in range(20):  # memory that is given away and taken again has the same address
        del destinations[TEXT]
        destinations[TEXT] = torch.full(SHAPES[TEXT], 7.0)
        merging.apply(even(), destinations)
        assert not untouched(destinations)


def test_a_failed_candidate_is_repaired_by_the_next_and_what_it_did_right_is_not_done_again(tmp_path: Path) -> None:
    models = opened(tmp_path)
    models["b"] = open_checkpoint(write_model(tmp_path / "big.safetensors", 2, change={TEXT: torch.full((11, 4), 6e4)}))
    merging = LiveMerge(models, MergeSettings())
    destinations = live(plain, torch.float32)
    merging.apply(even("0.5"), destinations)
    for text in ("2", "0.5", "-2", "-2", "0.25"):
        if text.endswith("2"):
            with pytest.raises(TrialFailed, match=f"'{TEXT}' holds infinity"):
                merging.apply(even(text), destinations)
        else:
            merging.apply(even(text), destinations)
            assert equal(destinations, full(models, "weighted_sum", even(text), {}))


class Computed(Checkpoint):
    """A model whose tensors are those of a file times a factor that may change, for some keys."""

    constant = False

    def __init__(self, base: Checkpoint, keys: set[str]) -> None:
        described = {key: ("F32", shape) for key, shape in base.shapes.items()}
        super().__init__(base.path, described, {}, base.tensor, lambda: None)
        self.factor = 1.0
        self._base, self._keys = base, keys

    def version(self, key: str) -> Hashable:
        return self.factor if key in self._keys else None

    def tensor(self, key: str) -> Tensor:
        return self._base.tensor(key).float() * (self.factor if key in self._keys else 1.0)


MANY = [name for name in sorted(METHODS) if method_spec(name).many]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("method", "count", "changes"),
    [
        *((name, 0, "b") for name in ("weighted_sum", "add_difference", "slerp", "ties", "cosine_a", "rotate")),
        *((name, 4, "d") for name in MANY),
        *((name, 5, "c") for name in MANY),
    ],
)
def test_a_model_that_changes_is_computed_anew_and_nothing_else_is(
    tmp_path: Path, method: str, count: int, changes: str
) -> None:
    files = opened(tmp_path, count or len(method_spec(method).models))
    computed = Computed(files[changes], {FIRST, TEXT, VAE})
    models = files | {changes: computed}
    merging = LiveMerge(models, MergeSettings(method, vae=changes))
    destinations = live(plain, torch.float32)
    weights = uneven(method)
    for number, factor in enumerate((1.0, 1.25, 1.25, 1.0, 0.5)):
        computed.factor = factor
        before = {key: out.clone() for key, out in destinations.items()}
        if number == 2:
            marked(destinations)
        merging.apply(weights, destinations)
        if number == 2:
            assert untouched(destinations) == set(destinations)
            for key, out in before.items():
                destinations[key].copy_(out)
        expected = live(plain, torch.float32)
        LiveMerge(models, MergeSettings(method, vae=changes), memory=0).apply(weights, expected)
        assert equal(destinations, expected)


def test_the_models_are_read_once_where_there_is_room_for_them(tmp_path: Path) -> None:
    models = opened(tmp_path)
    read: list[str] = []

    class Counting(Checkpoint):
        def tensor(self, key: str) -> Tensor:
            read.append(key)
            return models["b"].tensor(key)

    described = {key: (models["b"].dtypes[key], shape) for key, shape in models["b"].shapes.items()}
    counting = Counting(models["b"].path, described, {}, models["b"].tensor, lambda: None)
    for memory, times in ((None, 1), (0, 3)):
        merging = LiveMerge(models | {"b": counting}, MergeSettings(), memory=memory)
        destinations = live(plain, torch.float16)
        read.clear()
        for text in ("0.1", "0.2", "0.3"):
            merging.apply(even(text), destinations)
        assert sorted(read) == sorted(times * [key for key in SHAPES if key != VAE])
        assert equal(destinations, full(models, "weighted_sum", even("0.3"), {}))


def test_a_vae_that_is_kept_is_the_models_own(tmp_path: Path) -> None:
    destinations = live(plain, torch.float32)
    LiveMerge(opened(tmp_path), MergeSettings(vae="b")).apply(even(), destinations)
    assert torch.equal(destinations[VAE], tensors_of(2)[VAE].float())
