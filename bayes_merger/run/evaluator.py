"""One merge after another, drawn and scored: weights go in, pictures and scores come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from bayes_merger.checkpoints.checkpoint import check_all_unchanged
from bayes_merger.errors import BayesMergerError, is_out_of_memory
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.building import load_pipeline
from bayes_merger.imaging.pipelines.device import OFFLOAD
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, LivePipeline, OnDrawn
from bayes_merger.merging.engine.live import LiveMerge
from bayes_merger.merging.engine.multi_step import LiveSteps
from bayes_merger.merging.method import MODEL_NAMES
from bayes_merger.run.baselines import Baseline, compared
from bayes_merger.run.judging import Judging
from bayes_merger.run.judging import Weights as Weights
from bayes_merger.run.live_preview import LivePreview
from bayes_merger.run.objectives import objective_values
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.prompt_files import PromptLoras
from bayes_merger.run.pruning import Batch, Incumbent, batches, clearly_worse, estimate, is_on, whole
from bayes_merger.run.saving import Saving
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import Score
from bayes_merger.timing import timed


@dataclass(frozen=True)
class Evaluation:
    """What one merge got.

    Attributes:
        value: the points, one number.
        scores: raw scores, one per scorer and image.
        images: the pictures, in the order drawn.
        paths: where they were saved, empty when they were not.
        values: the points of each objective, where there are several.
    """

    value: float
    scores: tuple[Score, ...]
    images: tuple[DrawnImage, ...]
    paths: tuple[Path, ...]
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pruned:
    """A merge given up before all its pictures were drawn.

    Attributes:
        reason: why, for people.
        estimate: what its points would have been: the incumbent's, less what it was behind on the pictures of both.
        scores: raw scores of the pictures drawn.
        paths: where those were saved.
    """

    reason: str
    estimate: float
    scores: tuple[Score, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Unrated:
    """A merge that a person has still to rate.

    Attributes:
        scores: raw scores of all other scorers, and those that a model of the person has given in their place.
        images: the pictures, in the order drawn.
        paths: where they were saved.
    """

    scores: tuple[Score, ...]
    images: tuple[DrawnImage, ...]
    paths: tuple[Path, ...]


class Evaluator(Protocol):
    """Draws and scores one merge after another: a live pipeline, or a fake such as ``bayes_merger.testing`` has."""

    def load_weights(self, weights: Weights, baseline: Baseline | None = None) -> None:
        """Become the merge with these weights, or what it is compared with.

        Raises:
            TrialFailed: there is no such merge, since a tensor overflows.
        """

    def draw(self, payloads: Sequence[Payload], on_drawn: OnDrawn | None = None) -> tuple[DrawnImage, ...]:
        """The payloads' pictures from the current merge.

        Args:
            payloads: what is drawn.
            on_drawn: may be given each picture, some at a time, before the next ones are drawn.

        Raises:
            TrialFailed: a picture is black or NaN.
        """

    def save(self, folder: Path, images: Sequence[DrawnImage], payloads: Sequence[Payload]) -> tuple[Path, ...]:
        """Write pictures into a folder, and say where they are, in their order."""

    def score_each(self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path]) -> list[Score]:
        """The raw scores of the scorers that are asked in another thread, while the next pictures are drawn; or none.

        Raises:
            TrialFailed: a scorer gave NaN.
        """

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


def evaluate(
    setup: RunSetup,
    evaluator: Evaluator,
    weights: Weights,
    folder: Path,
    incumbent: Incumbent | None = None,
) -> Evaluation | Pruned | Unrated:
    """Draw, save and score the merge that the evaluator holds.

    With pruning, pictures are drawn a batch at a time, as long as the merge may still be as good as the incumbent.

    Args:
        setup: the run.
        evaluator: holds the merge.
        weights: the merge's.
        folder: where its pictures go.
        incumbent: whom it is compared with; None draws it whole, in the same batches.

    Raises:
        TrialFailed: it could not be scored.
        Paused: the person who scores went away.
    """
    config = setup.config
    pruned = is_on(config.pruning)
    order = batches(setup.payloads, config.generator.max_batch, config.seed) if pruned else [whole(setup.payloads)]
    images: list[DrawnImage] = []
    paths: list[Path] = []
    scores: list[Score] = []
    save = partial(evaluator.save, folder, payloads=setup.payloads)
    with Saving(save, partial(evaluator.score_each, weights)) as saving:
        for batch in order:
            with timed("draw"):
                drawn = batch.named(evaluator.draw(batch.payloads, partial(_begin, saving, batch)))
            with timed("save"):
                saved = saving.paths(drawn)
            with timed("score"):
                scores += evaluator.score(weights, drawn, saved, saving.scores())
            images += drawn
            paths += saved
            if incumbent is None or batch is order[-1]:
                continue
            if reason := clearly_worse(scores, incumbent, setup.combination, config.pruning):
                behind = estimate(scores, incumbent, setup.combination)
                return Pruned(reason, behind, tuple(scores), tuple(paths))
    names = [payload.name for payload in setup.payloads]
    usual = sorted(range(len(images)), key=lambda i: (names.index(images[i].payload), images[i].index))
    images, paths = [images[i] for i in usual], [paths[i] for i in usual]
    if setup.rater and sum(score.scorer == setup.rater for score in scores) < sum(
        setup.judges(setup.rater, image.payload) for image in images
    ):
        return Unrated(tuple(scores), tuple(images), tuple(paths))
    return conclude(setup, scores, images, paths)


def _begin(saving: Saving, batch: Batch, images: Sequence[DrawnImage]) -> None:
    saving.begin(batch.named(images))


def conclude(
    setup: RunSetup, scores: Sequence[Score], images: Sequence[DrawnImage] = (), paths: Sequence[Path] = ()
) -> Evaluation:
    """What one merge got, from the raw scores of all its pictures.

    Raises:
        TrialFailed: a score is missing.
    """
    value = setup.combination.value(scores)
    values = objective_values(scores, setup.combination, setup.config.objectives)
    return Evaluation(value, tuple(scores), tuple(images), tuple(paths), values)


def _tree(setup: RunSetup) -> Path | None:
    """The diffusers settings that model A is loaded with: those given, or its own where it is a diffusers folder."""
    if setup.config.generator.config:
        return Path(setup.config.generator.config)
    return setup.base.path if setup.base.path.is_dir() else None


def _searches_texts(setup: RunSetup) -> bool:
    """Whether a searched number may change a text encoder: all may but those of the network's blocks."""
    network = setup.architecture.blocks[1:] if setup.architecture.whole is None else ()
    driven = {name.partition(".")[0] for parameter in setup.space.parameters for name in parameter.drives}
    return not driven <= set(network)


def _keep_no_models(merges: Mapping[str, LiveMerge | LiveSteps]) -> bool:
    """Leave the memory in which merges keep their models to a picture that needs it; whether there was any."""
    kept = [merge.release() for merge in merges.values()]
    return any(kept)


class PipelineEvaluator(Judging):
    """A loaded pipeline whose parameters are replaced in place by one merge after another."""

    def __init__(
        self,
        setup: RunSetup,
        pipeline: LivePipeline,
        progress: ProgressReporter,
        stop: StopSignal,
        keep_most: Callable[[int], None],
        preview: LivePreview | None = None,
    ) -> None:
        super().__init__(setup, progress, stop, preview)
        self._keep_most = keep_most
        self._pipeline = pipeline
        self._merges: dict[str, LiveMerge | LiveSteps] = {}
        self._current: tuple[str, Weights] | None = None
        pipeline.make_room = partial(_keep_no_models, self._merges)  # no cycle: its memory is free when nobody has it
        self._loras = PromptLoras(setup.files.loras, setup.base, pipeline.destinations, pipeline.text_encoder_changed)

    @classmethod
    def load(
        cls,
        setup: RunSetup,
        progress: ProgressReporter,
        stop: StopSignal,
        most: int | None = None,
        keep_most: Callable[[int], None] = lambda most: None,
        preview: LivePreview | None = None,
    ) -> PipelineEvaluator:
        """Load model A as the live pipeline and make the judges ready.

        Args:
            setup: the run.
            progress: shows what goes on.
            stop: how the person ends it.
            most: pictures drawn at once; `None`: as many as is set.
            keep_most: told how many fit, once the memory has not held so many.
            preview: shows what is drawn.
        """
        generator, vae = setup.config.generator, setup.config.vae
        progress.step("loading the pipeline")
        pipeline = load_pipeline(
            setup.base,
            config=_tree(setup),
            vae=setup.checkpoints.get(vae if vae in MODEL_NAMES else "vae"),  # a model's, or a file's
            text_encoder_3=generator.text_encoder_3,
            offload=generator.offload or (OFFLOAD if not _searches_texts(setup) else None),
            device=generator.device,
            dtype=generator.dtype,
            attention=generator.attention,
            compiled=generator.compile,
            max_batch=most or generator.max_batch,
            prediction_type=generator.prediction_type,
        )
        pipeline.learn(setup.files.embeddings)
        pipeline.check(setup.payloads)
        return cls(setup, pipeline, progress, stop, keep_most, preview)

    def load_weights(self, weights: Weights, baseline: Baseline | None = None) -> None:
        """Turn the live pipeline into the merge with these weights, or into what it is compared with.

        Raises:
            CheckpointError: a file of the merge has changed since the run began: the trials would not compare.
        """
        check_all_unchanged(self._setup.inputs)
        name = baseline.key if baseline else "the run's"
        if self._current == (name, weights):
            return
        self._progress.step("merging")
        if name not in self._merges:
            self._merges[name] = self._merge_of(baseline)
        before, self._current = self._current, None  # a merge that fails half way leaves neither
        same_merge = before is not None and before[0] == name
        self._merges[name].apply(weights, self._pipeline.destinations(), everything=not same_merge)
        check_all_unchanged(self._setup.inputs)  # nor while it was read
        if before is None or not same_merge or self._text_of(before[1]) != self._text_of(weights):
            self._pipeline.text_encoder_changed()
        self._current = (name, {key: dict(blocks) for key, blocks in weights.items()})

    def _merge_of(self, baseline: Baseline | None) -> LiveMerge | LiveSteps:
        setup = self._setup
        if baseline is not None:
            return LiveMerge(*compared(setup, baseline), memory=0)
        recipe = setup.recipe({}, hashed=False)
        if setup.steps is not None:
            return LiveSteps(recipe, setup.checkpoints, setup.constant_steps())
        return LiveMerge(setup.checkpoints, recipe)

    def _text_of(self, weights: Weights) -> dict[str, dict[str, float]]:
        """The numbers that the text encoder may follow: all but those of the U-Net's blocks."""
        architecture = self._setup.architecture
        unet = architecture.blocks[1:] if architecture.whole is None else ()
        return {name: {k: v for k, v in blocks.items() if k not in unet} for name, blocks in weights.items()}

    def score_each(self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path]) -> list[Score]:
        """None on the CPU, where drawing and judging would compete for the same cores."""
        return [] if self._pipeline.device.type == "cpu" else super().score_each(weights, images, paths)

    def draw(self, payloads: Sequence[Payload], on_drawn: OnDrawn | None = None) -> tuple[DrawnImage, ...]:
        """The payloads' pictures from the current merge.

        Raises:
            TrialFailed: a picture is black or NaN.
        """

        def on_step(done: int, total: int) -> None:
            self._progress.step("drawing", done, total)
            self._stop.hold()

        most = self._pipeline.max_batch
        try:
            draw = partial(self._pipeline.draw, on_step=on_step, onlooker=self._preview)
            drawn = self._loras.draw(payloads, draw, self._shown(payloads, on_drawn))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise BayesMergerError(
                "out of memory while drawing one picture: lower the payloads' width and height, or try "
                f"generator.offload={OFFLOAD}"
            ) from error
        if self._pipeline.max_batch < most:
            self._keep_most(self._pipeline.max_batch)
            self._progress.note(f"out of memory: from now on {self._pipeline.max_batch} pictures are drawn at once")
        return drawn
