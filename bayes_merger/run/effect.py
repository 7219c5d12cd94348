"""What one part of model B does to the pictures of model A: each entry merged alone, drawn, and compared with A's.

Entries whose tensors are equal in both models change nothing, and are not drawn. Of more entries than are to be drawn,
those come first that differ most between the models.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageChops

from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.merging.engine.difference import Difference, Sums
from bayes_merger.merging.recipe.elements import parse_rules, rules_of_keys
from bayes_merger.run.evaluator import Baseline, Evaluator, Weights
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import Score

VISIBLE = 20
"""Of 255: by more than this a channel value must change to count, as in supermerger's effective elemental checker
(``scripts/mergers/xyplot.py`` of https://github.com/hako-mikan/sd-webui-supermerger)."""

DRAWN, IDENTICAL, LEFT_OUT = "drawn", "identical", "not drawn"

_PAIR = ("a", "b")


@dataclass(frozen=True)
class Entry:
    """A part of the network whose numbers are taken from B.

    Attributes:
        rule: its elemental rule without the ratio, ``OUT05:attn2``.
        ratio: how much of B is taken.
        block: of an entry that is a block, or a part of one; else empty.
        part: of a block; empty for all of it.
        keys: the tensors.
        relative: the norm of B - A over these tensors, as a share of A's.
    """

    rule: str
    ratio: float
    block: str
    part: str
    keys: frozenset[str]
    relative: float

    @property
    def name(self) -> str:
        """For people: the block alone, where it is one."""
        name = self.block if self.block and not self.part else self.rule
        return name if self.ratio == 1 else f"{name}:{self.ratio:g}"


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


def entries_of(wanted: Sequence[str], found: Difference, architecture: Architecture) -> list[Entry]:
    """The entries that are asked for.

    Args:
        wanted: ``blocks``, ``elements`` (all parts of all blocks), ``elements:OUT05`` (those of one), or elemental
            rules with or without a ratio; without one, all of B is taken.
        found: the difference of A and B.
        architecture: whose blocks they are.

    Raises:
        ConfigError: a rule that makes no sense or matches nothing, or one that is asked for twice.
    """
    rows = {row.key: row.sums[_PAIR] for row in found.rows if architecture.place(row.key).role == "block"}
    chosen = [entry for word in wanted for entry in _entries(word, rows, architecture)]
    names = [entry.name for entry in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--of: {name} is asked for twice; leave one out")
    return chosen


def _entries(word: str, rows: Mapping[str, Sums], architecture: Architecture) -> Iterator[Entry]:
    kind, _, block = word.partition(":")
    if word == "blocks":
        for name in architecture.blocks:
            if any(architecture.place(key).block == name for key in rows):
                yield _entry(f"{name}:", 1.0, rows, architecture, name)
    elif kind == "elements":
        blocks = [architecture.block(block)] if block else architecture.blocks
        for name in blocks:
            yield from _parts(name, rows, architecture)
    else:
        rule, ratio = _split(word)
        yield _entry(rule, ratio, rows, architecture)


def _split(word: str) -> tuple[str, float]:
    parts = word.split(":")
    if len(parts) < 3 or not parts[2]:
        return ":".join([*parts, ""][:2]), 1.0
    try:
        return ":".join([parts[0], *parts[1:-1]]), float(parts[-1])
    except ValueError:
        raise ConfigError(f"--of: '{word}': ratio '{parts[-1]}' is not a number") from None


def _parts(block: str, rows: Mapping[str, Sums], architecture: Architecture) -> Iterator[Entry]:
    """The parts of a block, each as the shortest text that names its tensors and no others."""
    parts: dict[str, set[str]] = {}
    for key in rows:
        if architecture.place(key).block == block:
            parts.setdefault(architecture.part(key), set()).add(key)
    for part, keys in sorted(parts.items()):
        for text in ("", part, f".{part}.", f"{part}."):
            if _covered(text, parts, architecture) == keys:
                yield _entry(f"{block}:{text}", 1.0, rows, architecture, block, part)
                break


def _covered(text: str, parts: Mapping[str, Iterable[str]], architecture: Architecture) -> set[str]:
    return {key for keys in parts.values() for key in keys if text in architecture.element(key)}


def _entry(
    rule: str, ratio: float, rows: Mapping[str, Sums], architecture: Architecture, block: str = "", part: str = ""
) -> Entry:
    rules = parse_rules([f"{rule}:{ratio:g}"], architecture, ["alpha"])
    keys = frozenset(rules_of_keys(rules, rows, architecture))
    sums = sum((rows[key] for key in keys), Sums())
    relative = sums.relative if sums.first else math.inf if sums.apart else 0.0
    return Entry(rule, ratio, block, part, keys, relative)


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


def measure(setup: RunSetup, evaluator: Evaluator, entries: Sequence[Entry], most: int, told: Told) -> list[Effect]:
    """Draw and compare.

    Args:
        setup: the run, of which A, B, the payloads and the scorers count.
        evaluator: who draws.
        entries: what is measured.
        most: entries that are drawn, those first that differ most.
        told: about each entry that is drawn.

    Returns:
        The effects, in the order of the entries.

    Raises:
        TrialFailed: a merge draws nothing that can be judged.
    """
    effects = {entry: Effect(entry, LEFT_OUT if entry.relative else IDENTICAL) for entry in entries}
    before: tuple[DrawnImage, ...] = ()
    before_scores: list[Score] = []
    for layer in layers(most_promising(entries, most)):
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
    return list(effects.values())


def most_promising(entries: Sequence[Entry], most: int) -> list[Entry]:
    """Those of the entries that are drawn, in their order: no more than ``most``, and none that changes nothing."""
    alive = [entry for entry in entries if entry.relative and entry.ratio]
    chosen = sorted(alive, key=lambda entry: -entry.relative * abs(entry.ratio))[:most]
    return [entry for entry in entries if entry in chosen]


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
