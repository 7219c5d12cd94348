"""Judging a study's pictures again: with other scorers, importances or means, as a new study; nothing is drawn.

The new study has the old one's trials, each with the scores of the new scorers on the same pictures, and can be
resumed, forked and shown like any other. Raw scores of a scorer that has not changed are taken over; ratings by hand
come from the old study's ledger, corrections since among them. What is judged is on the disk at once: the same command
goes on after a kill.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from PIL import Image

from bayes_merger import compose
from bayes_merger.atomic import write_atomically
from bayes_merger.config import CHANGEABLE
from bayes_merger.course import export_best
from bayes_merger.errors import ConfigError, Interrupted, Paused, TrialFailed, and_more, one_line
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.run.attributes import CONFIG, FINAL, IMAGES, PAYLOADS, POINTS, SCORES, WEIGHTS
from bayes_merger.run.evaluator import conclude
from bayes_merger.run.fingerprint import candidate_id, fingerprint
from bayes_merger.run.folder import RunFolder, check_name, find_study, is_begun, load
from bayes_merger.run.heritage import with_pictures
from bayes_merger.run.idle import with_stored_idle
from bayes_merger.run.judging import Judging
from bayes_merger.run.progress import ProgressReporter, Reporting, StopSignal, plain_reporting
from bayes_merger.run.rating.awaiting import Answers, Question
from bayes_merger.run.record import Final, chosen_trial, complete_trials
from bayes_merger.run.setup import RunSetup, check_models
from bayes_merger.run.standards import scores_of, standards
from bayes_merger.run.status import reporting_status
from bayes_merger.run.wishes import Wishes
from bayes_merger.scoring.scorer import Score
from bayes_merger.search.study.fork import OWN
from bayes_merger.search.study.history import FORKED_FROM, PHASE
from bayes_merger.search.study.storage import backend, put_to_rest
from bayes_merger.search.study.study import FINGERPRINT
from bayes_merger.session import new_study
from bayes_merger.setups import make_setup, of_a_run

SETTINGS = ("scorers", "scoring", "objectives", *CHANGEABLE)
"""What may change; anything else would need other pictures."""


def rescore(
    name: str,
    new: str = "",
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    reporting: Reporting = plain_reporting,
) -> RunFolder:
    """Judge a study's pictures again, as a new study.

    Args:
        name: of the study.
        new: the new one's name; by default ``NAME@2``, or the next number that is free.
        overrides: settings that change, like ``scorers=clip`` or ``scoring.mean=geometric``.
        runs: the folder of all studies.
        reporting: opens the progress reporter, given the log file.

    Raises:
        ConfigError: no such study, a setting that would need other pictures, or no trial can be judged.
        CheckpointError: a model file that cannot be used.
        Interrupted: the user asked to stop; the same command goes on.
        Paused: the person who scores went away; the same command goes on.
    """
    old = find_study(Path(runs), name)
    name = old.name
    study = load(old)
    settings = _settings(study, overrides)
    folder = _folder(old, new)
    settings |= {"name": folder.name}
    payloads = tuple(Payload.from_json(payload) for payload in study.user_attrs[PAYLOADS])
    setup = make_setup(compose.validate(settings), settings, folder, payloads)
    setup = with_stored_idle(setup, study.user_attrs)
    check_models(setup)
    with folder.locked(), reporting_status(folder, reporting) as progress:
        try:
            with StopSignal(progress, Wishes(folder, progress)) as stop:
                again = _Again(study, old, folder, setup, fingerprint(setup, settings["scorers"]))
                scores = dict(again.scores(progress, stop))
            _conclude(again, settings, scores, progress)
        except (Paused, Interrupted) as error:
            raise type(error)(f"{error}; the same command goes on") from error
        except KeyboardInterrupt:
            raise Interrupted("stopped; the same command goes on") from None
        finally:
            setup.close()
    return folder


def _settings(study: Study, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of the new study, which lies in its folder and has nothing left to draw."""
    for override in overrides:
        key = compose.in_full(override).partition("=")[0].lstrip("+~")
        if key.partition(".")[0] not in SETTINGS and key not in SETTINGS:
            raise ConfigError(
                f"rescore: another '{key}' would need other pictures; start anew with  bayes-merger run  "
                f"(these can change: {', '.join(SETTINGS[:3])})"
            )
    settings = compose.changed(of_a_run(study)[CONFIG], overrides)
    given = [compose.in_full(override).partition("=")[0] for override in overrides]
    final = settings["final"] if "final.images" in given else {**settings["final"], "images": 0}
    kept = {"storage": None, "images_budget": None, "workers": 1, "n_iters": 0, "final": final}
    return settings | kept | {"pruning": {**settings["pruning"], "test": "off"}}


def _folder(old: RunFolder, new: str) -> RunFolder:
    """Where the new study lies.

    Raises:
        ConfigError: the name cannot be a folder, or is taken.
    """
    if not new:
        number = 2
        while is_begun(folder := RunFolder(old.path.with_name(f"{old.name}@{number}"))):
            number += 1
        return folder
    folder = RunFolder(old.path.with_name(check_name(new)))
    if is_begun(folder):
        raise ConfigError(f"study '{new}' exists: choose another name")
    return folder


@dataclass(frozen=True)
class _Again:
    """One study, and how its pictures are judged again."""

    study: Study
    old: RunFolder
    folder: RunFolder
    setup: RunSetup
    mark: Mapping[str, Any]

    def scores(self, progress: ProgressReporter, stop: StopSignal) -> Iterator[tuple[int, list[Score]]]:
        """Trial by trial, its number and all scores; one that cannot be judged is left out, and said."""
        self._bring_ratings()
        kept, asked = self._kept(), _Journal(self.folder, self.mark["scorers"])
        fresh = replace(self.setup, scorers={n: s for n, s in self.setup.scorers.items() if n not in kept})
        judging = Judging(fresh, progress, stop)
        trials, left_out = complete_trials(self.study), []
        for done, trial in enumerate(trials):
            stop.check()
            progress.step("judging again", done, len(trials))
            try:
                known = asked.known.get(trial.number)
                if known is None:
                    known = self._judged(trial, judging) if fresh.scorers else []
                    asked.add(trial.number, known)
                found = [score for score in scores_of(trial) if score.scorer in kept] + known
                conclude(self.setup, found)
            except TrialFailed as error:
                left_out.append(f"trial {trial.number}: {one_line(error)}")
                continue
            yield trial.number, found
        for line in left_out[:10]:
            progress.note(f"left out: {line}")
        if len(left_out) > 10:
            progress.note(f"left out: and {len(left_out) - 10} more")

    def _bring_ratings(self) -> None:
        """The old study's ledger, once; from then on the new one has its own."""
        ledger = self.folder.ratings
        if self.old.ratings.is_file() and (not ledger.exists() or not ledger.stat().st_size):
            write_atomically(ledger, self.old.ratings.read_bytes())

    def _kept(self) -> set[str]:
        """The scorers whose raw scores can be taken over: models that are what they were."""
        before, now = self.study.user_attrs[FINGERPRINT]["scorers"], self.mark["scorers"]
        return {
            name
            for name, scorer in self.setup.scorers.items()
            if name in before and not scorer.interactive and _raw(before[name]) == _raw(now[name])
        }

    def _judged(self, trial: FrozenTrial, judging: Judging) -> list[Score]:
        images, paths = self._pictures(trial)
        weights = trial.user_attrs[WEIGHTS]
        scores = judging.score(weights, images, paths)
        rated = list(self._rated(candidate_id(weights), images))
        wanted = sum(self.setup.judges(self.setup.rater or "", image.payload) for image in images)
        return [*scores, *(rated if len(rated) == wanted else judging.ask_person(weights, images, paths))]

    def _rated(self, candidate: str, images: Sequence[DrawnImage]) -> Iterator[Score]:
        """The ratings by hand of some pictures, as they stand in the ledger."""
        name = self.setup.rater
        if name is None:
            return
        answers = Answers(getattr(self.setup.scorers[name], "ledger").ratings())  # noqa: B009
        for image in images:
            score = answers.score(Question(candidate, image.payload, image.index, image.seed, ""))
            if score is not None and self.setup.judges(name, image.payload):
                yield Score(name, image.payload, image.index, image.seed, score)

    def _pictures(self, trial: FrozenTrial) -> tuple[list[DrawnImage], list[Path]]:
        """A trial's pictures as they were drawn.

        Raises:
            TrialFailed: one is missing, or is no picture.
        """
        there = {path.stem: path for path in self.old.pictures(trial.user_attrs.get(IMAGES, []))}
        wanted = [(payload, index) for payload in self.setup.payloads for index in range(len(payload.seeds))]
        missing = [f"{p.name}-{i}.png" for p, i in wanted if f"{p.name}-{i}" not in there]
        if missing:
            place = self.old.images(trial.number)
            raise TrialFailed(f"{and_more(missing)} {'is' if len(missing) == 1 else 'are'} not in {place}")
        paths = [there[f"{payload.name}-{index}"] for payload, index in wanted]
        return [
            DrawnImage(payload.name, index, payload.seeds[index], payload.prompts[index], _read(path))
            for (payload, index), path in zip(wanted, paths, strict=True)
        ], paths


def _raw(settings: Any) -> Any:
    """What of a scorer's settings its raw scores depend on."""
    return {key: value for key, value in settings.items() if key not in ("importance", "scale")}


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TrialFailed(f"{path} cannot be read ({one_line(error)})") from error


class _Journal:
    """What was judged so far, a line per trial; it begins anew where the scorers are others."""

    def __init__(self, folder: RunFolder, scorers: Any) -> None:
        self.path = folder.path / "rescored.jsonl"
        self.known: dict[int, list[Score]] = {}
        mark = hashlib.sha256(json.dumps(scorers, sort_keys=True).encode()).hexdigest()
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        if not lines or lines[0] != mark:
            write_atomically(self.path, f"{mark}\n")
            return
        for line in lines[1:]:
            try:
                trial, scores = json.loads(line)
                self.known[int(trial)] = [Score(**score) for score in scores]
            except (ValueError, TypeError):
                continue  # cut off by a kill: judged again

    def add(self, trial: int, scores: Sequence[Score]) -> None:
        """Write a trial's scores; they are on the disk on return."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps([trial, [asdict(score) for score in scores]])}")  # ends a line cut off by a kill
            file.flush()
            os.fsync(file.fileno())


def _conclude(
    again: _Again, settings: Mapping[str, Any], scores: Mapping[int, Sequence[Score]], progress: ProgressReporter
) -> None:
    """Make the new study, at once whole, and what is taken home from it."""
    if not scores:
        raise ConfigError(f"rescore: no trial of '{again.old.name}' can be judged; the lines above say why")
    trials = [trial for trial in complete_trials(again.study) if trial.number in scores]
    setup = again.setup
    if setup.config.scoring.standardise:
        design = [scores[trial.number] for trial in trials if trial.user_attrs.get(PHASE) == "design"]
        setup = replace(setup, standards=standards(setup.combination, design))
    settings = {**settings, "init_points": len(trials)}
    setup = replace(setup, config=compose.validate(settings))
    taken = [
        with_pictures(_trial(setup, again.study, trial, scores[trial.number]), again.old, again.folder)
        for trial in trials
    ]
    study = new_study(setup, settings, again.folder, progress, (), taken)
    try:
        (again.folder.path / "rescored.jsonl").unlink(missing_ok=True)
        progress.note(f"study {again.folder.name} in {again.folder.path}: {len(taken)} trials of {again.old.name}")
        study.set_user_attr(FINAL, Final(chosen_trial(study).number, 0, (), ()).to_json())
        export_best(setup, study, again.folder, progress)
    finally:
        put_to_rest(backend(study))


def _trial(setup: RunSetup, old: Study, trial: FrozenTrial, scores: Sequence[Score]) -> FrozenTrial:
    """The trial with its new scores and what they are worth."""
    found = conclude(setup, scores)
    about = {key: value for key, value in trial.user_attrs.items() if key not in (*OWN, POINTS)}
    about |= {
        PHASE: trial.user_attrs.get(PHASE, "search"),
        SCORES: [vars(score) for score in scores],
        FORKED_FROM: {"study": old.study_name, "trial": trial.number},
        **({POINTS: found.value} if found.values else {}),
    }
    return optuna.create_trial(
        state=TrialState.COMPLETE,
        values=list(found.values or (found.value,)),
        params=trial.params,
        distributions=dict(setup.space.distributions()),
        user_attrs=about,
    )
