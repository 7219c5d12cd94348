"""The promises that every merge method keeps; a new method is tested here without a line added."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS, method_spec
from bayes_merger.merging.engine.combine import Scratch, combine
from bayes_merger.merging.method import MethodSpec
from bayes_merger.merging.parameters import Prepared
from tests.merging.variants import VARIANTS, bound, title

NAMES = sorted(METHODS)
DECOMPOSED = ("rotate", "truncate_rank")
SPECS = [pytest.param(bound(variant), id=title(variant)) for variant in VARIANTS]
INTERPOLATIONS = (
    "weighted_sum", "tensor_sum", "slerp", "nuslerp", "geometric_sum", "crossover", "distribution_crossover",
)  # fmt: skip
SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (0,), (5, 3), (1, 4), (0, 3), (4, 3, 2), (4, 3, 3, 3), (6, 2, 1, 1)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_models(spec: MethodSpec, shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return [base + 0.1 * torch.randn(shape, generator=generator) for _ in spec.models]


def samples(spec: MethodSpec) -> list[dict[str, float]]:
    """Weights across the ranges that are searched: ends and inside."""
    choices = [[w.low, (w.low + w.high) / 3, w.high, w.default] for w in spec.weights.values()]
    every = [dict(zip(spec.weights, numbers, strict=True)) for numbers in itertools.product(*choices)]
    return [weights for weights in every if spec.pole(weights) is None]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_result_is_finite_and_of_the_same_shape_and_the_inputs_are_untouched(
    spec: MethodSpec, shape: tuple[int, ...]
) -> None:
    models = random_models(spec, shape)
    before = [model.clone() for model in models]
    for weights in samples(spec):
        out = spec.function(*models, **weights)
        assert out.shape == shape
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()
        assert all(out.data_ptr() != model.data_ptr() for model in models if model.numel())
        assert all(torch.equal(model, copy) for model, copy in zip(models, before, strict=True))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_identical_models_give_the_model(spec: MethodSpec, shape: tuple[int, ...]) -> None:
    model = random_models(spec, shape)[0]
    for weights in samples(spec):
        out = spec.function(*(model.clone() for _ in spec.models), **weights)
        assert torch.equal(out, model), weights


@pytest.mark.parametrize("spec", SPECS)
def test_zero_constant_opposite_and_tiny_models_are_defined(spec: MethodSpec) -> None:
    some = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    zero = torch.zeros(4, 3)
    cases = [
        [zero],
        [torch.full((4, 3), 0.5)],
        [some, -some, zero],
        [zero, some, zero],
        [some, zero, zero],
        [some, some, -some],
        [some, 2 * some, some],
        [some * 1e-20, some * 2e-20, some * 3e-20],
        [some * 1e-40, some * 2e-40, some * 3e-40],
        [some * 1e4, some * -1e4, some],
    ]
    cases = [list(itertools.islice(itertools.cycle(case), len(spec.models))) for case in cases]
    for models, weights in itertools.product(cases, samples(spec)):
        assert torch.isfinite(spec.function(*models, **weights)).all(), (models, weights)


@pytest.mark.parametrize("spec", [p for p in SPECS if p.values[0].name in INTERPOLATIONS])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_interpolation_of_two_models_is_exactly_a_at_0_and_exactly_b_at_1(
    spec: MethodSpec, shape: tuple[int, ...]
) -> None:
    models = random_models(spec, shape)
    for weights in samples(spec):
        assert torch.equal(spec.function(*models, **weights | {"alpha": 0.0}), models[0])
        assert torch.equal(spec.function(*models, **weights | {"alpha": 1.0}), models[1])


@pytest.mark.parametrize("spec", [p for p in SPECS if p.values[0].between])
def test_a_method_that_says_so_stays_between_the_models(spec: MethodSpec) -> None:
    models = random_models(spec, (6, 5))
    low, high = torch.stack(models).amin(0), torch.stack(models).amax(0)
    for weights in samples(spec):
        out = spec.function(*models, **weights)
        assert ((out >= low - 1e-6) & (out <= high + 1e-6)).all(), weights


@pytest.mark.parametrize("spec", [p for p in SPECS if p.values[0].elementwise])
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_an_elementwise_method_gives_the_same_bits_in_pieces(spec: MethodSpec, piece: int) -> None:
    models = random_models(spec, (203,))
    for weights in samples(spec):
        whole = spec.function(*models, **weights)
        prepared = spec.prepared(models, weights)
        parts = []
        for number, pieces in enumerate(zip(*(m.split(piece) for m in models), strict=True)):
            parts.append(spec.function(*pieces, **weights, **known(prepared, number * piece, piece, 203)))
        assert torch.equal(torch.cat(parts), whole), weights


def known(prepared: Prepared | None, begin: int, size: int, count: int) -> dict[str, Prepared]:
    """What the first stage gave, cut like the models."""
    if prepared is None:
        return {}
    whole = [isinstance(part, Tensor) and part.numel() == count for part in prepared]
    return {
        "prepared": tuple(
            part[begin : begin + size] if cut else part for part, cut in zip(prepared, whole, strict=True)
        )
    }


@pytest.mark.parametrize("spec", [p for p in SPECS if p.values[0].prepare])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prepared_work_is_the_same_for_other_weights_and_is_not_used_up(
    spec: MethodSpec, shape: tuple[int, ...]
) -> None:
    models = random_models(spec, shape)
    kept: dict[tuple[float, ...], Prepared | None] = {}
    for weights in [*samples(spec), *samples(spec)]:
        sign = tuple(weights[name] for name in spec.prepared_by)
        if sign not in kept:
            kept[sign] = spec.prepared(models, weights)
        out = spec.function(*models, **weights, prepared=kept[sign])
        assert torch.equal(out, spec.function(*models, **weights)), weights


@pytest.mark.parametrize("spec", SPECS)
def test_the_number_of_threads_does_not_change_a_bit(spec: MethodSpec) -> None:
    models = random_models(spec, (600, 401))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append([spec.function(*models, **weights) for weights in samples(spec)[:4]])
    finally:
        torch.set_num_threads(threads)
    if spec.name in DECOMPOSED:  # the library of linear algebra shares its sums out among its threads
        assert all(torch.allclose(one, two, rtol=1e-5, atol=1e-5) for one, two in zip(*results, strict=True))
    else:
        assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("result", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_models_of_any_dtype_are_computed_in_fp32_and_rounded_once(
    spec: MethodSpec, dtype: torch.dtype, result: torch.dtype
) -> None:
    models = [model.to(dtype) for model in random_models(spec, (9, 11))]
    for weights in samples(spec):
        out = torch.empty(9, 11, dtype=result)
        combine(spec, models, weights, out, result, Scratch())
        expected = spec.function(*(model.float() for model in models), **weights).to(result)
        assert torch.equal(out, expected), weights


def takes_more(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(function).parameters.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_says_what_the_signature_says(name: str) -> None:
    spec = method_spec(name)
    assert spec.models in (("a", "b"), ("a", "b", "c"))
    assert set(spec.optional) <= {"c"}
    assert spec.many == takes_more(spec.function)
    assert not spec.many or spec.prepare is None or takes_more(spec.prepare)
    assert spec.weights
    assert len(spec.summary) > 20
    for weight in spec.weights.values():
        assert weight.least <= weight.low <= weight.default <= weight.high <= weight.most
    spec.check({weight: about.default for weight, about in spec.weights.items()})
    with pytest.raises(ConfigError, match="nan is outside"):
        spec.check({weight: float("nan") for weight in spec.weights})


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Weighted Sum", "weighted_sum"), ("weighted-sum", "weighted_sum"), ("linear", "weighted_sum"),
        ("task_arithmetic", "add_difference"), ("Add", "add_difference"), ("sumTwice", "sum_twice"),
        ("tripleSum", "triple_sum"), ("tensor", "tensor_sum"), ("similarity", "similarity_add_difference"),
        ("cosineA", "cosine_a"), ("cosineB", "cosine_b"), ("smoothAdd", "smooth_add"), ("smoothAdd MT", "smooth_add"),
        ("trainDifference", "train_difference"), ("ties_add_difference", "ties"), ("add_difference_ties", "ties"),
        ("n_model_stock", "model_stock"), ("n_supermario", "dropout"), ("perpendicular_component", "add_perpendicular"),
    ],
)  # fmt: skip
def test_the_names_that_other_programs_use_are_understood(alias: str, name: str) -> None:
    assert method_spec(alias).name == name


def test_no_two_methods_share_a_name() -> None:
    names = [n for method in NAMES for n in (method, *method_spec(method).aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_method_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"method: 'weigthed_sum' is unknown; did you mean weighted_sum"):
        method_spec("weigthed_sum")


def test_methods_are_found_under_the_names_of_other_programs() -> None:
    assert METHODS["perpendicular_component"] is METHODS["add_perpendicular"]
    assert METHODS["trainDifference"] is METHODS["train_difference"]
    with pytest.raises(KeyError, match="nope"):
        METHODS["nope"]
