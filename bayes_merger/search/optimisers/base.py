"""Samplers whose suggestions survive a killed process.

Optuna's own samplers keep their random numbers in the process, so a resumed study gets other suggestions. Here every
suggestion is a function of the study's stored history, a declared space and a seed derived for its slot: whichever
process opens the study next makes the same suggestion. A method comes in as

* a *proposal*, a pure function on the unit cube (:class:`CubeSampler`), or
* an Optuna sampler, made afresh for every suggestion (:class:`ReplaySampler`).

Trials without a usable score (running, failed, pruned, infinite) are kept as observed points: their positions count
as explored. Trials of a wider space, from before a range was narrowed, keep their true positions, outside the cube;
trials without one of the space's parameters are left out. A point is never suggested twice: the same weights draw the
same pictures.
"""

from __future__ import annotations

import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import get_cached_controller

from bayes_merger.errors import ConfigError
from bayes_merger.search.space.cube import Array, derived_seed, generator, to_point, to_values
from bayes_merger.search.study.history import PICTURES, History, history_before, is_suggested, rater_variance

Space = Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class Observations:
    """A history in the unit cube: all that a proposal sees.

    Attributes:
        slot: how many trials came before, see :class:`History`.
        drawn: how many of them the sampler drew itself.
        points: shape ``(trials, dimensions)``; in [0, 1], or outside for a trial of a wider space.
        scores: one per point, greater is better; NaN where there is none: the trial is running, has failed, was
            pruned, or its score is infinite. Of several objectives, the first.
        searched: one per point, whether the sampler drew it; False for rows of the start design.
        objectives: shape ``(trials, objectives)``, like ``scores``, which is its first column; None if there is one.
        names: of the parameters, one per dimension.
        pictures: one per point, the raw scores of its pictures as a run stores them; empty where there are none.
        rater: variance of a score that comes from the person who gave it; None where nobody did.
    """

    slot: int
    drawn: int
    points: Array
    scores: Array
    searched: NDArray[np.bool_]
    objectives: Array | None = None
    names: tuple[str, ...] = ()
    pictures: tuple[Sequence[Mapping[str, Any]], ...] = ()
    rater: float | None = None

    @property
    def dimensions(self) -> int:
        """Of the cube."""
        return int(self.points.shape[1])

    def only(self, chosen: NDArray[np.bool_]) -> Observations:
        """Some of the observations, as one flag per point says."""
        return replace(
            self,
            points=self.points[chosen],
            scores=self.scores[chosen],
            searched=self.searched[chosen],
            objectives=None if self.objectives is None else self.objectives[chosen],
            pictures=tuple(own for own, one in zip(self.pictures, chosen, strict=False) if one),
        )


CLOSE = 1e-9
"""Points nearer than this in every dimension (of a range of 1) are the same point."""

SuggestFn = Callable[[Observations, int], Array]
"""From the observations and the study's seed to one point of the unit cube, shape ``(dimensions,)``. Pure."""


class StatelessSampler(BaseSampler):
    """A sampler without memory: all it knows is in the study.

    Args:
        space: what is searched; None: the parameters that all trials so far have in common.
        seed: of the study, 0 or above.
        name: of the method, for messages.
        single: the method supports one objective only.
    """

    def __init__(self, space: Space | None, seed: int, *, name: str, single: bool = False) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"seed: {seed!r} is not a whole number of 0 or above")
        self.space = dict(space) if space is not None else None
        self.seed = seed
        self.name = name
        self.single = single

    def __str__(self) -> str:
        return self.name

    def check_objectives(self, count: int) -> None:
        """Refuse, before the first trial, a study of more objectives than the method supports.

        Raises:
            ConfigError: naming optimisers that support several.
        """
        if self.single and count > 1:
            raise ConfigError(
                f"optimiser: {self} supports one objective and there are {count}; "
                "use optimiser=gp or optimiser=tpe, or one weighted sum"
            )

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space. Optuna's own samplers would drop a parameter whose range ever differed."""
        if self.space is not None:
            return dict(self.space)
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return {name: d for name, d in intersection_search_space(finished).items() if not d.single()}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Uniform, for a parameter outside the declared space."""
        self._refuse(study)
        slot = history_before(study, trial).slot
        point = generator(self.seed, slot, zlib.crc32(param_name.encode())).random(1)
        return to_values(point, {param_name: param_distribution})[param_name]

    def _refuse(self, study: Study) -> None:
        if self.single and len(study.directions) > 1:
            raise ValueError(f"{self} supports one objective; the study has {len(study.directions)}")


class CubeSampler(StatelessSampler):
    """Suggests what a proposal, a pure function on the unit cube, proposes.

    Args:
        space: as for :class:`StatelessSampler`.
        seed: as for :class:`StatelessSampler`.
        propose: the method.
        name: as for :class:`StatelessSampler`.
        single: as for :class:`StatelessSampler`.
    """

    def __init__(self, space: Space | None, seed: int, propose: SuggestFn, *, name: str, single: bool = False) -> None:
        super().__init__(space, seed, name=name, single=single)
        self._propose = propose

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal for this trial's slot."""
        self._refuse(study)
        if not search_space:
            return {}
        observations = observations_of(history_before(study, trial), search_space, study)
        with one_thread():
            proposed = self._propose(observations, self.seed)
        return to_values(
            _moved_off(proposed, observations.points, search_space, self.seed, observations.slot), search_space
        )


class ReplaySampler(StatelessSampler):
    """Lets a fresh Optuna sampler make each suggestion, on a copy of the history.

    Args:
        space: as for :class:`StatelessSampler`.
        seed: as for :class:`StatelessSampler`.
        make: from a seed below 2**32 to the sampler. It must keep no state in the trials.
        name: as for :class:`StatelessSampler`.
        as_running: trials in one of these states are shown to the sampler as still running, so that it explores
            elsewhere.
        finite: whether this also applies to trials whose score is infinite.
    """

    def __init__(
        self,
        space: Space | None,
        seed: int,
        make: Callable[[int], BaseSampler],
        *,
        name: str,
        as_running: Iterable[TrialState] = (),
        finite: bool = False,
    ) -> None:
        super().__init__(space, seed, name=name)
        self._make = make
        self._as_running = tuple(as_running)
        self._finite = finite

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space, or what the inner sampler would infer."""
        if self.space is not None:
            return dict(self.space)
        copy, current = self._copy(study, trial)
        return copy.sampler.infer_relative_search_space(copy, current)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the inner sampler suggests for this trial's slot."""
        copy, current = self._copy(study, trial)
        with one_thread():
            values = copy.sampler.sample_relative(copy, current, search_space)
        # During its random start-up it returns an empty space, and Optuna samples each parameter separately.
        values |= {
            name: copy.sampler.sample_independent(copy, current, name, distribution)
            for name, distribution in search_space.items()
            if name not in values
        }
        history = history_before(study, trial)
        known = observations_of(history, search_space, study).points
        point = np.array(to_point(values, search_space))
        moved = _moved_off(point, known, search_space, self.seed, history.slot)
        inside = [_inside(values[name], distribution) for name, distribution in search_space.items()]
        return values if moved is point and all(inside) else to_values(moved, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """What the inner sampler suggests for a parameter outside the declared space."""
        copy, current = self._copy(study, trial, salt=zlib.crc32(param_name.encode()))
        return copy.sampler.sample_independent(copy, current, param_name, param_distribution)

    def _copy(self, study: Study, trial: FrozenTrial, salt: int = 0) -> tuple[Study, FrozenTrial]:
        """A study in memory with the history and a new trial, numbered without gaps."""
        history = history_before(study, trial)
        sampler = self._make(derived_seed(self.seed, history.slot, salt))
        copy = optuna.create_study(directions=study.directions, sampler=sampler)
        copy.add_trials(self._shown(t) for t in history.trials if self._is_known(t))
        copy.ask()
        return copy, copy.get_trials(deepcopy=False)[-1]

    def _is_known(self, trial: FrozenTrial) -> bool:
        return self.space is None or place_of(trial, self.space) is not None

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        infinite = self._finite and trial.values is not None and not np.isfinite(trial.values).all()
        as_running = infinite or trial.state in self._as_running
        return optuna.create_trial(
            state=TrialState.RUNNING if as_running else trial.state,
            values=None if as_running else trial.values,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=None if as_running else trial.intermediate_values,
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Run linear algebra on one thread and silence the libraries' fitting warnings.

    The order of a sum changes its last bits, and a suggestion must not depend on how many cores are free.
    """
    torch = sys.modules.get("torch")  # slow to import: only if it is imported already
    threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        with get_cached_controller().limit(limits=1, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def observations_of(history: History, space: Space, study: Study) -> Observations:
    """The history in the cube of this space; trials without one of its parameters are left out."""
    key = tuple(space.items())
    before = history.before.memo.get(key) if history.before else None
    if key not in history.memo:
        if before is None:
            history.memo[key] = _observed(history, history.trials, space, study)
        else:  # several suggestions after one look: only the latest of them is new
            history.memo[key] = _joined(before, _observed(history, history.trials[-1:], space, study))
    found: Observations = history.memo[key]
    return found


def _observed(history: History, trials: Sequence[FrozenTrial], space: Space, study: Study) -> Observations:
    signs = np.array([1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions])
    known, points = _places(trials, space)
    unknown = [np.nan] * len(signs)  # a pruned trial's score is of fewer pictures
    told = [t.values if t.state == TrialState.COMPLETE and t.values else unknown for t in known]
    values = signs * np.array(told, dtype=float).reshape(len(known), len(signs))
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return Observations(
        slot=history.slot,
        drawn=history.drawn,
        points=points,
        scores=values[:, 0],
        searched=np.array([is_suggested(t) for t in known], dtype=bool),
        objectives=values if len(signs) > 1 else None,
        names=tuple(space),
        pictures=tuple(t.user_attrs.get(PICTURES) or () for t in known),
        rater=rater_variance(known),
    )


def _joined(before: Observations, latest: Observations) -> Observations:
    several = before.objectives is not None and latest.objectives is not None
    return replace(
        latest,
        points=np.concatenate([before.points, latest.points]),
        scores=np.concatenate([before.scores, latest.scores]),
        searched=np.concatenate([before.searched, latest.searched]),
        objectives=np.concatenate([before.objectives, latest.objectives]) if several else None,
        pictures=before.pictures + latest.pictures,
    )


def place_of(trial: FrozenTrial, space: Space) -> list[float] | None:
    """Where a trial lies, in the cube of the space or outside it; None if it has no position there."""
    if any(name not in trial.params for name in space):
        return None
    try:
        point = to_point(trial.params, space, clip=False)
    except (TypeError, ValueError):
        return None  # not one of the space's choices, or a number that has no logarithm
    return point


def _places(trials: Sequence[FrozenTrial], space: Space) -> tuple[list[FrozenTrial], Array]:
    """The trials that have a place in this space, and their points; all at once, for there may be ten thousand."""
    known = [trial for trial in trials if space.keys() <= trial.params.keys()]
    plain = all(isinstance(d, FloatDistribution) and not d.log and d.step is None for d in space.values())
    if plain and space and not any(d.single() for d in space.values()):
        low, high = np.array([(d.low, d.high) for d in space.values()]).T  # type: ignore[attr-defined]
        try:
            values = np.array([itemgetter(*space)(trial.params) for trial in known], dtype=float)
            return known, (values.reshape(len(known), len(space)) - low) / (high - low)
        except (TypeError, ValueError):
            pass  # somebody's trial with a word for a number: one by one
    placed = [(trial, point) for trial in known if (point := place_of(trial, space)) is not None]
    points = np.array([point for _, point in placed], dtype=float).reshape(len(placed), len(space))
    return [trial for trial, _ in placed], points


def _inside(value: Any, distribution: BaseDistribution) -> bool:
    """Whether a value is in the range; a sampler may start its optimisation at a trial of a wider space."""
    if isinstance(distribution, CategoricalDistribution):
        return True
    return bool(distribution.low <= value <= distribution.high)  # type: ignore[attr-defined]


def _moved_off(point: Array, known: Array, space: Space, seed: int, slot: int) -> Array:
    """The point itself if no trial is there, else one nearby: a fifth of the coordinates moved by about 0.1."""
    continuous = [isinstance(d, FloatDistribution) and d.step is None for d in space.values()]
    if not any(continuous) or not is_known(point, known):
        return point
    rng = generator(seed, slot, zlib.crc32(b"aside"))
    chosen = rng.permutation(np.flatnonzero(continuous))[: max(1, sum(continuous) // 5)]
    moved_point = np.array(point, dtype=float)
    moved_point[chosen] += rng.normal(0.0, 0.1, len(chosen))
    return np.abs(1.0 - np.abs(1.0 - moved_point))  # mirrored at the borders, where clipping might lead back


def is_known(point: Array, points: Array) -> bool:
    """Whether a point, shape ``(dimensions,)``, is one of these, shape ``(points, dimensions)``."""
    return bool((np.abs(points - point).max(axis=1, initial=0.0) < CLOSE).any())
