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

from tests.search.optimiser_configs import NAMES, QUICK, SEVERAL, sampler_of

Make = Callable[[], BaseSampler]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.disable_default_handler()


class TestRandom(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """The quick one: what all have in common."""

    @pytest.fixture
    def sampler(self) -> Make:
        return lambda: sampler_of("random", None, 0)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [name for name in NAMES if name in SEVERAL], indirect=True)
class TestOfSeveralObjectives(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, request: pytest.FixtureRequest) -> Make:
        return maker(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [name for name in NAMES if name not in SEVERAL], indirect=True)
class TestOfOneObjective(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self, request: pytest.FixtureRequest) -> Make:
        return maker(request.param)


def maker(name: str) -> Make:
    return lambda: sampler_of(name, None, 0, **QUICK.get(name, {}))
