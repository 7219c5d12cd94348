"""The bench: one live pipeline and its judges. Weights go in, pictures and scores come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from bayes_merger.checkpoints.kinds import LORA
from bayes_merger.errors import BayesMergerError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, LivePipeline, load_pipeline
from bayes_merger.imaging.prompts.prompt import plain_prompt
from bayes_merger.merging.engine.live import LiveMerge
from bayes_merger.merging.engine.multi_step import LiveSteps
from bayes_merger.merging.method import MODEL_NAMES
from bayes_merger.merging.recipe.settings import MergeSettings
from bayes_merger.run.models import merge_settings
from bayes_merger.run.objectives import objective_values
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.setup import RunSetup, candidate_id
from bayes_merger.scoring.scorer import ImageToScore, Score, combine, judge

Weights = Mapping[str, Mapping[str, float]]

ALONE = "alone: "
"""Before a model's name, in the place of a method: that model as it is."""


def compared(parts: RunSetup) -> list[tuple[str, float, str]]:
    """What a winner is compared with: name, alpha and method of A, B and their even mix, or of a recipe's models.

    Where there are more than three models, each of them is a row.
    """
    if parts.steps is not None:
        whole = [name for name, model in parts.checkpoints.items() if model.kind is not LORA]
        return [(f"model {name}", 0.0, f"{ALONE}{name}") for name in whole]
    many = any(name in parts.checkpoints for name in MODEL_NAMES[3:])
    others = [name for name in MODEL_NAMES[2:] if many and name in parts.checkpoints]
    return [
        ("model A", 0.0, "weighted_sum"),
        ("model B", 1.0, "weighted_sum"),
        *((f"model {name.upper()}", 0.0, f"{ALONE}{name}") for name in others),
        ("even mix of A and B" if many else "even mix", 0.5, "weighted_sum"),
    ]


def contenders(parts: RunSetup) -> list[tuple[str, Weights, str]]:
    """The same with the weights of every block: name, weights and method."""
    blocks = parts.architecture.blocks if parts.steps is None else parts.base.architecture.blocks
    return [(name, {"alpha": dict.fromkeys(blocks, alpha)}, method) for name, alpha, method in compared(parts)]


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


def _tree(parts: RunSetup) -> Path | None:
    """The diffusers settings that model A is loaded with: those given, or its own where it is a diffusers folder."""
    if parts.config.generator.config:
        return Path(parts.config.generator.config)
    return parts.base.path if parts.base.path.is_dir() else None


class PipelineEvaluator:
    """A loaded pipeline whose parameters are replaced in place by one merge after another."""

    def __init__(self, parts: RunSetup, pipeline: LivePipeline, watcher: ProgressReporter, stop: StopSignal) -> None:
        self._parts = parts
        self._pipeline = pipeline
        self._watcher = watcher
        self._stop = stop
        self._merges: dict[str, LiveMerge | LiveSteps] = {}
        self._current: tuple[str, Weights] | None = None

    @classmethod
    def load(cls, parts: RunSetup, watcher: ProgressReporter, stop: StopSignal) -> PipelineEvaluator:
        """Load model A as the live pipeline and make the judges ready."""
        generator = parts.config.generator
        watcher.step("loading the pipeline")
        pipeline = load_pipeline(
            parts.base,
            config=_tree(parts),
            device=generator.device,
            dtype=generator.dtype,
            max_batch=generator.max_batch,
            prediction_type=generator.prediction_type,
        )
        pipeline.check(parts.payloads)
        return cls(parts, pipeline, watcher, stop)

    def put(self, weights: Weights, method: str | None = None) -> None:
        """Turn the live pipeline into the merge with these weights.

        Args:
            weights: of the merge.
            method: another method than the run's, of models A and B alone; or ``ALONE`` and a model's name, for that
                model as it is.
        """
        name = method or "the run's"
        if self._current == (name, weights):
            return
        self._watcher.step("merging")
        if name not in self._merges:
            self._merges[name] = self._merge_of(method)
        before, self._current = self._current, None  # a merge that fails half way leaves neither
        same_method = before is not None and before[0] == name
        self._merges[name].apply(weights, self._pipeline.destinations(), everything=not same_method)
        if before is None or not same_method or self._text_of(before[1]) != self._text_of(weights):
            self._pipeline.text_encoder_changed()
        self._current = (name, {key: dict(blocks) for key, blocks in weights.items()})

    def _merge_of(self, method: str | None) -> LiveMerge | LiveSteps:
        parts, config = self._parts, self._parts.config
        if method is not None:  # elemental rules and options are the run's; pure A is to be pure
            alone = method.removeprefix(ALONE) if method.startswith(ALONE) else ""
            models = {role: parts.checkpoints[alone or role] for role in ("a", "b")}
            vae = config.vae if config.vae in ("b", "merge") else "a"
            name = "weighted_sum" if alone else method
            own = merge_settings(config)
            pure = MergeSettings(name, dtype=own.dtype, vae=vae, blocks=own.blocks, channels=own.channels)
            return LiveMerge(models, pure, memory=0)
        recipe = parts.recipe({}, hashed=False)
        if parts.steps is not None:
            return LiveSteps(recipe, parts.checkpoints, parts.constant_steps())
        return LiveMerge(parts.checkpoints, recipe)

    def _text_of(self, weights: Weights) -> dict[str, dict[str, float]]:
        """The numbers that the text encoder may follow: all but those of the U-Net's blocks."""
        architecture = self._parts.architecture
        unet = architecture.blocks[1:] if architecture.whole is None else ()
        return {name: {k: v for k, v in blocks.items() if k not in unet} for name, blocks in weights.items()}

    def draw(self, payloads: Sequence[Payload]) -> tuple[DrawnImage, ...]:
        """The payloads' pictures from the current merge.

        Raises:
            TrialFailed: a picture is black or NaN.
        """

        def on_step(done: int, total: int) -> None:
            self._watcher.step("drawing", done, total)

        try:
            return tuple(self._pipeline.draw(payloads, on_step=on_step))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "out of memory" not in str(error).lower():
                raise
            raise BayesMergerError(
                "out of memory while drawing: lower generator.max_batch, or the payloads' width and height"
            ) from error

    def judge(
        self, weights: Weights, payloads: Sequence[Payload], images: Sequence[DrawnImage], paths: Sequence[Path]
    ) -> Evaluation:
        """What the scorers say of the pictures of one merge.

        Raises:
            TrialFailed: a scorer gave NaN, or a person voided the trial.
            Paused: the person who scores went away.
        """
        return self.conclude(payloads, self.scores(weights, images, paths), images, paths)

    def scores(self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path]) -> list[Score]:
        """The raw scores of some pictures of one merge.

        Raises:
            TrialFailed: as ``judge``.
            Paused: as ``judge``.
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
        for name, scorer in self._parts.scorers.items():
            self._watcher.step(f"scoring ({name})")
            if getattr(scorer, "interactive", False):
                with self._watcher.quiet(), self._stop.at_once():
                    scores += judge(scorer, judged)
            else:
                scores += judge(scorer, judged)
        return scores

    def conclude(
        self,
        payloads: Sequence[Payload],
        scores: Sequence[Score],
        images: Sequence[DrawnImage],
        paths: Sequence[Path],
    ) -> Evaluation:
        """What one merge got, from the raw scores of all its pictures.

        Raises:
            TrialFailed: a score is missing.
        """
        importance = {payload.name: payload.importance for payload in payloads}
        scorers = self._parts.scorers
        value = combine(
            scores, importance, {name: (scorer.importance, scorer.scale) for name, scorer in scorers.items()}
        )
        values = objective_values(
            scores,
            importance,
            {name: scorer.scale for name, scorer in scorers.items()},
            self._parts.config.objectives,
        )
        return Evaluation(value, tuple(scores), tuple(images), tuple(paths), values)

    def save(self, folder: Path, images: Sequence[DrawnImage], payloads: Sequence[Payload]) -> tuple[Path, ...]:
        """Write pictures as PNG, with the drawing parameters in the text field that web UIs read."""
        folder.mkdir(parents=True, exist_ok=True)
        by_name = {payload.name: payload for payload in payloads}
        paths = []
        for image in images:
            path = folder / f"{image.payload}-{image.index}.png"
            info = PngInfo()
            info.add_text("parameters", generation_text(image, by_name[image.payload]))
            temporary = path.with_suffix(".tmp")
            image.image.save(temporary, format="PNG", pnginfo=info)
            temporary.replace(path)
            paths.append(path)
        return tuple(paths)


def generation_text(image: DrawnImage, payload: Payload) -> str:
    """The drawing parameters in AUTOMATIC1111's form."""
    return (
        f"{image.prompt}\nNegative prompt: {payload.negative_prompts[image.index]}\nSteps: {payload.steps}, "
        f"Sampler: {payload.sampler_name}, Schedule type: {payload.scheduler}, CFG scale: {payload.cfg_scale}, "
        f"Seed: {image.seed}, Size: {payload.width}x{payload.height}"
    )
