"""How the scores of all judges become one number for a merge.

Raw scores are stored before anything is averaged, so those of a study can be combined differently later. They are put
on one scale for all judges first: 0 points are bad, 10 are perfect. The points of a picture `k` are

    q_k = M_s(p_sk; i_s a_sk) - sum_t o_t (1 - p_tk / 10)

with `p_sk` the points that scorer `s` gives, `M` the arithmetic, geometric or harmonic mean, `i_s` the importance of
the scorer and `a_sk` its share in the picture's payload; `o_t` are the points that a penalty takes off where its scorer
gives none. A merge has the mean of its pictures' points, each with its payload's importance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bayes_merger.errors import ConfigError, TrialFailed, nearest
from bayes_merger.scoring.scorer import TEN_POINTS, Scale, Score, check_importance
from bayes_merger.scoring.scores import check_finite

MEANS = ("arithmetic", "geometric", "harmonic")

LEAST_POINTS = 0.01
"""What fewer points count as in a geometric or harmonic mean, which know nothing below 0."""

Image = tuple[str, int]
"""A payload and the number of one of its pictures."""


def points(raw: float, scale: Scale) -> float:
    """`10 (raw - low) / (high - low)`: a raw value in points; not clipped, so 11 points are possible.

    >>> points(0.3, (0.0, 0.4))
    7.5
    """
    low, high = scale
    return 10 * (raw - low) / (high - low)


@dataclass(frozen=True)
class Judge:
    """How a scorer counts.

    Attributes:
        importance: beside the other scorers; with 0 its scores are stored and do not count.
        scale: the raw values that mean 0 and 10 points.
        payloads: payload -> its share there, 0 or more; a payload that is not named has none. None: 1 everywhere.
        penalty: the points that it takes off a picture to which it gives 0 points; it is then in no mean.
    """

    importance: float = 1.0
    scale: Scale = TEN_POINTS
    payloads: Mapping[str, float] | None = None
    penalty: float = 0.0

    def judges(self, payload: str) -> float:
        """Its share in this payload; 0 where it does not see it."""
        return 1.0 if self.payloads is None else self.payloads.get(payload, 0.0)

    def share(self, payload: str) -> float:
        """How much its points count in a picture of this payload."""
        return self.importance * self.judges(payload)

    def points_off(self, raw: float, payload: str) -> float:
        """What it takes off a picture, 0 to `penalty` times its share in the payload."""
        return self.penalty * self.judges(payload) * (1 - min(max(points(raw, self.scale) / 10, 0.0), 1.0))


@dataclass(frozen=True)
class Combination:
    """Scores in, one number out.

    Attributes:
        payloads: payload -> how much each of its pictures counts, 0 or more.
        judges: by the names of their scorers.
        mean: of the judges, in each picture; one of `MEANS`.
    """

    payloads: Mapping[str, float]
    judges: Mapping[str, Judge]
    mean: str = "arithmetic"

    def __post_init__(self) -> None:
        if self.mean not in MEANS:
            raise ConfigError(f"scoring.mean: '{self.mean}' is not one of {', '.join(MEANS)}")

    def check(self) -> None:
        """Whether every picture that counts has a judge that counts.

        Raises:
            ConfigError: naming what does not count.
        """
        if self.judges and all(judge.penalty for judge in self.judges.values()):
            raise ConfigError("scoring.penalties: every scorer only takes points off; one that gives some must stay")
        for payload in self._counting_payloads:
            if not self._shares[payload]:
                raise ConfigError(
                    f"scoring.payloads: no scorer counts for payload {payload}; name it at one of "
                    f"{', '.join(self._in_mean)}, or give it score_weight=0"
                )

    def value(self, scores: Iterable[Score]) -> float:
        """The points of a merge.

        Args:
            scores: raw, one per scorer and picture; those that do not count may be anything.

        Returns:
            Points; 0 to 10 wherever the raw scores stay on their scale and nothing is taken off.

        Raises:
            TrialFailed: a score is NaN or infinite, missing, or duplicated.
            ConfigError: nothing counts, or a score is of an unknown payload or scorer.
        """
        weights = self._counting_payloads
        given = self._by_scorer(scores)
        images = sorted({image for found in given.values() for image in found if image[0] in weights})
        self._check_complete(given, images)
        whole = math.fsum(weights[payload] for payload, _ in images)
        off = math.fsum(weights[image[0]] * self._points_off(given, image) for image in images) / whole
        if self.mean != "arithmetic":
            return math.fsum(weights[image[0]] * self._mean_of(given, image) for image in images) / whole - off
        parts = [
            (judge.share(image[0]) * weights[image[0]] * self._balance(image[0]), given[name][image], judge.scale)
            for name, judge in self._in_mean.items()
            for image in images
            if judge.share(image[0])
        ]
        return math.fsum(w * points(raw, scale) for w, raw, scale in parts) / math.fsum(w for w, _, _ in parts) - off

    def picture_points(self, scores: Iterable[Score]) -> dict[Image, float]:
        """Points of each picture, such that their plain mean is the value of all of them.

        Args:
            scores: raw; a picture that one of the judges that count has not scored is left out, and so is one whose
                payload does not count.

        Returns:
            Picture -> points times the payload's share, in the order of the scores.

        Raises:
            TrialFailed: as :meth:`value`.
            ConfigError: as :meth:`value`.
        """
        weights = self._counting_payloads
        given = self._by_scorer(scores)
        seen = dict.fromkeys(image for found in given.values() for image in found)
        images = [image for image in seen if image[0] in weights and not self._lacking(given, image)]
        total = math.fsum(weights[payload] for payload, _ in images)
        share = len(images) / (total * self._whole or 1.0)
        found = {}
        for image in images:
            of_mean = (
                self._sum_of(given, image) if self.mean == "arithmetic" else self._mean_of(given, image) * self._whole
            )
            found[image] = share * weights[image[0]] * (of_mean - self._points_off(given, image) * self._whole)
        return found

    def alone(self, name: str) -> Combination:
        """One judge by itself, as an objective: whatever its importance, on the payloads that it judges."""
        judge = self.judges[name]
        judged = judge.payloads
        payloads = {k: w for k, w in self.payloads.items() if judged is None or judged.get(k)}
        return Combination(payloads, {name: Judge(1.0, judge.scale, judged)})

    def watchers(self) -> list[str]:
        """The scorers whose scores are only looked at: the hold-outs."""
        return [name for name, judge in self.judges.items() if not judge.importance and not judge.penalty]

    @cached_property
    def _counting_payloads(self) -> dict[str, float]:
        return _counting("payload", self.payloads)

    @cached_property
    def _in_mean(self) -> dict[str, Judge]:
        meant = {name: judge for name, judge in self.judges.items() if not judge.penalty}
        counting = _counting("scorer", {name: judge.importance for name, judge in meant.items()})
        return {name: meant[name] for name in counting}

    @cached_property
    def _penalties(self) -> dict[str, Judge]:
        return {name: judge for name, judge in self.judges.items() if judge.penalty}

    @cached_property
    def _whole(self) -> float:
        """The importance of all judges in the mean together."""
        return math.fsum(judge.importance for judge in self._in_mean.values())

    @cached_property
    def _shares(self) -> dict[str, dict[str, float]]:
        """The judges of each payload that counts, and how much each counts there."""
        return {
            payload: {name: share for name, judge in self._in_mean.items() if (share := judge.share(payload))}
            for payload in self._counting_payloads
        }

    def _balance(self, payload: str) -> float:
        """What makes all payloads count as if all judges judged them: 1 where they do."""
        return self._whole / math.fsum(self._shares[payload].values())

    def _sum_of(self, given: Mapping[str, Mapping[Image, float]], image: Image) -> float:
        """The weighted sum of a picture's points over all judges, scaled to the importance of all of them."""
        balance = self._balance(image[0])
        return math.fsum(
            share * balance * points(given[name][image], self.judges[name].scale)
            for name, share in self._shares[image[0]].items()
        )

    def _mean_of(self, given: Mapping[str, Mapping[Image, float]], image: Image) -> float:
        """The geometric or harmonic mean of a picture's points over its judges."""
        shares = self._shares[image[0]]
        total = math.fsum(shares.values())
        each = {n: max(points(given[n][image], self.judges[n].scale), LEAST_POINTS) for n in shares}
        if self.mean == "geometric":
            return math.exp(math.fsum(share * math.log(each[name]) for name, share in shares.items()) / total)
        return total / math.fsum(share / each[name] for name, share in shares.items())

    def _points_off(self, given: Mapping[str, Mapping[Image, float]], image: Image) -> float:
        return math.fsum(
            judge.points_off(given[name][image], image[0])
            for name, judge in self._penalties.items()
            if judge.judges(image[0])
        )

    def _needed(self, payload: str) -> list[str]:
        """The scorers without whose scores a picture of this payload has no points."""
        return [*self._shares[payload], *(name for name, judge in self._penalties.items() if judge.judges(payload))]

    def _lacking(self, given: Mapping[str, Mapping[Image, float]], image: Image) -> list[str]:
        return [name for name in self._needed(image[0]) if image not in given[name]]

    def _by_scorer(self, scores: Iterable[Score]) -> dict[str, dict[Image, float]]:
        given: dict[str, dict[Image, float]] = {name: {} for name in self.judges}
        for score in scores:
            if score.scorer not in given:
                raise ConfigError(f"score of unknown scorer {score.scorer!r}: {nearest(score.scorer, given)}")
            if score.payload not in self.payloads:
                raise ConfigError(
                    f"score of unknown payload {score.payload!r}: {nearest(score.payload, self.payloads)}"
                )
            if self.payloads[score.payload] > 0 and score.scorer in self._needed(score.payload):
                check_finite(score)
            image = (score.payload, score.index)
            if image in given[score.scorer]:
                raise TrialFailed(f"scorer {score.scorer} scored image {score.index} of {score.payload} twice")
            given[score.scorer][image] = score.value
        return given

    def _check_complete(self, given: Mapping[str, Mapping[Image, float]], images: Sequence[Image]) -> None:
        drawn = {payload for payload, _ in images}
        for payload in self._counting_payloads:
            if payload not in drawn:
                raise TrialFailed(f"payload {payload} has no score at all")
        for image in images:
            for name in self._lacking(given, image):
                raise TrialFailed(f"scorer {name} gave no score for image {image[1]} of {image[0]}")


def _counting(kind: str, importance: Mapping[str, float]) -> dict[str, float]:
    checked = {name: check_importance(f"{kind} {name}", value) for name, value in importance.items()}
    counting = {name: value for name, value in checked.items() if value > 0}
    if not counting:
        what = f"none of {sorted(checked)} has" if checked else "there is none, so nothing has"
        raise ConfigError(f"{kind}s: {what} importance above 0; at least one {kind} must count")
    return counting
