"""Optuna's samplers, and a stranger's, as a person names them in a YAML."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import TrialState

from bayes_merger.compose import build, compose_run
from bayes_merger.errors import BayesMergerError, ConfigError
from bayes_merger.search.samplers import lhs, make_sampler
from bayes_merger.search.space.building import build_space
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.study import create_study, open_storage, recover
from bayes_merger.search.study.workers import Worker
from bayes_merger.testing.samplers import SamplerContract

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

BLOCKS = ("BASE", "IN00", "OUT00")
DESIGN = [{"BASE.alpha": 0.1, "IN00.alpha": 0.9, "OUT00.alpha": 0.5}, {"BASE.alpha": 0.7, "IN00.alpha": 0.2, "OUT00.alpha": 0.4}]  # fmt: skip
TRIALS = 13

SAMPLERS: dict[str, Callable[..., Any]] = {
    "tpe": partial(TPESampler, n_startup_trials=3),
    "tpe of several weights": partial(TPESampler, n_startup_trials=3, multivariate=True, group=True),
    "gp": partial(GPSampler, n_startup_trials=4),
    "cma": partial(CmaEsSampler, popsize=4),
    "nsga": partial(NSGAIISampler, population_size=4),
    "qmc": partial(QMCSampler, scramble=True),
    "random": RandomSampler,
}


class Drifting(BaseSampler):
    """A stranger's: what it suggests depends on how often it was asked, and on nothing that is stored."""

    def __init__(self, seed: int, step: float = 0.07) -> None:
        self.seed, self.step, self.asked = seed, step, 0

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> float:
        self.asked += 1
        return (self.seed * 0.1 + self.step * self.asked) % 1.0


SAMPLERS["a stranger's"] = partial(Drifting, step=0.03)


@pytest.fixture
def space() -> SearchSpace:
    return build_space(BLOCKS, {"alpha": (0.0, 1.0)})


def score(values: dict[str, float]) -> float:
    return 5 - sum((value - target) ** 2 for value, target in zip(values.values(), (0.3, 0.6, 0.9), strict=True))


def searched(
    path: Path, space: SearchSpace, factory: Callable[..., Any], seed: int = 0, killed_in: int | None = None
) -> list[dict[str, float]]:
    """The values of all trials of a study; ``killed_in``: where its process dies, and another one goes on."""
    storage = open_storage(str(path))

    def opened() -> optuna.study.Study:
        return optuna.load_study(
            storage=storage, study_name="s", sampler=make_sampler(factory, space.distributions(), seed)
        )

    study = create_study(
        storage, "s", make_sampler(factory, space.distributions(), seed), space=space, fingerprint={}, design=DESIGN
    )
    while (done := len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))) < TRIALS:
        with Worker(study, space) as worker:
            trial = worker.claim(TRIALS)
            assert trial is not None
            if trial.number == killed_in:
                worker._current = None  # nobody hands it back: the process is gone
                study = opened()
                study._storage.set_trial_user_attr(trial._trial_id, "worker", {"id": "gone", "host": "", "pid": 0})
                recover(study)
                continue
            if done % 5 == 4:
                worker.prune(trial, "clearly worse", {"estimate": 1.0})
            else:
                worker.tell(trial, score(trial.params))
    finished = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [trial.params for trial in sorted(finished, key=lambda t: int(t.user_attrs.get("origin", t.number)))]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_study_goes_on_after_a_kill_as_if_nothing_had_been(name: str, tmp_path: Path, space: SearchSpace) -> None:
    whole = searched(tmp_path / "whole.db", space, SAMPLERS[name])
    assert searched(tmp_path / "killed.db", space, SAMPLERS[name], killed_in=8) == whole


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_seed_of_the_study_is_the_sampler_s(name: str, tmp_path: Path, space: SearchSpace) -> None:
    first = searched(tmp_path / "0.db", space, SAMPLERS[name])
    assert searched(tmp_path / "again.db", space, SAMPLERS[name]) == first
    other = searched(tmp_path / "1.db", space, SAMPLERS[name], seed=1)
    assert other[: len(DESIGN)] == first[: len(DESIGN)]
    assert other != first


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SAMPLERS)
def test_it_is_what_plain_optuna_does_with_the_same_seed(name: str, tmp_path: Path, space: SearchSpace) -> None:
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[name](seed=3))
    for row in DESIGN:
        study.enqueue_trial(row)
    for number in range(TRIALS):
        trial = study.ask(fixed_distributions=dict(space.distributions()))
        study.tell(trial, 1.0 if number % 5 == 4 else score(trial.params))
    assert searched(tmp_path / "ours.db", space, SAMPLERS[name], seed=3) == [t.params for t in study.trials]


def test_options_that_it_does_not_have_are_refused_by_name(space: SearchSpace) -> None:
    wrong: dict[str, Any] = {"n_startup": 3}
    unknown: dict[str, Any] = {"x": 3}
    with pytest.raises(ConfigError, match="TPESampler has no option 'n_startup'; did you mean n_startup_trials"):
        make_sampler(partial(TPESampler, **wrong), space.distributions(), 0)
    with pytest.raises(ConfigError, match=r"RandomSampler has no option 'x'; it has none"):
        make_sampler(partial(RandomSampler, **unknown), space.distributions(), 0)
    with pytest.raises(ConfigError, match="seed = 4 is not an option; it is the study's"):
        make_sampler(partial(TPESampler, seed=4), space.distributions(), 0)


def test_values_that_make_no_sense_are_refused_in_the_sampler_s_words(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match=r"QMCSampler: The `qmc_type='x'` is invalid"):
        make_sampler(partial(QMCSampler, qmc_type="x"), space.distributions(), 0)


def test_one_that_cannot_be_seeded_is_refused(space: SearchSpace) -> None:
    def unseeded() -> BaseSampler:
        return RandomSampler()

    with pytest.raises(ConfigError, match="unseeded takes no seed, so a study with it could neither be repeated"):
        make_sampler(unseeded, space.distributions(), 0)


def test_a_grid_is_refused_before_the_first_trial(space: SearchSpace) -> None:
    grid = partial(GridSampler, search_space={f"{block}.alpha": [0.0, 0.5, 1.0] for block in BLOCKS})
    with pytest.raises(ConfigError, match=r"GridSampler ends a study .*; use optimiser=sobol"):
        make_sampler(grid, space.distributions(), 0)


def test_what_is_no_sampler_is_refused(space: SearchSpace) -> None:
    def soup(seed: int) -> str:
        return "soup"

    with pytest.raises(ConfigError, match="soup returns a str, not an Optuna sampler"):
        make_sampler(soup, space.distributions(), 0)


def test_a_sampler_of_one_objective_is_refused_before_the_first_trial(space: SearchSpace) -> None:
    sampler = make_sampler(CmaEsSampler, space.distributions(), 0)
    sampler.check_objectives(1)
    with pytest.raises(ConfigError, match=r"CmaEsSampler cannot search this space: .*multi-objective"):
        sampler.check_objectives(2)
    make_sampler(NSGAIISampler, space.distributions(), 0).check_objectives(2)


def test_an_error_of_the_sampler_s_is_one_line(tmp_path: Path, space: SearchSpace) -> None:
    class Broken(Drifting):
        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> float:
            if trial.number > 1:
                raise ZeroDivisionError("by nought")
            return 0.5

    with pytest.raises(BayesMergerError, match=r"optimiser: Broken failed: by nought \(ZeroDivisionError\)"):
        searched(tmp_path / "s.db", space, Broken)


def test_our_own_are_called_by_keyword_and_not_wrapped(space: SearchSpace) -> None:
    assert str(make_sampler(partial(lhs, rows=5), space.distributions(), 7)) == "lhs"


class TestContractOfTPE(SamplerContract):
    factory = partial(TPESampler, n_startup_trials=3)
    several_objectives = True


@pytest.mark.slow
class TestContractOfGP(SamplerContract):
    factory = partial(GPSampler, n_startup_trials=3)
    several_objectives = True


class TestContractOfCMA(SamplerContract):
    factory = partial(CmaEsSampler, popsize=4)


class TestContractOfNSGA(SamplerContract):
    factory = partial(NSGAIISampler, population_size=4)
    several_objectives = True


@pytest.mark.slow
class TestContractOfQMC(SamplerContract):
    factory = partial(QMCSampler, scramble=True)
    several_objectives = True


MINE: dict[str, dict[str, Any]] = {
    "optuna.samplers.TPESampler": {"n_startup_trials": 3, "multivariate": True},
    "optuna.samplers.NSGAIISampler": {"population_size": 4},
    "tests.search.optimisers.test_sequential.Drifting": {"step": 0.05},
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("target", MINE)
def test_a_yaml_of_the_person_s_own_names_any_sampler(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: SearchSpace
) -> None:
    (tmp_path / "conf" / "optimiser").mkdir(parents=True)
    options = "".join(f"{key}: {str(value).lower()}\n" for key, value in MINE[target].items())
    (tmp_path / "conf" / "optimiser" / "mine.yaml").write_text(f"_target_: {target}\n{options}")
    monkeypatch.chdir(tmp_path)
    settings = compose_run(["model_a=a.safetensors", "model_b=b.safetensors", "optimiser=mine"])["optimiser"]
    factory = build("optimiser", settings, _partial_=True)
    first = searched(tmp_path / "first.db", space, factory)
    assert searched(tmp_path / "killed.db", space, factory, killed_in=8) == first
    assert searched(tmp_path / "other.db", space, factory, seed=1) != first
