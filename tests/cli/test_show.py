"""What a person is shown of a study: beliefs beside scores, merges given up, the front, why a search ended."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.cli import main
from bayes_merger.cli.show import show
from bayes_merger.config import FinalConfig, PruningConfig
from bayes_merger.report.study_tables import weights_table
from bayes_merger.report.tables import best_lines, with_error
from bayes_merger.run.final import decide
from bayes_merger.run.progress import StopSignal, TrialReport, trial_line
from bayes_merger.run.record import front_of
from bayes_merger.testing.studies import make_study
from tests.run.fake_run import evaluator_of, make_setup, noisy, searched


def shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """``show s`` as a person and as a program sees it."""
    show(["s", "--runs", str(runs)])
    text = capsys.readouterr().out
    show(["s", "--runs", str(runs), "--json"])
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return text, data


def report(**changes: Any) -> TrialReport:
    values: dict[str, Any] = {
        "number": 7, "done": 8, "total": 20, "value": 6.5, "best": 7.25, "improved": False, "scores": {"laion": 6.5},
        "reason": None, "seconds": 2.0, "mean": 6.875,
    }  # fmt: skip
    return TrialReport(**(values | changes))


def test_a_trial_s_line_has_the_best_score_and_the_best_posterior_mean() -> None:
    assert trial_line(report()).endswith("6.500 points (laion 6.500)  2.0 s  best 7.250, posterior mean 6.875")
    assert trial_line(report(mean=None)).endswith("best 7.250")
    assert "  worker 2  model A  6.500 points" in trial_line(report(merge="model A", worker="worker 2"))
    assert trial_line(report(improved=True)).endswith("* best, posterior mean 6.875")
    assert trial_line(report(front=4)).endswith("front 4")


def test_a_trial_given_up_is_no_failure() -> None:
    line = trial_line(report(value=None, pruned=True, reason="clearly worse than trial 3 after 8 of 16 pictures"))
    assert line == "trial   7  8/20  given up: clearly worse than trial 3 after 8 of 16 pictures  2.0 s"


def test_a_number_is_shown_with_its_error() -> None:
    assert with_error(1.5, 0.25) == "1.500 ± 0.250"
    assert with_error(1.5, None, "+") == "+1.500"


def test_the_best_by_belief_and_the_best_by_score_are_both_named() -> None:
    best = {"trial": 3, "value": 7.0, "mean": 6.9, "sd": 0.1}
    data: dict[str, Any] = {
        "best": best,
        "final": None,
        "best_posterior_mean": best,
        "best_observed": {"trial": 9, "value": 8.0, "mean": 6.5, "sd": 0.2},
        "holdouts": [],
    }
    assert best_lines(data) == [
        "best: trial 3, 7.000 points when drawn, posterior mean 6.900 ± 0.100",
        "best observed: trial 9, 8.000 points when drawn, posterior mean 6.500 ± 0.200",
    ]


def test_what_windows_writes_into_a_file_is_readable(tmp_path: Path) -> None:
    searched(make_setup(init_points=3, n_iters=0), tmp_path / "s")
    file = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\n")
    with contextlib.redirect_stdout(file):
        assert main(["show", "s", f"runs={tmp_path}"]) == 0
    file.seek(0)
    said = file.read()
    assert "\\u" not in said  # as letters are written that an encoding lacks
    (points,) = [line for line in said.splitlines() if line.startswith("  points")]
    assert set(points.split()[1]) <= set("_.-~=+*#")


def test_show_has_the_posterior_means_and_the_trials_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = make_setup(scorers={"one": noisy(1.0)}, n_iters=6, final=FinalConfig(rescore=2, images=2))
    study, notes = searched(parts, tmp_path / "s")
    final = decide(parts, study, evaluator_of(parts), notes, StopSignal(notes))
    study.set_user_attr("final", final.to_json())
    text, data = shown(tmp_path, capsys)
    assert "posterior mean" in text
    assert "the best 2 drawn again, to choose (4 pictures each)" in text
    assert f"best: trial {final.winner}, " in text
    assert "compared on seeds that nothing was chosen by (4 pictures each)" in text
    assert " in the comparison\n" in text
    assert data["best"]["trial"] == final.winner
    assert data["best_posterior_mean"]["mean"] == max(row["mean"] for row in data["trials_list"])
    assert data["best_observed"]["value"] == max(row["value"] for row in data["trials_list"])
    assert [one["trial"] for one in data["final"]["rescored"]] == [one.trial for one in final.rescored]
    assert data["noise"] > 0
    assert all(row["seconds"] >= 0 for row in data["trials_list"])


def test_show_lists_what_was_given_up_and_why_a_search_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"pruning": PruningConfig("wilcoxon", 0.1, 4), "patience": 8, "n_iters": 40}
    study, _ = searched(make_setup(pictures=16, scorers={"one": noisy(0.3)}, **settings), tmp_path / "s")
    text, data = shown(tmp_path, capsys)
    pruned = [row for row in data["trials_list"] if row["state"] == "pruned"]
    assert pruned
    assert data["trials"]["pruned"] == len(pruned)
    assert f"{len(pruned)} given up early" in text
    assert f"trial {pruned[0]['trial']} given up: clearly worse than trial " in text
    assert all(row["value"] is None for row in pruned)
    assert data["stopped"].startswith("patience: ")
    assert f"the search ended early; {data['stopped']}" in text
    assert len(study.get_trials()) < 44


def test_show_has_the_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = {"first": lambda alpha, seed: 9.0 - alpha, "second": lambda alpha, seed: 3.0 + alpha}
    study, _ = searched(make_setup(scorers=both, objectives=["first", "second"], n_iters=2), tmp_path / "s")
    text, data = shown(tmp_path, capsys)
    assert "the Pareto front (6 trials)" in text
    assert data["objectives"] == ["first", "second"]
    assert [row["trial"] for row in data["front"]] == [trial.number for trial in front_of(study)]
    assert data["front"][0]["values"] == {"first": 9.0, "second": 3.0}
    assert data["front"][0]["weighted_sum"] == pytest.approx(6.0)


def test_the_weights_are_shown_without_the_adjustments_and_with_blocks_that_one_weight_has() -> None:
    table = weights_table({"alpha": {"IN00": 0.25, "TE": 0.75}, "beta": {"IN00": 0.5}, "adjust": {"IN": 1.0}})
    assert [column.header for column in table.columns[:3]] == ["block", "alpha", "beta"]
    assert [list(column.cells) for column in table.columns[:6]] == [
        ["IN00"], ["0.250"], ["0.500"], ["TE"], ["0.750"], [""]
    ]  # fmt: skip


def test_show_offers_what_was_not_tried_and_recipe_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = make_setup(scorers={"one": lambda alpha, seed: 8.0 - 10.0 * (alpha - 0.37) ** 2}, n_iters=8)
    searched(setup, tmp_path / "s")
    text, data = shown(tmp_path, capsys)
    expected = data["prediction"]
    assert abs(expected["weights"]["alpha"]["BASE"] - 0.37) < 0.02
    assert abs(expected["mean"] - 8.0) < 0.01
    assert "expects the most, tried or not:  bayes-merger merge s" in text
    assert main(["recipe", "s", "--predicted", "--runs", str(tmp_path)]) == 0
    assert "note: predicted by study s from 12 trials to get 8.0" in capsys.readouterr().out
    assert main(["merge", "s", "--predicted", "--trial", "3", "--out", "x.safetensors"]) == 2
    assert main(["merge", "model_a=a", "model_b=b", "--predicted", "--out", "x.safetensors"]) == 2
    errors = capsys.readouterr().err
    assert "--trial: not allowed with argument --predicted" in errors
    assert "--predicted: needs the study it belongs to, like  bayes-merger merge NAME --predicted" in errors


def test_the_prediction_that_was_drawn_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = make_setup(
        scorers={"one": lambda alpha, seed: 8.0 - 10.0 * (alpha - 0.37) ** 2},
        n_iters=8,
        final=FinalConfig(predicted=True),
    )
    searched(setup, tmp_path / "s")
    text, data = shown(tmp_path, capsys)
    assert data["trials_list"][-1]["phase"] == "predicted"
    assert "11 (predicted)" in text


def test_a_narrow_terminal_shows_fewer_columns_and_cuts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "dreamshaper_8-revAnimated_v122", 2)
    shown = {}
    for columns in ("80", "140"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["show", "--runs", str(tmp_path)]) == 0
        shown[columns] = capsys.readouterr().out
    assert "…" not in "".join(shown.values())
    for word in ("dreamshaper_8-revAnimated_v122", "state", "trials", "last trial"):
        assert word in shown["80"]
    assert "method" not in shown["80"]
    assert "weighted_sum" in shown["140"]


def test_who_rates_in_this_terminal_sees_no_score_between_two_sittings() -> None:
    report = TrialReport(3, 4, 9, 7.25, 7.25, True, {"manual": 7.5, "clip": 0.31}, None, 8.0, mean=7.0, blind=True)
    assert trial_line(report) == "trial   3  4/9  rated  8.0 s"
