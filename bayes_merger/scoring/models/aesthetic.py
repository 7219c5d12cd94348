"""Aesthetic scorers: how much people would like a picture, by a head on a tower, or by a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.models.heads import Head, load_head, read_layout
from bayes_merger.scoring.models.towers import Tower
from bayes_merger.scoring.models.vision import VisionTower
from bayes_merger.scoring.scorer import TEN_POINTS, ImageToScore, ScorerBase
from bayes_merger.scoring.weights import WeightFile


class AestheticScorer(ScorerBase):
    """A head on a tower; LAION's heads give 1 to 10, with most generated pictures between 4 and 7.5.

    Args:
        name: what its scores are stored under.
        head: path or address of the head; see :mod:`bayes_merger.scoring.models.heads` for the kinds that are known.
        tower: what embeds the pictures; it must be the one the head was trained on.
        head_sha256: what a downloaded head must have.
        scale: the raw values that mean 0 and 10 points.
        importance: how much it counts beside other scorers.
    """

    def __init__(
        self,
        name: str,
        head: str | Path,
        tower: Tower,
        *,
        head_sha256: str | None = None,
        scale: Sequence[float] = TEN_POINTS,
        importance: float = 1.0,
    ) -> None:
        super().__init__(name, importance, scale)
        self.head = WeightFile(str(head or ""), f"scorers.{name}.head", head_sha256)
        self.tower = tower
        self._head: Head | None = None

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """The weights it needs."""
        return (self.head, self.tower.file)

    def prepare(self, folder: Path | None = None) -> None:
        """Checks head and tower, and that they fit together.

        Raises:
            ConfigError: a file is missing or damaged, or the head wants vectors of another length.
        """
        layout = read_layout(self.head)
        if layout.width != self.tower.width:
            raise ConfigError(
                f"{self.head.setting}: {self.head.path} takes embeddings of {layout.width} numbers, "
                f"{self.tower.name} gives {self.tower.width}"
            )
        self.tower.prepare()

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The head's score of every picture, in the head's own range."""
        if self._head is None:
            self._head = load_head(self.head)
        vectors = self.tower.embed_images([image.image for image in images], normalise=self._head.normalised)
        return [float(value) for value in self._head(vectors)]


class ClassifierScorer(ScorerBase):
    """How sure a classifier of pictures is of one of its classes, 0 to 1.

    Args:
        name: what its scores are stored under.
        tower: the classifier.
        label: the number of the class, from 0.
        scale: the raw values that mean 0 and 10 points.
        importance: how much it counts beside other scorers.
    """

    def __init__(
        self,
        name: str,
        tower: VisionTower,
        *,
        label: int,
        scale: Sequence[float] = (0.0, 1.0),
        importance: float = 1.0,
    ) -> None:
        super().__init__(name, importance, scale)
        self.tower = tower
        self.label = label

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """The weights it needs."""
        return (self.tower.file,)

    def prepare(self, folder: Path | None = None) -> None:
        """Checks the classifier's files.

        Raises:
            ConfigError: a file is missing, or it has no such class.
        """
        if isinstance(self.label, bool) or not isinstance(self.label, int) or not 0 <= self.label < self.tower.width:
            raise ConfigError(f"scorers.{self.name}.label must be 0 to {self.tower.width - 1}, not {self.label!r}")
        self.tower.prepare()

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The softmax of the class, 0 to 1."""
        logits = self.tower.embed_images([image.image for image in images], normalise=False)
        return [float(value) for value in logits.softmax(dim=-1)[:, self.label]]
