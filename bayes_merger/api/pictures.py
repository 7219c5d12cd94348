"""Pictures from Python: drawn with a model, judged, and both of one merge after another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bayes_merger import compose
from bayes_merger.api.words import scorers_of, settings_of
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.imaging.prompts.prompt import plain_prompt
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run.existing import find_pictures, prompt_of, read_picture
from bayes_merger.run.progress import PlainReporter, StopSignal
from bayes_merger.scoring.scorer import ImageToScore
from bayes_merger.scoring.scores import prepare_scorers, score_images

if TYPE_CHECKING:
    from PIL.Image import Image

    from bayes_merger.run.evaluator import Evaluation, Evaluator, Weights
    from bayes_merger.run.setup import RunSetup
    from bayes_merger.search.space.space import SearchSpace


def draw(model: str | Path, payloads: Any, **settings: Any) -> list[DrawnImage]:
    """Pictures of a model, in the order of the payloads; ``.image`` of each is Pillow's.

    For example::

        draw("mix.safetensors", "portrait,street")
        draw("mix.safetensors", {"fox": {"prompt": "a fox in the snow", "steps": 20}}, generator={"device": "cpu"})

    Args:
        model: its file or diffusers folder.
        payloads: names as in ``payloads=``, or fields by name.
        settings: those of ``bayes-merger payload draw``.

    Raises:
        ConfigError: a payload or a setting that makes no sense.
        CheckpointError: a file that cannot be used.
        TrialFailed: the model draws NaN or a flat colour.
    """
    from bayes_merger.run.checks import check_without_merge
    from bayes_merger.run.draw import drawer_of

    check_without_merge(settings)
    given = {**settings, "model_a": model, "model_b": model, "payloads": payloads}
    with drawer_of(compose.validate(settings_of(given))) as drawer:
        return list(drawer.draw(drawer.payloads))


def score(
    pictures: Sequence[DrawnImage | Image | str | Path], scorers: Any = "laion", *, prompt: str = ""
) -> list[dict[str, float]]:
    """What scorers say of pictures: for each picture, scorer -> raw score.

    Args:
        pictures: drawn ones, Pillow's, or files and folders.
        scorers: one or several: a name as in ``scorers=``, a scorer, or a function that takes a picture of Pillow's
            and returns a number.
        prompt: of the pictures that do not say theirs.

    Raises:
        ConfigError: a picture that cannot be read, or a scorer that cannot work.
        TrialFailed: a scorer failed.
    """
    judges = scorers_of(scorers)
    images = [_to_score(number, one, prompt) for number, one in enumerate(_each(pictures))]
    found: list[dict[str, float]] = [{} for _ in images]
    prepare_scorers(judges.values())
    for name, judge in judges.items():
        for one, said in zip(found, score_images(judge, images), strict=True):
            one[name] = said.value
    return found


def _each(pictures: Sequence[DrawnImage | Image | str | Path]) -> Iterator[DrawnImage | Image | Path]:
    """The pictures, with those in folders."""
    for one in [pictures] if isinstance(pictures, str | Path) else pictures:
        yield from find_pictures([Path(one)]) if isinstance(one, str | Path) else [one]


def _to_score(number: int, picture: DrawnImage | Image | Path, prompt: str) -> ImageToScore:
    if isinstance(picture, DrawnImage):
        words = plain_prompt(picture.prompt)
        return ImageToScore(picture.payload, picture.index, picture.seed, words, picture.image, None, str(number))
    if isinstance(picture, Path):
        try:
            image = read_picture(picture)
        except ConfigError as error:
            raise ConfigError(f"{picture}: {error}") from None
        return ImageToScore("pictures", number, 0, prompt_of(picture) or prompt, image, picture, str(picture))
    return ImageToScore("pictures", number, 0, prompt, picture.convert("RGB"), None, str(number))


class MergeEvaluator:
    """Draws and judges one merge after another, in memory, as a run does.

    Attributes:
        space: what a run with these settings would search.
    """

    def __init__(self, setup: RunSetup, evaluator: Evaluator) -> None:
        self.space: SearchSpace = setup.space
        self._setup = setup
        self._evaluator = evaluator

    def __call__(self, weights: Weights) -> Evaluation:
        """What a merge gets.

        Args:
            weights: weight name -> block -> number, as ``space.assemble`` makes them.

        Returns:
            Its points (``value``), raw ``scores`` and ``images``.

        Raises:
            TrialFailed: a picture is black, or a scorer failed.
        """
        from bayes_merger.run.evaluator import conclude

        self._evaluator.load_weights(weights)
        images = self._evaluator.draw(self._setup.payloads)
        return conclude(self._setup, self._evaluator.score(weights, images, ()), images)

    def recipe(self, weights: Weights) -> MergeRecipe:
        """All that is needed to make a merge again: what ``save_merge`` takes."""
        return self._setup.recipe(weights)


@contextmanager
def open_evaluator(scorers: Any = "laion", **settings: Any) -> Iterator[MergeEvaluator]:
    """What draws and judges merges: model A is loaded once, and turned into one merge after another.

    For example::

        with open_evaluator("laion", model_a="A.safetensors", model_b="B.safetensors", payloads="portrait") as judge:
            print(judge(judge.space.assemble(values)).value)

    Args:
        scorers: as for :func:`score`; none that asks a person.
        settings: those of ``bayes-merger run``.

    Raises:
        ConfigError: a setting that makes no sense.
        CheckpointError: a model file that cannot be used.
    """
    from bayes_merger.run.checks import check_no_person
    from bayes_merger.run.drawing import loaded_evaluator
    from bayes_merger.run.idle import without_idle
    from bayes_merger.run.setup import check_models, check_setup

    judges = scorers_of(scorers)
    check_no_person(judges, "rate in  bayes-merger run")
    values = settings_of(settings)
    sampler = compose.build("optimiser", values["optimiser"], _partial_=True)
    with TemporaryDirectory() as place:
        setup = check_setup(compose.validate(values), judges, sampler, Path(place))
        try:
            check_models(setup)
            setup = without_idle(setup)
            with loaded_evaluator(setup, PlainReporter(Path(os.devnull)), StopSignal(None)) as evaluator:
                yield MergeEvaluator(setup, evaluator)
        finally:
            setup.close()
