"""What a report shows, gathered from a study as plain data; how it looks is decided elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from bayes_merger.errors import BayesMergerError
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.report.convergence import Convergence, anchors_of, convergence_of
from bayes_merger.report.formats import Format, formats
from bayes_merger.report.importance import Importance, importances
from bayes_merger.report.summary import summary, trials_data
from bayes_merger.report.timing import timing
from bayes_merger.run.attributes import CONFIG, FINAL_IMAGES, IMAGES, PAYLOADS, SCORES, VERSIONS
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.points import combination_of
from bayes_merger.run.record import (
    WINNER,
    chosen_trial,
    complete_trials,
    final_of,
    recipe_of,
    value_of,
)
from bayes_merger.scoring.scorer import Score
from bayes_merger.search.study.checked import reads_once

BEST = "best"
"""The column of the best merge beside those of its parents."""

SHOWN = ("method", "optimiser", "init_points", "n_iters", "seed", "design", "anchors", "space", "scorers", "pruning",
         "patience", "time_limit", "final", "generator", "dtype", "vae", "elements", "clip", "adjust")  # fmt: skip
"""The settings that are told; none of them says where somebody keeps files."""

ROWS = 3
"""At least so many prompts and seeds are shown side by side, if there are as many."""

Picture = tuple[str, int]
"""A picture by its payload and its index."""


@dataclass(frozen=True)
class Shot:
    """A picture that is shown.

    Attributes:
        trial: its number.
        payload: its name.
        path: of the file; None where it is gone.
        points: of the picture alone; None where they are not known.
    """

    trial: int
    payload: str
    path: Path | None
    points: float | None


@dataclass(frozen=True)
class Row:
    """The same prompt and seed under several merges.

    Attributes:
        payload: its name.
        prompt: of the picture.
        seed: of the picture; None where it is not known.
        shots: ``model A``, ``model B``, ``even mix``, ``best`` -> the picture.
    """

    payload: str
    prompt: str
    seed: int | None
    shots: Mapping[str, Shot]


@dataclass(frozen=True)
class Contents:
    """All of a report.

    Attributes:
        name: of the study.
        typed: the study as it is given to a command.
        summary: as :func:`~bayes_merger.report.summary.summary` gives it.
        trials: as :func:`~bayes_merger.report.summary.trials_data` gives them.
        course: of the search.
        importance: of the parameters, most important first.
        timing: part of a trial -> mean seconds.
        weights: weight -> block -> number, of the best merge; empty before the first score.
        formats: the same to be pasted.
        recipe: the same as a recipe, with files by their bare names.
        activations: its files of activations, each with what it is called in a recipe.
        rows: best against its parents.
        gallery: the best pictures of each payload, best first.
        payloads: what is drawn.
        settings: of the run, those that are told.
        versions: of the libraries.
    """

    name: str
    typed: str
    summary: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]]
    course: Convergence
    importance: Sequence[Importance]
    timing: Mapping[str, float]
    weights: Mapping[str, Mapping[str, float]]
    formats: Sequence[Format]
    recipe: str
    activations: Sequence[tuple[str, Mapping[str, str]]]
    rows: Sequence[Row]
    gallery: Sequence[Shot]
    payloads: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


@reads_once
def contents_of(study: optuna.study.Study, folder: RunFolder, pictures: int = 40) -> Contents:
    """What a report on a study shows.

    Args:
        study: the study.
        folder: where its pictures are.
        pictures: at most so many are shown.
    """
    done = complete_trials(study)
    best = chosen_trial(study) if done else None
    recipe = recipe_of(study, best) if best else None
    shots = Shots(study, folder)
    rows = side_by_side(study, folder, pictures * 2 // 3) if best and pictures else []
    left = pictures - sum(len(row.shots) for row in rows)
    config = study.user_attrs.get(CONFIG) or {}
    return Contents(
        name=folder.name,
        typed=folder.typed,
        summary=summary(study),
        trials=trials_data(study),
        course=convergence_of(study),
        importance=importances(done, [value_of(trial) for trial in done]),
        timing=timing(done),
        weights=recipe.weights if recipe else {},
        formats=formats(recipe, folder.name) if recipe else (),
        recipe=json.dumps(_without_folders(recipe), indent=2) if recipe else "",
        activations=recipe.activation_files if recipe else (),
        rows=rows,
        gallery=shots.gallery(done, left),
        payloads=study.user_attrs.get(PAYLOADS) or (),
        settings={key: config[key] for key in SHOWN if config.get(key) not in (None, [], {}, "")},
        versions=study.user_attrs.get(VERSIONS) or {},
    )


def side_by_side(study: optuna.study.Study, folder: RunFolder, most: int) -> list[Row]:
    """The best merge beside its models and their even mix, on the same prompts and seeds; empty without a score.

    The final round's pictures are shown once there are any: nothing was chosen by them.

    Args:
        study: the study.
        folder: where its pictures are.
        most: pictures in all.
    """
    if not complete_trials(study):
        return []
    best, shots = chosen_trial(study), Shots(study, folder)
    return shots.final_rows(best.number, most) or shots.rows({**anchors_of(study), BEST: best}, most)


def points_of(study: optuna.study.Study) -> dict[str, float]:
    """The points of the same merges, on fresh seeds where these are known."""
    if (final := final_of(study)) and final.rows:
        return {BEST if row.name == WINNER else row.name: row.mean for row in final.rows}
    return {name: value_of(trial) for name, trial in {**anchors_of(study), BEST: chosen_trial(study)}.items()}


def _without_folders(recipe: MergeRecipe) -> dict[str, Any]:
    """A recipe to be shared: where somebody keeps files is nobody's business, and their hashes say which they are."""
    named = recipe.with_files(lambda _, file: {**file, "path": bare(file["path"])})
    models = {role: replace(model, path=bare(model.path)) for role, model in recipe.models.items()}
    return replace(named, models=models).to_json()


def bare(path: str) -> str:
    """The name of a file without its folders, whatever system it is from."""
    return PurePosixPath(path.replace("\\", "/")).name or path


class Shots:
    """The pictures of a study's trials, with the points of each.

    Args:
        study: the study.
        folder: where they are.
    """

    def __init__(self, study: optuna.study.Study, folder: RunFolder) -> None:
        self._folder = folder
        self._final = study.user_attrs.get(FINAL_IMAGES) if final_of(study) else None
        self._payloads = {payload["name"]: payload for payload in study.user_attrs.get(PAYLOADS) or ()}
        # Of each picture alone, whatever its payload counts.
        self._combination = replace(combination_of(study), payloads=dict.fromkeys(self._payloads, 1.0))

    def of(self, trial: FrozenTrial) -> dict[Picture, Shot]:
        """All pictures of a trial."""
        points = self._points(trial)
        kept = {path.name: path for path in self._files(trial)}
        found = {}
        for name in {**points, **dict.fromkeys(map(_picture, kept))}:
            path = kept.get(f"{name[0]}-{name[1]}.png")
            found[name] = Shot(trial.number, name[0], path, points.get(name))
        return found

    def rows(self, merges: Mapping[str, FrozenTrial], most: int) -> list[Row]:
        """Merges side by side: of each payload the first pictures, at most ``most`` in all."""
        shots = {name: self.of(trial) for name, trial in merges.items()}
        rows = []
        for payload, index in self._first(shots[BEST], most // len(merges)):
            own = {name: found[payload, index] for name, found in shots.items() if (payload, index) in found}
            about = self._payloads.get(payload, {})
            rows.append(Row(payload, *_prompt_and_seed(about, index), own))
        return rows

    def final_rows(self, winner: int, most: int) -> list[Row]:
        """The same of the final round's comparison, on seeds that nothing was chosen by; empty where none are kept.

        Args:
            winner: the trial that is the best merge.
            most: pictures in all.
        """
        try:
            kept = {str(name): self._folder.pictures(paths) for name, paths in (self._final or {}).items()}
        except (AttributeError, TypeError):  # not what a run writes
            return []
        pictures = {name: {_picture(path.name): path for path in paths} for name, paths in kept.items() if paths}
        if WINNER not in pictures or len(pictures) < 2:
            return []
        columns = {name: own for name, own in pictures.items() if name != WINNER} | {BEST: pictures[WINNER]}
        rows = []
        for payload, index in self._first(columns[BEST], most // len(columns)):
            own = {name: Shot(winner, payload, files[payload, index], None) for name, files in columns.items()
                   if (payload, index) in files}  # fmt: skip
            prompt, _ = _prompt_and_seed(self._payloads.get(payload, {}), 0)
            rows.append(Row(payload, prompt, None, own))
        return rows

    def _first(self, pictures: Iterable[Picture], most: int) -> list[Picture]:
        """The first picture of each payload, and more of each while there are few."""
        order = {name: place for place, name in enumerate(self._payloads)}
        wanted = sorted(pictures, key=lambda one: (one[1], order.get(one[0], len(order))))
        return wanted[: max(1, min(most, max(ROWS, len(order))))]

    def gallery(self, trials: Sequence[FrozenTrial], most: int) -> list[Shot]:
        """Of each payload the pictures with the most points, one of each trial, at most ``most`` in all."""
        ranked = sorted(trials, key=value_of, reverse=True)[: 2 * most]
        shots = [shot for trial in ranked for (_, index), shot in self.of(trial).items() if index == 0 and shot.path]
        found: list[Shot] = []
        for payload in self._payloads:
            own = [shot for shot in shots if shot.payload == payload]
            own.sort(key=lambda shot: -(shot.points if shot.points is not None else -1e9))
            found += own[: most // len(self._payloads)]
        return found

    def _files(self, trial: FrozenTrial) -> list[Path]:
        return self._folder.pictures(trial.user_attrs.get(IMAGES, []))

    def _points(self, trial: FrozenTrial) -> Mapping[Picture, float]:
        try:
            scores = [Score(**score) for score in trial.user_attrs.get(SCORES) or ()]
            return self._combination.picture_points(scores)
        except BayesMergerError:
            return {}  # of other scorers or payloads than the study's


def _picture(name: str) -> Picture:
    payload, _, index = name.removesuffix(".png").rpartition("-")
    return payload, int(index) if index.isdecimal() else 0


def _prompt_and_seed(payload: Mapping[str, Any], index: int) -> tuple[str, int]:
    prompts, seeds = payload.get("prompts") or [payload.get("prompt", "")], payload.get("seeds") or [0]
    return str(prompts[min(index, len(prompts) - 1)]), int(seeds[min(index, len(seeds) - 1)])
