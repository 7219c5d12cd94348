"""The contract of an optimiser, as a class to inherit::

    from bayes_merger.testing.samplers import SamplerContract

    class TestMine(SamplerContract):
        factory = MySampler

``factory`` is what a YAML names as its ``_target_``: an Optuna sampler's class, or a function that takes ``space`` and
``seed``; a ``functools.partial`` of either adds options. Optuna's own contract for samplers is
``optuna.testing.pytest_samplers``. This module needs pytest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.search.optimisers.base import StatelessSampler
from bayes_merger.search.samplers import make_sampler
from bayes_merger.search.space.cube import generator, latin_hypercube, to_values

SPACE: dict[str, FloatDistribution] = {
    "a": FloatDistribution(0.0, 1.0),
    "b": FloatDistribution(-1.0, 2.0),
    "c": FloatDistribution(0.4, 0.5),
}
Row = tuple[dict[str, Any], float | None]
"""The values of a trial, and its score; None: it failed."""


def rows_of(count: int) -> list[Row]:
    """Values spread evenly over ``SPACE``, and the score of each: greatest at 0.6 of every range."""
    points = latin_hypercube(generator(1), count, 3)
    return [(to_values(point, SPACE), -float(((point - 0.6) ** 2).sum())) for point in points]


def ask(study: optuna.Study, space: Mapping[str, FloatDistribution]) -> optuna.Trial:
    """The next trial of a study, with a value for every parameter of the space."""
    return study.ask(dict(space))


class SamplerContract:
    """What every optimiser must do: repeatable, resumable, inside the ranges, no point twice, odd histories survived.

    Attributes:
        factory: what a YAML names as its ``_target_``, perhaps with options.
        several_objectives: it can search for several objectives; if not, it must say so before the first trial.
    """

    factory: ClassVar[Callable[..., Any]]
    several_objectives: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _quiet(self) -> Iterator[None]:
        optuna.logging.disable_default_handler()
        yield
        optuna.logging.enable_default_handler()

    def sampler(self, space: Mapping[str, FloatDistribution] = SPACE, seed: int = 5) -> StatelessSampler:
        """A new sampler, as a run makes it."""
        return make_sampler(type(self).factory, dict(space), seed)

    def study(self, rows: Sequence[Row] = (), seed: int = 5, phase: str = "search") -> optuna.Study:
        """A study in memory in which these values have these scores; ``phase``: search, or design (not suggested)."""
        study = optuna.create_study(direction="maximize", sampler=self.sampler(seed=seed))
        for values, score in rows:
            state = TrialState.FAIL if score is None else TrialState.COMPLETE
            study.add_trial(
                optuna.create_trial(
                    params=values, distributions=dict(SPACE), value=score, state=state, user_attrs={"phase": phase}
                )
            )
        return study

    def suggested(self, rows: Sequence[Row], seed: int = 5) -> dict[str, Any]:
        """The first suggestion after these rows."""
        return ask(self.study(rows, seed), SPACE).params

    def test_the_same_seed_gives_the_same_suggestion_and_another_seed_another(self) -> None:
        first = self.suggested(rows_of(12))
        assert self.suggested(rows_of(12)) == first
        assert self.suggested(rows_of(12), seed=6) != first

    def test_a_new_process_suggests_what_the_old_one_would_have(self) -> None:
        study = self.study()
        for number in range(9):
            trial = ask(study, SPACE)
            if number == 4:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, -((trial.params["a"] - 0.3) ** 2))
        for count in (0, 5, 8):
            resumed = self.study()
            resumed.add_trials(study.trials[:count])
            assert ask(resumed, SPACE).params == study.trials[count].params, f"after {count} trials"

    def test_a_suggestion_lies_in_the_ranges_also_at_the_very_first(self) -> None:
        study = self.study()
        for _ in range(4):
            trial = ask(study, SPACE)
            assert set(trial.params) == set(SPACE)
            assert all(SPACE[key].low <= value <= SPACE[key].high for key, value in trial.params.items())
            study.tell(trial, 1.0)

    def test_a_trial_without_a_score_is_not_suggested_again(self) -> None:
        study = self.study(rows_of(6))
        seen = []
        for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING, TrialState.RUNNING):
            trial = ask(study, SPACE)
            seen.append(tuple(trial.params.values()))
            if state == TrialState.PRUNED:
                trial.report(0.5, 0)
            if state.is_finished():
                study.tell(trial, state=state)
        assert len(set(seen)) == 4

    def test_trials_of_a_wider_space_do_no_harm(self) -> None:
        study = self.study(rows_of(12), phase="design")
        narrow = {"a": FloatDistribution(0.8, 0.9), "b": SPACE["b"], "c": SPACE["c"]}
        study.sampler = self.sampler(narrow)
        suggested = []
        for _ in range(3):
            trial = ask(study, narrow)
            assert 0.8 <= trial.params["a"] <= 0.9
            suggested.append(tuple(trial.params.values()))
            study.tell(trial, -1.0)
        assert len(set(suggested)) == 3

    def test_trials_without_one_of_the_parameters_are_left_out_and_others_they_have_ignored(self) -> None:
        study = self.study(rows_of(6))
        wider = SPACE | {"d": FloatDistribution(0.0, 1.0)}
        study.sampler = self.sampler(wider)
        assert set(ask(study, wider).params) == {"a", "b", "c", "d"}
        fewer = {"a": SPACE["a"], "c": SPACE["c"]}
        study.sampler = self.sampler(fewer)
        assert set(ask(study, fewer).params) == {"a", "c"}

    def test_an_infinite_score_teaches_nothing_and_breaks_nothing(self) -> None:
        odd = [({"a": 0.5, "b": 0.5, "c": 0.45}, -math.inf), ({"a": 0.1, "b": 0.1, "c": 0.41}, math.inf)]
        assert set(self.suggested([*rows_of(6), *odd])) == set(SPACE)

    @pytest.mark.parametrize("scores", [[3.0] * 6, [1e200, -1e200, 0, 1, 2, 3], [1e-300, 2e-300, 0, 0, 0, 0]])
    def test_odd_scores_are_survived(self, scores: list[float]) -> None:
        rows: list[Row] = [(values, score) for (values, _), score in zip(rows_of(6), scores, strict=True)]
        assert set(self.suggested(rows)) == set(SPACE)

    def test_the_same_point_may_have_been_scored_many_times(self) -> None:
        corner = {"a": 1.0, "b": 2.0, "c": 0.5}
        assert self.suggested([(corner, float(score)) for score in range(8)]) != corner

    def test_two_objectives_are_searched_for_or_refused_before_the_first_trial(self) -> None:
        self.sampler().check_objectives(1)
        if not self.several_objectives:
            with pytest.raises(ConfigError, match="objective"):
                self.sampler().check_objectives(2)
            return

        def study() -> optuna.Study:
            made = optuna.create_study(directions=["maximize", "maximize"], sampler=self.sampler())
            for values, _ in rows_of(10):
                scores = [-abs(values["a"] - 0.2), -abs(values["a"] - 0.8)]
                made.add_trial(optuna.create_trial(params=values, distributions=dict(SPACE), values=scores))
            return made

        self.sampler().check_objectives(2)
        first = study()
        trial = ask(first, SPACE)
        assert trial.params == ask(study(), SPACE).params
        first.tell(trial, state=TrialState.FAIL)
        assert ask(first, SPACE).params != trial.params
