"""The closing table: means, their errors, and leads taken picture by picture."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from bayes_merger.checkpoints.architectures import SD1
from bayes_merger.config import FinalConfig
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.run.baselines import Baseline
from bayes_merger.run.evaluator import Weights, conclude
from bayes_merger.run.final import (
    closing_table,
    decide,
    final_round_trials,
    fresh_payloads,
    keep_pictures,
    points_per_image,
)
from bayes_merger.run.final_drawing import FinalDrawing
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import ComparisonRow, Final, Rescored, complete_trials, posterior_of
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import Score
from bayes_merger.testing.evaluator import FakeEvaluator
from bayes_merger.testing.progress import RecordingReporter
from tests.run.fake_run import FormulaScorer, evaluator_of, make_setup, noisy, open_study, pictures_of, searched


def new_study() -> optuna.study.Study:
    return optuna.create_study(direction="maximize")


TENS: Any = FormulaScorer("tens", lambda alpha, seed: 0.0)


def setup_of(images: int = 3) -> RunSetup:
    """Two payloads, of which b counts three times as much."""
    payloads = resolve([Payload("a", "a ring"), Payload("b", "a disc", importance=3.0)], 0)
    setup = make_setup(final=FinalConfig(images=images))
    return replace(setup, payloads=payloads, scorers={"tens": TENS})


def evaluation(values: dict[str, list[float]]) -> list[Score]:
    return [Score("tens", name, i, i, v) for name, own in values.items() for i, v in enumerate(own)]


def test_fresh_seeds_are_fresh_and_the_two_rounds_share_none() -> None:
    parts = setup_of()
    first, second = fresh_payloads(parts, 0), fresh_payloads(parts, 1)
    assert [len(payload.seeds) for payload in first] == [3, 3]
    used = {seed for payload in parts.payloads for seed in payload.seeds}
    one = {seed for payload in first for seed in payload.seeds}
    two = {seed for payload in second for seed in payload.seeds}
    assert not used & one
    assert not used & two
    assert not one & two
    assert fresh_payloads(parts, 0) == first


@pytest.mark.parametrize(("wanted", "payloads", "images"), [(None, 1, 8), (None, 2, 4), (None, 5, 4), (2, 1, 2)])
def test_there_are_enough_fresh_pictures_to_tell_unless_others_are_wanted(
    wanted: int | None, payloads: int, images: int
) -> None:
    setup = make_setup(pictures=10, payloads=payloads, final=FinalConfig(images=wanted))
    assert [len(payload.seeds) for payload in fresh_payloads(setup, 1)] == [images] * payloads


def test_the_mean_of_a_picture_s_points_is_the_value() -> None:
    parts = setup_of()
    scores = evaluation({"a": [4.0], "b": [8.0]})
    points = points_per_image(parts, scores)
    assert points == [2.0, 12.0]  # b counts three times as much: shares 1/2 and 3/2
    assert sum(points) / 2 == conclude(parts, scores).value == 7.0


def table(values: dict[str, dict[str, list[float]]], setup: RunSetup) -> tuple[ComparisonRow, ...]:
    """The closing table where each row has these points per payload; a row without any breaks."""
    now = ""

    def fails(weights: Weights, baseline: Baseline | None) -> str:
        nonlocal now
        now = baseline.name if baseline else "best merge"
        return "" if now in values else "black"

    fresh = {payload.name: payload.seeds for payload in fresh_payloads(setup, 1)}
    evaluator = FakeEvaluator(
        {"tens": lambda weights, payload, seed: values[now][payload][fresh[payload].index(seed)]}, fails=fails
    )
    notes = RecordingReporter()
    winner = {"alpha": dict.fromkeys(SD1.blocks, 0.3)}
    return closing_table(FinalDrawing(setup, new_study(), evaluator, notes, StopSignal(notes)), winner)


def test_a_lead_is_measured_on_the_same_pictures() -> None:
    setup = setup_of(images=2)
    setup = replace(setup, payloads=tuple(replace(payload, importance=1.0) for payload in setup.payloads))
    rows = table(
        {
            "best merge": {"a": [6.0, 8.0], "b": [2.0, 4.0]},
            "model A": {"a": [5.0, 7.0], "b": [1.0, 3.0]},  # always exactly 1 behind
            "even mix": {"a": [6.0, 6.0], "b": [2.0, 0.0]},
        },
        setup,
    )
    assert [row.name for row in rows] == ["best merge", "model A", "even mix"]
    assert rows[0].mean == 5.0
    assert (rows[0].behind, rows[0].behind_error) == (0.0, 0.0)
    assert rows[1].behind == 1.0
    assert rows[2].mean == 3.5
    assert rows[2].behind == pytest.approx(1.5)


def test_the_error_of_a_mean_is_that_of_the_textbook() -> None:
    even = {"a": [1.0, 3.0], "b": [2.0, 2.0]}
    rows = table(dict.fromkeys(("best merge", "model A", "model B", "even mix"), even), setup_of(images=2))
    points = [0.5, 1.5, 3.0, 3.0]
    mean = sum(points) / 4
    expected = math.sqrt(sum((p - mean) ** 2 for p in points) / 3 / 4)
    assert rows[0].error == pytest.approx(expected)


def test_the_final_round_survives_json() -> None:
    final = Final(
        3,
        12,
        (Rescored(3, 6.5, 0.2), Rescored(1, 6.25, None, (1.0, 2.0), (0.1, None))),
        (ComparisonRow("best merge", 6.5, 0.25, 0.0, 0.0), ComparisonRow("model A", 5.0, None, 1.5, None)),
    )
    assert Final.from_json(json.loads(json.dumps(final.to_json()))) == final


def test_a_final_round_of_an_older_study_is_read() -> None:
    data = {"winner": 3, "images": 12, "rescored": {"3": 6.5, "1": 6.25}, "rows": []}
    assert Final.from_json(data).rescored == (Rescored(3, 6.5, None), Rescored(1, 6.25, None))


def test_the_best_few_by_posterior_mean_and_the_luckiest_are_drawn_again(tmp_path: Path) -> None:
    parts = make_setup(n_iters=16, scorers={"one": noisy(2.0)}, pictures=2)
    study, notes = searched(parts, tmp_path / "s")
    evaluator = evaluator_of(parts)
    final = decide(parts, study, evaluator, notes, StopSignal(notes))
    known = posterior_of(study)
    assert known.best_observed is not None
    assert [one.trial for one in final.rescored] == known.candidates(3)
    assert known.best_observed.trial in known.candidates(3)
    assert final.winner == max(final.rescored, key=lambda one: one.mean).trial
    assert final.images == 4
    assert all(one.error is not None and one.error > 0 for one in final.rescored)
    assert len(evaluator.drawn) == (3 + 4) * 2 * 2 == final_round_trials(parts) * 2
    assert notes.lines[-1] == "final round: 7 merges, 4 pictures each, on fresh seeds"
    stages = [stage for stage in notes.stages if stage[0] == "final round"]
    assert [(done, total) for _, done, total, _ in stages] == [(number, 7) for number in range(7)]
    assert [about.partition("  ")[0] for *_, about in stages] == [
        *(f"trial {number}" for number in known.candidates(3)), "best merge", "model A", "model B", "even mix"
    ]  # fmt: skip
    assert [" ends about " in about for *_, about in stages] == [False] + [True] * 6


@pytest.mark.slow
def test_a_killed_final_round_draws_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    parts = make_setup(scorers={"one": noisy(1.0)})
    study, notes = searched(parts, tmp_path / "s")
    other, _ = searched(make_setup(scorers={"one": noisy(1.0)}), tmp_path / "other")
    whole = decide(parts, other, evaluator_of(parts), notes, StopSignal(notes))
    drawn: list[tuple[float, str, int]] = []
    for dies_after in (6, 9, 4):  # pictures: each merge has four
        evaluator = evaluator_of(parts, dies_after=dies_after)
        with pytest.raises(KeyboardInterrupt):
            decide(parts, study, evaluator, notes, StopSignal(notes))
        drawn += pictures_of(evaluator)[: 4 * (len(evaluator.drawn) // 4)]
    evaluator = evaluator_of(parts)
    final = decide(parts, open_study(parts, RunFolder(tmp_path / "s")), evaluator, notes, StopSignal(notes))
    drawn += pictures_of(evaluator)
    assert final == whole
    assert len(drawn) == len(set(drawn)) == (3 + 4) * 4
    again = evaluator_of(parts)
    assert decide(parts, study, again, notes, StopSignal(notes)) == whole
    assert again.drawn == []


def test_more_trials_later_reuse_what_was_drawn(tmp_path: Path) -> None:
    parts = make_setup(scorers={"one": noisy(1.0)})
    study, notes = searched(parts, tmp_path / "s")
    decide(parts, study, evaluator_of(parts), notes, StopSignal(notes))
    more = make_setup(scorers={"one": noisy(1.0)}, n_iters=8)
    searched(more, tmp_path / "s")
    evaluator = evaluator_of(more)
    decide(more, study, evaluator, notes, StopSignal(notes))
    assert not any(
        alpha in (0.0, 0.5, 1.0) for alpha, _, _ in pictures_of(evaluator)
    )  # A, B and the even mix were there


def test_what_cannot_be_drawn_is_left_out(tmp_path: Path) -> None:
    parts = make_setup(scorers={"one": noisy(0.1)})
    study, notes = searched(parts, tmp_path / "s")
    final = decide(
        parts,
        study,
        evaluator_of(parts, fails=lambda weights, baseline: "black" if weights["alpha"]["BASE"] == 1.0 else ""),
        notes,
        StopSignal(notes),
    )
    assert [row.name for row in final.rows] == ["best merge", "model A", "even mix"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("settings", [FinalConfig(rescore=3, images=0), FinalConfig(rescore=0, images=2)])
def test_without_drawing_again_the_best_posterior_mean_wins(tmp_path: Path, settings: FinalConfig) -> None:
    parts = make_setup(scorers={"one": noisy(2.0)}, pictures=2, n_iters=16, final=settings)
    study, notes = searched(parts, tmp_path / "s")
    final = decide(parts, study, evaluator_of(parts), notes, StopSignal(notes))
    best = posterior_of(study).best
    assert best is not None
    assert final.winner == best.trial
    assert final.rescored == ()
    assert len(final.rows) == (4 if settings.images else 0)


def test_the_winner_s_pictures_are_drawn_once_more_where_they_were_not_kept(tmp_path: Path) -> None:
    parts = make_setup(scorers={"one": noisy(1.0)}, images="best")
    folder = RunFolder(tmp_path / "s")
    study, notes = searched(parts, folder.path)
    lost = next(trial for trial in complete_trials(study) if "images" not in trial.user_attrs)
    study.set_user_attr("final", Final(lost.number, 4, (), ()).to_json())
    evaluator = evaluator_of(parts)
    keep_pictures(parts, study, evaluator, folder, notes)
    assert len(evaluator.drawn) == 4
    assert {alpha for alpha, _, _ in pictures_of(evaluator)} == {lost.params["BASE.alpha"]}
    assert len(list(folder.images(lost.number).glob("*.png"))) == 4
    keep_pictures(parts, study, evaluator, folder, notes)
    assert len(evaluator.drawn) == 4
