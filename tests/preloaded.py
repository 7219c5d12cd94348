"""What commands import, and read of Optuna's tables, once for all processes of tests/processes.py."""

import importlib
import tempfile
from pathlib import Path

from bayes_merger.search.study.storage import open_storage

for name in (
    "PIL.JpegImagePlugin",
    "alembic.command",
    "alembic.config",
    "antlr4",
    "bayes_merger.cli.run",
    "bayes_merger.course",
    "bayes_merger.imaging.pipelines.building",
    "bayes_merger.merging.methods",
    "bayes_merger.report.best",
    "bayes_merger.run.drawing",
    "bayes_merger.run.loop",
    "bayes_merger.run.workers",
    "bayes_merger.scoring",
    "bayes_merger.search.predicted",
    "bayes_merger.web.app",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "ftfy",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "optuna.storages._rdb.alembic",
    "tests.search.optimiser_configs",
    "transformers.models.clip.modeling_clip",
):
    importlib.import_module(name)

with tempfile.TemporaryDirectory() as folder:
    open_storage(Path(folder) / "study.db").engine.dispose()
