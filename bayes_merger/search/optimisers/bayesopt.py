"""Proposals by the bayesian-optimization library, https://github.com/bayesian-optimization/BayesianOptimization

Both build the library's optimiser for every suggestion from the observations, in the unit cube with standardised
scores. A point without a score (running, failed, pruned) is given the mean score as a constant lie: nothing is learned
from it, but its neighbourhood counts as explored, so that the same point is not suggested again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from bayes_opt import BayesianOptimization, SequentialDomainReductionTransformer
from bayes_opt.acquisition import (
    AcquisitionFunction,
    ExpectedImprovement,
    ProbabilityOfImprovement,
    UpperConfidenceBound,
)
from bayes_opt.target_space import TargetSpace
from scipy.linalg import cho_solve
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from bayes_merger.errors import ConfigError
from bayes_merger.search.optimisers.base import Observations, SuggestFn, is_known
from bayes_merger.search.optimisers.options import check_choice, check_number
from bayes_merger.search.optimisers.thinning import thinned
from bayes_merger.search.space.cube import Array, derived_seed, generator
from bayes_merger.search.surrogates.kernels import matern52, squared_distances


@dataclass(frozen=True)
class Tuned:
    """Settings of :func:`tuned_proposal`; see :func:`bayes_merger.search.samplers.bayes`."""

    kappa: float = 1.0
    noise: float = 0.05
    length_scale: float = 2.0
    length_scale_bounds: tuple[float, float] = (0.5, 30.0)
    restarts: int = 2
    candidates: int = 10_000
    starts: int = 10

    def __post_init__(self) -> None:
        check_number("kappa", self.kappa, 0)
        check_number("noise", self.noise, 1e-10)
        check_number("restarts", self.restarts, 0, whole=True)
        check_number("candidates", self.candidates, 1, whole=True)
        check_number("starts", self.starts, 0, whole=True)
        low, high = self.length_scale_bounds
        check_number("length_scale", self.length_scale, 0)
        if not low <= self.length_scale <= high:
            raise ConfigError(f"optimiser: length_scale = {self.length_scale} must lie in its bounds [{low}, {high}]")


@dataclass(frozen=True)
class Classic:
    """Settings of :func:`classic_proposal`; see :func:`bayes_merger.search.samplers.bayes_classic`."""

    acquisition: str
    kappa: float
    xi: float
    exploration_decay: float | None
    exploration_decay_delay: int | None
    shrink: Mapping[str, Any] | None


@dataclass(frozen=True)
class TrainingData:
    """Distinct points and their scores, as the optimiser is given them.

    Attributes:
        points: shape ``(points, dimensions)``; those with scores first, in order of appearance.
        scores: one per point: mean 0 and variance 1 over the scored ones, 0 for the others.
        searched: one per point, whether the sampler drew it and it has a score.
    """

    points: Array
    scores: Array
    searched: list[bool]


def training_data(observations: Observations) -> TrainingData:
    """The observations with repeated points averaged into one (the library refuses repeats) and scores standardised."""
    scored: dict[tuple[float, ...], list[float]] = {}
    searched: dict[tuple[float, ...], bool] = {}
    lies: dict[tuple[float, ...], None] = {}
    for point, score, drawn in zip(
        observations.points.tolist(), observations.scores, observations.searched, strict=True
    ):
        if np.isfinite(score):
            scored.setdefault(tuple(point), []).append(float(score))
            searched.setdefault(tuple(point), bool(drawn))
        else:
            lies[tuple(point)] = None
    unscored = [point for point in lies if point not in scored]
    scores = np.array([np.mean(values) for values in scored.values()], dtype=float)
    return TrainingData(
        points=np.array([*scored, *unscored], dtype=float).reshape(-1, observations.dimensions),
        scores=np.concatenate([standardised(scores), np.zeros(len(unscored))]),
        searched=[*searched.values(), *([False] * len(unscored))],
    )


def standardised(scores: Array) -> Array:
    """The scores with mean 0 and standard deviation 1; all 0 when they are all the same."""
    if not len(scores):
        return scores
    # Scale before squaring: scores may be as large as 1e200.
    size = float(np.abs(scores).max()) or 1.0
    scaled = scores / size
    spread = float(scaled.std())
    centred: Array = scaled - scaled.mean()
    return centred / spread if spread > 1e-12 else np.zeros(len(scores))


def tuned_proposal(settings: Tuned) -> SuggestFn:
    """Greatest upper confidence bound of a Gaussian process with bounded length scale and noise."""

    def propose(observations: Observations, seed: int) -> Array:
        if not np.isfinite(observations.scores).any():
            return generator(seed, observations.slot).random(observations.dimensions)
        acquisition = ClimbingUCB(settings.kappa, candidates=settings.candidates, starts=settings.starts)
        optimiser = _optimiser(observations.dimensions, acquisition, derived_seed(seed, observations.slot))
        optimiser.set_gp_params(
            kernel=Matern(settings.length_scale, settings.length_scale_bounds, nu=2.5),
            alpha=settings.noise,
            n_restarts_optimizer=settings.restarts,
            normalize_y=False,  # already normalised, over the real scores only
        )
        known = training_data(thinned(observations))
        for point, score in zip(known.points, known.scores, strict=True):
            optimiser.space.register(point, float(score))
        return _array(optimiser.suggest())

    return propose


def classic_proposal(settings: Classic) -> SuggestFn:
    """The library's own optimiser, acquisition and optimisation of it, unchanged."""
    _acquisition(settings, 0)  # so that a wrong setting fails now, not during the run
    _transformer(settings)

    def propose(observations: Observations, seed: int) -> Array:
        rng = generator(seed, observations.slot)
        if not np.isfinite(observations.scores).any():
            return rng.random(observations.dimensions)
        optimiser = _optimiser(
            observations.dimensions,
            _acquisition(settings, observations.drawn),
            derived_seed(seed, observations.slot),
            _transformer(settings),
        )
        known = training_data(observations)
        _replay(optimiser, known, shrink=settings.shrink is not None)
        suggestion = _array(optimiser.suggest())
        bounds = optimiser.space.bounds
        # A known point would draw the same pictures, with the same score.
        return rng.uniform(bounds[:, 0], bounds[:, 1]) if is_known(suggestion, known.points) else suggestion

    return propose


class ClimbingUCB(UpperConfidenceBound):  # type: ignore[misc]  # the library is untyped
    """The library's upper confidence bound `mean + kappa std`, maximised with its exact gradient.

    The library estimates the gradient by 27 predictions per step: 2 seconds for 26 weights and 100 trials. This takes a
    tenth of that. Only for a Matern-5/2 kernel with one length scale, without the process's own normalisation.

    Args:
        kappa: weight of the standard deviation.
        candidates: number of random points.
        starts: number of the best of them from which L-BFGS-B starts.
    """

    def __init__(self, kappa: float, *, candidates: int, starts: int) -> None:
        super().__init__(kappa=kappa)
        self.candidates = candidates
        self.starts = starts

    def suggest(
        self,
        gp: GaussianProcessRegressor,
        target_space: TargetSpace,
        n_random: int = 0,
        n_smart: int = 0,
        fit_gp: bool = True,
        random_state: np.random.RandomState | None = None,
    ) -> Array:
        """The point of the space with the greatest bound that is not known already."""
        if fit_gp:
            self._fit_gp(gp=gp, target_space=target_space)
        low, high = target_space.bounds.T
        rng = random_state or np.random.RandomState(0)
        candidates = rng.uniform(low, high, size=(self.candidates, len(low)))
        bound = Bound(gp, self.kappa)
        heights = bound.heights(candidates)
        order = np.argsort(-heights, kind="stable")
        best, height = candidates[order[0]], heights[order[0]]
        for start in candidates[order[: self.starts]]:
            top = minimize(bound.descent, start, jac=True, bounds=target_space.bounds, method="L-BFGS-B")
            point = np.clip(top.x, low, high)
            if -top.fun > height and not is_known(point, target_space.params):
                best, height = point, -top.fun
        return np.asarray(best, dtype=float)


class Bound:
    """`mean(x) + kappa std(x)` of a fitted process with kernel `k = (1 + r + r^2 / 3) exp(-r)`, `r = sqrt(5) |x| / l`.

    Rasmussen and Williams (2006), chapters 2 and 4, http://gaussianprocess.org/gpml/
    """

    def __init__(self, gp: GaussianProcessRegressor, kappa: float) -> None:
        self._points: Array = gp.X_train_
        self._weights: Array = gp.alpha_
        self._inverse: Array = cho_solve((gp.L_, True), np.eye(len(gp.X_train_)))
        self._rate = float(np.sqrt(5.0) / gp.kernel_.length_scale)
        self._kappa = kappa

    def heights(self, x: Array) -> Array:
        """The bound at several points: shape ``(points, dimensions)`` to ``(points,)``."""
        k, _ = matern52(self._rate * np.sqrt(squared_distances(x, self._points)))
        variance = 1.0 - np.einsum("ij,ij->i", k @ self._inverse, k)
        height: Array = k @ self._weights + self._kappa * np.sqrt(np.maximum(variance, 0.0))
        return height

    def descent(self, x: Array) -> tuple[float, Array]:
        """Minus the bound at one point, and its gradient, both for shape ``(dimensions,)``.

        gradient = dk^T (alpha - kappa / std K^-1 k),   dk_i/dx = -5/(3 l^2) (1 + r_i) exp(-r_i) (x - x_i)
        """
        difference = x - self._points
        r = self._rate * np.sqrt((difference**2).sum(axis=1))
        k, decay = matern52(r)
        kernel_gradient = -(self._rate**2 / 3.0) * ((1.0 + r) * decay)[:, None] * difference
        explained = self._inverse @ k
        std = float(np.sqrt(max(1.0 - float(k @ explained), 1e-12)))
        gradient = kernel_gradient.T @ (self._weights - (self._kappa / std) * explained)
        return -float(k @ self._weights + self._kappa * std), -gradient


def _optimiser(
    dimensions: int,
    acquisition: AcquisitionFunction,
    seed: int,
    transformer: SequentialDomainReductionTransformer | None = None,
) -> BayesianOptimization:
    return BayesianOptimization(
        f=None,
        pbounds={f"x{index:03}": (0.0, 1.0) for index in range(dimensions)},
        acquisition_function=acquisition,
        random_state=seed,
        verbose=0,
        bounds_transformer=transformer,
    )


def _acquisition(settings: Classic, suggestions: int) -> AcquisitionFunction:
    """The acquisition with the decay it has after so many suggestions; a new one would start without."""
    kinds = {"ucb": UpperConfidenceBound, "ei": ExpectedImprovement, "poi": ProbabilityOfImprovement}
    check_choice("acquisition", settings.acquisition, kinds)
    parameter = "kappa" if settings.acquisition == "ucb" else "xi"
    delay = max(settings.exploration_decay_delay or 1, 1)
    decay = 1.0 if settings.exploration_decay is None else settings.exploration_decay
    value = getattr(settings, parameter) * decay ** max(0, suggestions - delay + 1)
    try:
        return kinds[settings.acquisition](
            **{parameter: value},
            exploration_decay=settings.exploration_decay,
            exploration_decay_delay=settings.exploration_decay_delay,
        )
    except ValueError as error:
        raise ConfigError(f"optimiser: {error}") from None


def _transformer(settings: Classic) -> SequentialDomainReductionTransformer | None:
    if settings.shrink is None:
        return None
    try:
        return SequentialDomainReductionTransformer(**settings.shrink)
    except TypeError as error:
        raise ConfigError(f"optimiser: bounds_transformer: {error}") from None


def _replay(optimiser: BayesianOptimization, known: TrainingData, *, shrink: bool) -> None:
    """Register the points in order, shrinking the space after each suggested one, as ``maximize`` does."""
    for point, score, searched in zip(known.points, known.scores, known.searched, strict=True):
        optimiser.space.register(point, float(score))
        if shrink and searched and optimiser.space.max() is not None:
            optimiser.set_bounds(optimiser._bounds_transformer.transform(optimiser.space))


def _array(params: Mapping[str, Any]) -> Array:
    return np.array([float(value) for value in params.values()], dtype=float)
