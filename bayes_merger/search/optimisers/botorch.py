"""BoTorch's noisy expected improvement, https://botorch.org, an optional package.

The model is BoTorch's own (``SingleTaskGP`` with its dimension-scaled priors); its length scales and noise are fitted
by :mod:`bayes_merger.search.surrogates.ard_gp`, which finds the same mode of the same density in a hundredth of the
time, so that no fit has to be carried over from one suggestion to the next. The acquisition is ``qLogNEI``, of Ament
and others (2023), https://arxiv.org/abs/2310.20708: it integrates over the noiseless scores so far and over the scores
of trials that still run. For several objectives it is ``qLogNEHVI``, the volume gained on the Pareto front.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.models import ModelListGP, SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated
from botorch.utils.sampling import manual_seed

from bayes_merger.search.optimisers.base import Observations, SuggestFn
from bayes_merger.search.optimisers.bayesopt import standardised
from bayes_merger.search.optimisers.options import check_number
from bayes_merger.search.space.cube import Array, derived_seed, sobol_points
from bayes_merger.search.surrogates.ard_gp import fit

MIN_SCORES = 4
"""With fewer scores there is nothing to fit, and points come from a Sobol sequence."""

PENDING = 16
"""At most so many of the latest trials without a score are pending points: each slows every evaluation down."""


@dataclass(frozen=True)
class Noisy:
    """Settings of :func:`botorch_proposal`; see :func:`bayes_merger.search.samplers.botorch`."""

    restarts: int
    raw_samples: int
    draws: int

    def __post_init__(self) -> None:
        check_number("restarts", self.restarts, 1, whole=True)
        check_number("raw_samples", self.raw_samples, self.restarts, whole=True)
        check_number("draws", self.draws, 8, 4096, whole=True)


def botorch_proposal(settings: Noisy) -> SuggestFn:
    """The point of greatest noisy expected improvement."""

    def propose(observations: Observations, seed: int) -> Array:
        objectives = observations.scores[:, None] if observations.objectives is None else observations.objectives
        scored = np.isfinite(objectives).all(axis=1)
        inner = derived_seed(seed, observations.slot)
        if scored.sum() < MIN_SCORES:
            spread: Array = sobol_points(derived_seed(seed), observations.slot, 1, observations.dimensions)[0]
            return spread
        values = np.stack([standardised(column) for column in objectives[scored].T], axis=1)
        pending = observations.points[~scored][-PENDING:]
        with manual_seed(inner):
            acquisition = _acquisition(settings, observations.points[scored], values, pending, inner)
            cube = torch.tensor([[0.0] * observations.dimensions, [1.0] * observations.dimensions], dtype=torch.double)
            best, _ = optimize_acqf(
                acquisition,
                bounds=cube,
                q=1,
                num_restarts=settings.restarts,
                raw_samples=settings.raw_samples,
                options={"seed": inner % 2**31, "maxiter": 100},
            )
        return np.asarray(best[0].numpy(), dtype=float)

    return propose


def _acquisition(settings: Noisy, points: Array, values: Array, pending: Array, seed: int) -> Callable[..., Any]:
    """The function to maximise, for one objective or several."""
    models = [_model(points, column) for column in values.T]
    reachable = ((points >= 0) & (points <= 1)).all(axis=1)  # points of a wider space can no longer be reached
    common: dict[str, Any] = {
        "X_baseline": torch.from_numpy(points[reachable] if reachable.any() else points),
        "sampler": SobolQMCNormalSampler(torch.Size([settings.draws]), seed=seed % 2**31),
        "prune_baseline": True,
        "X_pending": torch.from_numpy(pending) if len(pending) else None,
    }
    if len(models) == 1:
        single: Callable[..., Any] = qLogNoisyExpectedImprovement(models[0], **common)
        return single
    scores = torch.from_numpy(values)
    reference = infer_reference_point(scores[is_non_dominated(scores)], scale=0.1)
    several: Callable[..., Any] = qLogNoisyExpectedHypervolumeImprovement(
        ModelListGP(*models), ref_point=reference, **common
    )
    return several


def _model(points: Array, scores: Array) -> SingleTaskGP:
    """BoTorch's model with the length scales, noise and mean of the fit."""
    process = fit(points, scores, "rbf")
    model = SingleTaskGP(torch.from_numpy(points), torch.from_numpy(scores)[:, None], outcome_transform=None)
    model.covar_module.lengthscale = torch.from_numpy(process.lengths)[None]
    model.likelihood.noise = process.noise
    model.mean_module.constant.data = torch.tensor(process.mean, dtype=torch.double)
    return model.eval()
