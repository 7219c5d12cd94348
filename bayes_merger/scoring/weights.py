"""Weight files: a local path, or an address that is fetched once.

A fetched file is checked against its SHA-256. Where none is known for a public file, the first download is trusted, its
hash is written beside it, and any other content is refused from then on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.single_file import open_file
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.paths import cache_folder, user_path
from bayes_merger.scoring.download import Progress, check_address, download, file_name, nothing

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightFile:
    """A file of weights that a scorer needs.

    Attributes:
        source: path of a file, or an `https` address (`http` only to this machine).
        setting: the configuration's name of it, for messages, like `scorers.laion.head`.
        sha256: 64 hex digits a fetched file must have. A local file is trusted and not compared.
    """

    source: str
    setting: str
    sha256: str | None = None

    @property
    def is_address(self) -> bool:
        """Whether the source is an address rather than a path; a drive letter (`C:/...`) is a path."""
        return "://" in self.source

    @property
    def path(self) -> Path:
        """Where the file is, or will be once it was fetched: in :func:`~bayes_merger.paths.cache_folder`."""
        if not self.is_address:
            return user_path(self.source)
        label = hashlib.sha256(self.source.encode()).hexdigest()[:8]  # many hubs have a model.safetensors
        return cache_folder() / f"{label}-{file_name(self.source)}"

    @property
    def is_here(self) -> bool:
        """Whether the file is on this machine; its content is not looked at."""
        return bool(self.source.strip()) and self.path.is_file()

    def find(self, progress: Progress = nothing) -> Path:
        """The local file, which is fetched now if it was not yet.

        Args:
            progress: is told of a download, with the bytes that are here and all that there are.

        Raises:
            ConfigError: the file does not exist, there is no network, or the content has another hash.
        """
        if not self.source.strip():
            raise ConfigError(f"{self.setting} has no value; give the path of a weight file")
        if self.is_address:
            return self._fetched(progress)
        path = self.path
        if path.is_dir():
            raise ConfigError(f"{self.setting}: {path} is a folder; give the weight file in it")
        if not path.is_file():
            raise ConfigError(f"{self.setting}: there is no file {path}")
        if path.stat().st_size == 0:
            raise ConfigError(f"{self.setting}: {path} is empty; fetch it again")
        return path

    def open(self) -> Checkpoint:
        """The file, opened lazily: a `.safetensors`, or a `.pth`, `.pt` or `.bin` that holds nothing but tensors.

        Safetensors are opened without torch.

        Raises:
            ConfigError: absent, damaged, or carrying anything but tensors.
        """
        try:
            return open_file(self.find())
        except CheckpointError as error:
            raise ConfigError(f"{self.setting}: {error}") from error

    def read(self, wanted: Callable[[str], bool] = lambda key: True) -> dict[str, Tensor]:
        """Key -> tensor of the wanted ones, without a `module.` prefix that every key has. Imports torch.

        Raises:
            ConfigError: absent, damaged, or carrying anything but tensors.
        """
        with self.open() as file:
            return {name: file.tensor(key) for name, key in _names(file).items() if wanted(name)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key -> shape, with the names of :meth:`read`; from the header alone for safetensors, without torch.

        Raises:
            ConfigError: absent, damaged, or carrying anything but tensors.
        """
        with self.open() as file:
            return {name: file.shapes[key] for name, key in _names(file).items()}

    def _fetched(self, progress: Progress) -> Path:
        check_address(self.source, self.setting)
        pin, path = self._checked_pin(), self.path
        receipt = path.with_name(path.name + ".json")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.setting}: cannot keep files in {path.parent} ({error}); set BAYES_MERGER_CACHE"
            ) from error
        known = _read_receipt(receipt)
        expected = pin or known.get("sha256")
        if path.is_file():
            self._check_kept(receipt, known, expected)
            return path
        if expected is None:
            log.warning(
                "%s: no SHA-256 is known for %s: trusted this once, refused when it changes", self.setting, self.source
            )
        found = download(self.source, path, expected, pin is not None, self.setting, progress)
        _write_receipt(receipt, path, self.source, found)
        return path

    def _checked_pin(self) -> str | None:
        if self.sha256 is None:
            return None
        pin = self.sha256.strip().lower()
        if len(pin) != 64 or any(digit not in "0123456789abcdef" for digit in pin):
            raise ConfigError(f"{self.setting}: SHA-256 {self.sha256!r} is not 64 hex digits")
        return pin

    def _check_kept(self, receipt: Path, known: dict[str, Any], expected: str | None) -> None:
        """Hashes a kept file again only when its size or time has changed since it was last found good."""
        stat = self.path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        if known and (known.get("size"), known.get("mtime_ns")) == stamp and known.get("sha256") == expected:
            return
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if expected is not None and found != expected:
            raise ConfigError(
                f"{self.setting}: {self.path} has SHA-256 {found}, not {expected}; delete it to fetch it again"
            )
        _write_receipt(receipt, self.path, known.get("address", ""), found)


def _names(file: Checkpoint) -> dict[str, str]:
    """Name of a tensor -> its key in the file."""
    prefix = "module." if all(key.startswith("module.") for key in file.shapes) else ""
    return {key.removeprefix(prefix): key for key in file.shapes}


def _read_receipt(receipt: Path) -> dict[str, Any]:
    try:
        known = json.loads(receipt.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{receipt} cannot be read ({error}); delete it and the file beside it") from error
    return known if isinstance(known, dict) else {}


def _write_receipt(receipt: Path, path: Path, address: str, sha256: str) -> None:
    stat = path.stat()
    entry = {"address": address, "sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    temporary = receipt.with_name(f"{receipt.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        temporary.replace(receipt)
    except OSError as error:  # a read-only cache that others filled: hashed at every start then
        log.warning("%s cannot be written (%s)", receipt, error)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
