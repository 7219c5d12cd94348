"""``merging.saliency``: weights that differ inside tensors, in files and in live models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.errors import BayesMergerError, CheckpointError, ConfigError, TrialFailed
from bayes_merger.merging import Checkpoint, LiveMerge, MergeRecipe, MergeSettings, merge, open_checkpoint
from bayes_merger.merging.engine.combine import Scratch, combine
from bayes_merger.merging.engine.idle import idle_weights
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.export.single_file import save_merge
from bayes_merger.merging.method import known_methods, method_spec
from bayes_merger.merging.saliency.settings import read_saliency
from bayes_merger.merging.saliency.weights import MovedWeight, ScaledWeight, TensorWeight, WonWeight, as_matrix
from tests.fake_device import fake_device, read
from tests.live_models import equal, live, parameter, plain, transposed
from tests.merging.saliency.recipes import WIDE, recipe
from tests.merging.tiny_models import FIRST, SHAPES, TEXT, opened, tensors_of, write_model
from tests.sidecars import RUN, measured

BIAS = "model.diffusion_model.input_blocks.1.0.in_layers.2.bias"


def settings_of(path: Path) -> dict[str, Any]:
    return read_saliency("saliency", {"a": str(path / "a.act.safetensors"), "b": str(path / "b.act.safetensors")})


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Checkpoint]:
    models = opened(tmp_path, 3, torch.float32)
    for seed, name in enumerate("ab"):
        measured(tmp_path / f"{name}.act.safetensors", WIDE, seed, model=models[name].sha256())
    return models


def two(models: dict[str, Checkpoint]) -> dict[str, Checkpoint]:
    return {name: models[name] for name in "ab"}


def test_alpha_goes_to_the_model_that_responds_more_at_a_place(tmp_path: Path, models: dict[str, Checkpoint]) -> None:
    only = {FIRST: SHAPES[FIRST]}
    ones = {f"{FIRST}|{s}": torch.ones(2, n) for s, n in (("guided_in", 4), ("guided_out", 8))}
    change = {**ones, f"{FIRST}|guided_in": torch.tensor([[3.0, 1.0, 0.0, 1.0]] * 2)}
    paths = {"a": tmp_path / "one.safetensors", "b": tmp_path / "three.safetensors"}
    measured(paths["a"], only, model=models["a"].sha256(), change={**ones, f"{FIRST}|guided_in": torch.ones(2, 4)})
    measured(paths["b"], only, model=models["b"].sha256(), change=change)
    saliency = read_saliency("saliency", {name: str(path) for name, path in paths.items()} | {"centre": "none"})
    found = dict(merge(recipe(two(models), "0.5", 1.0, saliency=saliency), two(models)))
    a, b = (tensors_of(seed, torch.float32)[FIRST] for seed in (1, 2))
    shares = torch.tensor([0.75, 0.5, 1 / (1 + torch.e**6), 0.5]).view(1, 4, 1, 1)  # 3 / (1 + 3), 1/2, log ratio -6
    assert torch.allclose(found[FIRST], a + shares * (b - a), atol=1e-6)
    before, after = (tensors_of(seed, torch.float32)[TEXT] for seed in (1, 2))
    assert torch.equal(found[TEXT], before.lerp(after, 0.5))
    twice = dict(merge(recipe(two(models), "0.5", 2.0, saliency=saliency), two(models)))
    assert torch.allclose(twice[FIRST][:, 0], (a + 0.9 * (b - a))[:, 0], atol=1e-6)  # 9 / (1 + 9)


def test_strength_0_and_the_ends_of_alpha_are_the_plain_merge(tmp_path: Path, models: dict[str, Checkpoint]) -> None:
    for alpha, strength in (("0.3", 0.0), ("0", 3.0), ("1", 3.0)):
        moved = dict(merge(recipe(two(models), alpha, strength, saliency=settings_of(tmp_path)), two(models)))
        as_before = dict(merge(recipe(two(models), alpha), two(models)))
        assert all(torch.equal(moved[key], tensor) for key, tensor in as_before.items())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", ["weighted_sum", "add_difference", "ties", "salient_sum", "most_salient", "rotate"])
def test_a_live_merge_is_the_file_merge_bit_for_bit(tmp_path: Path, models: dict[str, Checkpoint], method: str) -> None:
    given = two(models) if method in ("weighted_sum", "rotate") else models
    both: list[dict[str, Any]] = [{"saliency": settings_of(tmp_path)}, {"act": {"alpha": settings_of(tmp_path)["b"]}}]
    for more in both:
        made = recipe(given, "0.4", 1.7, method, **more)
        expected = dict(merge(made, given))
        settings = MergeSettings(method, "fp32", **more)
        merging = LiveMerge(given, settings)
        for make in (plain, transposed, parameter):
            destinations = live(make, torch.float32)
            if make is plain:  # what came before leaves no trace
                merging.apply(recipe(given, "0.9", 0.5, method, **more).weights, destinations)
            merging.apply(made.weights, destinations)
            assert equal(destinations, expected)


def test_models_of_half_precision_are_merged_with_weights_of_half_precision(tmp_path: Path) -> None:
    halves = opened(tmp_path, 2, torch.float16)
    for seed, name in enumerate("ab"):
        measured(tmp_path / f"{name}.act.safetensors", WIDE, seed, model=halves[name].sha256())
    wide = recipe(halves, "0.4", 1.7, saliency=settings_of(tmp_path))
    made, exact = replace(wide, dtype="fp16"), dict(merge(wide, halves))
    expected = dict(merge(made, halves))
    for dtype in (torch.float16, torch.float32):
        destinations = live(plain, dtype)
        merging = LiveMerge(halves, MergeSettings(dtype="fp16", saliency=made.saliency))
        merging.apply(recipe(halves, "0.9", 0.5, saliency=made.saliency).weights, destinations)
        merging.apply(made.weights, destinations)
        assert equal(destinations, {key: tensor.to(dtype) for key, tensor in expected.items()})
    a, b = (tensors_of(seed, torch.float16) for seed in (1, 2))
    for key in WIDE:  # the weight is rounded to fp16, and the result
        far = (b[key].float() - a[key].float()).abs() + exact[key].abs()
        assert bool(((expected[key].float() - exact[key]).abs() <= far / 2**11 + 2**-24).all())


def test_a_weight_that_a_saliency_lifts_above_1_may_overflow(tmp_path: Path) -> None:
    halves = {name: models_of_one(tmp_path / f"{name}.safetensors", sign) for name, sign in (("a", -1), ("b", 1))}
    save_file({FIRST: torch.full((1, 4, 1, 1), 4.0)}, tmp_path / "gate.safetensors")
    made = replace(
        recipe(halves, "0.9", act={"alpha": {"path": str(tmp_path / "gate.safetensors"), "sha256": ""}}), dtype="fp16"
    )
    with pytest.raises(TrialFailed, match=f"merge: '{FIRST}' holds"):
        LiveMerge(halves, MergeSettings(dtype="fp16", act=made.act)).apply(made.weights, live(plain, torch.float16))


def models_of_one(path: Path, sign: int) -> Checkpoint:
    save_file({key: torch.full(shape, sign * 6e4).half() for key, shape in SHAPES.items()}, path)
    return open_checkpoint(path)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def test_pieces_of_a_large_tensor_have_the_bits_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (90, 70, 3, 3)
    columns, rows = torch.rand(1, 70, 1, 1, generator=generator), torch.rand(90, 1, 1, 1, generator=generator)
    weight = MovedWeight(630, as_matrix(0.3 / 0.7 * rows, shape), as_matrix(1 / columns, shape))

    def part(rows: slice, pieces: int) -> torch.Tensor:
        return torch.cat([made.clone() for made in weight.tables(rows, pieces, empty, torch.float32)])

    whole = part(slice(0, 90), 1).view(shape)
    odds = 0.3 / 0.7 * (rows * columns).expand(shape)
    assert torch.allclose(whole, odds / (1 + odds))
    assert torch.equal(part(slice(0, 90), 13).view(shape), whole)
    assert torch.equal(part(slice(20, 61), 6).view(-1, *shape[1:]), whole[20:61])
    low, high = weight.ends()
    assert low == pytest.approx(float(whole.min()))
    assert high == pytest.approx(float(whole.max()))


def test_weights_that_differ_only_by_row_or_by_column_are_one_column_or_one_row() -> None:
    row = MovedWeight(4, torch.tensor([[1.0]]), torch.tensor([[1.0, 3.0, 0.0, 1.0]]))
    tables = row.tables(slice(0, 6), 3, empty, torch.float32)
    assert [next(tables).tolist() for _ in range(3)] == [[[0.5, 0.25, 1.0, 0.5]]] * 3
    column = ScaledWeight(4, 0.5, (torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(1, 1)))
    assert [table.tolist() for table in column.tables(slice(1, 3), 2, empty, torch.float32)] == [[[1.0]], [[1.5]]]


@pytest.mark.parametrize("shape", [(1, 12), (5, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_method_takes_such_weights_as_it_takes_a_number_for_each_place(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    generator, tried = torch.Generator().manual_seed(0), 0
    factor = torch.rand(shape, generator=generator)
    for spec in (method_spec(name) for name in known_methods()):
        sources = [torch.randn(5, 3, 4, generator=generator).to(dtype) for _ in spec.models]
        for name in sorted(spec.tensors):
            found = []
            for given in (factor, factor.expand(5, 12).contiguous()):
                weights: dict[str, float | TensorWeight] = dict.fromkeys(spec.weights, 0.4)
                weights[name] = ScaledWeight(12, 0.5, (given,), 0.0, 1.0)
                out = torch.empty(5, 3, 4, dtype=dtype)
                combine(spec.bind(spec.models), sources, weights, out, dtype, Scratch(), "key")
                found.append(out)
            assert torch.equal(*found), f"{spec.name}: {name}"
            tried += 1
    assert tried > 10


def test_a_large_tensor_is_written_in_chunks_of_whole_rows(tmp_path: Path) -> None:
    shape, models = (90, 700, 3, 3), {}  # 567,000 numbers, of which 83 rows are a chunk
    for seed, name in enumerate("ab"):
        large = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half()
        models[name] = open_checkpoint(write_model(tmp_path / f"{name}.safetensors", seed, change={FIRST: large}))
        measured(tmp_path / f"{name}.act.safetensors", {FIRST: shape}, seed, model=models[name].sha256())
    made = replace(recipe(models, "0.4", 1.7, saliency=settings_of(tmp_path)), dtype="fp16")
    save_merge(made, models, tmp_path / "out.safetensors")
    whole = dict(merge(made, models))
    assert torch.equal(open_checkpoint(tmp_path / "out.safetensors").tensor(FIRST), whole[FIRST])
    plain_merge = models["a"].tensor(FIRST).lerp(models["b"].tensor(FIRST), 0.4)
    assert bool((whole[FIRST] != plain_merge).flatten(1).any(1).all())  # every row is moved


def test_a_plain_saliency_multiplies_any_weight_and_stays_where_the_method_is_defined(
    tmp_path: Path, models: dict[str, Checkpoint]
) -> None:
    gate = torch.tensor([[0.0, 0.5, 1.0, 4.0]]).view(1, 4, 1, 1)
    save_file({FIRST: gate, BIAS: torch.zeros(1), "other.weight": torch.ones(2)}, tmp_path / "gate.safetensors")
    reference = {"path": str(tmp_path / "gate.safetensors"), "sha256": ""}
    added = dict(merge(recipe(models, "2", method="add_difference", act={"alpha": reference}), models))
    a, b, c = (tensors_of(seed, torch.float32) for seed in (1, 2, 3))
    assert torch.allclose(added[FIRST], a[FIRST] + 2 * gate * (b[FIRST] - c[FIRST]), atol=1e-5)
    assert torch.equal(added[BIAS], a[BIAS])
    limited = dict(merge(recipe(models, "1", method="most_salient", act={"alpha": reference}), models))
    assert torch.equal(limited[FIRST][:, 0], a[FIRST][:, 0])
    assert torch.equal(limited[FIRST][:, 2:], b[FIRST][:, 2:])  # 4 is limited to 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_plain_saliency_of_another_dtype_is_its_numbers_in_fp32(
    tmp_path: Path, models: dict[str, Checkpoint], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(3)
    for shape in (SHAPES[FIRST], (1, *SHAPES[FIRST][1:]), (SHAPES[FIRST][0], 1, 1, 1)):
        saliency = torch.rand(shape, generator=generator).to(dtype)
        found = []
        for given in (saliency, saliency.float()):
            save_file({FIRST: given}, tmp_path / "plain.safetensors")
            reference = {"path": str(tmp_path / "plain.safetensors"), "sha256": ""}
            ways: list[dict[str, Any]] = [{"act": {"alpha": reference}}, {"saliency": {"b": reference}}]
            for more in ways:
                found.append(dict(merge(recipe(two(models), "0.4", 1.7, **more), two(models)))[FIRST])
        assert torch.equal(found[0], found[2])
        assert torch.equal(found[1], found[3])
        assert not torch.equal(found[0], found[1])


def test_a_bias_follows_the_rows_of_its_weight(tmp_path: Path, models: dict[str, Checkpoint]) -> None:
    merged = dict(merge(recipe(two(models), saliency=settings_of(tmp_path)), two(models)))
    a, b = (tensors_of(seed, torch.float32)[BIAS] for seed in (1, 2))
    shares = (merged[BIAS] - a) / (b - a)
    assert float(shares.max() - shares.min()) > 0.05


def won(path: Path, models: dict[str, Checkpoint], alpha: str = "0.5", **more: Any) -> MergeRecipe:
    """A merge in which the model that responds more takes all."""
    made = recipe(two(models), alpha, saliency={**settings_of(path), "takes": "winner", **more})
    return replace(made, weights={"alpha": made.weights["alpha"]})


@pytest.mark.parametrize("alpha", ["0.2", "0.5"])
def test_the_winner_takes_what_would_be_more_than_its_half(
    tmp_path: Path, models: dict[str, Checkpoint], alpha: str
) -> None:
    uncentred = {**settings_of(tmp_path), "centre": "none"}
    share = dict(merge(recipe(two(models), alpha, saliency=uncentred), two(models)))
    taken = dict(merge(won(tmp_path, models, alpha), two(models)))
    a, b = (tensors_of(seed, torch.float32) for seed in (1, 2))
    more = (share[FIRST] - a[FIRST]) / (b[FIRST] - a[FIRST]) > 0.5
    assert torch.equal(taken[FIRST], torch.where(more, b[FIRST], a[FIRST]))
    assert 0 < int(more.sum()) < more.numel()


def test_where_the_winner_takes_all_the_ends_of_alpha_are_the_models(
    tmp_path: Path, models: dict[str, Checkpoint]
) -> None:
    for alpha, seed in (("0", 1), ("1", 2)):
        taken = dict(merge(won(tmp_path, models, alpha), two(models)))
        assert all(torch.equal(taken[key], tensors_of(seed, torch.float32)[key]) for key in WIDE)


def test_the_winner_in_a_live_merge_is_the_winner_in_a_file(tmp_path: Path, models: dict[str, Checkpoint]) -> None:
    made = won(tmp_path, models, "0.4", centre="key")
    expected, destinations = dict(merge(made, two(models))), live(plain, torch.float32)
    LiveMerge(two(models), MergeSettings(dtype="fp32", saliency=made.saliency)).apply(made.weights, destinations)
    assert equal(destinations, expected)


def test_odds_that_are_even_are_no_win() -> None:
    weight = WonWeight(3, torch.tensor([[2.0], [0.5]]), torch.tensor([[2.0, 1.0, 0.25]]))
    table = torch.empty(2, 3)
    weight.fill(weight.factors, table)
    assert table.tolist() == [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    assert weight.ends() == (0.0, 1.0)
    assert WonWeight(1, torch.tensor([[2.0]]), torch.tensor([[1.0]])).ends() == (1.0, 1.0)


def test_a_plan_says_the_source_the_coverage_and_the_range(tmp_path: Path, models: dict[str, Checkpoint]) -> None:
    notes = plan(recipe(two(models), saliency=settings_of(tmp_path)), two(models)).notes
    said = next(note for note in notes if note.startswith("alpha is moved by"))
    assert "the response of b.act.safetensors against a.act.safetensors in 39 of " in said
    assert "where 0.5 at strength 1 becomes 0." in said
    act = {"alpha": settings_of(tmp_path)["b"]}
    assert any("alpha is multiplied by" in note for note in plan(recipe(two(models), act=act), two(models)).notes)


def test_a_strength_is_idle_only_where_alpha_is(tmp_path: Path, models: dict[str, Checkpoint]) -> None:
    same = {"a": models["a"], "b": models["a"]}
    for path in ("a", "b"):
        measured(tmp_path / f"{path}.act.safetensors", WIDE, 1 + (path == "b"), model=models["a"].sha256())
    for given, idle in ((same, True), (two(models) | {}, False)):
        least = recipe(given, "0", 0.0, saliency={"b": settings_of(tmp_path)["a" if given is not same else "b"]})
        if given is not same:
            measured(tmp_path / "a.act.safetensors", WIDE, 1, model=models["b"].sha256())
        most = recipe(given, "1", 4.0, saliency=least.saliency)
        found = idle_weights(least, given, most.weights)
        assert ("IN01.strength" in found) == idle
        assert ("IN01.alpha" in found) == idle


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"architecture": "sdxl"}, "measured on sdxl, and the models are sd1"),
        ({"model": "f" * 64}, r"measured on another model \(ffffffffff\), not on a.safetensors"),
        ({"runs": [{**RUN, "seeds": [9]}]}, "were not measured alike"),
        ({"change": {f"{FIRST}|guided_in": torch.ones(2, 5)}}, r"has \[8, 5\] channels, the weight \[8, 4, 3, 3\]"),
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, models: dict[str, Checkpoint], file: dict[str, Any], said: str
) -> None:
    measured(tmp_path / "a.act.safetensors", WIDE, **{"model": models["a"].sha256(), **file})
    with pytest.raises(BayesMergerError, match=said):
        plan(recipe(two(models), saliency=settings_of(tmp_path)), two(models))


def test_what_a_file_does_not_say_and_what_cannot_vary_is_refused(
    tmp_path: Path, models: dict[str, Checkpoint]
) -> None:
    saliency = settings_of(tmp_path)

    def refused(method: str = "weighted_sum", **more: Any) -> str:
        given = two(models) if method in ("weighted_sum", "slerp") else models
        with pytest.raises(BayesMergerError) as caught:
            plan(recipe(given, method=method, **more), given)
        return str(caught.value)

    assert "holds no gradient; measure it with --gradients" in refused(saliency={**saliency, "by": "gradient"})
    assert "slerp's alpha is one number for a whole tensor" in refused("slerp", saliency=saliency)
    assert "ties's density is one number for a whole tensor, which no saliency divides; give it to alpha" in refused(
        "ties", act={"density": saliency["a"]}
    )
    assert "has no weight 'beta'" in refused(act={"beta": saliency["a"]})
    assert "leave one of the two out" in refused(saliency=saliency, act={"alpha": saliency["a"]})
    assert "is not the recipe's file" in refused(saliency={"b": {**saliency["b"], "sha256": "f" * 64}})
    unguided = {f"{key}|{s}": None for key in WIDE for s in ("guided_in", "guided_out")}
    measured(tmp_path / "b.act.safetensors", WIDE, model=models["b"].sha256(), change=unguided)
    assert "holds no response; draw with cfg_scale above 1" in refused(saliency={"b": saliency["b"]})
    save_file({"nobody.weight": torch.ones(2)}, tmp_path / "b.act.safetensors")
    assert "none of its weights is in model A" in refused(saliency={"b": saliency["b"]})
    save_file({FIRST: torch.ones(3, 1)}, tmp_path / "b.act.safetensors")
    assert "is [3, 1], which does not fit [8, 4, 3, 3]" in refused(saliency={"b": saliency["b"]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, "saliency is 7; give a file"),
        ({"c": "x"}, "saliency.c: is unknown"),
        ({"by": "response"}, "names no file"),
        ({"b": "x", "by": "magic"}, "saliency.by: 'magic' is unknown"),
        ({"b": "x", "takes": "all"}, "saliency.takes: 'all' is unknown; give one of share, winner"),
        ({"b": {"path": "x"}}, "saliency.b: .* is not the name of a file"),
    ],
)
def test_settings_of_another_form_are_refused(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_saliency("saliency", given)


def test_recipes_keep_the_files_and_their_hashes_and_old_ones_keep_their_bytes(
    tmp_path: Path, models: dict[str, Checkpoint]
) -> None:
    made = recipe(two(models), saliency=settings_of(tmp_path))
    assert MergeRecipe.from_json(made.to_json()) == made
    elsewhere = made.with_files(lambda _, file: {**file, "path": "elsewhere"})
    assert elsewhere.digest == made.digest
    assert made.with_files(lambda _, file: {**file, "sha256": "1"}).digest != made.digest
    assert "saliency" not in recipe(two(models)).to_json()
    with pytest.raises(CheckpointError, match=r"saliency\.a: elsewhere: cannot be opened"):
        plan(elsewhere, two(models))


@pytest.mark.parametrize("device", ["cuda:0", "mps:0"])
@pytest.mark.parametrize(
    ("method", "takes"), [("weighted_sum", "share"), ("weighted_sum", "winner"), ("most_salient", "share")]
)
def test_a_live_merge_on_a_gpu_reads_files_of_activations_from_the_cpu(
    tmp_path: Path, models: dict[str, Checkpoint], method: str, takes: str, device: str
) -> None:
    given = {name: models[name] for name in method_spec(method).models}
    settings = MergeSettings(method, saliency=settings_of(tmp_path) | {"takes": takes})
    weights = recipe(given, "0.3", 0.7, method, saliency=settings.saliency).weights
    if takes == "winner":
        weights = {"alpha": weights["alpha"]}
    on_cpu = live(plain, torch.float16)
    LiveMerge(given, settings).apply(weights, on_cpu)
    with fake_device(device):
        on_gpu = {key: out.to(device) for key, out in live(plain, torch.float16).items()}
        LiveMerge(given, settings).apply(weights, on_gpu)
    assert equal({key: read(out) for key, out in on_gpu.items()}, on_cpu)
