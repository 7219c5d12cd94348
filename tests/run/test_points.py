"""Settings, scorers and payloads as one combination; what a stored study says of it is checked before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bayes_merger.config import ScoringConfig
from bayes_merger.errors import ConfigError
from bayes_merger.run.fingerprint import fingerprint
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.points import combination, combination_of, comparable
from bayes_merger.run.record import complete_trials, value_of
from bayes_merger.scoring.combination import Combination, Judge
from tests.run.fake_run import make_setup, noisy, searched

SCORERS = {"one": (1.0, (0.0, 10.0)), "two": (0.5, (0.0, 1.0))}


def test_settings_say_who_judges_what_and_who_only_punishes() -> None:
    scoring = ScoringConfig("harmonic", payloads={"one": ["a"], "two": {"a": 2, "b": 0.5}}, penalties={"two": 3})
    assert combination(scoring, SCORERS, {"a": 1.0, "b": 2.0}) == Combination(
        {"a": 1.0, "b": 2.0},
        {
            "one": Judge(1.0, (0.0, 10.0), {"a": 1.0}),
            "two": Judge(0.5, (0.0, 1.0), {"a": 2.0, "b": 0.5}, penalty=3.0),
        },
        "harmonic",
    )


@pytest.mark.parametrize(
    ("scoring", "said"),
    [
        (ScoringConfig(payloads={"on": ["a"]}), r"scoring\.payloads\.on: no such scorer is chosen; did you mean one?"),
        (ScoringConfig(penalties={"on": 1}), r"scoring\.penalties\.on: no such scorer is chosen; did you mean one?"),
        (ScoringConfig(payloads={"one": ["c"]}), r"scoring\.payloads\.one: no payload 'c' is drawn; known: a, b"),
        (ScoringConfig(payloads={"one": []}), r"scoring\.payloads\.one: give payloads"),
        (ScoringConfig(payloads={"one": "a"}), r"scoring\.payloads\.one: give payloads"),
        (ScoringConfig(payloads={"one": {"a": "x"}}), r"scoring\.payloads\.one\.a: importance must be a number"),
        (ScoringConfig(penalties={"one": -1}), r"scoring\.penalties\.one: importance -1 is not valid"),
        (ScoringConfig(mean="median"), r"scoring\.mean: 'median' is not one of arithmetic, geometric, harmonic"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(scoring: ScoringConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{said}"):
        combination(scoring, SCORERS, {"a": 1.0, "b": 2.0})


def test_only_what_differs_from_the_defaults_makes_scores_incomparable() -> None:
    assert comparable(ScoringConfig(page=True, ahead=7, repeats=0)) == {}
    assert "scoring" not in fingerprint(make_setup(), {})
    assert fingerprint(make_setup(scoring=ScoringConfig("geometric")), {})["scoring"] == {"mean": "geometric"}


def test_a_run_and_whoever_reads_its_study_combine_alike(tmp_path: Path) -> None:
    scoring = ScoringConfig("geometric", payloads={"two": ["p1"]}, penalties={"three": 2.0})
    scorers = {"one": noisy(0.1), "two": noisy(0.2), "three": noisy(0.3)}
    setup = make_setup(scorers=scorers, scoring=scoring)
    searched(setup, tmp_path / "study")
    study = load(RunFolder(tmp_path / "study"))
    assert combination_of(study) == setup.combination
    for trial in complete_trials(study):
        scores = {(s["scorer"], s["payload"], s["index"]): s["value"] for s in trial.user_attrs["scores"]}
        each = []
        for payload, index in (("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1)):
            one, two, three = (scores[name, payload, index] for name in ("one", "two", "three"))
            mean = (one * two) ** 0.5 if payload == "p1" else one
            each.append(mean - 2.0 * (1 - min(max(three / 10, 0), 1)))
        assert value_of(trial) == pytest.approx(sum(each) / 4)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "odd",
    [7, "x", {"mean": []}, {"mean": "x"}, {"payloads": 7}, {"payloads": {"one": 7}}, {"payloads": {"who": ["p0"]}},
     {"penalties": {"one": "x"}}, {"penalties": []}, {"payloads": {"one": {"p0": None}}}],
)  # fmt: skip
def test_what_no_run_has_written_is_named(odd: Any, tmp_path: Path) -> None:
    study, _ = searched(make_setup(), tmp_path / "study")
    study.set_user_attr("config", {**study.user_attrs["config"], "scoring": odd})
    with pytest.raises(ConfigError, match="is not what a run writes"):
        load(RunFolder(tmp_path / "study"))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("odd", [7, [], "x", {"one": 5}, {"one": [1, 1]}, {"one": ["a", "b"]}])
def test_scales_that_no_run_has_fixed_are_named(odd: Any, tmp_path: Path) -> None:
    study, _ = searched(make_setup(scoring=ScoringConfig(standardise=True)), tmp_path / "study")
    study.set_user_attr("standards", odd)
    with pytest.raises(ConfigError, match="'standards' is not what a run writes"):
        load(RunFolder(tmp_path / "study"))
