"""A study's folder under ``runs/``: where each file lies, and the lock that keeps two optimisers apart.

The database is the truth; everything else here is a copy for the eye and can be made again from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bayes_merger.errors import ConfigError, nearest


@dataclass(frozen=True)
class RunFolder:
    """``runs/NAME/`` of one study."""

    path: Path

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.name

    @property
    def database(self) -> Path:
        """The study itself: an SQLite file."""
        return self.path / "study.db"

    @property
    def ratings(self) -> Path:
        """The ledger of ratings given by hand."""
        return self.path / "ratings.jsonl"

    @property
    def log(self) -> Path:
        """What happened when, in plain lines."""
        return self.path / "log.txt"

    @property
    def best(self) -> Path:
        """What the user takes home: recipe, weight strings, pictures, plots."""
        return self.path / "best"

    @property
    def model(self) -> Path:
        """The best merge as one checkpoint file."""
        return self.path / "best.safetensors"

    def images(self, trial: int) -> Path:
        """The pictures of one trial."""
        return self.path / "images" / f"{trial:04d}"

    def exists(self) -> bool:
        """Whether a study lies here."""
        return self.database.is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study alone; the system lets go of it when the process dies.

        Raises:
            ConfigError: another process works on it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(f"study '{self.name}': another bayes-merger is running it; stop that one first") from None
        try:
            yield
        finally:
            lock.release()


def slug(text: str) -> str:
    """A name that is safe as a folder: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.\-]+", "-", text).strip("-.") or "study"


def check_name(name: str) -> str:
    """The study's name as given, when it can be a folder.

    Raises:
        ConfigError: it has characters that a folder name cannot have.
    """
    if name != slug(name):
        raise ConfigError(f"name: '{name}' cannot be a folder; try name={slug(name)}")
    return name


def studies(runs: Path) -> list[RunFolder]:
    """The studies under ``runs``, the one touched last first."""
    if not runs.is_dir():
        return []
    found = [RunFolder(path) for path in runs.iterdir() if (path / "study.db").is_file()]
    return sorted(found, key=lambda folder: folder.database.stat().st_mtime, reverse=True)


def find_study(runs: Path, name: str) -> RunFolder:
    """The study called ``name``.

    Raises:
        ConfigError: there is none.
    """
    folder = RunFolder(runs / name)
    if not name or Path(name).name != name or not folder.exists():
        names = [study.name for study in studies(runs)]
        hint = nearest(name, names) if names else f"there are no studies in {runs}"
        raise ConfigError(f"no study '{name}'; {hint}")
    return folder
