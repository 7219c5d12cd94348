"""After the last trial: the winner is chosen, and compared with the models it came from, on fresh seeds.

The best score seen is partly luck, so it flatters the trial that has it. The best few by posterior mean, and the best
score among them, are therefore drawn again on seeds that no trial has used; the winner is the best of those, and a
second set of fresh seeds, which nobody chose by, gives the closing table. Of several objectives, members of the Pareto
front are drawn again.

What is drawn is stored at once: a round that was killed goes on with the next picture set, and ends the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna

from bayes_merger.errors import TrialFailed, counted, one_line
from bayes_merger.imaging.payload import Payload
from bayes_merger.run.attributes import FINAL, FINAL_IMAGES, IMAGES, WEIGHTS
from bayes_merger.run.baselines import baselines
from bayes_merger.run.evaluator import Evaluation, Evaluator, Weights
from bayes_merger.run.final_drawing import FinalDrawing
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.fresh import PARTS, drawn_words, fresh, fresh_images
from bayes_merger.run.pictures import describe
from bayes_merger.run.predicted import last_prediction
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.record import (
    WINNER,
    ComparisonRow,
    Final,
    Rescored,
    chosen_trial,
    complete_trials,
    front_of,
    posterior_of,
    value_of,
)
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import Score


def fresh_payloads(setup: RunSetup, part: int) -> tuple[Payload, ...]:
    """The run's payloads with new seeds; ``part`` 0 and 1 never share a seed."""
    return setup.fresh[part] if setup.fresh else fresh(setup.config, setup.payloads, part)


def with_fresh_words(setup: RunSetup) -> RunSetup:
    """The setup of a study that begins, with the words of its final round, which it is to keep.

    Raises:
        ConfigError: they cannot be drawn.
    """
    if setup.fresh or not setup.payloads or not has_final(setup):
        return setup
    return replace(setup, fresh=drawn_words(setup.config, setup.payloads))


def check_fresh_words(setup: RunSetup, stored: Mapping[str, Any], *, anew: bool) -> None:
    """Whether the words of a final round that is to come can be drawn: before the search rather than after it.

    Args:
        setup: of a study that goes on.
        stored: its attributes.
        anew: whether settings have changed, so that a final round that is over may be drawn once more.

    Raises:
        ConfigError: a list of words is gone.
    """
    if setup.payloads and has_final(setup) and (anew or not stored.get(FINAL)):
        for part in PARTS:
            fresh_payloads(setup, part)


def images_per_payload(setup: RunSetup) -> int:
    """How many fresh pictures of each payload a merge of the final round gets."""
    return fresh_images(setup.config, setup.payloads)


def has_final(setup: RunSetup) -> bool:
    """Whether there is a final round: a person is not asked for yet more ratings."""
    asks_a_person = any(scorer.interactive for scorer in setup.scorers.values())
    return setup.config.final.images != 0 and not asks_a_person


def final_merges(setup: RunSetup) -> int:
    """How many merges the final round draws at most: the candidates, the winner, and what it is compared with."""
    final = setup.config.final
    candidates = final.rescore + final.predicted if final.rescore else 0
    return candidates + 1 + len(baselines(setup))


def final_pictures(setup: RunSetup) -> int:
    """How many pictures the final round draws at most."""
    return final_merges(setup) * len(setup.payloads) * images_per_payload(setup) if has_final(setup) else 0


def final_round_trials(setup: RunSetup) -> float:
    """How many trials' pictures the final round draws."""
    return final_pictures(setup) / pictures_per_trial(setup)


def pictures_per_trial(setup: RunSetup) -> int:
    """How many pictures one trial draws."""
    return sum(len(payload.seeds) for payload in setup.payloads)


def decide(
    setup: RunSetup,
    study: optuna.study.Study,
    evaluator: Evaluator,
    progress: ProgressReporter,
    stop: StopSignal,
    folder: RunFolder | None = None,
) -> Final:
    """Choose the winner and compare it with the models that it came from.

    Args:
        setup: the run.
        study: with the search's trials.
        evaluator: draws and judges.
        progress: told what is drawn.
        stop: asked between two merges.
        folder: keeps the pictures of the comparison; None: nobody does.

    Raises:
        Interrupted: somebody asked to stop.
    """
    if not has_final(setup):
        return Final(chosen_trial(study).number, 0, (), ())
    fresh, chosen = fresh_payloads(setup, 0), candidates(study, setup.config.final.rescore)
    drawing = FinalDrawing(setup, study, evaluator, progress, stop, len(chosen) + 1 + len(baselines(setup)))
    each = sum(len(payload.seeds) for payload in fresh)
    progress.note(f"final round: {drawing.total} merges, {counted(each, 'picture')} each, on fresh seeds")
    weights = {trial.number: trial.user_attrs[WEIGHTS] for trial in complete_trials(study)}
    drawn = {number: drawing.evaluation(f"trial {number}", weights[number], fresh) for number in chosen}
    rescored = [_rescored(setup, number, evaluation) for number, evaluation in drawn.items() if evaluation]
    winner = max(rescored, key=lambda one: one.mean).trial if rescored else chosen_trial(study).number
    rows = closing_table(drawing, weights[winner], folder)
    return Final(winner, len(setup.payloads) * images_per_payload(setup), tuple(rescored), rows)


def keep_pictures(
    setup: RunSetup, study: optuna.study.Study, evaluator: Evaluator, folder: RunFolder, progress: ProgressReporter
) -> None:
    """Draw the pictures of the trial that is taken home once more, if they were not kept (``images=best``)."""
    trial = chosen_trial(study)
    place = folder.images(trial.number)
    if trial.user_attrs.get(IMAGES) or any(place.glob("*.png")):
        return
    progress.step(f"drawing the pictures of trial {trial.number} once more")
    try:
        evaluator.load_weights(trial.user_attrs[WEIGHTS])
        paths = evaluator.save(place, evaluator.draw(setup.payloads), setup.payloads)
        describe(paths, folder.name, trial.number, setup.recipe(trial.user_attrs[WEIGHTS]), value_of(trial))
    except TrialFailed as error:  # another program's trial, of a merge that we never drew
        progress.note(f"trial {trial.number} has no pictures: {one_line(error)}")


def candidates(study: optuna.study.Study, count: int) -> list[int]:
    """The trials that may be the best: by posterior mean and observed score, and what was predicted; or a spread over
    the Pareto front."""
    if len(study.directions) == 1:
        chosen = posterior_of(study).candidates(count)
        predicted = last_prediction(study)
        return [*chosen, predicted.number] if predicted and count and predicted.number not in chosen else chosen
    front = front_of(study)
    sums = [value_of(trial) for trial in front]
    return [front[i].number for i in spread_over_front([trial.values for trial in front], sums, count)]


def spread_over_front(values: Sequence[Sequence[float]], sums: Sequence[float], count: int) -> list[int]:
    """Members of a front that stand for all of it: the best sum, the best of each objective, then whoever is farthest.

    Args:
        values: of each member, its objectives.
        sums: of each member, its weighted sum.
        count: how many at most.

    Returns:
        Their places in the front, in the front's order.
    """
    if count >= len(values):
        return list(range(len(values)))
    low = [min(column) for column in zip(*values, strict=True)]
    high = [max(column) for column in zip(*values, strict=True)]
    places = [
        [(v - least) / ((most - least) or 1.0) for v, least, most in zip(own, low, high, strict=True)] for own in values
    ]
    wanted = [max(range(len(sums)), key=lambda i: sums[i])]
    wanted += [max(range(len(values)), key=lambda i, o=objective: values[i][o]) for objective in range(len(low))]  # type: ignore[misc]
    chosen = list(dict.fromkeys(wanted))[:count]
    while len(chosen) < count:
        rest = [i for i in range(len(values)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(math.dist(places[i], places[j]) for j in chosen)))
    return sorted(chosen)


def closing_table(drawing: FinalDrawing, winner: Weights, folder: RunFolder | None = None) -> tuple[ComparisonRow, ...]:
    """The winner and what it is compared with, on fresh seeds that nothing was chosen by."""
    setup = drawing.setup
    fresh = fresh_payloads(setup, 1)
    rows: list[ComparisonRow] = []
    kept: dict[str, list[str]] = {}
    reference: list[float] = []
    for baseline in (None, *baselines(setup)):
        name, weights = (baseline.name, baseline.weights) if baseline else (WINNER, winner)
        evaluation = drawing.evaluation(name, weights, fresh, baseline, folder)
        kept[name] = drawing.pictures(weights, fresh, baseline)
        if evaluation is None and baseline is None:
            return ()
        if evaluation is None:
            continue
        points = points_per_image(setup, evaluation.scores)
        reference = reference or points
        gaps = [best - own for best, own in zip(reference, points, strict=True)]
        rows.append(ComparisonRow(name, evaluation.value, _error(points), sum(gaps) / len(gaps), _error(gaps)))
    drawing.study.set_user_attr(FINAL_IMAGES, kept)
    return tuple(rows)


def points_per_image(setup: RunSetup, scores: Sequence[Score], objective: str | None = None) -> list[float]:
    """Points of each picture, times its payload's share (so that their mean is the value).

    Args:
        parts: the run.
        scores: raw, of all pictures.
        objective: one scorer by name; None: all of them combined.
    """
    combination = setup.combination if objective is None else setup.combination.alone(objective)
    known = [one for one in scores if one.scorer in combination.judges and one.payload in combination.payloads]
    return list(combination.picture_points(known).values())


def _rescored(setup: RunSetup, number: int, evaluation: Evaluation) -> Rescored:
    objectives = [points_per_image(setup, evaluation.scores, name) for name in setup.config.objectives]
    return Rescored(
        number,
        evaluation.value,
        _error(points_per_image(setup, evaluation.scores)),
        evaluation.values,
        tuple(_error(own) for own in objectives),
    )


def _error(values: Sequence[float]) -> float | None:
    """Standard error of the mean."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
