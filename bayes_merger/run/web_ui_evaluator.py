"""Merges drawn by the user's own web UI: each is a file in its folder of models for as long as it is drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from bayes_merger.checkpoints.checkpoint import Checkpoint, check_all_unchanged
from bayes_merger.checkpoints.writing import NotFinite
from bayes_merger.errors import TrialFailed
from bayes_merger.imaging.comfyui import ComfyUI
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.passed_on import requests
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, OnDrawn
from bayes_merger.imaging.web_ui import WebUI
from bayes_merger.merging.export.single_file import save_merge
from bayes_merger.merging.models.opening import references
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run.baselines import Baseline, compared
from bayes_merger.run.judging import Judging, Weights
from bayes_merger.run.live_preview import LivePreview
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.web_ui import ModelsFolder, models_folder, open_web_ui

_LOOKING = 0.5  # seconds between two looks at how far the web UI is


class WebUIEvaluator(Judging):
    """The user's web UI, which is given one merge after another as a file."""

    def __init__(
        self,
        setup: RunSetup,
        web_ui: WebUI | ComfyUI,
        folder: ModelsFolder,
        progress: ProgressReporter,
        stop: StopSignal,
        preview: LivePreview | None = None,
    ) -> None:
        super().__init__(setup, progress, stop, preview)
        self._web_ui = web_ui
        self._folder = folder
        self._current: tuple[str, Weights] | None = None
        self._file, self._title = "", ""

    def load_weights(self, weights: Weights, baseline: Baseline | None = None) -> None:
        """Write the merge with these weights, or what it is compared with, where the web UI finds it.

        Raises:
            CheckpointError: a file of the merge has changed since the run began, or the merge cannot be written.
            TrialFailed: there is no such merge, since a tensor overflows.
        """
        check_all_unchanged(self._setup.inputs)
        name = baseline.key if baseline else "the run's"
        if self._current == (name, weights):
            return
        self._progress.step("merging")
        self._current = None
        recipe, models = self._recipe(weights, baseline)
        path = self._folder.next()
        try:
            save_merge(recipe, models, path, replace=True, progress=self._writing)
        except NotFinite as error:
            raise TrialFailed(f"merge: {error.reason}") from error
        self._folder.clear(keep=path)
        self._file, self._title = path.name, self._web_ui.title_of(path.name)
        self._current = (name, {key: dict(blocks) for key, blocks in weights.items()})

    def _writing(self, done: int, total: int) -> None:
        self._progress.step("merging", done, total)

    def _recipe(self, weights: Weights, baseline: Baseline | None) -> tuple[MergeRecipe, Mapping[str, Checkpoint]]:
        setup = self._setup
        if baseline is None:
            return setup.recipe(weights, hashed=False), setup.checkpoints
        models, settings = compared(setup, baseline)
        numbers = {name: dict(blocks) for name, blocks in weights.items()}
        whole = setup.base.architecture.name
        return MergeRecipe(
            **vars(settings), models=references(models, hashed=False), weights=numbers, architecture=whole
        ), models

    def draw(self, payloads: Sequence[Payload], on_drawn: OnDrawn | None = None) -> tuple[DrawnImage, ...]:
        """The payloads' pictures from the current merge.

        Raises:
            TrialFailed: the web UI cannot draw them, or a picture is of one flat colour.
            BayesMergerError: it does not answer.
        """
        asked = list(requests(payloads, min(self._setup.config.generator.max_batch, self._web_ui.at_once)))
        total = sum(len(request.indices) for request in asked)
        images: list[DrawnImage] = []
        given = self._shown(payloads, on_drawn)
        for request in asked:
            self._stop.hold()
            with self._watched(len(images), total):
                drawn = self._web_ui.draw(request, self._file, self._title)
            payload = request.payload
            images += [
                DrawnImage(payload.name, index, payload.seeds[index], payload.prompts[index], one.image, one.parameters)
                for index, one in zip(request.indices, drawn, strict=True)
            ]
            if given is not None:
                given(images[-len(drawn) :])
        return tuple(images)

    @contextmanager
    def _watched(self, done: int, total: int) -> Iterator[None]:
        """Show the web UI's steps while it draws."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOKING):
                step, steps = self._web_ui.steps()
                if steps and not over.is_set():
                    self._progress.step(f"drawing picture {done + 1} of {total}", step, steps)

        self._progress.step(f"drawing picture {done + 1} of {total}")
        threading.Thread(target=look, daemon=True).start()
        try:
            yield
        finally:
            over.set()


@contextmanager
def web_ui_evaluator(
    setup: RunSetup, progress: ProgressReporter, stop: StopSignal, preview: LivePreview | None = None
) -> Iterator[WebUIEvaluator]:
    """The user's web UI, ready to draw; afterwards nothing of ours lies in its folder.

    Raises:
        ConfigError: its folder is not there or cannot be written.
    """
    generator = setup.config.generator
    with ModelsFolder(models_folder(generator)) as folder:
        web_ui = open_web_ui(generator, progress.note)
        try:
            yield WebUIEvaluator(setup, web_ui, folder, progress, stop, preview)
        finally:
            web_ui.leave()
