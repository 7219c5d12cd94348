"""Two merges side by side: pictures of the same prompt and seed in pairs, and a test of their differences.

Pictures are paired by payload and seed, so what a prompt or a seed makes easy falls out of the difference. Student's t
of the differences: mean / (deviation / root of their number), two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial

from bayes_merger.report.contents import Shot, Shots
from bayes_merger.report.tables import with_error
from bayes_merger.run.attributes import PAYLOADS, SCORERS, WEIGHTS
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.record import ENOUGH
from bayes_merger.search.study.history import FINGERPRINT


@dataclass(frozen=True)
class Side:
    """One of the two merges.

    Attributes:
        study: its study.
        folder: of the study.
        trial: the merge.
    """

    study: optuna.study.Study
    folder: RunFolder
    trial: FrozenTrial

    @property
    def title(self) -> str:
        """What it is called."""
        return f"{self.folder.name}, trial {self.trial.number}"


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt and seed.

    Attributes:
        payload: its name.
        seed: of both.
        prompt: of both.
        first: of the first merge.
        second: of the second.
    """

    payload: str
    seed: int
    prompt: str
    first: Shot
    second: Shot

    @property
    def lead(self) -> float | None:
        """By how many points the second picture is better; None where one has no points."""
        if self.first.points is None or self.second.points is None:
            return None
        return self.second.points - self.first.points


@dataclass(frozen=True)
class PairedTest:
    """Whether the second merge is better, over the pairs that have points.

    Attributes:
        pairs: how many.
        lead: mean of the differences, in points.
        error: its standard error; None of fewer than two pairs.
        p: how rarely luck alone gives a difference as great, either way; None of too few pairs to say.
    """

    pairs: int
    lead: float
    error: float | None
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """Two merges side by side.

    Attributes:
        first: title of the first.
        second: title of the second.
        pairs: their pictures.
        test: of the differences; None where no pair has points.
        weights: name, first and second number of each weight that differs, the greatest difference first.
        unlike: why their scores do not compare; empty where they do.
    """

    first: str
    second: str
    pairs: tuple[Pair, ...]
    test: PairedTest | None
    weights: tuple[tuple[str, float | None, float | None], ...]
    unlike: str


def comparison(first: Side, second: Side) -> Comparison:
    """Two merges side by side, of one study or of two."""
    ours, theirs = (_by_seed(side) for side in (first, second))
    pairs = tuple(
        Pair(payload, seed, prompt, shot, theirs[payload, seed, prompt])
        for (payload, seed, prompt), shot in ours.items()
        if (payload, seed, prompt) in theirs
    )
    leads = [pair.lead for pair in pairs if pair.lead is not None]
    unlike = _unlike(first.study, second.study)
    return Comparison(
        first.title, second.title, pairs, paired_test(leads) if leads and not unlike else None,
        _differences(first.trial.user_attrs[WEIGHTS], second.trial.user_attrs[WEIGHTS]), unlike,
    )  # fmt: skip


def _by_seed(side: Side) -> dict[tuple[str, int, str], Shot]:
    payloads = {one["name"]: one for one in side.study.user_attrs.get(PAYLOADS) or ()}
    found = {}
    for (payload, index), shot in Shots(side.study, side.folder).of(side.trial).items():
        about = payloads.get(payload)
        if about and index < min(len(about["seeds"]), len(about["prompts"])):
            found[payload, about["seeds"][index], about["prompts"][index]] = shot
    return found


def _unlike(first: optuna.study.Study, second: optuna.study.Study) -> str:
    """Why scores of two studies do not compare. Models and space may differ: that is what is compared."""
    if first.user_attrs.get(SCORERS) != second.user_attrs.get(SCORERS):
        return "their scorers differ"
    one, other = ((study.user_attrs.get(FINGERPRINT) or {}).get("scorers") for study in (first, second))
    return "their scorers' settings differ" if one != other else ""


def paired_test(leads: Sequence[float]) -> PairedTest:
    """Student's t of differences.

    Args:
        leads: of each pair, at least one.
    """
    count, mean = len(leads), sum(leads) / len(leads)
    if count < 2:
        return PairedTest(count, mean, None, None)
    error = math.sqrt(sum((lead - mean) ** 2 for lead in leads) / (count - 1) / count)
    if count < ENOUGH or error <= 1e-12:
        return PairedTest(count, mean, error, None)
    from scipy.special import stdtr

    return PairedTest(count, mean, error, 2.0 * float(stdtr(count - 1, -abs(mean) / error)))


def sentence(test: PairedTest, second: str) -> str:
    """What the pairs say, in words."""
    lead = f"{second} leads by {with_error(test.lead, test.error, '+')} over {test.pairs} pictures"
    if test.p is None:
        return f"{lead}: too few to tell it from luck" if test.error else f"{lead}, the same on each"
    return f"{lead}: {'more than luck' if test.p < 0.05 else 'no more than luck'} (paired t test, p = {test.p:.2g})"


def _differences(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]
) -> tuple[tuple[str, float | None, float | None], ...]:
    ours, theirs = (
        {f"{block}.{weight}": number for weight, own in weights.items() for block, number in own.items()}
        for weights in (first, second)
    )
    names = dict.fromkeys([*ours, *theirs])
    rows = [(name, ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)]

    def difference(row: tuple[str, float | None, float | None]) -> float:
        return math.inf if row[1] is None or row[2] is None else abs(row[2] - row[1])

    return tuple(sorted(rows, key=lambda row: (-difference(row), row[0])))
