"""Files of merge methods in the working folder: run once, with errors in one line that names the file."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from bayes_merger.errors import BayesMergerError, ConfigError

OWN_METHODS = "merge_methods"
"""The folder in the working folder whose files are run; nothing in a study or a recipe can name another one."""


def shown(path: Path) -> str:
    """A path relative to the working folder where possible."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def run_files(folder: Path, has_method: Callable[[Path], bool]) -> None:
    """Run every ``.py`` file of a folder, in the order of their names, except those that begin with ``_``.

    Args:
        folder: need not exist.
        has_method: whether a file that has been run has registered a method.

    Raises:
        ConfigError: a file cannot be read or run, or registers nothing.
    """
    for path in sorted(folder.glob("[!_]*.py")):
        _run(path)
        if not has_method(path):
            raise ConfigError(f"{shown(path)}: has no function under @merge_method; add one, or name it _{path.name}")


def _run(path: Path) -> None:
    module = ModuleType(f"{OWN_METHODS}.{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        # Not by the import system, which would search sys.path and leave a __pycache__ in the user's folder.
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    except BayesMergerError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{shown(path)}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{shown(path)}{_line(error, path)}: {in_one_line(error)}") from error


def _line(error: BaseException, path: Path) -> str:
    """The line of the file at which the error occurred."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def in_one_line(error: BaseException) -> str:
    """An exception of foreign code: its type, and the first line of its text."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
