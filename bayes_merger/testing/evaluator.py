"""A run without models: pictures are grey, and what a scorer says of them is a formula of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from bayes_merger.errors import TrialFailed
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, OnDrawn
from bayes_merger.run.baselines import Baseline
from bayes_merger.run.evaluator import Weights
from bayes_merger.scoring.scorer import Score

Formula = Callable[[Weights, str, int], float]
"""From a merge's weights, a payload's name and a picture's seed to a raw score."""


class FakeEvaluator:
    """An :class:`~bayes_merger.run.evaluator.Evaluator` that needs no model.

    For example, one scorer that likes ``BASE`` at 0.3::

        FakeEvaluator({"mine": lambda weights, payload, seed: 10 - abs(weights["alpha"]["BASE"] - 0.3)})

    Args:
        formulas: of each scorer.
        fails: says why a merge cannot be drawn; empty: it can. It is also told what the merge is compared as.
        dies_after: so many pictures; the next one raises KeyboardInterrupt, as if the process ended there.

    Attributes:
        loaded: the weights of every merge that was loaded, in order.
        drawn: weights, payload and seed of every picture that was drawn, in order.
        baseline: what the loaded merge is compared as, if it is not the run's.
    """

    def __init__(
        self,
        formulas: Mapping[str, Formula],
        *,
        fails: Callable[[Weights, Baseline | None], str] = lambda weights, baseline: "",
        dies_after: int | None = None,
    ) -> None:
        self._formulas = formulas
        self._fails = fails
        self._dies_after = dies_after
        self._weights: Weights = {}
        self.baseline: Baseline | None = None
        self.loaded: list[Weights] = []
        self.drawn: list[tuple[Weights, str, int]] = []

    def load_weights(self, weights: Weights, baseline: Baseline | None = None) -> None:
        """Remember them."""
        self._weights, self.baseline = weights, baseline
        self.loaded.append(weights)

    def draw(self, payloads: Sequence[Payload], on_drawn: OnDrawn | None = None) -> tuple[DrawnImage, ...]:
        """A grey picture of 8 x 8 for each seed.

        Raises:
            TrialFailed: the merge is one that fails.
            KeyboardInterrupt: enough was drawn.
        """
        if reason := self._fails(self._weights, self.baseline):
            raise TrialFailed(reason)
        images = []
        for payload in payloads:
            for index, (seed, prompt) in enumerate(zip(payload.seeds, payload.prompts, strict=True)):
                if self._dies_after is not None and len(self.drawn) >= self._dies_after:
                    raise KeyboardInterrupt
                self.drawn.append((self._weights, payload.name, seed))
                images.append(DrawnImage(payload.name, index, seed, prompt, Image.new("RGB", (8, 8), "grey")))
                if on_drawn is not None:
                    on_drawn(images[-1:])
        return tuple(images)

    def save(self, folder: Path, images: Sequence[DrawnImage], payloads: Sequence[Payload]) -> tuple[Path, ...]:
        """Write them as PNG."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for image in images:
            path = folder / f"{image.payload}-{image.index}.png"
            image.image.save(path)
            paths.append(path)
        return tuple(paths)

    def score_each(self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path]) -> list[Score]:
        """None: formulas do not take long."""
        return []

    def score(
        self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path], known: Sequence[Score] = ()
    ) -> list[Score]:
        """What the formulas give, scorer by scorer."""
        return [
            Score(name, image.payload, image.index, image.seed, formula(weights, image.payload, image.seed))
            for name, formula in self._formulas.items()
            for image in images
        ]
