"""What one part of model B does to the pictures of model A: each entry merged alone, drawn, and compared with A's.

Entries whose tensors are equal in both models change nothing, and are not drawn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from PIL import Image, ImageChops

from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.run.baselines import Baseline
from bayes_merger.run.effect.entries import Entry, most_promising
from bayes_merger.run.evaluator import Evaluator, Weights
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import Score

VISIBLE = 20
"""Of 255: by more than this a channel value must change to count, as in supermerger's effective elemental checker
(``scripts/mergers/xyplot.py`` of https://github.com/hako-mikan/sd-webui-supermerger)."""

DRAWN, IDENTICAL, LEFT_OUT = "drawn", "identical", "not drawn"


@dataclass(frozen=True)
class Measure:
    """Numbers of all pictures of one entry.

    Attributes:
        values: one of each picture.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the pictures."""
        return statistics.fmean(self.values)

    @property
    def error(self) -> float | None:
        """The standard error of the mean; None of a single picture."""
        count = len(self.values)
        return statistics.stdev(self.values) / math.sqrt(count) if count > 1 else None


@dataclass(frozen=True)
class Effect:
    """What an entry did.

    Attributes:
        entry: the entry.
        status: ``drawn``, ``identical`` (the models are equal there) or ``not drawn``.
        measures: name to numbers: ``changed`` (percent of channel values that differ by more than 20 of 255),
            ``distance`` (1 - cosine of the two pictures by a scorer's tower, if one has it), and each scorer's raw
            score less that of A's picture. Empty where nothing was drawn.
        payloads: the payload of each picture.
    """

    entry: Entry
    status: str
    measures: Mapping[str, Measure] = field(default_factory=dict)
    payloads: tuple[str, ...] = ()


Told = Callable[[Effect, Sequence[DrawnImage], Sequence[DrawnImage]], None]
"""Told about each entry that is drawn: its effect, A's pictures and its own."""


def layers(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries in groups of which no two share a tensor: those of one group are ratios of one merge, so that from one
    to the next only their own tensors are written."""
    found: list[list[Entry]] = []
    taken: list[set[str]] = []
    for entry in entries:
        place = next((i for i, keys in enumerate(taken) if keys.isdisjoint(entry.keys)), len(found))
        if place == len(found):
            found.append([])
            taken.append(set())
        found[place].append(entry)
        taken[place] |= entry.keys
    return found


def measure(
    setup: RunSetup,
    evaluator: Callable[[], Evaluator],
    entries: Sequence[Entry],
    most: int,
    told: Told,
    known: Mapping[Entry, Effect] = MappingProxyType({}),
) -> list[Effect]:
    """Draw and compare.

    Args:
        setup: the run, of which A, B, the payloads and the scorers count.
        evaluator: makes ready who draws; called only if something is drawn.
        entries: what is measured.
        most: entries that are drawn, the most promising first.
        told: about each entry that is drawn.
        known: the effects of entries that were drawn before, which are not drawn again.

    Returns:
        The effects, in the order of the entries.

    Raises:
        TrialFailed: a merge draws nothing that can be judged.
    """
    effects = {entry: Effect(entry, LEFT_OUT if entry.relative else IDENTICAL) for entry in entries}
    chosen = most_promising(entries, most)
    effects |= {entry: known[entry] for entry in chosen if entry in known}
    if left := [entry for entry in chosen if entry not in known]:
        effects |= _drawn(setup, evaluator(), left, told)
    return list(effects.values())


def _drawn(setup: RunSetup, evaluator: Evaluator, entries: Sequence[Entry], told: Told) -> dict[Entry, Effect]:
    effects: dict[Entry, Effect] = {}
    before: tuple[DrawnImage, ...] = ()
    before_scores: list[Score] = []
    for layer in layers(entries):
        merge, still = _merge_of(layer, setup.architecture)
        if not before:
            evaluator.load_weights(still, merge)
            before = evaluator.draw(setup.payloads)
            before_scores = evaluator.score(still, before, ())
        for number, entry in enumerate(layer):
            weights = {"alpha": {**still["alpha"], f"entry{number}": entry.ratio}}
            evaluator.load_weights(weights, merge)
            after = evaluator.draw(setup.payloads)
            measures = _measures(setup, before, after, before_scores, evaluator.score(weights, after, ()))
            effects[entry] = Effect(entry, DRAWN, measures, tuple(image.payload for image in after))
            told(effects[entry], before, after)
    return effects


def _merge_of(layer: Sequence[Entry], architecture: Architecture) -> tuple[Baseline, Weights]:
    """A merge in which each entry has a ratio of its own, and its numbers of pure A."""
    rules = tuple(f"{entry.rule}:entry{number}" for number, entry in enumerate(layer))
    names = [*architecture.blocks, *(f"entry{number}" for number in range(len(layer)))]
    still = {"alpha": dict.fromkeys(names, 0.0)}
    return Baseline("model A with parts of B", still, elements=rules), still


def _measures(
    setup: RunSetup,
    before: Sequence[DrawnImage],
    after: Sequence[DrawnImage],
    before_scores: Sequence[Score],
    scores: Sequence[Score],
) -> dict[str, Measure]:
    pairs = [(one.image, two.image) for one, two in zip(before, after, strict=True)]
    found = {"changed": Measure(tuple(changed(*pair) for pair in pairs))}
    if distances := _distances(setup, pairs):
        found["distance"] = Measure(distances)
    was = {(score.scorer, score.payload, score.index): score.value for score in before_scores}
    for name in setup.scorers:
        gained = [s.value - was[name, s.payload, s.index] for s in scores if s.scorer == name]
        if gained:
            found[name] = Measure(tuple(gained))
    return found


def changed(before: Image.Image, after: Image.Image) -> float:
    """Percent of the channel values of two pictures of one size that differ by more than 20 of 255."""
    counts = ImageChops.difference(before.convert("RGB"), after.convert("RGB")).histogram()
    above = sum(count for place, count in enumerate(counts) if place % 256 > VISIBLE)
    return 100 * above / sum(counts)


def _distances(setup: RunSetup, pairs: Sequence[tuple[Image.Image, Image.Image]]) -> tuple[float, ...]:
    """1 - cosine of each two pictures as the first tower among the scorers sees them; empty where there is none."""
    from bayes_merger.scoring.models.towers import Tower

    towers = (getattr(scorer, "tower", None) for scorer in setup.scorers.values())
    tower = next((tower for tower in towers if isinstance(tower, Tower)), None)
    if tower is None:
        return ()
    one, two = (tower.embed_images([pair[side] for pair in pairs]) for side in (0, 1))
    return tuple(max(0.0, 1 - float(cosine)) for cosine in (one * two).sum(-1))
