"""Aesthetic scorers: how much people would like a picture, read from its CLIP embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.download import find_weights
from bayes_merger.scoring.models.clip import ClipTower
from bayes_merger.scoring.models.heads import Head, load_head, read_layout
from bayes_merger.scoring.scorer import TEN_POINTS, ImageToScore, Scale, check_importance, check_scale


class AestheticScorer:
    """A head on a CLIP tower; LAION's heads give 1 to 10, with most generated pictures between 4 and 7.5.

    Args:
        name: what its scores are stored under.
        head: path or address of the head; see :mod:`bayes_merger.scoring.models.heads` for the kinds that are known.
        tower: what embeds the pictures; it must be the one the head was trained on.
        head_sha256: what a downloaded head must have.
        scale: the raw values that mean 0 and 10 points.
        importance: how much it counts beside other scorers.
    """

    interactive = False

    def __init__(
        self,
        name: str,
        head: str | Path,
        tower: ClipTower,
        *,
        head_sha256: str | None = None,
        scale: Sequence[float] = TEN_POINTS,
        importance: float = 1.0,
    ) -> None:
        self.name = name
        self.head = str(head)
        self.tower = tower
        self.head_sha256 = head_sha256
        self.scale: Scale = check_scale(f"scorer {name}", scale)
        self.importance = check_importance(f"scorer {name}", importance)
        self._setting = f"scorers.{name}.head"
        self._head: Head | None = None

    def prepare(self, folder: Path | None = None) -> None:
        """Checks head and tower, and that they fit together.

        Raises:
            ConfigError: a file is missing or damaged, or the head wants embeddings of another width.
        """
        path = find_weights(self.head, setting=self._setting, sha256=self.head_sha256)
        layout = read_layout(path, self._setting)
        if layout.width != self.tower.width:
            raise ConfigError(
                f"{self._setting}: {path} takes embeddings of {layout.width} numbers, "
                f"{self.tower.model if self.tower.config is None else self.tower.config} gives {self.tower.width}"
            )
        self.tower.prepare()

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The head's score of every picture, in the head's own range."""
        if not images:
            return []
        if self._head is None:
            path = find_weights(self.head, setting=self._setting, sha256=self.head_sha256)
            self._head = load_head(path, self._setting)
        embeddings = self.tower.embed_images([image.image for image in images])
        return [float(value) for value in self._head(embeddings)]
