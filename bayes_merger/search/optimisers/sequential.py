"""Optuna samplers unchanged: any ``optuna.samplers.BaseSampler`` that a user names, seeded and resumed.

Such a sampler may keep state anywhere: in its random generator (all of them), in attributes of trials (NSGA-II, CMA-ES)
or of the study (quasi-Monte Carlo). So it works on a study in memory, where the stored history is replayed trial by
trial: ask, set the values that were really used, tell the score. What it suggests next is what it would have suggested
if the process had never died, and what a plain ``study.optimize`` with the same sampler and seed suggests. Nothing that
the sampler stores comes from a file.
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
"""What other samplers raise on a study that they do not support."""


class SequentialSampler(StatelessSampler):
    """Replays the whole history with one Optuna sampler.

    Between two suggestions of one process the study in memory is kept, so that each trial is replayed once.

    Args:
        space: what is searched.
        seed: of the study, 0 or above.
        make: from a seed below 2**32 to the sampler.
        name: of the sampler, for messages.
    """

    def __init__(self, space: Space, seed: int, make: Callable[[int], BaseSampler], *, name: str) -> None:
        super().__init__(space, seed, name=name)
        self._space = dict(space)
        self._make = make
        self._replay: _Replay | None = None

    def check_objectives(self, count: int) -> None:
        """Ask the sampler once, as the first trial of a study of that many objectives would.

        Raises:
            ConfigError: the sampler does not support such a study; with its own message.
        """
        try:
            self._new_replay(["maximize"] * count).suggest(History(0, 0, ()))
        except _FAILURES as error:
            raise ConfigError(f"optimiser: {self} cannot search this space: {_one_line(error)}") from error

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the sampler suggests after the history before this trial.

        Raises:
            BayesMergerError: the sampler raised an error.
        """
        history = history_before(study, trial)
        if self._replay is None or not self._replay.can_continue(history):
            self._replay = self._new_replay(study.directions)
        try:
            with one_thread():
                return self._replay.suggest(history)
        except _FAILURES as error:
            self._replay = None
            raise BayesMergerError(f"optimiser: {self} failed: {_one_line(error)}") from error

    def _new_replay(self, directions: Any) -> _Replay:
        seed = self.seed % 2**32  # numpy's generators take no more
        return _Replay(optuna.create_study(directions=directions, sampler=self._make(seed)), self._space)


class _Replay:
    """A study in memory that replays a history.

    Attributes:
        replayed: origin of each replayed trial, in order -> its number in memory.
    """

    def __init__(self, study: Study, space: Space) -> None:
        self._study = study
        self._space = dict(space)
        self.replayed: dict[int, int] = {}
        self._suggested: dict[str, Any] | None = None  # suggested, and not yet in the history

    def can_continue(self, history: History) -> bool:
        """Whether a history begins with the replayed trials, and no score is new since the last suggestion."""
        known = [t for t in history.trials if place_of(t, self._space) is not None]
        if [origin(t) for t in known[: len(self.replayed)]] != list(self.replayed):
            return False
        return self._suggested is None or self._is_the_next(known) or not self._has_new(known)

    def _is_the_next(self, known: list[FrozenTrial]) -> bool:
        following = known[len(self.replayed) :]
        return bool(following) and is_suggested(following[0]) and self._values_of(following[0]) == self._suggested

    def _has_new(self, known: list[FrozenTrial]) -> bool:
        return len(known) > len(self.replayed) or any(self._newly_finished(t) for t in known)

    def _newly_finished(self, trial: FrozenTrial) -> bool:
        return trial.state.is_finished() and not self._copy_of(trial).state.is_finished()

    def _copy_of(self, trial: FrozenTrial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self.replayed[origin(trial)]]

    def suggest(self, history: History) -> dict[str, Any]:
        """Replay what is new in a history, and ask for the next trial."""
        for trial in history.trials:
            if place_of(trial, self._space) is None:
                continue
            if origin(trial) not in self.replayed:
                self.replayed[origin(trial)] = self._replay_trial(trial)
            if self._newly_finished(trial):
                self._tell(trial)
        if self._suggested is None:
            self._suggested = self._study.ask(fixed_distributions=self._space).params
        return dict(self._suggested)

    def _replay_trial(self, trial: FrozenTrial) -> int:
        """Add the trial to the study in memory, running, with the values it really has; its number there."""
        values = self._values_of(trial)
        pending, self._suggested = self._suggested, None
        if pending is not None:  # suggested just before: the last one
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
        copy = self._study.get_trials(deepcopy=False)[number]
        for name, value in values.items():
            if value != pending[name]:
                distribution = self._space[name]
                self._study._storage.set_trial_param(
                    copy._trial_id, name, distribution.to_internal_repr(value), distribution
                )
        return number

    def _values_of(self, trial: FrozenTrial) -> dict[str, Any]:
        return {name: trial.params[name] for name in self._space}

    def _tell(self, trial: FrozenTrial) -> None:
        number = self.replayed[origin(trial)]
        finite = trial.values is not None and all(abs(value) < float("inf") for value in trial.values)
        if trial.state == TrialState.COMPLETE and finite:
            self._study.tell(number, trial.values)
        else:
            self._study.tell(number, state=TrialState.PRUNED if trial.state == TrialState.PRUNED else TrialState.FAIL)


def _one_line(error: Exception) -> str:
    return f"{' '.join(str(error).split())[:200]} ({type(error).__name__})"
