"""The optimisers a person can choose: what ``conf/optimiser/*.yaml`` name as ``_target_``.

A ``_target_`` may also be any Optuna sampler (``optuna.samplers.TPESampler``, or one from elsewhere): it is wrapped in
a :class:`~bayes_merger.search.optimisers.sequential.SequentialSampler`, gets the study's seed, and resumes as if it had
never been interrupted. :func:`make_sampler` makes either kind.

Each function here takes the declared space (from :meth:`SearchSpace.distributions`; None: whatever all trials so far
have in common), the study's seed and its options, refuses options that make no sense, and gives an Optuna sampler of
the kind described in :mod:`bayes_merger.search.optimisers.base`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from bayes_merger.errors import ConfigError
from bayes_merger.search.optimisers.base import CubeSampler, Observations, ReplaySampler, Space, StatelessSampler
from bayes_merger.search.optimisers.options import check_flag, check_names, check_number, check_range, keywords_of
from bayes_merger.search.space.cube import Array, derived_seed, generator, latin_hypercube, sobol_points

NAMES = ("structured", "bayes", "gp", "botorch", "turbo", "cma", "tpe", "sobol", "lhs", "random", "bayes_classic")
"""The optimisers of this module, the default first."""


def make_sampler(factory: Callable[..., Any], space: Space, seed: int) -> StatelessSampler:
    """The optimiser that a ``_target_`` names, ready for a study.

    Args:
        factory: a function that takes ``space`` and ``seed`` by keyword and gives a sampler; or an Optuna sampler's
            class, or a function that gives one, which takes ``seed``; or a ``functools.partial`` of any with options.
        space: what is searched, from :meth:`SearchSpace.distributions`.
        seed: of the study, 0 or above.

    Raises:
        ConfigError: an option that it does not have or that makes no sense, no way to seed it, or no sampler at all.
    """
    from bayes_merger.search.optimisers.sequential import SequentialSampler

    check_names(factory)
    target = factory.func if isinstance(factory, partial) else factory
    name = getattr(target, "__name__", str(target))
    if target is optuna.samplers.GridSampler:
        raise ConfigError(
            "optimiser: GridSampler ends a study when its grid is used up, but a run has init_points + n_iters trials; "
            "use optimiser=sobol, which fills the space evenly"
        )
    known = keywords_of(target)
    if known is not None and "seed" not in known:
        raise ConfigError(
            f"optimiser: {name} takes no seed, so a study with it could neither be repeated nor resumed; "
            "give it a parameter called seed"
        )

    def make(inner_seed: int) -> Any:
        own = deepcopy(factory)  # options may be objects that change with use, such as an independent_sampler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # repeated at every suggestion
            return own(seed=inner_seed) if known is None or "space" not in known else own(space=space, seed=inner_seed)

    try:
        made = make(seed)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimiser: {name}: {error}") from error
    if isinstance(made, StatelessSampler):
        return made
    if not isinstance(made, BaseSampler):
        raise ConfigError(f"optimiser: {name} returns a {type(made).__name__}, not an Optuna sampler; choose another")
    return SequentialSampler(space, seed, make, name=type(made).__name__)


def structured(
    space: Space | None, seed: int, *, blocks: bool = True, candidates: int = 1000, starts: int = 5
) -> BaseSampler:
    """The default, made for merges: processes with a trend for few scores, then in turns some that model the blocks.

    Args:
        space: see the module.
        seed: see the module.
        blocks: one of the processes correlates neighbouring blocks; false: all weights are independent.
        candidates: points of which the best start the climb to what promises most.
        starts: how many of them climb.
    """
    from bayes_merger.search.optimisers.structured import Structured, structured_proposal

    check_flag("blocks", blocks)
    check_number("candidates", candidates, 3, whole=True)
    check_number("starts", starts, 1, whole=True)
    settings = Structured(blocks, candidates, starts)
    return CubeSampler(space, seed, structured_proposal(settings), name="structured", single=True)


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
    """bayesian-optimization, tuned for about 26 weights and noisy scores.

    Args:
        space: see the module.
        seed: see the module.
        kappa: how many standard deviations are added to the mean; 0 only exploits.
        noise: variance of a score's noise, where the scores' own variance is 1.
        length_scale: over which a score changes, in ranges; where the fit starts.
        length_scale_bounds: between which it is fitted. The library's own lower bound (1e-5) lets an early fit
            believe that nothing is related to anything.
        restarts: of that fit.
        candidates: random points of which the best start the climb to the greatest upper confidence bound.
        starts: how many of them climb.
    """
    from bayes_merger.search.optimisers.bayesopt import Tuned, tuned_proposal

    bounds = check_range("length_scale_bounds", length_scale_bounds, 1e-5)
    settings = Tuned(kappa, noise, length_scale, bounds, restarts, candidates, starts)
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
        kappa: for ``ucb``: how many standard deviations are added to the mean.
        xi: for ``ei`` and ``poi``: the improvement that is required.
        exploration_decay: kappa or xi is multiplied by this after every suggestion; in (0, 1].
        exploration_decay_delay: but not before this many suggestions.
        bounds_transformer: true, or options of the library's sequential domain reduction (``gamma_osc``,
            ``gamma_pan``, ``eta``, ``minimum_window``): the space shrinks around the best as the search goes on.
    """
    from bayes_merger.search.optimisers.bayesopt import Classic, classic_proposal

    check_number("kappa", kappa, 0)
    check_number("xi", xi, 0)
    if exploration_decay is not None:
        check_number("exploration_decay", exploration_decay, 0, 1)
    if exploration_decay_delay is not None:
        check_number("exploration_decay_delay", exploration_decay_delay, 0, whole=True)
    if not isinstance(bounds_transformer, (Mapping, bool, type(None))):
        raise ConfigError(f"optimiser: bounds_transformer = {bounds_transformer!r} is not true, false or its options")
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
        multivariate: model all weights together; false: each separately, as Optuna 4 did.
        constant_liar: stay away from what other workers are trying.
        n_startup_trials: random until so many trials have a score; the start design counts.
        n_ei_candidates: drawn from the good ones' density; the one most unlike the bad ones is suggested.
    """
    check_flag("multivariate", multivariate)
    check_flag("constant_liar", constant_liar)
    check_number("n_startup_trials", n_startup_trials, 0, whole=True)
    check_number("n_ei_candidates", n_ei_candidates, 1, whole=True)

    def make(inner_seed: int) -> BaseSampler:
        return optuna.samplers.TPESampler(
            seed=inner_seed,
            multivariate=multivariate,
            constant_liar=constant_liar,
            n_startup_trials=n_startup_trials,
            n_ei_candidates=n_ei_candidates,
        )

    return ReplaySampler(space, seed, make, name="tpe", as_running=(TrialState.FAIL,))


def lhs(space: Space | None, seed: int, *, rows: int = 100) -> BaseSampler:
    """A Latin hypercube, row by row: learns nothing, covers every part of every range.

    Args:
        space: see the module.
        seed: see the module.
        rows: of one hypercube, best the number of trials it is asked for; then another begins.
    """
    check_number("rows", rows, 1, whole=True)

    def propose(observations: Observations, seed: int) -> Array:
        cube, row = divmod(observations.drawn, rows)
        point: Array = latin_hypercube(generator(seed, cube), rows, observations.dimensions)[row]
        return point

    return CubeSampler(space, seed, propose, name="lhs")


def random(space: Space | None, seed: int) -> BaseSampler:
    """Uniform random points: the baseline for every other optimiser."""

    def propose(observations: Observations, seed: int) -> Array:
        return generator(seed, observations.slot).random(observations.dimensions)

    return CubeSampler(space, seed, propose, name="random")


def gp(space: Space | None, seed: int, *, n_startup_trials: int = 10, deterministic: bool = False) -> BaseSampler:
    """Optuna's Gaussian process: Matern-5/2 with a length scale per weight, fitted noise, logarithmic improvement.

    Args:
        space: see the module.
        seed: see the module.
        n_startup_trials: random until so many trials have a score; the start design counts.
        deterministic: scores are without noise.
    """
    check_number("n_startup_trials", n_startup_trials, 1, whole=True)
    check_flag("deterministic", deterministic)

    def make(inner_seed: int) -> BaseSampler:
        return optuna.samplers.GPSampler(
            seed=inner_seed,
            n_startup_trials=n_startup_trials,
            deterministic_objective=deterministic,
            warn_independent_sampling=False,
        )

    # Of trials without a score only those that run are kept away from; so all of them run.
    as_running = (TrialState.FAIL, TrialState.PRUNED)
    return ReplaySampler(space, seed, make, name="gp", as_running=as_running, finite=True)


def cma(
    space: Space | None, seed: int, *, sigma: float = 0.17, population: int | None = None, warm_start: bool = True
) -> BaseSampler:
    """CMA-ES: a normal distribution that moves towards better scores, one generation at a time.

    Args:
        space: see the module.
        seed: see the module.
        sigma: initial standard deviation, in ranges.
        population: points of a generation; None: 4 + 3 ln(weights), 13 for 26.
        warm_start: begin between the better half of the start design; false: in the middle of the space.
    """
    from bayes_merger.search.optimisers.cma import Evolution, cma_proposal

    return CubeSampler(space, seed, cma_proposal(Evolution(sigma, population, warm_start)), name="cma", single=True)


def sobol(space: Space | None, seed: int) -> BaseSampler:
    """A scrambled Sobol sequence: learns nothing, fills the space evenly however many points are drawn."""

    def propose(observations: Observations, seed: int) -> Array:
        point: Array = sobol_points(derived_seed(seed), observations.drawn, 1, observations.dimensions)[0]
        return point

    return CubeSampler(space, seed, propose, name="sobol")


def turbo(
    space: Space | None,
    seed: int,
    *,
    length: float = 0.8,
    successes: int = 3,
    failures: int = 8,
    candidates: int = 1000,
) -> BaseSampler:
    """TuRBO with one trust region: a Gaussian process that looks only around the best merge, and closer as it fails.

    Args:
        space: see the module.
        seed: see the module.
        length: side of the region where it starts, in ranges.
        successes: so many improvements in a row double it.
        failures: so many failures in a row halve it.
        candidates: points of the region of which one is chosen.
    """
    from bayes_merger.search.optimisers.turbo import Region, turbo_proposal

    settings = Region(length, successes, failures, candidates)
    return CubeSampler(space, seed, turbo_proposal(settings), name="turbo", single=True)


def botorch(
    space: Space | None, seed: int, *, restarts: int = 3, raw_samples: int = 128, draws: int = 128
) -> BaseSampler:
    """BoTorch's noisy expected improvement: needs ``pip install 'bayes-merger[botorch]'``.

    Args:
        space: see the module.
        seed: see the module.
        restarts: of the climb to the greatest improvement.
        raw_samples: points among which its starts are chosen.
        draws: of what the scores might be without their noise.
    """
    try:
        from bayes_merger.search.optimisers.botorch import Noisy, botorch_proposal
    except ImportError as error:
        raise ConfigError(
            f"optimiser: botorch is not installed ({error}); "
            "pip install 'bayes-merger[botorch]', or use optimiser=gp, which needs no extra package"
        ) from None

    return CubeSampler(space, seed, botorch_proposal(Noisy(restarts, raw_samples, draws)), name="botorch")
