"""What is done with pictures, whoever draws them: they are saved and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.infotext import infotext
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, OnDrawn
from bayes_merger.imaging.prompts.prompt import plain_prompt
from bayes_merger.run.fingerprint import candidate_id
from bayes_merger.run.live_preview import LivePreview
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.models.embedding import all_stay
from bayes_merger.scoring.scorer import ImageToScore, Score, sees_trial
from bayes_merger.scoring.scores import score_images

Weights = Mapping[str, Mapping[str, float]]


class Judging:
    """The half of an :class:`~bayes_merger.run.evaluator.Evaluator` that does not draw."""

    def __init__(
        self, setup: RunSetup, progress: ProgressReporter, stop: StopSignal, preview: LivePreview | None = None
    ) -> None:
        self._setup = setup
        self._progress = progress
        self._stop = stop
        self._preview = preview
        self._has_judged = False

    def _shown(self, payloads: Sequence[Payload], on_drawn: OnDrawn | None) -> OnDrawn | None:
        """Who is given the pictures of a drawing that begins now: those who watch it too."""
        if self._preview is None:
            return on_drawn
        return self._preview.following(sum(len(payload.seeds) for payload in payloads), on_drawn)

    def score_each(self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path]) -> list[Score]:
        """The raw scores of the scorers that are asked in another thread, while the next pictures are drawn; or none.

        On a GPU the first merge shows how much memory drawing and judging need, and whether there is room for both.

        Raises:
            TrialFailed: a scorer gave NaN.
        """
        import torch

        if (torch.cuda.is_available() and not self._has_judged) or not all_stay():
            return []
        judged = self._judged(weights, images, paths)
        alone = [one for one in self._setup.scorers.values() if not one.interactive and not sees_trial(one)]
        names = [scorer.name for scorer in alone if scorer.name != self._setup.rater]
        return [score for name in names for score in score_images(self._setup.scorers[name], self._own(name, judged))]

    def score(
        self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path], known: Sequence[Score] = ()
    ) -> list[Score]:
        """The raw scores of some pictures of one merge: one of each scorer and picture.

        Args:
            weights: the merge's.
            images: its pictures.
            paths: where they were saved; empty: they were not.
            known: what `score_each` gave for them; these scorers are not asked again.

        Raises:
            TrialFailed: a scorer gave NaN, or a person voided the trial.
            Paused: the person who scores went away.
        """
        judged = self._judged(weights, images, paths)
        places = {(image.payload, image.index): place for place, image in enumerate(images)}
        scores: list[Score] = []
        for name in self._setup.scorers:
            if own := [score for score in known if score.scorer == name]:
                scores += sorted(own, key=lambda score: places[score.payload, score.index])
            elif name == self._setup.rater:  # waits for the person, but for what a model of them is sure of
                scores += self._answered(name, judged)
            else:
                scores += self._ask(name, judged)
        self._has_judged = True
        return scores

    def ask_person(self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path]) -> list[Score]:
        """The scores of the person among the scorers, who is asked now; none if there is none.

        Raises:
            TrialFailed: the person voided the trial.
            Paused: the person went away.
        """
        return self._ask(self._setup.rater, self._judged(weights, images, paths)) if self._setup.rater else []

    def _judged(self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path]) -> list[ImageToScore]:
        candidate = candidate_id(weights)
        return [
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

    def _ask(self, name: str, images: Sequence[ImageToScore]) -> list[Score]:
        """The scores of one scorer."""
        scorer = self._setup.scorers[name]
        own = self._own(name, images)
        self._progress.step(f"scoring ({name})")
        if not scorer.interactive:
            return score_images(scorer, own)
        with self._progress.quiet(), self._stop.at_once():
            return score_images(scorer, own)

    def _own(self, name: str, images: Sequence[ImageToScore]) -> list[ImageToScore]:
        """The pictures of the payloads that a scorer judges."""
        return [image for image in images if self._setup.judges(name, image.payload)]

    def _answered(self, rater: str, images: Sequence[ImageToScore]) -> list[Score]:
        """The scores that a model of the rater gives in their place, of the pictures of which it is sure."""
        assistant = self._setup.assistant if self._setup.config.scoring.assist else None
        own = self._own(rater, images)
        answers = assistant.answers(own) if assistant and own else {}
        return [
            Score(rater, image.payload, image.index, image.seed, answers[image.payload, image.index])
            for image in images
            if (image.payload, image.index) in answers
        ]

    def save(self, folder: Path, images: Sequence[DrawnImage], payloads: Sequence[Payload]) -> tuple[Path, ...]:
        """Write pictures as PNG, with the drawing parameters in the text field that web UIs read."""
        return save_pictures(folder, images, payloads)


def save_pictures(folder: Path, images: Sequence[DrawnImage], payloads: Sequence[Payload]) -> tuple[Path, ...]:
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
