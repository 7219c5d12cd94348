"""Optuna's own contract for samplers, kept by each of ours."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from bayes_merger.search import samplers

Make = Callable[[], BaseSampler]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.disable_default_handler()


class TestRandom(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """The quick one: what all have in common."""

    @pytest.fixture
    def sampler(self) -> Make:
        return lambda: samplers.random(None, 0)


@pytest.mark.slow
class TestLhs(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Make:
        return lambda: samplers.lhs(None, 0, rows=10)


@pytest.mark.slow
class TestTpe(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Make:
        return lambda: samplers.tpe(None, 0, n_startup_trials=2)


@pytest.mark.slow
class TestBayes(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Make:
        return lambda: samplers.bayes(None, 0)


@pytest.mark.slow
class TestBayesClassic(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Make:
        return lambda: samplers.bayes_classic(None, 0)
