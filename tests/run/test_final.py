"""The closing table: means, their errors, and leads taken picture by picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from bayes_merger.checkpoints.architectures import SD1
from bayes_merger.config import FinalConfig, RunConfig
from bayes_merger.errors import TrialFailed
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.merging.method import method_spec
from bayes_merger.run.evaluator import Evaluation
from bayes_merger.run.final import closing_table, decide, fresh_payloads, keep_pictures, points_per_image
from bayes_merger.run.final import length as final_length
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import ComparisonRow, Final, Rescored, complete_trials, posterior_of
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import Score, combine
from bayes_merger.search.samplers import random
from bayes_merger.search.space.space import build_space
from tests.run import fake_run as pretend
from tests.run.test_loop import Notes


def new_study() -> optuna.study.Study:
    return optuna.create_study(direction="maximize")


class Tens:
    name, scale, importance, interactive = "tens", (0.0, 10.0), 1.0, False

    def prepare(self, folder: Any = None) -> None: ...

    def score(self, images: Any) -> list[float]:
        raise NotImplementedError


class Model:
    architecture = SD1


def make_setup(images: int = 3) -> RunSetup:
    payloads = resolve([Payload("a", "a ring"), Payload("b", "a disc", importance=3.0)], 0)
    config = RunConfig(model_a="a", model_b="b", final=FinalConfig(images=images))
    space = build_space(SD1.blocks, {"alpha": (0.0, 1.0)})
    models: Any = {"a": Model(), "b": Model()}
    return RunSetup(config, models, method_spec("weighted_sum"), space, payloads, {"tens": Tens()}, random)


def evaluation(parts: RunSetup, payloads: Any, values: dict[str, list[float]]) -> Evaluation:
    scores = tuple(Score("tens", name, i, i, v) for name, own in values.items() for i, v in enumerate(own))
    value = combine(scores, {p.name: p.importance for p in payloads}, {"tens": (1.0, (0.0, 10.0))})
    return Evaluation(value, scores, (), ())


def test_fresh_seeds_are_fresh_and_the_two_rounds_share_none() -> None:
    parts = make_setup()
    first, second = fresh_payloads(parts, 0), fresh_payloads(parts, 1)
    assert [len(payload.seeds) for payload in first] == [3, 3]
    used = {seed for payload in parts.payloads for seed in payload.seeds}
    one = {seed for payload in first for seed in payload.seeds}
    two = {seed for payload in second for seed in payload.seeds}
    assert not used & one
    assert not used & two
    assert not one & two
    assert fresh_payloads(parts, 0) == first


def test_the_mean_of_a_picture_s_points_is_the_value() -> None:
    parts = make_setup()
    given = evaluation(parts, parts.payloads, {"a": [4.0], "b": [8.0]})
    points = points_per_image(parts, parts.payloads, given.scores)
    assert points == [2.0, 12.0]  # b counts three times as much: shares 1/2 and 3/2
    assert sum(points) / 2 == given.value == 7.0


class TableBench:
    """Gives every contender the scores it is told; one of them breaks."""

    def __init__(self, parts: RunSetup, values: dict[str, dict[str, list[float]] | None]) -> None:
        self.parts, self.values, self.now = parts, values, ""

    def put(self, weights: Any, method: str | None = None) -> None:
        alpha = weights["alpha"]["IN00"]
        self.now = "best" if method is None else {0.0: "A", 1.0: "B", 0.5: "even"}[alpha]

    def draw(self, payloads: Any) -> tuple[()]:
        if self.values[self.now] is None:
            raise TrialFailed("black")
        return ()

    def judge(self, weights: Any, payloads: Any, images: Any, paths: Any) -> Evaluation:
        values = self.values[self.now]
        assert values is not None
        return evaluation(self.parts, payloads, values)


def test_a_lead_is_measured_on_the_same_pictures() -> None:
    parts = make_setup()
    values: dict[str, dict[str, list[float]] | None] = {
        "best": {"a": [6.0, 8.0], "b": [2.0, 4.0]},
        "A": {"a": [5.0, 7.0], "b": [1.0, 3.0]},  # always exactly 1 behind
        "B": None,
        "even": {"a": [6.0, 6.0], "b": [2.0, 0.0]},
    }
    bench: Any = TableBench(parts, values)
    rows = closing_table(
        parts, new_study(), bench, {"alpha": dict.fromkeys(SD1.blocks, 0.3)}, Notes(), StopSignal(Notes())
    )
    assert [row.name for row in rows] == ["best merge", "model A", "even mix"]
    assert rows[0].mean == 4.0
    assert (rows[0].behind, rows[0].behind_error) == (0.0, 0.0)
    assert rows[1].behind == 1.0
    assert rows[2].mean == 2.25
    assert rows[2].behind == pytest.approx(1.75)


def test_the_error_of_a_mean_is_that_of_the_textbook() -> None:
    parts = make_setup()
    even = {"a": [1.0, 3.0], "b": [2.0, 2.0]}
    bench: Any = TableBench(parts, dict.fromkeys(("best", "A", "B", "even"), even))
    rows = closing_table(
        parts, new_study(), bench, {"alpha": dict.fromkeys(SD1.blocks, 0.3)}, Notes(), StopSignal(Notes())
    )
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
    parts = pretend.make_setup(n_iters=16, scorers={"one": pretend.noisy(2.0)}, pictures=2)
    study, notes = pretend.searched(parts, tmp_path / "s")
    bench = pretend.PretendBench(parts, notes)
    final = decide(parts, study, bench, notes, StopSignal(notes))
    known = posterior_of(study)
    assert known.best_observed is not None
    assert [one.trial for one in final.rescored] == known.candidates(3)
    assert known.best_observed.trial in known.candidates(3)
    assert final.winner == max(final.rescored, key=lambda one: one.mean).trial
    assert final.images == 4
    assert all(one.error is not None and one.error > 0 for one in final.rescored)
    assert len(bench.drawn) == (3 + 4) * 2 * 2 == final_length(parts) * 2


def test_a_killed_final_round_draws_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    parts = pretend.make_setup(scorers={"one": pretend.noisy(1.0)})
    study, notes = pretend.searched(parts, tmp_path / "s")
    other, _ = pretend.searched(pretend.make_setup(scorers={"one": pretend.noisy(1.0)}), tmp_path / "other")
    whole = decide(parts, other, pretend.PretendBench(parts, notes), notes, StopSignal(notes))
    drawn: list[tuple[float, str, int]] = []
    for dies_after in (6, 9, 4):  # pictures: each merge has four
        bench = pretend.PretendBench(parts, notes, dies_after)
        with pytest.raises(KeyboardInterrupt):
            decide(parts, study, bench, notes, StopSignal(notes))
        drawn += bench.drawn[: 4 * (len(bench.drawn) // 4)]
    bench = pretend.PretendBench(parts, notes)
    final = decide(parts, pretend.open_study(parts, RunFolder(tmp_path / "s")), bench, notes, StopSignal(notes))
    drawn += bench.drawn
    assert final == whole
    assert len(drawn) == len(set(drawn)) == (3 + 4) * 4
    again = pretend.PretendBench(parts, notes)
    assert decide(parts, study, again, notes, StopSignal(notes)) == whole
    assert again.drawn == []


def test_more_trials_later_reuse_what_was_drawn(tmp_path: Path) -> None:
    parts = pretend.make_setup(scorers={"one": pretend.noisy(1.0)})
    study, notes = pretend.searched(parts, tmp_path / "s")
    decide(parts, study, pretend.PretendBench(parts, notes), notes, StopSignal(notes))
    more = pretend.make_setup(scorers={"one": pretend.noisy(1.0)}, n_iters=8)
    pretend.searched(more, tmp_path / "s")
    bench = pretend.PretendBench(more, notes)
    decide(more, study, bench, notes, StopSignal(notes))
    assert not any(alpha in (0.0, 0.5, 1.0) for alpha, _, _ in bench.drawn)  # A, B and the even mix were there


def test_what_cannot_be_drawn_is_left_out(tmp_path: Path) -> None:
    parts = pretend.make_setup(scorers={"one": pretend.noisy(0.1)})
    study, notes = pretend.searched(parts, tmp_path / "s")
    final = decide(parts, study, pretend.VoidBench(parts, notes), notes, StopSignal(notes))
    assert [row.name for row in final.rows] == ["best merge", "model A", "even mix"]


@pytest.mark.parametrize("settings", [FinalConfig(rescore=3, images=0), FinalConfig(rescore=0, images=2)])
def test_without_drawing_again_the_best_posterior_mean_wins(tmp_path: Path, settings: FinalConfig) -> None:
    parts = pretend.make_setup(scorers={"one": pretend.noisy(2.0)}, pictures=2, n_iters=16, final=settings)
    study, notes = pretend.searched(parts, tmp_path / "s")
    final = decide(parts, study, pretend.PretendBench(parts, notes), notes, StopSignal(notes))
    best = posterior_of(study).best
    assert best is not None
    assert final.winner == best.trial
    assert final.rescored == ()
    assert len(final.rows) == (4 if settings.images else 0)


def test_the_winner_s_pictures_are_drawn_once_more_where_they_were_not_kept(tmp_path: Path) -> None:
    parts = pretend.make_setup(scorers={"one": pretend.noisy(1.0)}, images="best")
    folder = RunFolder(tmp_path / "s")
    study, notes = pretend.searched(parts, folder.path)
    lost = next(trial for trial in complete_trials(study) if "images" not in trial.user_attrs)
    study.set_user_attr("final", Final(lost.number, 4, (), ()).to_json())
    bench = pretend.PretendBench(parts, notes)
    keep_pictures(parts, study, bench, folder, notes)
    assert len(bench.drawn) == 4
    assert {alpha for alpha, _, _ in bench.drawn} == {lost.params["BASE.alpha"]}
    assert len(list(folder.images(lost.number).glob("*.png"))) == 4
    keep_pictures(parts, study, bench, folder, notes)
    assert len(bench.drawn) == 4
