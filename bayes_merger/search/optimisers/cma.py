"""CMA-ES, the evolution strategy that adapts its covariance, https://doi.org/10.48550/arXiv.1604.00772

The strategy of the ``cmaes`` library (https://github.com/CyberAgentAILab/cmaes) has a state: the mean, the step and the
covariance after the generations so far. It is never stored. For every suggestion a new strategy replays all
generations, milliseconds for a hundred trials, so that the suggestion depends on the study alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cmaes import CMA

from bayes_merger.search.optimisers.base import Observations, SuggestFn
from bayes_merger.search.optimisers.options import check_flag, check_number
from bayes_merger.search.space.cube import Array, derived_seed


@dataclass(frozen=True)
class Evolution:
    """Settings of :func:`cma_proposal`; see :func:`bayes_merger.search.samplers.cma`."""

    sigma: float
    population: int | None
    warm_start: bool

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, 0.001, 1.0)
        if self.population is not None:
            check_number("population", self.population, 4, whole=True)
        check_flag("warm_start", self.warm_start)


def cma_proposal(settings: Evolution) -> SuggestFn:
    """A draw from the distribution after the generations so far.

    A generation is as many of the sampler's own trials with a score as the population has, in the order of suggestion.
    Trials that still run or have failed belong to none; each suggestion is another draw.
    """

    def propose(observations: Observations, seed: int) -> Array:
        strategy = CMA(
            mean=beginning(observations) if settings.warm_start else np.full(observations.dimensions, 0.5),
            sigma=settings.sigma,
            bounds=np.array([[0.0, 1.0]] * observations.dimensions),
            # Points outside are clipped to the border, not drawn again: good merges have weights of exactly 0 and 1.
            n_max_resampling=0,
            population_size=settings.population,
            seed=0,
        )
        own = np.isfinite(observations.scores) & observations.searched
        points, losses = observations.points[own].clip(0.0, 1.0), -observations.scores[own]
        size = strategy.population_size
        for first in range(0, len(losses) - size + 1, size):
            generation = slice(first, first + size)
            strategy.tell(list(zip(points[generation], losses[generation].tolist(), strict=True)))
        strategy._rng.seed(derived_seed(seed, observations.slot))
        return np.asarray(strategy.ask(), dtype=float)

    return propose


def beginning(observations: Observations) -> Array:
    """The initial mean: the better half of the start design, averaged with a generation's weights, the best most.

    The centre of the cube if fewer than four of its trials have a score.
    """
    in_design = np.isfinite(observations.scores) & ~observations.searched
    points, scores = observations.points[in_design].clip(0.0, 1.0), observations.scores[in_design]
    parents = len(scores) // 2
    if parents < 2:
        return np.full(observations.dimensions, 0.5)
    weights = np.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    best = np.argsort(-scores, kind="stable")[:parents]
    return np.asarray(weights @ points[best] / weights.sum(), dtype=float)
