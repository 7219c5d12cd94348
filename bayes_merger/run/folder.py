"""A study's folder under ``runs/``: where each file lies, and the lock that keeps two optimisers apart.

The database is the truth; everything else here is a copy for the eye and can be made again from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bayes_merger.atomic import write_atomically
from bayes_merger.errors import ConfigError, StorageError, and_more, nearest, trouble
from bayes_merger.paths import quoted

if TYPE_CHECKING:
    import optuna

STORAGE = "BAYES_MERGER_STORAGE"
"""Environment variable: the address of a database, for those who would not have its password in a command line."""

DRAWINGS = "drawing-*.png"
"""What each process draws now; see :mod:`bayes_merger.run.live_preview`."""

LOCK = ".lock"
"""The file in a study's folder that the process that runs it has locked."""


@dataclass(frozen=True)
class RunFolder:
    """``runs/NAME/`` of one study.

    Attributes:
        path: the folder.
        address: of the database that has the study, password and all; empty: what the folder says.
    """

    path: Path
    address: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.name

    @property
    def database(self) -> Path:
        """The study itself: an SQLite file."""
        return self.path / "study.db"

    @property
    def pointer(self) -> Path:
        """Where the study is if not here: the address of its database, without the password."""
        return self.path / "storage.txt"

    @property
    def where(self) -> str | Path:
        """The study's storage: what was given, else what the folder says."""
        if self.address:
            return self.address
        stored = self._pointed[0]
        if not stored:
            return self.database
        from bayes_merger.search.study.storage import redacted

        given = os.environ.get(STORAGE, "")
        return given if given and redacted(given) == stored else stored

    @property
    def is_elsewhere(self) -> bool:
        """Whether the study is in a database that other machines may use, and not in its folder."""
        return not isinstance(self.where, Path)

    @property
    def called(self) -> str:
        """The study's name in its storage: its folder's, unless that was renamed since."""
        address, name = self._pointed
        if name and self.address:
            from bayes_merger.search.study.storage import redacted

            return name if redacted(self.address) == address else self.name
        return name or self.name

    @property
    def _pointed(self) -> tuple[str, str]:
        """The address that the folder says, and the study's name there; each empty if it does not say."""
        try:
            lines = self.pointer.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return "", ""
        except (OSError, ValueError) as error:
            raise StorageError(trouble(error) or f"{self.pointer}: is no text; write the address into it") from error
        address, name, *_ = [*map(str.strip, lines), "", ""]
        return address, name

    def point(self) -> None:
        """Note where the study is, when it is not in this folder."""
        if self.address:
            from bayes_merger.search.study.storage import redacted

            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.pointer, f"{redacted(self.address)}\n{self.called}\n")

    @property
    def typed(self) -> str:
        """The study as it is given to a command."""
        elsewhere = "" if self.path.parent == Path("runs") else f" runs={quoted(str(self.path.parent))}"
        return quoted(self.name) + elsewhere

    @property
    def ratings(self) -> Path:
        """The ledger of ratings given by hand."""
        return self.path / "ratings.jsonl"

    @property
    def log(self) -> Path:
        """What happened when, in plain lines."""
        return self.path / "log.txt"

    @property
    def settings(self) -> Path:
        """The settings of its run, for the eye."""
        return self.path / "config.json"

    @property
    def preview(self) -> Path:
        """The newest trial's pictures as one."""
        return self.path / "preview.png"

    @property
    def output(self) -> Path:
        """What runs that were started from a page have printed."""
        return self.path / "output.txt"

    @property
    def wish(self) -> Path:
        """What a run is asked to do; see :mod:`bayes_merger.run.control`."""
        return self.path / "wish.json"

    @property
    def status(self) -> Path:
        """What a run does."""
        return self.path / "status.json"

    @property
    def ticket(self) -> Path:
        """Since when a run waits for its device; see :mod:`bayes_merger.run.turns`."""
        return self.path / "ticket.json"

    @property
    def best(self) -> Path:
        """What the user takes home: recipe, weight strings, pictures, plots."""
        return self.path / "best"

    @property
    def model(self) -> Path:
        """The best merge as one checkpoint file."""
        return self.path / "best.safetensors"

    @property
    def final(self) -> Path:
        """The pictures of the final round's comparison."""
        return self.path / "final"

    def images(self, trial: int) -> Path:
        """The pictures of one trial."""
        return self.path / "images" / f"{trial:04d}"

    def exists(self) -> bool:
        """Whether a study lies here, or what says where it is."""
        try:
            return bool(self.address) or self.database.is_file() or self.pointer.is_file()
        except PermissionError:
            return True  # whoever opens it is told why it cannot be

    def pictures(self, names: Sequence[str]) -> list[Path]:
        """The pictures of these names that are there; one that would lead out of the folder of all studies is not."""
        found = []
        for name in names:
            with suppress(OSError, ValueError, RuntimeError):  # too long, no name at all, a link to itself
                path = (self.path / name).resolve()
                if path.suffix == ".png" and path.is_relative_to(self.path.resolve().parent) and path.is_file():
                    found.append(path)
        return found

    def check(self) -> None:
        """Whether the study is still where it was.

        Raises:
            StorageError: its folder was deleted or moved.
        """
        if not self.address and not self.pointer.is_file() and not self.database.is_file():
            raise StorageError(f"{self.path}: was deleted or moved while its study ran; put it back")

    def note(self, text: str) -> None:
        """Lines for the log alone."""
        with suppress(OSError), self.log.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.writelines(f"    {line}\n" for line in text.splitlines())

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            StorageError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"study '{self.name}': {trouble(error) or error}") from error

    @property
    def is_running(self) -> bool:
        """Whether a process holds the study; nothing is changed."""
        if not (self.path / LOCK).is_file():
            return False
        try:
            with FileLock(self.path / LOCK, timeout=0):
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):
            return False  # a disk that may not be written

    @property
    def size(self) -> int:
        """Bytes of everything in the folder."""
        found = 0
        for place, _, names in os.walk(self.path):
            with suppress(OSError):
                found += sum(os.lstat(f"{place}{os.sep}{name}").st_size for name in names)  # of thousands
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study alone; the system lets go of it when the process dies.

        Raises:
            ConfigError: another process works on it.
            StorageError: the folder may not be written.
        """
        lock = FileLock(self.path / LOCK, timeout=0.5)  # who looks whether it runs holds it for an instant
        self.make()
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(f"study '{self.name}': another bayes-merger is running it; stop that one first") from None
        except (OSError, NotImplementedError) as error:
            raise StorageError(f"study '{self.name}': {trouble(error) or error}") from error
        try:
            self._forget_former_run()
            yield
        finally:
            self._forget_former_run()
            lock.release()

    def _forget_former_run(self) -> None:
        """Remove what only a process that runs the study has said, or is asked for."""
        for path in (self.wish, self.status, self.ticket, *self.path.glob(DRAWINGS)):
            with suppress(OSError):
                path.unlink()


def slug(text: str) -> str:
    """A name that is safe as a folder: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.\-]+", "-", text).strip("-.") or "study"


def check_name(name: str) -> str:
    """The study's name as given, when it can be a folder, on Windows too.

    Raises:
        ConfigError: it has characters that a folder name cannot have.
    """
    if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE):
        raise ConfigError(f"name: '{name}' is a device on Windows; try name={name}-1")
    if name.replace("@", "-") != slug(name):  # NAME@2 is what a study is called whose pictures were judged again
        raise ConfigError(f"name: '{name}' cannot be a folder; try name={slug(name)}")
    return name


def studies(runs: Path) -> list[RunFolder]:
    """The studies under ``runs``, the one touched last first."""
    try:
        found = [folder for path in runs.iterdir() if (folder := RunFolder(path)).exists()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(trouble(error) or f"{runs}: {error}") from error
    return sorted(found, key=_touched, reverse=True)


def _touched(folder: RunFolder) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder.database, folder.pointer) if path.is_file())
    except PermissionError:
        return 0.0


def find_study(runs: Path, name: str, address: str = "") -> RunFolder:
    """The study called ``name``, or the only one whose name begins so; ``-`` is the one touched last.

    Args:
        runs: the folder of all studies.
        name: of the study, or the path of its folder.
        address: of the database that has it; empty: what its folder says, or without one the environment.

    Raises:
        ConfigError: it does not exist, or several names begin so.
    """
    runs, name = _place(runs, name)
    name = _meant(runs, name)
    folder = RunFolder(runs / name, address)
    if not folder.exists():
        folder = RunFolder(runs / name, os.environ.get(STORAGE, ""))
    if not name or Path(name).name != name or not folder.exists():
        names = [study.name for study in studies(runs)]
        hint = nearest(name, names) if names else f"there are no studies in {runs}"
        if Path(name).name == name and (runs / name).is_dir():
            hint = f"{runs / name} has no {folder.database.name}, which is the study itself; {hint}"
        if Path(name).name == name and RunFolder(runs / name).is_running:
            hint = "its run waits its turn, or reads its models still"
        raise ConfigError(f"no study '{name}'; {hint}")
    return folder


def _place(runs: Path, name: str) -> tuple[Path, str]:
    """Where a study lies that was given by its folder, as a shell completes it: ``runs/x/``."""
    if not set(name) & {"/", os.sep}:
        return runs, name
    path = Path(name).parent if Path(name).suffix else Path(name)
    places = (place for one in (Path(name), path) for place in (one, runs / one))
    place = next((place for place in places if place.name and RunFolder(place).exists()), None)
    return (place.parent, place.name) if place else (runs, name)


def _meant(runs: Path, name: str) -> str:
    """The name that was abbreviated, or what was given."""
    if RunFolder(runs / name).exists() or not name:
        return name
    known = [study.name for study in studies(runs)]
    found = known[:1] if name == "-" else [one for one in known if one.startswith(name)]
    if len(found) > 1:
        raise ConfigError(f"'{name}': {len(found)} studies begin so ({and_more(found)}); give more of the name")
    return found[0] if found else name


def load(folder: RunFolder, *, whole: bool = True) -> optuna.study.Study:
    """A study for reading: nothing is changed, in its database or beside it.

    A study is what lies in its folder, whatever the folder is called now.

    Args:
        folder: the study's.
        whole: read all trials now; a worker has no use for them.

    Raises:
        ConfigError: there is no such study, or what it holds is not what a run writes.
        StorageError: it cannot be read.
    """
    from bayes_merger.run.standards import seen_standardised
    from bayes_merger.run.stored import check_stored
    from bayes_merger.search.study.loading import load_study, storage_to_read

    study = load_study(
        storage_to_read(folder.where), folder.called, alone=not folder.address, shown=folder.name, whole=whole
    )
    check_stored(study)
    seen_standardised(study)
    return study


def is_begun(folder: RunFolder) -> bool:
    """Whether a study lies there; a run that was killed while making one left nothing worth keeping."""
    for place in {folder, RunFolder(folder.path)}:  # the folder of another study is not free either
        if place.exists():
            try:
                load(place)
            except ConfigError:
                continue
            return True
    return False
