"""The optimisers: what they suggest, and that it depends on the study alone."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.search import build_space, samplers
from bayes_merger.search.optimisers.options import check_names
from bayes_merger.search.space.cube import generator, latin_hypercube, to_point
from bayes_merger.search.study.study import design
from bayes_merger.testing.samplers import SPACE, SamplerContract, ask, rows_of
from tests.search import optimiser_configs as optimisers


def _each(names: list[str]) -> list[Any]:
    """The optimisers by name; one that comes with a family of packages takes seconds for what others do at once."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in optimisers.EXTRA else name for name in names]


ALL = _each(optimisers.NAMES)
LEARNING = _each(optimisers.LEARNING)
Params = dict[str, Any]


for _name in optimisers.NAMES:
    _class = type(
        f"TestContractOf{_name.title().replace('_', '')}",
        (SamplerContract,),
        {
            "factory": partial(optimisers.sampler_by_keyword, _name),
            "several_objectives": _name in optimisers.SEVERAL,
            "pytestmark": [pytest.mark.slow] if _name in optimisers.EXTRA else [],
        },
    )
    globals()[_class.__name__] = _class


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.disable_default_handler()


def sampler_of(name: str, space: Any = SPACE, seed: int = 5) -> BaseSampler:
    return optimisers.sampler_of(name, space, seed, **optimisers.QUICK.get(name, {}))


def study_of(name: str, rows: list[tuple[Params, float | None]], **options: Any) -> optuna.Study:
    """A study in memory in which these values have these scores; None: the trial failed."""
    study = optuna.create_study(direction="maximize", sampler=sampler_of(name, **options))
    space = options.get("space", SPACE)
    for values, score in rows:
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        study.add_trial(optuna.create_trial(params=values, distributions=dict(space), value=score, state=state))
    return study


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ALL)
def test_trials_that_the_sampler_chose_in_a_wider_space_do_no_harm(name: str) -> None:
    study = study_of(name, rows_of(12))
    narrow = {"a": FloatDistribution(0.8, 0.9), "b": SPACE["b"], "c": SPACE["c"]}
    study.sampler = sampler_of(name, narrow)
    suggested = []
    for _ in range(3):
        trial = ask(study, narrow)
        assert 0.8 <= trial.params["a"] <= 0.9
        suggested.append(tuple(trial.params.values()))
        study.tell(trial, -1.0)
    assert len(set(suggested)) == 3


@pytest.mark.parametrize("name", [name for name in optimisers.NAMES if name not in optimisers.SEVERAL])
def test_an_optimiser_of_one_objective_says_so_before_the_first_trial(name: str) -> None:
    sampler: Any = sampler_of(name)
    sampler.check_objectives(1)
    with pytest.raises(ConfigError, match=f"{name} supports one objective and there are 2; use optimiser=gp"):
        sampler.check_objectives(2)


def test_nan_cannot_even_be_told() -> None:
    study = study_of("bayes", rows_of(6))
    with pytest.raises(ValueError, match="nan"):
        study.tell(ask(study, SPACE), math.nan, state=TrialState.COMPLETE)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", LEARNING)
def test_a_single_parameter_is_never_tried_twice_at_one_place(name: str) -> None:
    space = {"a": FloatDistribution(0.0, 1.0)}
    study = study_of(name, [], space=space)
    for _ in range(12):
        trial = ask(study, space)
        study.tell(trial, -((trial.params["a"] - 1.0) ** 2))  # the best lies on the border
    assert len({t.params["a"] for t in study.trials}) == 12


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ALL)
def test_a_hundred_and_twenty_parameters_are_no_trouble(name: str) -> None:
    if name == "bayes_classic":
        pytest.skip("the library's own climb takes half a minute there; run once by hand")
    space = {f"x{index}": FloatDistribution(0.0, 1.0) for index in range(120)}
    study = study_of(name, [], space=space)
    for score in range(12):
        study.tell(ask(study, space), float(score))
    assert len(ask(study, space).params) == 120


@pytest.mark.parametrize("name", LEARNING)
def test_minimising_is_the_mirror_of_maximising(name: str) -> None:
    up = ask(study_of(name, rows_of(12)), SPACE).params
    down = optuna.create_study(direction="minimize", sampler=sampler_of(name))
    for values, score in rows_of(12):
        assert score is not None
        down.add_trial(optuna.create_trial(params=values, distributions=dict(SPACE), value=-score))
    assert ask(down, SPACE).params == up


@pytest.mark.parametrize("name", ["bayes", "bayes_classic"])
def test_scale_and_offset_of_the_scores_do_not_matter(name: str) -> None:
    plain = ask(study_of(name, rows_of(12)), SPACE).params
    scaled = study_of(name, [(values, 1024.0 * score) for values, score in rows_of(12) if score is not None])
    assert ask(scaled, SPACE).params == pytest.approx(plain, abs=1e-4)


def test_a_declared_space_is_searched_even_after_a_trial_with_another_range() -> None:
    study = study_of("bayes", rows_of(6))
    narrow = SPACE | {"a": FloatDistribution(0.0, 0.1)}
    study.add_trial(optuna.create_trial(params={"a": 0.05, "b": 0.0, "c": 0.45}, distributions=dict(narrow), value=9.0))
    trial = optuna.trial.create_trial(state=TrialState.RUNNING)
    assert study.sampler.infer_relative_search_space(study, trial) == SPACE


def test_an_option_that_does_not_exist_is_an_error_that_names_the_nearest() -> None:
    misspelt: Params = {"kapa": 2.0}
    foreign: Params = {"kappa": 2.0}
    check_names(partial(samplers.bayes, kappa=2.0))
    with pytest.raises(ConfigError, match="bayes has no option 'kapa'; did you mean kappa"):
        check_names(partial(samplers.bayes, **misspelt))
    with pytest.raises(ConfigError, match="random has no option 'kappa'; it has none"):
        check_names(partial(samplers.random, **foreign))


def test_an_optimiser_whose_package_is_not_installed_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['botorch'] = None; from bayes_merger.search import samplers\n"
        "try: samplers.botorch(None, 0)\n"
        "except samplers.ConfigError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "botorch is not installed" in said
    assert "pip install 'bayes-merger[botorch]'" in said
    assert said.count("\n") == 1


def test_a_sobol_sequence_goes_on_where_it_was_and_fills_every_half() -> None:
    study = optuna.create_study(sampler=samplers.sobol(SPACE, 3))
    drawn = []
    for _ in range(16):
        trial = ask(study, SPACE)
        drawn.append(to_point(trial.params, SPACE))
        study.tell(trial, 0.0)
    assert ((np.array(drawn) < 0.5).sum(axis=0) == 8).all()
    assert (np.array(drawn[8:]) < 0.5).sum(axis=0).tolist() == [4, 4, 4]


def test_every_row_of_the_hypercube_is_drawn_once() -> None:
    study = optuna.create_study(sampler=samplers.lhs(SPACE, 3, rows=7))
    drawn = []
    for _ in range(14):
        trial = ask(study, SPACE)
        drawn.append(to_point(trial.params, SPACE))
        study.tell(trial, 0.0)
    for cube in (np.array(drawn[:7]), np.array(drawn[7:])):
        assert np.sort((cube * 7).astype(int), axis=0).T.tolist() == [list(range(7))] * 3
    assert drawn[:7] != drawn[7:]


def test_rows_of_the_start_design_do_not_use_up_the_hypercube() -> None:
    first = ask(optuna.create_study(sampler=samplers.lhs(SPACE, 3, rows=7)), SPACE).params
    study = optuna.create_study(sampler=samplers.lhs(SPACE, 3, rows=7))
    values = {"a": 0.5, "b": 0.5, "c": 0.45}
    study.add_trial(
        optuna.create_trial(params=values, distributions=dict(SPACE), value=1.0, user_attrs={"phase": "design"})
    )
    assert ask(study, SPACE).params == first


@pytest.mark.parametrize("acquisition", ["ucb", "ei", "poi"])
def test_the_classic_has_the_acquisitions_of_the_library(acquisition: str) -> None:
    made = samplers.bayes_classic(SPACE, 5, acquisition=acquisition, exploration_decay=0.9, exploration_decay_delay=2)
    study = study_of("random", rows_of(6))
    study.sampler = made
    assert set(ask(study, SPACE).params) == {"a", "b", "c"}


def test_the_shrinking_space_stays_around_the_best() -> None:
    made = samplers.bayes_classic(SPACE, 5, bounds_transformer={"minimum_window": 0.02, "eta": 0.5, "gamma_osc": 0.5})
    study = optuna.create_study(direction="maximize", sampler=made)
    for _ in range(16):
        trial = ask(study, SPACE)
        point = np.array(to_point(trial.params, SPACE))
        study.tell(trial, -float(((point - 0.6) ** 2).sum()))
    late = np.array([to_point(t.params, SPACE) for t in study.trials[-4:]])
    assert np.ptp(late, axis=0).max() < 0.2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bayes", {"kappa": -1.0}, "kappa = -1.0 must be at least 0"),
        ("bayes", {"kappa": "1"}, "kappa = '1' is not a number"),
        ("bayes", {"noise": 0.0}, "noise = 0.0 must be at least"),
        ("bayes", {"length_scale": 50.0}, "must lie in its bounds"),
        ("bayes", {"candidates": 0}, "candidates = 0"),
        ("bayes_classic", {"acquisition": "ucv"}, "did you mean ucb"),
        ("bayes_classic", {"kappa": -1.0}, "kappa"),
        ("bayes_classic", {"exploration_decay": 2.0}, "exploration_decay"),
        ("bayes_classic", {"kappa": "much"}, "kappa = 'much' is not a number"),
        ("bayes_classic", {"bounds_transformer": 5}, "bounds_transformer = 5 is not true, false or its options"),
        ("bayes_classic", {"bounds_transformer": {"etta": 0.9}}, "bounds_transformer: .*etta"),
        ("bayes", {"length_scale_bounds": 3}, "length_scale_bounds = 3 is not a range"),
        ("bayes", {"length_scale_bounds": [5, 1]}, "runs backwards"),
        ("gp", {"n_startup_trials": 0}, "n_startup_trials = 0 must be at least 1"),
        ("gp", {"deterministic": "no"}, "deterministic = 'no' is not true or false"),
        ("tpe", {"multivariate": 1}, "multivariate = 1 is not true or false"),
        ("tpe", {"n_ei_candidates": 2.5}, "not a whole number"),
        ("cma", {"sigma": 3.0}, r"sigma = 3.0 must lie in 0.001 \.\.\. 1"),
        ("cma", {"population": 2}, "population = 2 must be at least 4"),
        ("turbo", {"length": 9.0}, "length = 9.0 must lie in"),
        ("turbo", {"failures": 0}, "failures = 0"),
        ("botorch", {"raw_samples": 1}, "raw_samples = 1 must be at least 3"),
        ("lhs", {"rows": 0}, "rows = 0"),
        ("lhs", {"rows": 1.5}, "rows = 1.5"),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error_at_once(name: str, options: Params, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        optimisers.sampler_of(name, SPACE, 0, **options)


@pytest.mark.parametrize("seed", [-1, 1.5, None, True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed"):
        samplers.random(SPACE, seed)


@pytest.mark.parametrize(("rows", "dimensions"), [(1, 1), (2, 3), (7, 26), (100, 120)])
def test_a_hypercube_hits_every_bin_of_every_dimension_once(rows: int, dimensions: int) -> None:
    cube = latin_hypercube(generator(0), rows, dimensions)
    edges = np.arange(rows + 1) / rows
    for column in cube.T:
        assert np.histogram(column, edges)[0].tolist() == [1] * rows


def test_the_exact_gradient_is_the_numeric_one() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    from bayes_merger.search.optimisers.bayesopt import Bound

    rng = generator(4)
    points, scores = rng.random((20, 5)), rng.standard_normal(20)
    process = GaussianProcessRegressor(Matern(1.3, nu=2.5), alpha=0.05, optimizer=None).fit(points, scores)
    bound, x = Bound(process, 1.7), rng.random(5)
    mean, std = process.predict(x[None], return_std=True)
    value, gradient = bound.descent(x)
    assert -value == pytest.approx(mean[0] + 1.7 * std[0], abs=1e-9)
    assert bound.heights(x[None])[0] == pytest.approx(-value, abs=1e-9)
    numeric = [(bound.descent(x + step)[0] - bound.descent(x - step)[0]) / 2e-6 for step in 1e-6 * np.eye(5)]
    assert gradient == pytest.approx(numeric, abs=1e-6)


def test_the_climb_ends_where_the_librarys_own_does() -> None:
    from bayes_opt import BayesianOptimization
    from bayes_opt.acquisition import AcquisitionFunction, UpperConfidenceBound
    from sklearn.gaussian_process.kernels import Matern

    from bayes_merger.search.optimisers.base import one_thread
    from bayes_merger.search.optimisers.bayesopt import ClimbingUCB

    rng = generator(4)
    points, scores = rng.random((30, 6)), rng.standard_normal(30)

    def suggested(acquisition: AcquisitionFunction) -> list[float]:
        names = {f"x{index}": (0, 1) for index in range(6)}
        optimiser = BayesianOptimization(None, names, acquisition_function=acquisition, random_state=1, verbose=0)
        optimiser.set_gp_params(kernel=Matern(2.0, (0.5, 30.0), nu=2.5), alpha=0.05, normalize_y=False)
        for point, score in zip(points, scores, strict=True):
            optimiser.space.register(point, float(score))
        with one_thread():
            return [float(value) for value in optimiser.suggest().values()]

    ours = suggested(ClimbingUCB(1.0, candidates=10_000, starts=10))
    assert ours == pytest.approx(suggested(UpperConfidenceBound(1.0)), abs=1e-4)


@pytest.mark.slow
def test_bayes_beats_random_on_a_26_dimensional_bowl_in_40_trials() -> None:
    blocks = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
    space = build_space(blocks, {"alpha": (0.0, 1.0)})

    def regret(name: str, seed: int) -> float:
        goal = generator(seed, 99).uniform(0.2, 0.8, 26)
        study = optuna.create_study(direction="maximize", sampler=sampler_of(name, space.distributions(), seed))
        for row in design(space, 10, seed):
            study.enqueue_trial(row, user_attrs={"phase": "design"})
        for _ in range(40):
            trial = ask(study, space.distributions())
            study.tell(trial, -float(((np.array(list(trial.params.values())) - goal) ** 2).sum()))
        return -study.best_value

    for seed in range(5):
        assert regret("bayes", seed) < 0.6 * regret("random", seed)  # measured: 0.21 to 0.37
