"""What a person would rate, as far as a model has learned it from the ratings so far."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.people.rating import Rating
from bayes_merger.scoring.scorer import TEN_POINTS, ImageToScore, Scale, check_importance

if TYPE_CHECKING:
    from bayes_merger.scoring.models.towers import Tower
    from bayes_merger.scoring.rater.memory import Key, Memory
    from bayes_merger.scoring.rater.model import Array, Check, RaterModel
    from bayes_merger.scoring.weights import WeightFile

ASSIST = "model of the rater"
"""The rater of the ratings that a model has given; nothing is learned from them."""

FEWEST = 30
"""Ratings before which the model answers for nobody."""

EXPLAINED = 0.5
"""The share of the variance of other merges' ratings that it must predict before it answers for anybody."""

AUDITED = 10
"""One in so many pictures of which it is sure is asked all the same, so that it goes on being checked."""


class Known(NamedTuple):
    """Ratings and what they are of, oldest first."""

    embeddings: Array
    ratings: Array
    candidates: list[str]


class RaterScorer:
    """A model of the person who rates: a hold-out beside `manual`, and with `scoring.assist` one that answers for them.

    Each picture is predicted from the ratings of other merges. What it says changes as it learns, so it cannot count.

    Args:
        tower: what embeds the pictures.
        name: what its scores are stored under.
        importance: 0.
    """

    interactive = False
    scale: Scale = TEN_POINTS

    def __init__(self, tower: Tower, *, name: str = "rater", importance: float = 0.0) -> None:
        if check_importance(f"scorer {name}", importance):
            raise ConfigError(
                f"scorers.{name}.importance: its predictions change as it learns, so they cannot count; leave it 0, "
                "and let it answer for you with  scoring.assist=true"
            )
        self.name = name
        self.importance = 0.0
        self.tower = tower
        self.ledger: Ledger | None = None
        self._memory: Memory | None = None
        self._checked: tuple[int, Check | None] | None = None

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """The weights it needs."""
        return (self.tower.file,)

    def prepare(self, folder: Path | None = None) -> None:
        """Checks the tower, and decides where embeddings are kept: beside the ledger, in the study's folder.

        Raises:
            ConfigError: the tower cannot work, or there is no folder.
        """
        from bayes_merger.scoring.rater.memory import Memory

        if folder is None:
            raise ConfigError(f"scorers.{self.name}: learns from a study's ratings, and there is no study")
        self.tower.prepare()
        self.ledger = self.ledger or Ledger(folder / "ratings.jsonl")
        self._memory = Memory(folder / "embeddings.jsonl", self.tower.width)

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The rating that is expected for each picture, 0 to 10; before the first ratings 5."""
        model, embeddings = self._model_for(images), self._embedded(images)
        return [5.0] * len(images) if model is None else [float(mean) for mean in model.predict(embeddings)[0]]

    def answers(self, images: Sequence[ImageToScore]) -> dict[tuple[str, int], float]:
        """The ratings of the pictures of which the model is sure, by payload and index; they stand in the ledger.

        It is sure where its prediction is surer than a rating: where the standard deviation of what the person thinks
        is less than that of their own noise. Before it has shown on other merges that it predicts, it is sure of
        nothing.
        """
        assert self.ledger is not None, "prepared"
        given = {(r.candidate, r.payload, r.index): r for r in self.ledger.ratings() if r.kind == "score"}
        found, left = {}, []
        for image in images:
            before = given.get((image.candidate, image.payload, image.index))
            if before is None:
                left.append(image)
            elif before.rater == ASSIST and before.score is not None:  # before a kill
                found[image.payload, image.index] = before.score
        for image, score in self._sure(left):
            self.ledger.record(image.candidate, image.payload, image.index, score, seed=image.seed, rater=ASSIST)
            found[image.payload, image.index] = score
        return found

    def _sure(self, images: Sequence[ImageToScore]) -> Iterator[tuple[ImageToScore, float]]:
        if not images:
            return
        check, model = self.check(), self._model_for(images)
        if check is None or model is None or check.ratings < FEWEST or check.explained < EXPLAINED:
            return
        for image, mean, sd in zip(images, *model.predict(self._embedded(images)), strict=True):
            if sd < model.noise and not _is_audited(image):
                yield image, round(float(mean), 2)

    def check(self) -> Check | None:
        """How well it predicts the ratings of merges that it has not seen; None where there are too few ratings."""
        from bayes_merger.scoring.rater.model import cross_validate

        assert self.ledger is not None, "prepared"
        if self._checked is None or self._checked[0] != self.ledger.size:
            size, known = self.ledger.size, self._known()
            self._checked = (size, cross_validate(*known) if known.candidates else None)
        return self._checked[1]

    def report(self) -> str:
        """How well it knows the person, in a line; empty where there are too few ratings to tell."""
        found = self.check()
        if found is None:
            return ""
        return (
            f"the model of your ratings ({self.name}) predicts those of merges that it has not seen to "
            f"{found.error:.2f} points, {max(found.explained, 0):.0%} of their variance ({found.ratings} ratings)"
        )

    def _embedded(self, images: Sequence[ImageToScore]) -> Array:
        """Embeddings of shape N x width, remembered for when the pictures are rated."""
        import numpy as np

        from bayes_merger.scoring.rater.memory import key_of

        assert self._memory is not None, "prepared"
        vectors = np.asarray(self.tower.embed_images([image.image for image in images]), dtype=np.float64)
        self._memory.add(zip(map(key_of, images), vectors, strict=True))
        return vectors

    def _model_for(self, images: Sequence[ImageToScore]) -> RaterModel | None:
        """What was learned from the ratings of other merges; None before there are two."""
        from bayes_merger.scoring.rater.model import fit

        known = self._known({image.candidate for image in images})
        return fit(known.embeddings, known.ratings) if len(known.candidates) > 1 else None

    def _known(self, without: Collection[str] = ()) -> Known:
        """A person's ratings of pictures that were embedded, but for those of some merges."""
        import numpy as np

        assert self.ledger is not None, "prepared"
        assert self._memory is not None, "prepared"
        latest: dict[Key, Rating] = {
            (rating.candidate, rating.payload, rating.index, rating.seed or 0): rating
            for rating in self.ledger.ratings()
            if rating.kind == "score" and rating.rater != ASSIST and rating.candidate not in without
        }
        embeddings = self._memory.known()
        usable = {key: rating.score for key, rating in latest.items() if key in embeddings}
        return Known(
            np.array([embeddings[key] for key in usable]),
            np.array(list(usable.values()), dtype=np.float64),
            [candidate for candidate, *_ in usable],
        )


def _is_audited(image: ImageToScore) -> bool:
    text = f"{image.candidate} {image.payload} {image.index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % AUDITED == 0
