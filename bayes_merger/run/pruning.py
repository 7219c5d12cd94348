"""Giving a merge up before all its pictures are drawn, when those so far are clearly worse than the best merge's.

All trials share prompts and seeds, so two merges are compared picture by picture, and how easy a prompt is does not
matter. Pictures are drawn a batch at a time, in an order that is shuffled once per study: a batch stands for the whole.
The test is Wilcoxon's signed-rank test, as in Optuna's WilcoxonPruner,
https://optuna.readthedocs.io/en/stable/reference/generated/optuna.pruners.WilcoxonPruner.html

A merge given up has no score, since the mean of some pictures is not comparable with the mean of all, and is never
exported. But the optimiser must not return to the same place: it is given an estimate, the best merge's score and the
mean difference picture by picture. (Without it, it searched the same bad places again and found worse merges with as
many pictures.) Rows of the start design are never given up, since the optimiser learns most from them, and neither is
the prediction that a search ends with.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import optuna

from bayes_merger.config import PruningConfig, RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.run.attributes import SCORES
from bayes_merger.run.beliefs import running_posterior
from bayes_merger.run.standards import awaits_standards
from bayes_merger.scoring.combination import Combination
from bayes_merger.scoring.scorer import Score, Scorer, sees_trial
from bayes_merger.search.study.history import PHASE, PREDICTED

PICTURES = 8
"""Below so many pictures per trial the test can only fire when there is next to nothing left to save."""

TESTS = ("off", "wilcoxon")


@dataclass(frozen=True)
class Batch:
    """Pictures that are drawn and judged before the next decision.

    Attributes:
        payloads: the payloads with only these pictures in them.
        places: payload -> which of its pictures, in the whole payload's count.
    """

    payloads: tuple[Payload, ...]
    places: Mapping[str, tuple[int, ...]]

    def named(self, images: Iterable[DrawnImage]) -> list[DrawnImage]:
        """Pictures drawn from this batch, numbered as in the whole payloads."""
        return [replace(image, index=self.places[image.payload][image.index]) for image in images]


def is_on(settings: PruningConfig) -> bool:
    """Whether pruning is on."""
    return settings.test == "wilcoxon"


def check_pruning(config: RunConfig, payloads: Sequence[Payload], scorers: Mapping[str, Scorer]) -> None:
    """Refuse settings under which the test would save nothing or mislead.

    Raises:
        ConfigError: naming the setting and the way out.
    """
    settings = config.pruning
    if settings.test not in TESTS and str(settings.test).lower() != "false":  # YAML reads a bare off as false
        raise ConfigError(f"pruning.test: '{settings.test}' is not one of {', '.join(TESTS)}")
    if not 0 < settings.p < 0.5:
        raise ConfigError(f"pruning.p: {settings.p} is not a usable p-value; give one between 0 and 0.5, e.g. 0.1")
    if not is_on(settings):
        return
    pictures = sum(len(payload.seeds) for payload in payloads if payload.importance > 0)
    if pictures < PICTURES:
        raise ConfigError(
            f"pruning.test: {pictures} pictures per trial are too few to give up early; raise images_per_prompt until "
            f"there are {PICTURES}, or leave pruning.test=off"
        )
    if not 4 <= settings.first < pictures:
        raise ConfigError(f"pruning.first: {settings.first} must be at least 4 and below the {pictures} pictures")
    for name, scorer in scorers.items():
        if scorer.interactive:
            raise ConfigError(f"pruning.test: scorer {name} is a person, who sees all pictures; leave pruning.test=off")
        if sees_trial(scorer):
            raise ConfigError(f"pruning.test: scorer {name} judges whole trials; leave pruning.test=off")
    if config.objectives:
        raise ConfigError("pruning.test: compares one number, and there are several objectives; leave pruning.test=off")
    earlier = batches(payloads, config.generator.max_batch, config.seed)[:-1]
    last = sum(len(payload.seeds) for batch in earlier for payload in batch.payloads if payload.importance > 0)
    if 0.5**last >= settings.p:  # all of them worse: the smallest p-value there is
        raise ConfigError(
            f"pruning.p: {settings.p} cannot be reached: {pictures} pictures in batches of "
            f"{config.generator.max_batch} are last compared after {last}; lower generator.max_batch, or draw more"
        )


def batches(payloads: Sequence[Payload], most: int, seed: int) -> list[Batch]:
    """All pictures in an order of the study's own, cut into batches that can be drawn at once.

    Args:
        payloads: resolved.
        most: pictures per batch.
        seed: of the study; the same one gives the same batches.
    """
    draw = random.Random(f"order of the pictures in {seed}")
    kinds: dict[Payload, list[tuple[Payload, int]]] = {}
    for payload in sorted(payloads, key=lambda payload: payload.name):
        kinds.setdefault(payload.bare, []).extend((payload, index) for index in range(len(payload.seeds)))
    found = []
    for pictures in kinds.values():
        draw.shuffle(pictures)
        found += [_batch(pictures[start : start + most]) for start in range(0, len(pictures), most)]
    draw.shuffle(found)
    return found


def whole(payloads: Sequence[Payload]) -> Batch:
    """All pictures at once, in their usual order."""
    return Batch(tuple(payloads), {payload.name: tuple(range(len(payload.seeds))) for payload in payloads})


def _batch(pictures: Sequence[tuple[Payload, int]]) -> Batch:
    whole = {payload.name: payload for payload, _ in pictures}
    places = {name: tuple(sorted(i for payload, i in pictures if payload.name == name)) for name in whole}
    return Batch(tuple(payload.picked(places[name]) for name, payload in whole.items()), places)


@dataclass(frozen=True)
class Incumbent:
    """The merge that others are compared with.

    Attributes:
        trial: its number.
        scores: its raw scores, of all pictures.
    """

    trial: int
    scores: tuple[Score, ...]


def clearly_worse(
    scores: Sequence[Score],
    incumbent: Incumbent,
    combination: Combination,
    settings: PruningConfig,
) -> str | None:
    """The reason to give a merge up, or None to go on.

    Args:
        scores: its raw scores so far.
        incumbent: whom it is compared with, on the pictures that both have.
        combination: how scores become points.
        settings: how clear it must be.
    """
    from scipy.stats import wilcoxon

    own = combination.picture_points(scores)
    seen = [score for score in incumbent.scores if (score.payload, score.index) in own]
    other = combination.picture_points(seen)
    gaps = [value - other[image] for image, value in own.items() if image in other]
    if len(gaps) < settings.first or len(gaps) < len(own):
        return None
    mean = sum(gaps) / len(gaps)
    if mean >= 0:
        return None
    p = float(wilcoxon(gaps, alternative="less", zero_method="zsplit").pvalue)
    if not p < settings.p:
        return None
    total = len({(score.payload, score.index) for score in incumbent.scores})
    gone = f"{len(gaps)} of {total} pictures"
    return f"clearly worse than trial {incumbent.trial} after {gone} ({mean:+.3f} points, p = {p:.3f})"


def estimate(
    scores: Sequence[Score],
    incumbent: Incumbent,
    combination: Combination,
) -> float:
    """A merge's points, were all its pictures drawn: the incumbent's, and the mean difference on the pictures of both.

    Args:
        scores: its raw scores so far.
        incumbent: who has all pictures.
        combination: how scores become points.
    """
    own = {(score.payload, score.index) for score in scores}
    both = [score for score in incumbent.scores if (score.payload, score.index) in own]
    ahead, behind = (combination.picture_points(some).values() for some in (both, scores))
    gap = sum(behind) / len(behind) - sum(ahead) / len(ahead)
    return combination.value(incumbent.scores) + gap


def incumbent_for(
    trial: optuna.trial.FrozenTrial, study: optuna.study.Study, settings: PruningConfig
) -> Incumbent | None:
    """Whom a trial is compared with: the best posterior mean so far; None if it is to be drawn whole."""
    if not is_on(settings) or trial.user_attrs.get(PHASE) in ("design", PREDICTED):
        return None
    if awaits_standards(study):
        return None
    best = running_posterior(study).best
    if best is None:
        return None
    trials = {one.number: one for one in study.get_trials(deepcopy=False)}
    scores = trials[best.trial].user_attrs.get(SCORES, ())
    return Incumbent(best.trial, tuple(Score(**score) for score in scores)) if scores else None
