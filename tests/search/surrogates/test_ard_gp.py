"""The Gaussian process: its slopes, its limits, and that it finds what BoTorch's fit finds."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_merger.search.space.cube import generator
from bayes_merger.search.surrogates.ard_gp import KERNELS, ArdGP, _density, fit


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_slope_is_that_of_the_density(kernel: str) -> None:
    rng = generator(4)
    points, scores, logs = rng.random((20, 5)), rng.standard_normal(20), np.append(rng.normal(0.0, 0.5, 5), -2.0)
    slope = _density(points, scores, logs, kernel)[1]
    up = [_density(points, scores, logs + step, kernel)[0] for step in 1e-6 * np.eye(6)]
    down = [_density(points, scores, logs - step, kernel)[0] for step in 1e-6 * np.eye(6)]
    assert slope == pytest.approx((np.array(up) - down) / 2e-6, abs=1e-6)


def test_the_weight_that_matters_has_the_shortest_length() -> None:
    points = generator(1).random((40, 6))
    scores = np.sin(5.0 * points[:, 2])
    process = fit(points, (scores - scores.mean()) / scores.std())
    assert int(np.argmin(process.lengths)) == 2
    assert process.lengths[2] < 0.5 * np.delete(process.lengths, 2).min()
    assert process.noise < 0.01


def test_a_process_believes_its_points_as_far_as_their_noise_allows() -> None:
    sure = ArdGP(np.array([[0.2], [0.8]]), np.array([1.0, -1.0]), np.array([0.3]), 1e-4)
    mean, covariance = sure.posterior(np.array([[0.2], [50.0]]))
    assert mean == pytest.approx([1.0, 0.0], abs=1e-3)
    assert np.diag(covariance) == pytest.approx([0.0, 1.0], abs=1e-3)
    doubtful = ArdGP(sure.points, sure.scores, sure.lengths, 1.0)
    assert doubtful.posterior(np.array([[0.2]]))[0][0] == pytest.approx(0.5, abs=0.1)


def test_to_be_told_what_was_expected_changes_no_expectation_and_makes_surer() -> None:
    process = fit(generator(1).random((12, 3)), generator(2).standard_normal(12))
    x = generator(3).random((5, 3))
    before, after = process.posterior(x), process.condition_on(x[:2]).posterior(x)
    assert after[0] == pytest.approx(before[0], abs=1e-6)
    assert (np.diag(after[1])[:2] < np.diag(before[1])[:2]).all()


@pytest.mark.parametrize("scores", [np.zeros(6), np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])])
def test_points_that_are_all_the_same_are_survived(scores: np.ndarray) -> None:
    process = fit(np.full((6, 4), 0.5), scores)
    assert np.isfinite(process.posterior(np.full((1, 4), 0.5))[0]).all()


@pytest.mark.slow
def test_the_fit_is_botorchs() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("botorch")
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    points = generator(0).random((60, 26))
    scores = -((points - 0.4) ** 2 @ np.linspace(0.0, 2.0, 26)) + generator(1).normal(0.0, 0.1, 60)
    scores = (scores - scores.mean()) / scores.std()

    def density(model: SingleTaskGP) -> float:
        model.train()
        likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
        return 60.0 * float(likelihood(model(*model.train_inputs), model.train_targets).detach())

    def made() -> SingleTaskGP:
        return SingleTaskGP(torch.from_numpy(points), torch.from_numpy(scores)[:, None], outcome_transform=None)

    theirs, ours, process = made(), made(), fit(points, scores, "rbf")
    fit_gpytorch_mll(ExactMarginalLogLikelihood(theirs.likelihood, theirs))
    ours.covar_module.lengthscale = torch.from_numpy(process.lengths)[None]
    ours.likelihood.noise = process.noise
    ours.mean_module.constant.data = torch.tensor(process.mean, dtype=torch.double)
    assert density(ours) > density(theirs) - 0.05
