"""How well a picture agrees with its prompt, by a CLIP; PickScore and HPS are CLIPs trained on people's choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bayes_merger.scoring.models.clip import ClipTower
from bayes_merger.scoring.scorer import ImageToScore, ScorerBase
from bayes_merger.scoring.weights import WeightFile


class ClipScorer(ScorerBase):
    """Agreement of picture and prompt: the cosine of their CLIP embeddings, usually 0.15 to 0.35.

    The default scale converts it to points as CLIPScore does, `10 * 2.5 cos` (https://arxiv.org/abs/2104.08718).

    Args:
        tower: what embeds both.
        name: what its scores are stored under.
        scale: the raw values that mean 0 and 10 points.
        importance: how much it counts beside other scorers.
        scaled: whether the cosine is multiplied by the weights' `logit_scale`, as PickScore does.
    """

    def __init__(
        self,
        tower: ClipTower,
        *,
        name: str = "clip",
        scale: Sequence[float] = (0.0, 0.4),
        importance: float = 1.0,
        scaled: bool = False,
    ) -> None:
        super().__init__(name, importance, scale)
        self.tower = tower
        self.scaled = scaled
        self._factor: float | None = None

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """The weights it needs."""
        return (self.tower.file,)

    def prepare(self, folder: Path | None = None) -> None:
        """Checks the tower's files; see :meth:`ClipTower.prepare`."""
        self.tower.prepare()

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The cosine of every picture with its own prompt, -1 to 1, scaled where that is asked for."""
        if self._factor is None:
            self._factor = self.tower.logit_scale() if self.scaled else 1.0
        prompts = list(dict.fromkeys(image.prompt for image in images))
        texts = dict(zip(prompts, self.tower.embed_texts(prompts), strict=True))
        pictures = self.tower.embed_images([image.image for image in images])
        cosines = (float(picture @ texts[image.prompt]) for picture, image in zip(pictures, images, strict=True))
        return [self._factor * cosine for cosine in cosines]
