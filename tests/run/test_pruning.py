"""Merges that are clearly worse are given up early; what they got so far is kept, and is no score."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from bayes_merger.config import PruningConfig, RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.pruning import Incumbent, batches, check_pruning, clearly_worse, estimate
from bayes_merger.run.record import best_value, complete_trials, posterior_of
from bayes_merger.scoring.combination import Combination, Judge
from bayes_merger.scoring.scorer import Score
from bayes_merger.search.study.history import origin
from bayes_merger.search.study.study import finished
from tests.run.fake_run import evaluator_of, make_setup, noisy, searched

ON = PruningConfig(test="wilcoxon", p=0.1, first=4)
POINTS = Combination({"a": 1.0}, {"one": Judge()})


def scores(values: list[float], payload: str = "a", scorer: str = "one") -> list[Score]:
    return [Score(scorer, payload, index, index, value) for index, value in enumerate(values)]


def test_the_comparison_is_picture_by_picture() -> None:
    """Seeds differ by whole points, and the merge is worse by a tenth on each: seen at once."""
    rival = Incumbent(7, tuple(scores([1.0, 3.0, 5.0, 9.0, 2.0, 2.0, 4.0, 8.0])))
    reason = clearly_worse(scores([0.9, 2.8, 4.7, 8.6]), rival, POINTS, ON)
    assert reason == "clearly worse than trial 7 after 4 of 8 pictures (-0.250 points, p = 0.062)"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([0.9, 2.8, 4.7], "too few pictures"),
        ([0.9, 3.2, 4.7, 8.6], "one of four is better: p = 0.125 or more"),
        ([1.1, 3.2, 5.3, 9.4], "better"),
        ([1.0, 3.0, 5.0, 9.0], "equal"),
    ],
)
def test_what_is_not_clear_goes_on(values: list[float], why: str) -> None:
    rival = Incumbent(7, tuple(scores([1.0, 3.0, 5.0, 9.0, 2.0, 2.0, 4.0, 8.0])))
    assert clearly_worse(scores(values), rival, POINTS, ON) is None, why


def test_importances_count_in_the_comparison() -> None:
    points = Combination({"a": 1.0, "b": 0.0}, {"one": Judge(), "two": Judge(0.0, (0.0, 1.0))})
    rival = Incumbent(0, (*scores([5.0] * 4), *scores([5.0] * 4, "b"), *scores([1.0] * 4, "a", "two")))
    worse_where_it_does_not_count = [*scores([5.0] * 4), *scores([0.0] * 4, "b"), *scores([0.0] * 4, "a", "two")]
    assert clearly_worse(worse_where_it_does_not_count, rival, points, ON) is None


def test_the_estimate_is_the_rival_s_points_and_the_mean_difference() -> None:
    """Four easy pictures of eight: their mean alone, 8, would flatter a merge that is two points worse than 6."""
    rival = Incumbent(0, tuple(scores([10.0, 10.0, 10.0, 10.0, 2.0, 2.0, 2.0, 2.0])))
    assert estimate(scores([8.0, 7.0, 9.0, 8.0]), rival, POINTS) == pytest.approx(4.0)


def test_pictures_that_the_rival_lacks_cannot_be_compared() -> None:
    rival = Incumbent(0, tuple(scores([5.0] * 3)))
    assert clearly_worse(scores([1.0] * 6), rival, POINTS, ON) is None


def test_batches_hold_every_picture_once_in_an_order_of_the_study_s_own() -> None:
    payloads = resolve(
        [Payload("a", "x", batch_size=5), Payload("b", "y", batch_size=6), Payload("c", "z", steps=5)], 0
    )
    found = batches(payloads, 4, seed=3)
    seen = [(name, place) for batch in found for name, places in batch.places.items() for place in places]
    assert sorted(seen) == [*(("a", i) for i in range(5)), *(("b", i) for i in range(6)), ("c", 0)]
    assert sorted(sum(len(payload.seeds) for payload in batch.payloads) for batch in found) == [1, 3, 4, 4]
    assert any(len(batch.payloads) == 2 for batch in found)  # a batch mixes prompts
    assert batches(payloads, 4, seed=3) == found
    assert batches(payloads, 4, seed=4) != found
    whole = {payload.name: payload for payload in payloads}
    for batch in found:
        for payload in batch.payloads:
            assert payload.seeds == tuple(whole[payload.name].seeds[i] for i in batch.places[payload.name])


def test_pictures_of_a_batch_are_numbered_as_in_the_whole_payload() -> None:
    payloads = resolve([Payload("a", "x", batch_size=8)], 0)
    for batch in batches(payloads, 3, seed=0):
        drawn = [DrawnImage("a", i, seed, "x", None) for i, seed in enumerate(batch.payloads[0].seeds)]  # type: ignore[arg-type]
        for image in batch.named(drawn):
            assert payloads[0].seeds[image.index] == image.seed


def config(**pruning: object) -> RunConfig:
    return RunConfig(model_a="a", model_b="b", pruning=PruningConfig(**{"test": "wilcoxon", **pruning}))  # type: ignore[arg-type]


class Person:
    name, scale, importance, interactive = "manual", (0.0, 10.0), 1.0, True


@pytest.mark.parametrize(
    ("settings", "pictures", "words"),
    [
        (config(test="wilcoxn"), 8, "pruning.test: 'wilcoxn'"),
        (config(), 7, "7 pictures per trial are too few"),
        (config(p=0.5), 8, "pruning.p: 0.5"),
        (config(p=0.0), 8, "pruning.p: 0.0"),
        (config(first=3), 8, "pruning.first: 3"),
        (config(first=8), 8, "pruning.first: 8"),
    ],
)
def test_settings_that_would_save_nothing_are_refused(settings: RunConfig, pictures: int, words: str) -> None:
    payloads = resolve([Payload("a", "x", batch_size=pictures), Payload("b", "y", batch_size=9, importance=0)], 0)
    with pytest.raises(ConfigError) as error:
        check_pruning(settings, payloads, {})
    assert words in str(error.value)


def test_settings_that_make_sense_are_taken() -> None:
    check_pruning(config(p=0.1), resolve([Payload("a", "x", batch_size=8)], 0), {})
    check_pruning(config(p=0.05), resolve([Payload("a", "x", batch_size=9)], 0), {})


def test_a_p_value_that_can_never_be_reached_is_refused() -> None:
    """Eight pictures in two batches are compared once, after four: all four worse is p = 1/16."""
    with pytest.raises(ConfigError, match="8 pictures in batches of 4 are last compared after 4"):
        check_pruning(config(p=0.05), resolve([Payload("a", "x", batch_size=8)], 0), {})


def test_a_person_is_not_interrupted() -> None:
    payloads = resolve([Payload("a", "x", batch_size=8)], 0)
    person: object = Person()
    with pytest.raises(ConfigError, match="manual is a person"):
        check_pruning(config(), payloads, {"manual": person})  # type: ignore[dict-item]
    check_pruning(config(test="off"), payloads, {"manual": person})  # type: ignore[dict-item]
    check_pruning(config(test="False"), payloads, {})


def test_a_search_gives_up_bad_merges_and_saves_their_pictures(tmp_path: Path) -> None:
    parts = make_setup(pictures=16, scorers={"one": noisy(0.5)}, n_iters=14, pruning=ON)
    bench = evaluator_of(parts)
    study, notes = searched(parts, tmp_path / "s", bench)
    states = [trial.state for trial in study.get_trials()]
    pruned = [trial for trial in study.get_trials() if trial.state == TrialState.PRUNED]
    assert states[:4] == [TrialState.COMPLETE] * 4  # the start design is drawn whole
    assert len(pruned) >= 6
    assert finished(study) == 18  # they are trials of the budget
    assert [report.done for report in notes.reports] == list(range(1, 19))
    assert len(bench.drawn) < 0.8 * 18 * 16
    folder = RunFolder(tmp_path / "s")
    for trial in pruned:
        assert trial.value is None
        assert trial.user_attrs["reason"].startswith("clearly worse than trial ")
        kept = trial.user_attrs["scores"]
        assert trial.user_attrs["estimate"] < best_value(study)
        assert len(kept) in (4, 8, 12)
        assert len(trial.user_attrs["images"]) == len(kept)
        assert all((folder.path / name).is_file() for name in trial.user_attrs["images"])
    assert {report.number for report in notes.reports if report.pruned} == {trial.number for trial in pruned}
    assert all(report.value is None for report in notes.reports if report.pruned)
    assert {belief.trial for belief in posterior_of(study).each} == {trial.number for trial in complete_trials(study)}


def test_it_does_not_change_what_whole_trials_get(tmp_path: Path) -> None:
    whole, _ = searched(make_setup(pictures=16, n_iters=5), tmp_path / "whole")
    cut, _ = searched(make_setup(pictures=16, n_iters=5, pruning=ON), tmp_path / "cut")
    for one, other in zip(whole.get_trials(), cut.get_trials(), strict=True):
        assert one.params == other.params
        if other.state == TrialState.COMPLETE:
            assert other.value == pytest.approx(one.value)
            assert other.user_attrs["images"] == one.user_attrs["images"]


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_same_decisions(tmp_path: Path) -> None:
    def parts() -> object:
        return make_setup(pictures=16, n_iters=6, pruning=ON)

    whole, _ = searched(parts(), tmp_path / "whole")  # type: ignore[arg-type]
    for dies_after in (30, 40, 20):  # pictures: in the design, and in trials
        with pytest.raises(KeyboardInterrupt):
            searched(parts(), tmp_path / "killed", evaluator_of(parts(), dies_after=dies_after))  # type: ignore[arg-type]
    killed, _ = searched(parts(), tmp_path / "killed")  # type: ignore[arg-type]
    told = (TrialState.COMPLETE, TrialState.PRUNED)

    def outcome(study: object) -> list[object]:
        trials = sorted(study.get_trials(states=told), key=origin)  # type: ignore[attr-defined]
        return [(t.state, t.params, t.values, t.user_attrs["scores"]) for t in trials]

    assert outcome(killed) == outcome(whole)
