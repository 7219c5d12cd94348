"""What is done with pictures, whoever draws them: they are saved and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.infotext import infotext
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.imaging.prompts.prompt import plain_prompt
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.setup import RunSetup, candidate_id
from bayes_merger.scoring.scorer import ImageToScore, Score
from bayes_merger.scoring.scores import score_images

Weights = Mapping[str, Mapping[str, float]]


class Judging:
    """The half of an :class:`~bayes_merger.run.evaluator.Evaluator` that does not draw."""

    def __init__(self, setup: RunSetup, progress: ProgressReporter, stop: StopSignal) -> None:
        self._setup = setup
        self._progress = progress
        self._stop = stop

    def score(self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path]) -> list[Score]:
        """The raw scores of some pictures of one merge: one of each scorer and picture.

        Raises:
            TrialFailed: a scorer gave NaN, or a person voided the trial.
            Paused: the person who scores went away.
        """
        candidate = candidate_id(weights)
        judged = [
            ImageToScore(
                payload=image.payload,
                index=image.index,
                seed=image.seed,
                prompt=plain_prompt(image.prompt),
                image=image.image,
                path=paths[number] if paths else None,
                candidate=candidate,
            )
            for number, image in enumerate(images)
        ]
        scores: list[Score] = []
        for name, scorer in self._setup.scorers.items():
            if name == self._setup.rater:
                continue  # the pictures wait for the person
            self._progress.step(f"scoring ({name})")
            if scorer.interactive:
                with self._progress.quiet(), self._stop.at_once():
                    scores += score_images(scorer, judged)
            else:
                scores += score_images(scorer, judged)
        return scores

    def save(self, folder: Path, images: Sequence[DrawnImage], payloads: Sequence[Payload]) -> tuple[Path, ...]:
        """Write pictures as PNG, with the drawing parameters in the text field that web UIs read."""
        folder.mkdir(parents=True, exist_ok=True)
        by_name = {payload.name: payload for payload in payloads}
        paths = []
        for image in images:
            path = folder / f"{image.payload}-{image.index}.png"
            info = PngInfo()
            info.add_text("parameters", image.parameters or infotext(by_name[image.payload], image.index))
            temporary = path.with_suffix(".tmp")
            image.image.save(temporary, format="PNG", pnginfo=info)
            temporary.replace(path)
            paths.append(path)
        return tuple(paths)
