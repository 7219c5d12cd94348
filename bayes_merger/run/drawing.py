"""Who draws a run's merges: diffusers in this process, or the user's web UI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import optuna

from bayes_merger.errors import ConfigError
from bayes_merger.run.attributes import MOST
from bayes_merger.run.evaluator import Evaluator, PipelineEvaluator
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.live_preview import LivePreview
from bayes_merger.run.outside import OUTSIDE
from bayes_merger.run.progress import ProgressReporter, StopSignal
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.web_ui import WEB_UIS
from bayes_merger.run.web_ui_evaluator import web_ui_evaluator
from bayes_merger.search.study.workers import with_retries


@contextmanager
def evaluator_of(
    setup: RunSetup, study: optuna.study.Study, progress: ProgressReporter, stop: StopSignal, folder: RunFolder
) -> Iterator[Evaluator]:
    """What draws and judges the run's merges, ready, and shows in the study's folder what it draws.

    Raises:
        ConfigError: it cannot draw what the run is to draw.
        CheckpointError: a model that cannot be loaded.
    """
    most = setup.config.generator.max_batch
    if fits := study.user_attrs.get(MOST):
        most = min(most, fits)

    def keep(most: int) -> None:
        with_retries(study, lambda: study.set_user_attr(MOST, most))

    with (
        LivePreview(folder) as preview,
        loaded_evaluator(setup, progress, stop, most, keep, preview) as evaluator,
    ):
        yield evaluator


@contextmanager
def loaded_evaluator(
    setup: RunSetup,
    progress: ProgressReporter,
    stop: StopSignal,
    most: int | None = None,
    keep: Callable[[int], None] = lambda most: None,
    preview: LivePreview | None = None,
) -> Iterator[Evaluator]:
    """The same without a study; the arguments are those of :meth:`PipelineEvaluator.load`.

    Raises:
        ConfigError: it cannot draw what the run is to draw.
        CheckpointError: a model that cannot be loaded.
    """
    if setup.config.generator.program == OUTSIDE:
        raise ConfigError("generator.program: this study's merges are drawn outside; ask for them, see docs/api.md")
    if setup.config.generator.program in WEB_UIS:
        with web_ui_evaluator(setup, progress, stop, preview) as evaluator:
            yield evaluator
    else:
        yield PipelineEvaluator.load(setup, progress, stop, most, keep, preview)
