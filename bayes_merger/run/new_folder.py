"""The folder of a new study: where the person wants it, or called by its models."""

from __future__ import annotations

from pathlib import Path

from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.run.folder import RunFolder, check_name, is_begun, slug


def new_folder(config: RunConfig, address: str = "", *, named: bool = True) -> RunFolder:
    """The folder of a new study.

    Args:
        config: the settings.
        address: of its storage; empty: the folder itself.
        named: the person typed the name; otherwise a number is added to one that is taken.

    Raises:
        ConfigError: the name is taken or cannot be a folder.
    """
    runs = Path(config.runs)
    stem = check_name(config.name) if config.name else ""
    if stem and named:
        folder = RunFolder(runs / stem, address)
        if is_begun(folder):
            raise ConfigError(
                f"study '{folder.name}' exists: go on with  bayes-merger resume {folder.typed}  or choose another name="
            )
        return folder
    stem = stem or stem_of(config)
    number = 1
    while is_begun(folder := RunFolder(runs / (stem if number == 1 else f"{stem}-{number}"), address)) or (
        folder.is_running  # and has not begun
    ):
        number += 1
    return folder


def stem_of(config: RunConfig) -> str:
    """The default name of a study: those of its models."""
    return "-".join(slug(Path(model).stem)[:40] for model in (config.model_a, config.model_b))
