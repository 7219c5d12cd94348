"""The user's own web UI, or ComfyUI: which one it is, whether it can draw a run's payloads, and its folder of models.

Every merge lies there as a file with a name of its own, since web UIs keep what they once loaded under a name. Beside
the files lies a lock that the system takes away with the process: what has none was left by a process that was killed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bayes_merger.config import GeneratorConfig, RunConfig
from bayes_merger.errors import BayesMergerError, ConfigError
from bayes_merger.imaging.comfyui import ComfyUI
from bayes_merger.imaging.payload import Payload, payload_from_mapping
from bayes_merger.imaging.payload.passed_on import payload_for_web_ui
from bayes_merger.imaging.payload.workflow import Workflow, payload_for_comfyui
from bayes_merger.imaging.web_ui import WebUI
from bayes_merger.paths import user_path
from bayes_merger.run.outside import OUTSIDE

WEB_UI, COMFYUI = "webui", "comfyui"
WEB_UIS = (WEB_UI, COMFYUI)
PROGRAMS = {
    "diffusers": payload_from_mapping,
    WEB_UI: payload_for_web_ui,
    COMFYUI: payload_for_comfyui,
    OUTSIDE: payload_from_mapping,
}
"""Who draws, ``generator.program``, and how it reads the fields of a payload."""

_PREFIX = "bayes-merger-"
_BUSY = 10.0  # seconds until somebody who looks at our lock has looked


class ModelsFolder:
    """The web UI's folder of models, and what of ours lies in it; a context manager.

    Raises:
        ConfigError: it is no folder that can be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stem, self._made = f"{_PREFIX}{secrets.token_hex(4)}", 0
        self._lock = FileLock(path / f"{self._stem}.lock")

    def __enter__(self) -> ModelsFolder:
        try:
            self._sweep()
            self._lock.acquire(timeout=_BUSY)
        except OSError as error:
            raise ConfigError(f"generator.models_folder: {self._path} cannot be written ({error.strerror})") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def next(self) -> Path:
        """Where a merge is written, under a name that no other one has had."""
        self._made += 1
        return self._path / f"{self._stem}-{self._made:04}.safetensors"

    def clear(self, keep: Path | None = None) -> None:
        """Remove our models; one that the web UI holds open, as Windows has it, goes at the next occasion."""
        for path in self._models(self._stem):
            if path != keep:
                with suppress(PermissionError):
                    path.unlink(missing_ok=True)

    def _models(self, stem: str) -> Iterator[Path]:
        yield from self._path.glob(f"{stem}-*.safetensors")
        yield from self._path.glob(f".{stem}-*.safetensors.*.tmp")

    def _sweep(self) -> None:
        """Remove what processes that were killed have left."""
        for lock in self._path.glob(f"{_PREFIX}*.lock"):
            with suppress(Timeout), FileLock(lock, timeout=0):
                for path in self._models(lock.stem):
                    path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)


def open_web_ui(generator: GeneratorConfig, waiting: Callable[[str], None] = lambda text: None) -> WebUI | ComfyUI:
    """The web UI that some settings name.

    Args:
        generator: the settings.
        waiting: told when it does not answer and is waited for.

    Raises:
        ConfigError: they name none, or a workflow that cannot be drawn with.
    """
    address, seconds = generator.address or "", generator.timeout
    if generator.program == WEB_UI:
        return WebUI(address, seconds, waiting=waiting)
    workflow = Workflow.read(user_path(generator.workflow)) if generator.workflow else Workflow()
    return ComfyUI(address, seconds, workflow, waiting=waiting)


def check_web_ui(config: RunConfig, payloads: Sequence[Payload]) -> dict[str, Any]:
    """Check at start-up that the user's web UI can draw the payloads.

    Returns:
        What of it makes pictures comparable.

    Raises:
        ConfigError: a setting that is not the web UI's, no such folder, or no web UI that could.
    """
    generator = config.generator
    for name in ("config", "text_encoder_3", "offload", "prediction_type"):
        if getattr(generator, name) is not None:
            raise ConfigError(f"generator.{name}: is for pictures that are drawn here; leave it out with a web UI")
    if generator.workflow and generator.program != COMFYUI:
        raise ConfigError("generator.workflow: is for ComfyUI; leave it out, or give  generator=comfyui")
    for name in ("device", "dtype"):
        if getattr(generator, name) != "auto":
            raise ConfigError(f"generator.{name}: is the web UI's own business; leave it out")
    if config.workers > 1:
        raise ConfigError("workers: one web UI draws for one at a time; give  workers=1")
    if generator.max_batch < 1:
        raise ConfigError(
            f"generator.max_batch: {generator.max_batch} pictures at once are not possible; use 1 or more"
        )
    folder = models_folder(generator)
    web_ui = open_web_ui(generator)
    state = web_ui.check(payloads)
    _check_is_its_own(folder, web_ui)
    return state


def models_folder(generator: GeneratorConfig) -> Path:
    """The web UI's folder of models.

    Raises:
        ConfigError: there is no such folder.
    """
    path = user_path(generator.models_folder or "")
    if not generator.models_folder or not path.is_dir():
        raise ConfigError(
            f"generator.models_folder: there is no folder {path}; give the one that the web UI reads models from, like "
            ".../models/Stable-diffusion, or ComfyUI's .../models/checkpoints"
        )
    return path


def _check_is_its_own(folder: Path, web_ui: WebUI | ComfyUI) -> None:
    """Whether the web UI lists what lies in its folder, as far as something does."""
    there = {path.name for ending in ("safetensors", "ckpt") for path in folder.glob(f"*.{ending}")}
    there = {name for name in there if not name.startswith(_PREFIX)}
    try:
        if there and not there & web_ui.files().keys():
            raise ConfigError(
                f"generator.models_folder: {web_ui.called} at {web_ui.address} lists none of the models in {folder}; "
                "give the folder that it reads models from"
            )
    except BayesMergerError as error:
        raise ConfigError(str(error)) from error
