"""The optimiser made for merges, its processes, the order of the blocks, and the noise of a score."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from bayes_merger.search import build_space, samplers
from bayes_merger.search.optimisers.acquisition import Improvement, UpperBound, log_improvement
from bayes_merger.search.space.block_order import basis, correlation
from bayes_merger.search.space.cube import generator
from bayes_merger.search.surrogates.block_gp import BlockGP, Prior, Settings, _Mode, fit
from bayes_merger.search.surrogates.ensemble import Ensemble, evidence_of, fit_separate, fit_shared
from bayes_merger.search.surrogates.noise import noise_variance_of_scores
from bayes_merger.testing.samplers import ask

BLOCKS = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
NAMES = tuple(f"{block}.alpha" for block in BLOCKS)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.disable_default_handler()


def numeric(function: Any, point: np.ndarray[Any, Any]) -> list[float]:
    return [(function(point + step) - function(point - step)) / 2e-6 for step in 1e-6 * np.eye(len(point))]


def priors() -> list[Prior]:
    slow = basis(NAMES)
    related = 0.5 * np.eye(26) + 0.5 * correlation(NAMES)
    return [Prior(1.0, np.eye(26)), Prior(0.8, related, slow, noise=0.1), Prior(0.8, related, slow, smooth=True)]


@pytest.mark.parametrize("prior", priors(), ids=["plain", "blocks", "smooth"])
def test_the_gradients_of_the_process_are_the_numeric_ones(prior: Prior) -> None:
    rng = generator(3)
    points, scores = rng.random((20, 26)), rng.standard_normal(20)
    mode = _Mode(points, scores, prior)
    vector = mode.start + 0.2 * rng.standard_normal(len(mode.start))
    assert mode.descent(vector)[1] == pytest.approx(numeric(lambda v: mode.descent(v)[0], vector), abs=2e-5)
    process = BlockGP(points, scores, mode.settings(vector), prior.basis)
    x = points[4] + 0.05 * rng.standard_normal(26)
    mean, deviation, uphill, outward = process.gradient(x)
    means, deviations = process.predict_score(x[None])
    assert (mean, deviation) == pytest.approx((means[0], deviations[0]), abs=1e-9)
    assert uphill == pytest.approx(numeric(lambda v: process.gradient(v)[0], x), abs=1e-5)
    assert outward == pytest.approx(numeric(lambda v: process.gradient(v)[1], x), abs=1e-5)


def test_the_density_is_that_of_each_score_left_out() -> None:
    rng = generator(5)
    points, scores = rng.random((8, 2)), rng.standard_normal(8)
    settings = Settings((np.array([1.0, 2.0]),), (1.5,), 0.2)
    process = BlockGP(points, scores, settings, None)
    covariance = np.linalg.inv(process.inverse)
    total = 0.0
    for left in range(8):
        others = np.arange(8) != left
        pull = covariance[left, others] @ np.linalg.inv(covariance[np.ix_(others, others)])
        mean = process.centre + pull @ (scores[others] - process.centre)
        variance = covariance[left, left] - pull @ covariance[others, left]
        total += -0.5 * np.log(2 * np.pi * variance) - 0.5 * (scores[left] - mean) ** 2 / variance
    assert process.loo_log_density == pytest.approx(total)


def test_a_weight_that_does_nothing_gets_a_longer_scale_than_one_that_matters() -> None:
    points = generator(2).random((60, 6))
    scores = np.sin(4.0 * points[:, 2])
    settings = fit(points, (scores - scores.mean()) / scores.std(), Prior(1.0, np.eye(6)))
    assert settings.scales[0].argmax() == 2
    assert settings.scales[0][2] > 3.0 * np.delete(settings.scales[0], 2).max()


def test_improvement_has_no_floor() -> None:
    z = np.array([2.0, 0.0, -0.999, -1.001, -8.0, -40.0, -2e3])
    heights = log_improvement(z)
    assert np.exp(heights[:2]) == pytest.approx([2.008491, 0.398942], abs=1e-6)
    assert (np.diff(heights) < 0).all()
    assert heights[2] == pytest.approx(heights[3], abs=0.01)
    assert heights[5] == pytest.approx(-0.5 * 1600 - 0.919 - 2 * np.log(40), abs=0.01)


def test_neighbours_and_the_two_ends_of_a_skip_connection_are_alike() -> None:
    matrix = correlation([*NAMES, "IN01.beta", "face"])
    at = [*NAMES, "IN01.beta", "face"].index
    assert matrix[at("IN04.alpha"), at("IN05.alpha")] > 0.8
    assert matrix[at("IN04.alpha"), at("OUT07.alpha")] > 0.5 > 0.1 > matrix[at("IN04.alpha"), at("OUT01.alpha")]
    assert matrix[at("IN01.alpha"), at("IN01.beta")] == pytest.approx(0.0)
    assert matrix[at("face"), at("IN01.alpha")] == pytest.approx(0.0)
    assert np.linalg.eigvalsh(matrix).min() > 0
    assert np.diag(matrix) == pytest.approx(np.ones(28))


def test_the_slowest_wave_moves_all_blocks_alike() -> None:
    slow = basis(NAMES)
    assert slow is not None
    assert slow.T @ slow == pytest.approx(np.eye(slow.shape[1]), abs=1e-9)
    diagonal = np.ones(26) / np.sqrt(26)
    assert np.linalg.norm(slow.T @ diagonal) == pytest.approx(1.0)
    assert basis(["a", "x0", "face"]) is None


def test_other_architectures_have_chains_of_neighbours() -> None:
    names = [*(f"D{i:02}.alpha" for i in range(19)), *(f"S{i:02}.alpha" for i in range(38))]
    matrix = correlation(names)
    assert matrix[0, 1] > 0.8
    assert matrix[18, 19] == pytest.approx(0.0)
    slow = basis(names)
    assert slow is not None
    assert slow.shape == (57, 8)


def pictures_of(truth: float, rng: np.random.Generator, noise: float) -> list[dict[str, Any]]:
    return [
        {"scorer": scorer, "payload": payload, "index": index, "seed": index, "value": scale * value}
        for payload, ease in (("p", 0.3), ("q", -0.2))
        for index in range(4)
        for value in [truth + ease + 0.1 * index + noise * rng.standard_normal()]
        for scorer, scale in (("clip", 1.0), ("grade", 10.0))
    ]


def test_noise_is_read_off_the_pictures_whatever_the_scorers_count() -> None:
    rng = generator(1)
    pictures = [pictures_of(truth, rng, 0.4) for truth in rng.random(60)]
    rows = [np.array([p["value"] for p in own]).reshape(2, 4, 2).mean(axis=(0, 1)) for own in pictures]
    scores = np.array([5.0 + 2.0 * clip + 0.1 * grade for clip, grade in rows])
    variance = noise_variance_of_scores(pictures, scores)
    assert variance == pytest.approx((3.0 * 0.4) ** 2 / 8, rel=0.15)


def test_where_pictures_do_not_explain_the_scores_the_noise_is_unknown() -> None:
    rng = generator(1)
    pictures = [pictures_of(truth, rng, 0.4) for truth in rng.random(40)]
    assert noise_variance_of_scores(pictures, rng.random(40)) is None
    assert noise_variance_of_scores([*pictures[:-1], []], rng.random(40)) is None
    assert noise_variance_of_scores([[{"value": 1.0}]] * 40, rng.random(40)) is None
    assert noise_variance_of_scores(pictures[:3], rng.random(3)) is None


def ensembles(points: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> list[Ensemble]:
    evidence = evidence_of(points, scores)
    return [fit_shared(evidence), fit_separate(evidence, NAMES, blocks=True)]


def test_a_trial_that_still_runs_makes_its_score_certain_and_no_better() -> None:
    rng = generator(4)
    points = rng.random((30, 26))
    scores = -((points - 0.5) ** 2).sum(axis=1) + 0.3 * rng.standard_normal(30)
    place = rng.random((1, 26))
    more = np.concatenate([points, place]), np.append(scores, np.nan)
    for before, after in zip(ensembles(points, scores), ensembles(*more), strict=True):
        assert after.predict(place)[0] == pytest.approx(before.predict(place)[0], abs=1e-6)
        assert after.predict_score(place)[1] < 0.01 < 0.1 < before.predict_score(place)[1]


def test_the_gradients_of_what_a_point_promises_are_the_numeric_ones() -> None:
    rng = generator(6)
    points = rng.random((40, 26))
    scores = -((points - 0.5) ** 2).sum(axis=1) + 0.3 * rng.standard_normal(40)
    x = points[3] + 0.03 * rng.standard_normal(26)
    for ensemble in ensembles(points, scores):
        for acquisition in (UpperBound(ensemble, 1.5), Improvement(ensemble, 0.8)):
            value, gradient = acquisition.descent(x)
            assert -value == pytest.approx(float(acquisition.heights(x[None])[0]), abs=1e-6)
            assert gradient == pytest.approx(numeric(lambda v, a=acquisition: a.descent(v)[0], x), abs=1e-4)


def test_no_trial_is_spent_on_a_known_point_though_the_best_lies_in_a_corner_and_scores_are_noisy() -> None:
    space = {f"IN{i:02}.alpha": FloatDistribution(0.0, 1.0) for i in range(6)}
    noise = generator(9).normal(0.0, 40.0, (8, 6)), generator(9, 1).uniform(0.0, 6.3, 8)
    study = optuna.create_study(direction="maximize", sampler=samplers.structured(space, 3))
    points: list[list[float]] = []
    for number in range(40):
        trial = ask(study, space)
        point = list(trial.params.values())
        if number >= 10:
            assert min(np.abs(np.array(points) - point).max(axis=1)) > 0.01, f"trial {number}"
        points.append(point)
        luck = 1.2 * np.cos(noise[0] @ point + noise[1])  # of each picture, the same whenever this point is drawn
        pictures = [
            {"scorer": "s", "payload": "p", "index": i, "seed": i, "value": point[0] + point[1] - point[2] + one}
            for i, one in enumerate(luck.tolist())
        ]
        trial.set_user_attr("scores", pictures)
        study.tell(trial, float(np.mean([picture["value"] for picture in pictures])))
    corner = np.array(points)[:, :3]
    assert (np.abs(corner - [1.0, 1.0, 0.0]).max(axis=1) < 0.05).any()


def test_scores_that_are_all_the_same_and_failures_alone_are_no_trouble() -> None:
    space = build_space(BLOCKS[:4], {"alpha": (0.0, 1.0)}).distributions()
    study = optuna.create_study(direction="maximize", sampler=samplers.structured(space, 0))
    for number in range(8):
        trial = ask(study, space)
        study.tell(trial, 1.0) if number % 2 else study.tell(trial, state=TrialState.FAIL)
    points = {tuple(trial.params.values()) for trial in study.trials}
    assert len(points) == 8


def test_a_weight_whose_best_lies_on_the_border_is_put_exactly_there() -> None:
    space = {f"IN{i:02}.alpha": FloatDistribution(0.0, 1.0) for i in range(4)}
    study = optuna.create_study(direction="maximize", sampler=samplers.structured(space, 1))
    for _ in range(20):
        trial = ask(study, space)
        study.tell(trial, trial.params["IN00.alpha"] - trial.params["IN02.alpha"])
    assert study.best_params["IN00.alpha"] == 1.0
    assert study.best_params["IN02.alpha"] == 0.0
