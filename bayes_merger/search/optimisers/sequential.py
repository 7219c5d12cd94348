"""Optuna samplers as they are: any ``optuna.samplers.BaseSampler`` that a person names, seeded and resumed.

Such a sampler may keep what it knows anywhere: in random numbers that it has drawn (all of them), in attributes of
trials (NSGA-II, CMA-ES) or of the study (quasi-Monte Carlo). So it lives in a study in memory, where it goes through
the stored history trial by trial, from the first one: it is asked, gets the values that were really used, and is given
the score. What it suggests then is what it would have suggested if the process had never died, and what a plain
``study.optimize`` with the same sampler and seed suggests. Nothing that the sampler stores comes from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import BayesMergerError, ConfigError
from bayes_merger.search.optimisers.base import Space, StatelessSampler, one_thread, place_of
from bayes_merger.search.study.history import History, history_before, is_suggested, origin

_FAILURES = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What other people's samplers raise on a study that they cannot work on."""


class SequentialSampler(StatelessSampler):
    """Lets one Optuna sampler go through the whole history in order.

    Between two suggestions of one process the study in memory is kept, so that each trial is gone through once.

    Args:
        space: what is searched.
        seed: of the study, 0 or above.
        make: from a seed below 2**32 to the sampler.
        name: of the sampler, for people.
    """

    def __init__(self, space: Space, seed: int, make: Callable[[int], BaseSampler], *, name: str) -> None:
        super().__init__(space, seed, name=name)
        self._space = dict(space)
        self._make = make
        self._replay: _Replay | None = None

    def check_objectives(self, count: int) -> None:
        """Ask the sampler once, as the first trial of a study of that many objectives would.

        Raises:
            ConfigError: it cannot work on such a study, in its own words.
        """
        try:
            self._new_replay(["maximize"] * count).suggest(History(0, 0, ()))
        except _FAILURES as error:
            raise ConfigError(f"optimiser: {self} cannot search this space: {_words(error)}") from error

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the sampler suggests after the history before this trial.

        Raises:
            BayesMergerError: the sampler raised an error.
        """
        history = history_before(study, trial)
        if self._replay is None or not self._replay.can_go_on(history):
            self._replay = self._new_replay(study.directions)
        try:
            with one_thread():
                return self._replay.suggest(history)
        except _FAILURES as error:
            self._replay = None
            raise BayesMergerError(f"optimiser: {self} failed: {_words(error)}") from error

    def _new_replay(self, directions: Any) -> _Replay:
        seed = self.seed % 2**32  # numpy's generators take no more
        return _Replay(optuna.create_study(directions=directions, sampler=self._make(seed)), self._space)


class _Replay:
    """A study in memory that has gone through a history.

    Attributes:
        passed: origin of each trial gone through, in order -> its number in memory.
    """

    def __init__(self, study: Study, space: Space) -> None:
        self._study = study
        self._space = dict(space)
        self.passed: dict[int, int] = {}
        self._suggested: dict[str, Any] | None = None  # asked for, and not yet seen in the history

    def can_go_on(self, history: History) -> bool:
        """Whether a history begins with what was gone through, and no score has come in since it was last asked."""
        known = [t for t in history.trials if place_of(t, self._space) is not None]
        if [origin(t) for t in known[: len(self.passed)]] != list(self.passed):
            return False
        return self._suggested is None or self._is_the_next(known) or not self._has_news(known)

    def _is_the_next(self, known: list[FrozenTrial]) -> bool:
        following = known[len(self.passed) :]
        return bool(following) and is_suggested(following[0]) and self._values_of(following[0]) == self._suggested

    def _has_news(self, known: list[FrozenTrial]) -> bool:
        return len(known) > len(self.passed) or any(self._is_news(t) for t in known)

    def _is_news(self, trial: FrozenTrial) -> bool:
        return trial.state.is_finished() and not self._inside(trial).state.is_finished()

    def _inside(self, trial: FrozenTrial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self.passed[origin(trial)]]

    def suggest(self, history: History) -> dict[str, Any]:
        """Go through what is new in a history, and ask for the next trial."""
        for trial in history.trials:
            if place_of(trial, self._space) is None:
                continue
            if origin(trial) not in self.passed:
                self.passed[origin(trial)] = self._pass(trial)
            if self._is_news(trial):
                self._tell(trial)
        if self._suggested is None:
            self._suggested = self._study.ask(fixed_distributions=self._space).params
        return dict(self._suggested)

    def _pass(self, trial: FrozenTrial) -> int:
        """The trial's number in memory, where it runs with the values that it really has."""
        values = self._values_of(trial)
        pending, self._suggested = self._suggested, None
        if pending is not None:  # it is the last one there
            number = len(self._study.get_trials(deepcopy=False)) - 1
        elif is_suggested(trial):
            asked = self._study.ask(fixed_distributions=self._space)
            number, pending = asked.number, asked.params
        elif all(distribution._contains(distribution.to_internal_repr(values[name]))
                 for name, distribution in self._space.items()):  # fmt: skip
            self._study.enqueue_trial(values)
            return self._study.ask(fixed_distributions=self._space).number
        else:  # of a wider space
            self._study.add_trial(
                optuna.create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)
            )
            return len(self._study.get_trials(deepcopy=False)) - 1
        inside = self._study.get_trials(deepcopy=False)[number]
        for name, value in values.items():
            if value != pending[name]:
                distribution = self._space[name]
                self._study._storage.set_trial_param(
                    inside._trial_id, name, distribution.to_internal_repr(value), distribution
                )
        return number

    def _values_of(self, trial: FrozenTrial) -> dict[str, Any]:
        return {name: trial.params[name] for name in self._space}

    def _tell(self, trial: FrozenTrial) -> None:
        number = self.passed[origin(trial)]
        finite = trial.values is not None and all(abs(value) < float("inf") for value in trial.values)
        if trial.state == TrialState.COMPLETE and finite:
            self._study.tell(number, trial.values)
        else:
            self._study.tell(number, state=TrialState.PRUNED if trial.state == TrialState.PRUNED else TrialState.FAIL)


def _words(error: Exception) -> str:
    return f"{' '.join(str(error).split())[:200]} ({type(error).__name__})"
