from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bayes_merger.errors import CheckpointError, ConfigError, TrialFailed
from bayes_merger.merging import METHODS, LiveMerge, MergeSettings, merge, method_spec, open_checkpoint
from bayes_merger.merging.engine.live import sharing
from tests.fake_device import fake_device, read
from tests.live_models import equal, live, parameter, plain, shifted, strided, transposed
from tests.merging.tiny_models import FIRST, SHAPES, TEXT, VAE, even, opened, recipe_of, tensors_of, uneven, write_model
from tests.merging.variants import SAMPLED, Variant, title

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("variant", SAMPLED, ids=title)
def test_a_live_merge_is_the_file_merge_bit_for_bit(tmp_path: Path, variant: Variant) -> None:
    method, given, options = variant[0], variant[1], dict(variant[2])
    models = opened(tmp_path, len(given))
    recipe = replace(recipe_of(models, uneven(method), method), options=options)
    expected = {vae: dict(merge(replace(recipe, vae=vae), models)) for vae in ("a", "merge")}
    every = itertools.product((plain, transposed, strided, shifted, parameter), DTYPES)
    for (make, dtype), vae in zip(every, itertools.cycle(expected), strict=False):  # all pairs of the three
        destinations = live(make, dtype)
        LiveMerge(models, MergeSettings(method, vae=vae, options=options)).apply(uneven(method), destinations)
        assert equal(destinations, expected[vae])


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("method", "source", "recipe"),  # all pairs of the three
    [
        (method, DTYPES[i], ("fp32", "fp16", "bf16")[(n + i) % 3])
        for n, method in enumerate(("weighted_sum", "tensor_sum", "similarity_add_difference"))
        for i in range(3)
    ],
    ids=str,
)
def test_the_recipes_rounding_is_seen_in_wider_parameters(
    tmp_path: Path, method: str, source: torch.dtype, recipe: str
) -> None:
    models = opened(tmp_path, len(method_spec(method).models), source)
    expected = dict(merge(recipe_of(models, uneven(method), method, recipe), models))
    for dtype in DTYPES:
        for make in (plain, transposed):
            destinations = live(make, dtype)
            LiveMerge(models, MergeSettings(method, recipe)).apply(uneven(method), destinations)
            assert equal(destinations, expected)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_candidate_has_no_memory_of_those_before_it(tmp_path: Path, method: str) -> None:
    models = opened(tmp_path, len(method_spec(method).models))
    fresh, used = live(plain, torch.float32), live(plain, torch.float32)
    LiveMerge(models, MergeSettings(method)).apply(uneven(method), fresh)
    merging = LiveMerge(models, MergeSettings(method))
    defaults = {name: dict.fromkeys(uneven(method)[name], w.default) for name, w in method_spec(method).weights.items()}
    for _ in range(2):
        merging.apply(defaults, used)
        merging.apply(uneven(method), used)
    assert equal(used, fresh)


def test_large_tensors_are_worked_on_in_pieces_that_give_the_same_bits(tmp_path: Path) -> None:
    big = torch.randn(1000, 700, generator=torch.Generator().manual_seed(1)).half()
    models = {
        name: open_checkpoint(write_model(tmp_path / f"{name}.safetensors", seed, change={TEXT: big * seed}))
        for seed, name in enumerate("abc", start=1)
    }
    for method in ("add_difference", "euclidean_add_difference"):
        destinations = live(plain, torch.float32) | {TEXT: torch.empty(700, 1000).T}
        LiveMerge(models, MergeSettings(method)).apply(even("0.3", method), destinations)
        assert equal(destinations, dict(merge(recipe_of(models, even("0.3", method), method), models)))


def test_nothing_is_allocated_for_another_candidate(tmp_path: Path) -> None:
    models = opened(tmp_path)
    destinations = live(plain, torch.float32) | {TEXT: transposed(SHAPES[TEXT], torch.float32)}
    merging = LiveMerge(models, MergeSettings())
    merging.apply(even("0.1"), destinations)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        merging.apply(even("0.9"), destinations)
    assert sum(event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 0) == 0


def test_what_no_weight_changes_is_written_once_unless_it_moved_or_all_is_asked_for(tmp_path: Path) -> None:
    models = opened(tmp_path)
    destinations = live(plain, torch.float32)
    merging = LiveMerge(models, MergeSettings())
    merging.apply(even(), destinations)
    a = tensors_of(1)[VAE].float()
    assert torch.equal(destinations[VAE], a)
    destinations[VAE].zero_()
    merging.apply(even("0.1"), destinations)
    assert not destinations[VAE].any()
    merging.apply(even("0.2"), destinations, everything=True)
    assert torch.equal(destinations[VAE], a)
    moved = destinations | {VAE: torch.zeros(SHAPES[VAE])}
    merging.apply(even("0.2"), moved)
    assert torch.equal(moved[VAE], a)


def test_under_other_rules_only_what_has_other_numbers_is_written(tmp_path: Path) -> None:
    models = opened(tmp_path)
    destinations = live(plain, torch.float32)
    merging = LiveMerge(models, MergeSettings(elements=("IN00::0.9",)))
    merging.apply(even(), destinations)
    destinations[TEXT].zero_()
    for rules in (("IN00::0.2",), (), ("IN00:weight:0.9", "IN00::0.4")):
        merging.regroup(rules)
        merging.apply(even(), destinations)
        expected = dict(merge(replace(recipe_of(models, even()), elements=rules), models))
        assert equal({FIRST: destinations[FIRST]}, {FIRST: expected[FIRST]})
        assert not destinations[TEXT].any()  # has the numbers that it had
    with pytest.raises(ConfigError, match="'IN99' is not a block"):
        merging.regroup(["IN99::1"])
    merging.apply(even(), destinations, everything=True)
    assert equal(destinations, expected)


def test_the_models_are_never_written_to(tmp_path: Path) -> None:
    models = opened(tmp_path, 3)
    for method in sorted(METHODS):
        used = {name: models[name] for name in method_spec(method).models}
        LiveMerge(used, MergeSettings(method)).apply(uneven(method), live(plain, torch.float32))
    for seed, checkpoint in enumerate(models.values(), start=1):
        assert all(torch.equal(checkpoint.tensor(key), tensor) for key, tensor in tensors_of(seed).items())


def test_a_live_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    merging = LiveMerge(opened(tmp_path), MergeSettings())
    destinations = live(plain, torch.float32)
    with pytest.raises(CheckpointError, match="parameters that model A does not have: stranger"):
        merging.apply(even(), destinations | {"stranger": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=f"no parameters for {FIRST} of model A"):
        merging.apply(even(), {key: out for key, out in destinations.items() if key != FIRST})
    with pytest.raises(CheckpointError, match=r"\[3\] in the live model and \[8, 4, 3, 3\] in A"):
        merging.apply(even(), destinations | {FIRST: torch.zeros(3)})
    with pytest.raises(ConfigError, match="weighted_sum needs 'alpha'"):
        merging.apply({}, destinations)
    assert all((out == 7).all() for out in destinations.values())


def test_an_overflow_fails_the_trial_and_the_next_merge_repairs_the_model(tmp_path: Path) -> None:
    models = opened(tmp_path)
    models["b"] = open_checkpoint(write_model(tmp_path / "big.safetensors", 2, change={TEXT: torch.full((11, 4), 6e4)}))
    destinations = live(plain, torch.float32)
    merging = LiveMerge(models, MergeSettings())
    with pytest.raises(TrialFailed, match=f"'{TEXT}' holds infinity"):
        merging.apply(even("2"), destinations)
    merging.apply(even("0.5"), destinations)
    assert equal(destinations, dict(merge(recipe_of(models, even("0.5")), models)))


@pytest.mark.gpu
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_gpu_gives_what_the_cpu_gives_but_for_a_last_bit(tmp_path: Path, method: str) -> None:
    models = opened(tmp_path, len(method_spec(method).models))
    on_gpu = {key: out.cuda() for key, out in live(plain, torch.float16).items()}
    on_cpu = live(plain, torch.float16)
    LiveMerge(models, MergeSettings(method)).apply(uneven(method), on_gpu)
    LiveMerge(models, MergeSettings(method)).apply(uneven(method), on_cpu)
    for key, out in on_cpu.items():
        torch.testing.assert_close(on_gpu[key].cpu(), out, rtol=2e-3, atol=1e-6)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("device", ["cuda:0", "mps:0"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_works_on_a_gpu_whose_models_are_files(tmp_path: Path, method: str, device: str) -> None:
    models = opened(tmp_path, len(method_spec(method).models))
    on_cpu, merging = live(plain, torch.bfloat16), LiveMerge(models, MergeSettings(method, vae="merge"))
    LiveMerge(models, MergeSettings(method, vae="merge")).apply(uneven(method), on_cpu)
    with fake_device(device):
        on_gpu = {key: out.to(device) for key, out in live(plain, torch.bfloat16).items()}
        merging.apply(even("0.3", method), on_gpu)
        merging.apply(uneven(method), on_gpu)
    assert equal({key: read(out) for key, out in on_gpu.items()}, on_cpu)


@pytest.mark.parametrize("method", ["slerp", "truncate_rank", "cosine_a", "arcee_fusion"])
def test_what_mps_cannot_compute_the_cpu_does(tmp_path: Path, method: str) -> None:
    models = opened(tmp_path, len(method_spec(method).models))
    on_cpu = live(plain, torch.float16)
    LiveMerge(models, MergeSettings(method)).apply(uneven(method), on_cpu)
    with fake_device("mps:0"):
        on_gpu = {key: out.to("mps:0") for key, out in live(transposed, torch.float16).items()}
        LiveMerge(models, MergeSettings(method)).apply(uneven(method), on_gpu)
    assert equal({key: read(out) for key, out in on_gpu.items()}, on_cpu)


@pytest.mark.parametrize("method", ["weighted_sum", "slerp"])
def test_memory_that_is_let_go_changes_no_merge(tmp_path: Path, method: str) -> None:
    models = opened(tmp_path, len(method_spec(method).models))
    fresh, used = live(plain, torch.float16), live(plain, torch.float16)
    LiveMerge(models, MergeSettings(method)).apply(uneven(method), fresh)
    merging = LiveMerge(models, MergeSettings(method))
    merging.apply(even("0.3", method), used)
    assert merging.release()
    merging.apply(uneven(method), used)
    assert not merging.release()
    assert equal(used, fresh)


def test_workers_on_one_device_share_its_memory() -> None:
    assert sharing({}) == 1
    assert sharing({"BAYES_MERGER_SHARING": "3"}) == 3


@pytest.mark.parametrize("given", ["0", "-1", "", "two", "1.5", "\u00b2", "\u0663"])
def test_a_share_that_is_no_count_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"BAYES_MERGER_SHARING: .* is no count of processes"):
        sharing({"BAYES_MERGER_SHARING": given})
