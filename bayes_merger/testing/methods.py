"""The contract of a merge method: inherit it in a test file of your own, name the method, and run pytest.

::

    from bayes_merger.testing.methods import MergeMethodContract

    class TestGentleSum(MergeMethodContract):
        method = "gentle_sum"
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.merging.engine.combine import Scratch, combine
from bayes_merger.merging.method import MethodSpec, method_spec
from bayes_merger.merging.parameters import Prepared

Variant = tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]
"""A method's name, its models and its options."""

SHAPES: list[tuple[int, ...]] = [(5, 3), (), (1,), (7,), (0,), (1, 4), (0, 3), (4, 3, 2), (4, 3, 3, 3), (6, 2, 1, 1)]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RESULTS = (torch.float16, torch.bfloat16, torch.float32)


def variants(name: str) -> list[Variant]:
    """Every way to call a method: with fewer and more models, with each option; the first is with its defaults."""
    spec = method_spec(name)
    needed = tuple(model for model in spec.models if model not in spec.optional)
    choices = [((option, choice),) for option, about in spec.options.items() for choice in about.choices]
    options = [choice for choice in choices if spec.options[choice[0][0]].default != choice[0][1]]
    models = [spec.models] + ([needed] if spec.optional else []) + ([(*spec.models, "d", "e")] if spec.many else [])
    four: list[Variant] = [(name, (*spec.models, "d"), ())] if spec.many else []
    return [(name, given, chosen) for given in models for chosen in [(), *options]] + four


def bound(variant: Variant) -> MethodSpec:
    """The method of a variant."""
    name, models, options = variant
    return method_spec(name).bind(models, dict(options))


def random_models(spec: MethodSpec, shape: tuple[int, ...]) -> list[Tensor]:
    """A tensor for each model: a common base of normal numbers, and a tenth as much of its own."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    return [base + 0.1 * torch.randn(shape, generator=generator) for _ in spec.models]


class MergeMethodContract:
    """What every merge method promises.

    Attributes:
        method: its name.
        interpolates: whether it also promises to be exactly A at alpha = 0 and exactly B at alpha = 1.
        exact: whether it promises the same bits whatever the number of threads; decompositions of matrices cannot.
        thorough: everything with everything. Otherwise a sample: the method with its defaults on all shapes and every
            other variant on one; the weights together and each alone at the ends of its range; two pairs of dtypes; two
            sizes of pieces; and threads for the defaults only.
    """

    method: str
    interpolates = False
    exact = True
    thorough = True

    def specs(self) -> list[MethodSpec]:
        """The method in all its variants."""
        return [bound(variant) for variant in variants(self.method)]

    def cases(self) -> Iterator[tuple[MethodSpec, tuple[int, ...]]]:
        """Variants and shapes that are looked at together."""
        for number, spec in enumerate(self.specs()):
            for shape in SHAPES if self.thorough or number == 0 else SHAPES[:1]:
                yield spec, shape

    def samples(self, spec: MethodSpec) -> list[dict[str, float]]:
        """Weights across the ranges that are searched: their ends, a point inside and the default."""
        points = {name: [w.low, (w.low + w.high) / 3, w.high, w.default] for name, w in spec.weights.items()}
        if self.thorough:
            every = [dict(zip(points, numbers, strict=True)) for numbers in itertools.product(*points.values())]
        else:
            every = [{name: numbers[i] for name, numbers in points.items()} for i in range(4)]
            every += [every[3] | {name: end} for name, (low, _, high, _) in points.items() for end in (low, high)]
        return [weights for weights in every if spec.pole(weights) is None]

    def test_the_result_is_finite_and_of_the_same_shape_and_the_inputs_are_untouched(self) -> None:
        """Of any shape, also without dimensions or numbers."""
        for spec, shape in self.cases():
            models = random_models(spec, shape)
            before = [model.clone() for model in models]
            for weights in self.samples(spec):
                out = spec.function(*models, **weights)
                assert out.shape == shape
                assert out.dtype == torch.float32
                assert torch.isfinite(out).all(), (shape, weights)
                assert all(out.data_ptr() != model.data_ptr() for model in models if model.numel())
                assert all(torch.equal(model, copy) for model, copy in zip(models, before, strict=True))

    def test_identical_models_give_the_model(self) -> None:
        """Bit for bit."""
        for spec, shape in self.cases():
            model = random_models(spec, shape)[0]
            for weights in self.samples(spec):
                out = spec.function(*(model.clone() for _ in spec.models), **weights)
                assert torch.equal(out, model), (spec.models, shape, weights)

    def test_zero_constant_opposite_and_tiny_models_are_defined(self) -> None:
        """No NaN and no infinity comes out of finite numbers."""
        some, zero = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(4, 3)
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
        for spec in self.specs():
            for case, weights in itertools.product(cases, self.samples(spec)):
                models = list(itertools.islice(itertools.cycle(case), len(spec.models)))
                assert torch.isfinite(spec.function(*models, **weights)).all(), (models, weights)

    def test_an_interpolation_is_exactly_a_at_0_and_exactly_b_at_1(self) -> None:
        """Where the test class says that it interpolates."""
        for spec, shape in self.cases() if self.interpolates else ():
            models = random_models(spec, shape)
            for weights in self.samples(spec):
                assert torch.equal(spec.function(*models, **weights | {"alpha": 0.0}), models[0])
                assert torch.equal(spec.function(*models, **weights | {"alpha": 1.0}), models[1])

    def test_a_method_that_says_so_stays_between_the_models(self) -> None:
        """Where the decorator says ``between``."""
        for spec in (spec for spec in self.specs() if spec.between):
            models = random_models(spec, (6, 5))
            low, high = torch.stack(models).amin(0), torch.stack(models).amax(0)
            for weights in self.samples(spec):
                out = spec.function(*models, **weights)
                assert ((out >= low - 1e-6) & (out <= high + 1e-6)).all(), weights

    def test_a_linear_method_shows_what_is_not_finite_in_any_model(self) -> None:
        """Where the decorator says ``linear``."""
        for spec in (spec for spec in self.specs() if spec.linear):
            for number, value in itertools.product(range(len(spec.models)), (math.nan, math.inf, -math.inf)):
                models = random_models(spec, (6, 5))
                models[number][2, 3] = value
                for weights in self.samples(spec):
                    assert not math.isfinite(spec.function(*models, **weights)[2, 3]), (number, value, weights)

    def test_an_elementwise_method_gives_the_same_bits_in_pieces(self) -> None:
        """Where the decorator says ``elementwise``."""
        for spec in (spec for spec in self.specs() if spec.elementwise):
            models = random_models(spec, (203,))
            for weights, piece in itertools.product(self.samples(spec), (1, 7, 64) if self.thorough else (7, 64)):
                prepared = spec.prepared(models, weights)
                parts = [
                    spec.function(*pieces, **weights, **_cut(prepared, number * piece, piece, 203))
                    for number, pieces in enumerate(zip(*(torch.split(m, piece) for m in models), strict=True))
                ]
                assert torch.equal(torch.cat(parts), spec.function(*models, **weights)), (piece, weights)

    def test_a_weight_of_every_place_is_taken_as_its_number_would_be(self) -> None:
        """Where a weight is annotated ``Weight``: the same bits for equal numbers, and place by place for others."""
        for spec in self.specs():
            models = random_models(spec, (6, 5))
            for weights, name in itertools.product(self.samples(spec)[:4], sorted(spec.tensors)):
                low, high = spec.weights[name].low, spec.weights[name].high
                ends = [spec.function(*models, **weights | {name: number}) for number in (low, high)]
                equal = spec.function(*models, **weights | {name: torch.full((6, 5), weights[name])})
                assert torch.equal(equal, spec.function(*models, **weights)), (name, weights)
                upper = torch.arange(30).reshape(6, 5) % 2 == 0
                mixed = spec.function(*models, **weights | {name: torch.where(upper, high, low)})
                assert torch.equal(mixed, torch.where(upper, ends[1], ends[0])), (name, weights)

    def test_prepared_work_is_the_same_for_other_weights_and_is_not_used_up(self) -> None:
        """Where the decorator has ``prepare``."""
        for spec, shape in ((spec, shape) for spec, shape in self.cases() if spec.prepare):
            models = random_models(spec, shape)
            kept: dict[tuple[float, ...], Prepared | None] = {}
            for weights in [*self.samples(spec), *self.samples(spec)]:
                sign = tuple(weights[name] for name in spec.prepared_by)
                if sign not in kept:
                    kept[sign] = spec.prepared(models, weights)
                out = spec.function(*models, **weights, prepared=kept[sign])
                assert torch.equal(out, spec.function(*models, **weights)), weights

    def test_the_number_of_threads_does_not_change_a_bit(self) -> None:
        """But for rounding where the test class says that it is not exact."""
        threads = torch.get_num_threads()
        for spec in self.specs() if self.thorough else self.specs()[:1]:
            models, results = random_models(spec, (600, 401)), []
            try:
                for count in (1, 2):
                    torch.set_num_threads(count)
                    results.append([spec.function(*models, **weights) for weights in self.samples(spec)[:4]])
            finally:
                torch.set_num_threads(threads)
            for one, two in zip(*results, strict=True):
                assert torch.equal(one, two) if self.exact else torch.allclose(one, two, rtol=1e-5, atol=1e-5)

    def test_models_of_any_dtype_are_computed_in_fp32_and_rounded_once(self) -> None:
        """By the engine, which runs the method."""
        half_and_wide = [(torch.float16, torch.float16), (torch.bfloat16, torch.float32)]
        dtypes = list(itertools.product(DTYPES, RESULTS)) if self.thorough else half_and_wide
        for spec, (dtype, result) in itertools.product(self.specs(), dtypes):
            models = [model.to(dtype) for model in random_models(spec, (9, 11))]
            for weights in self.samples(spec):
                out = torch.empty(9, 11, dtype=result)
                combine(spec, models, weights, out, result, Scratch())
                expected = spec.function(*(model.float() for model in models), **weights).to(result)
                assert torch.equal(out, expected), (dtype, weights)

    def test_its_weights_are_in_order_and_its_docstring_says_what_it_does(self) -> None:
        """Ranges lie in bounds, and what is not a number is refused."""
        spec = method_spec(self.method)
        assert len(spec.summary) > 20
        for weight in spec.weights.values():
            assert weight.least <= weight.low <= weight.default <= weight.high <= weight.most
        spec.check({weight: about.default for weight, about in spec.weights.items()})
        with pytest.raises(ConfigError, match="nan is outside"):
            spec.check({weight: float("nan") for weight in spec.weights})


def _cut(prepared: Prepared | None, begin: int, size: int, count: int) -> dict[str, Prepared]:
    """The first stage's work as a keyword, cut like the models."""
    if prepared is None:
        return {}
    cut = [isinstance(part, Tensor) and part.numel() == count for part in prepared]
    return {"prepared": tuple(p[begin : begin + size] if c else p for p, c in zip(prepared, cut, strict=True))}
