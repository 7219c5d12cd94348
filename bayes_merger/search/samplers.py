"""The optimisers: Optuna samplers that a killed process cannot confuse.

Optuna's own samplers keep their random numbers in the process, so a resumed study goes another way. Here every
suggestion is a function of the study's stored history, a declared space and a seed derived for its slot: whoever opens
the study next makes the suggestion that would have come.

The lower-case functions are what ``conf/optimiser/*.yaml`` name as ``_target_``: each takes the declared space (from
:meth:`SearchSpace.distributions`; None: whatever all trials so far have in common), the study's seed and its options.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.search.history import PHASE, History, history_before
from bayes_merger.search.unit import Array, derived_seed, generator, latin_hypercube, to_point, to_values

Space = Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class Evidence:
    """A history in the unit cube: what a proposal may look at.

    Attributes:
        slot: how many trials came before, see :class:`History`.
        drawn: how many of them the sampler drew itself.
        points: shape ``(trials, dimensions)``, in [0, 1].
        scores: one per point, greater is better; NaN where there is none: the trial is running, has failed, was cut
            short, or its score is infinite.
        searched: one per point, whether the sampler drew it (or a row of the start design did).
    """

    slot: int
    drawn: int
    points: Array
    scores: Array
    searched: NDArray[np.bool_]

    @property
    def dimensions(self) -> int:
        """Of the cube."""
        return int(self.points.shape[1])


Proposal = Callable[[Evidence, int], Array]
"""From the evidence and the study's seed to one point of the unit cube, shape ``(dimensions,)``. Pure."""


class SlotSampler(BaseSampler):
    """A sampler without memory: all it knows is in the study.

    Args:
        space: what is searched; None: what all trials so far have in common.
        seed: of the study, 0 or above.
    """

    def __init__(self, space: Space | None, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"seed: {seed!r} is not a whole number of 0 or above")
        self.space = dict(space) if space is not None else None
        self.seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The declared space. Optuna's own samplers would drop a parameter whose range ever differed."""
        if self.space is not None:
            return dict(self.space)
        told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return {name: d for name, d in intersection_search_space(told).items() if not d.single()}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Uniform, for a parameter outside the declared space."""
        slot = history_before(study, trial).slot
        point = generator(self.seed, slot, zlib.crc32(param_name.encode())).random(1)
        return to_values(point, {param_name: param_distribution})[param_name]


class CubeSampler(SlotSampler):
    """Suggests what a proposal, a pure function on the unit cube, proposes.

    Args:
        space: as for :class:`SlotSampler`.
        seed: as for :class:`SlotSampler`.
        propose: the method.
        name: what ``str()`` says.
        single: the method knows one objective only.
    """

    def __init__(self, space: Space | None, seed: int, propose: Proposal, *, name: str, single: bool = False) -> None:
        super().__init__(space, seed)
        self._propose = propose
        self._name = name
        self._single = single

    def __str__(self) -> str:
        return self._name

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal for this trial's slot."""
        self._check_objectives(study)
        if not search_space:
            return {}
        evidence = evidence_of(history_before(study, trial), search_space, study)
        return to_values(self._propose(evidence, self.seed), search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Uniform, for a parameter outside the declared space."""
        self._check_objectives(study)
        return super().sample_independent(study, trial, param_name, param_distribution)

    def _check_objectives(self, study: Study) -> None:
        if self._single and len(study.directions) > 1:
            raise ValueError(f"{self} knows one objective; the study has {len(study.directions)}")


class ReplaySampler(SlotSampler):
    """Lets a fresh Optuna sampler make each suggestion, on a copy of the history.

    Args:
        space: as for :class:`SlotSampler`.
        seed: as for :class:`SlotSampler`.
        make: from a seed below 2**32 to the sampler. It must keep no state in the trials.
    """

    def __init__(self, space: Space | None, seed: int, make: Callable[[int], BaseSampler]) -> None:
        super().__init__(space, seed)
        self._make = make

    def __str__(self) -> str:
        return str(self._make(0))

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
        values = copy.sampler.sample_relative(copy, current, search_space)
        # TPE says nothing at its random start, and would then be asked for each parameter by itself.
        return {
            name: values[name] if name in values else copy.sampler.sample_independent(copy, current, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """What the inner sampler suggests for a parameter outside the declared space."""
        copy, current = self._copy(study, trial, salt=zlib.crc32(param_name.encode()))
        return copy.sampler.sample_independent(copy, current, param_name, param_distribution)

    def _copy(self, study: Study, trial: FrozenTrial, salt: int = 0) -> tuple[Study, FrozenTrial]:
        """A study in memory with the history and a trial that asks; numbers run without gaps."""
        history = history_before(study, trial)
        sampler = self._make(derived_seed(self.seed, history.slot, salt))
        copy = optuna.create_study(directions=study.directions, sampler=sampler)
        copy.add_trials(_bare(t) for t in history.trials)
        copy.ask()
        return copy, copy.get_trials(deepcopy=False)[-1]


def _bare(trial: FrozenTrial) -> FrozenTrial:
    return optuna.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
    )


def evidence_of(history: History, space: Space, study: Study) -> Evidence:
    """The history in the cube of this space; trials that lack one of its parameters are left out."""
    maximise = study.directions[0] == StudyDirection.MAXIMIZE
    known = [t for t in history.trials if all(name in t.params for name in space)]
    scores = [_score(t, maximise) for t in known]
    return Evidence(
        slot=history.slot,
        drawn=history.drawn,
        points=np.array([to_point(t.params, space) for t in known], dtype=float).reshape(len(known), len(space)),
        scores=np.array(scores, dtype=float),
        searched=np.array([t.user_attrs.get(PHASE) != "design" for t in known], dtype=bool),
    )


def _score(trial: FrozenTrial, maximise: bool) -> float:
    values: Sequence[float] | None = trial.values
    if trial.state != TrialState.COMPLETE or not values or not np.isfinite(values[0]):
        return float("nan")  # A trial cut short saw other pictures than the rest: no score to learn from.
    return values[0] if maximise else -values[0]


def bayes(
    space: Space | None,
    seed: int,
    *,
    kappa: float = 1.0,
    noise: float = 0.05,
    length_scale: float = 2.0,
    length_scale_bounds: Sequence[float] = (0.5, 30.0),
    restarts: int = 2,
    candidates: int = 10_000,
    starts: int = 10,
) -> BaseSampler:
    """bayesian-optimization, tuned for about 26 weights and noisy scores: the default.

    Args:
        space: see the module.
        seed: see the module.
        kappa: how many standard deviations of hope count; 0 only exploits.
        noise: variance of a score's noise, where the scores' own variance is 1.
        length_scale: over which a score changes, in ranges; where the fit starts.
        length_scale_bounds: between which it is fitted. The library's own lower bound (1e-5) lets an early fit
            believe that nothing is related to anything.
        restarts: of that fit.
        candidates: random points of which the best start the climb to the greatest upper confidence bound.
        starts: how many of them climb.
    """
    from bayes_merger.search.bayesopt import Tuned, tuned_proposal

    low, high = length_scale_bounds
    settings = Tuned(kappa, noise, length_scale, (float(low), float(high)), restarts, candidates, starts)
    return CubeSampler(space, seed, tuned_proposal(settings), name="bayes", single=True)


def bayes_classic(
    space: Space | None,
    seed: int,
    *,
    acquisition: str = "ucb",
    kappa: float = 2.576,
    xi: float = 0.01,
    exploration_decay: float | None = None,
    exploration_decay_delay: int | None = None,
    bounds_transformer: Mapping[str, Any] | bool | None = None,
) -> BaseSampler:
    """bayesian-optimization with the library's defaults, as the original sd-webui-bayesian-merger calls it.

    Args:
        space: see the module.
        seed: see the module.
        acquisition: ``ucb``, ``ei`` (expected improvement) or ``poi`` (probability of improvement).
        kappa: for ``ucb``: how many standard deviations of hope count.
        xi: for ``ei`` and ``poi``: the improvement that is asked for.
        exploration_decay: kappa or xi is multiplied by this after every suggestion; in (0, 1].
        exploration_decay_delay: but not before this many suggestions.
        bounds_transformer: true, or options of the library's sequential domain reduction (``gamma_osc``,
            ``gamma_pan``, ``eta``, ``minimum_window``): the space shrinks around the best as the search goes on.
    """
    from bayes_merger.search.bayesopt import Classic, classic_proposal

    shrink = dict(bounds_transformer) if isinstance(bounds_transformer, Mapping) else {}
    wanted = bounds_transformer is not None and bounds_transformer is not False
    settings = Classic(acquisition, kappa, xi, exploration_decay, exploration_decay_delay, shrink if wanted else None)
    return CubeSampler(space, seed, classic_proposal(settings), name="bayes_classic", single=True)


def tpe(
    space: Space | None,
    seed: int,
    *,
    multivariate: bool = True,
    constant_liar: bool = True,
    n_startup_trials: int = 10,
    n_ei_candidates: int = 24,
) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator, https://doi.org/10.48550/arXiv.2304.11127

    Args:
        space: see the module.
        seed: see the module.
        multivariate: model all weights together; false: each by itself, as Optuna 4 did.
        constant_liar: stay away from what other workers are trying.
        n_startup_trials: random until so many trials have a score; the start design counts.
        n_ei_candidates: drawn from the good ones' density; the one most unlike the bad ones is suggested.
    """

    def make(inner_seed: int) -> BaseSampler:
        return optuna.samplers.TPESampler(
            seed=inner_seed,
            multivariate=multivariate,
            constant_liar=constant_liar,
            n_startup_trials=n_startup_trials,
            n_ei_candidates=n_ei_candidates,
        )

    return ReplaySampler(space, seed, make)


def lhs(space: Space | None, seed: int, *, rows: int = 100) -> BaseSampler:
    """A Latin hypercube, row by row: learns nothing, leaves no part of any range out.

    Args:
        space: see the module.
        seed: see the module.
        rows: of one hypercube, best the number of trials it is asked for; then another begins.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ConfigError(f"optimiser: rows = {rows!r} is not a whole number of 1 or above")

    def propose(evidence: Evidence, seed: int) -> Array:
        cube, row = divmod(evidence.drawn, rows)
        point: Array = latin_hypercube(generator(seed, cube), rows, evidence.dimensions)[row]
        return point

    return CubeSampler(space, seed, propose, name="lhs")


def random(space: Space | None, seed: int) -> BaseSampler:
    """Uniform points: what any other optimiser must beat."""

    def propose(evidence: Evidence, seed: int) -> Array:
        return generator(seed, evidence.slot).random(evidence.dimensions)

    return CubeSampler(space, seed, propose, name="random")
