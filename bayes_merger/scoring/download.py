"""Weight files: a local path, or an address that is downloaded once.

A download carries a SHA-256. Where none is known for a public file, the first download is trusted, its hash is written
beside it, and any other content is refused from then on.
"""

from __future__ import annotations

import glob
import hashlib
import http.client
import ipaddress
import json
import logging
import math
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.single_file import open_file
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.paths import cache_folder, user_path

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a single byte
ABANDONED = 3600.0  # seconds since a partial download was last written to
CHUNK = 1 << 20


def is_address(source: str) -> bool:
    """Whether `source` is an address rather than a path; a drive letter (`C:/...`) is a path."""
    return "://" in source


def find_weights(source: str, *, setting: str, sha256: str | None = None) -> Path:
    """The local file behind `source`; an address is fetched once and kept in :func:`~bayes_merger.paths.cache_folder`.

    Args:
        source: path of a file, or an `https` address (`http` only to this machine).
        setting: the configuration's name of it, for messages, like `scorers.laion.head`.
        sha256: 64 hex digits the fetched file must have. A local file is trusted and not compared.

    Raises:
        ConfigError: the file does not exist, there is no network, or the content has another hash.
    """
    if not isinstance(source, str | os.PathLike) or not str(source).strip():
        raise ConfigError(f"{setting} has no value; give the path of a weight file")
    if is_address(str(source)):
        return _fetched(str(source), _checked_pin(sha256, setting), setting)
    path = user_path(source)
    if path.is_dir():
        raise ConfigError(f"{setting}: {path} is a folder; give the weight file in it")
    if not path.is_file():
        raise ConfigError(f"{setting}: there is no file {path}")
    if path.stat().st_size == 0:
        raise ConfigError(f"{setting}: {path} is empty; fetch it again")
    return path


def open_weights(path: Path, setting: str) -> Checkpoint:
    """A weight file, opened lazily: a `.safetensors`, or a `.pth`, `.pt` or `.bin` that holds nothing but tensors.

    Safetensors are opened without torch.

    Raises:
        ConfigError: damaged, or carrying anything but tensors.
    """
    try:
        return open_file(path)
    except CheckpointError as error:
        raise ConfigError(f"{setting}: {error}") from error


def read_weights(path: Path, setting: str) -> dict[str, Tensor]:
    """Key -> tensor of a weight file, without a `module.` prefix that every key has. Imports torch.

    Raises:
        ConfigError: damaged, or carrying anything but tensors.
    """
    with open_weights(path, setting) as file:
        prefix = "module." if all(key.startswith("module.") for key in file.shapes) else ""
        return {key.removeprefix(prefix): file.tensor(key) for key in file.shapes}


def _checked_pin(sha256: str | None, setting: str) -> str | None:
    if sha256 is None:
        return None
    pin = sha256.strip().lower()
    if len(pin) != 64 or any(digit not in "0123456789abcdef" for digit in pin):
        raise ConfigError(f"{setting}: SHA-256 {sha256!r} is not 64 hex digits")
    return pin


def _fetched(address: str, pin: str | None, setting: str) -> Path:
    _check_scheme(address, setting)
    label = hashlib.sha256(address.encode()).hexdigest()[:8]  # many hubs have a model.safetensors
    path = cache_folder() / f"{label}-{_file_name(address)}"
    receipt = path.with_name(path.name + ".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{setting}: cannot keep files in {path.parent} ({error}); set BAYES_MERGER_CACHE") from error
    known = _read_receipt(receipt)
    expected = pin or known.get("sha256")
    if path.is_file():
        _check_kept(path, receipt, known, expected, setting)
        return path
    if expected is None:
        log.warning("%s: no SHA-256 is known for %s: trusted this once, refused when it changes", setting, address)
    found = _download(address, path, expected, pin is not None, setting)
    _write_receipt(receipt, path, address, found)
    return path


def _file_name(address: str) -> str:
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name or "weights"


def _check_kept(path: Path, receipt: Path, known: dict[str, Any], expected: str | None, setting: str) -> None:
    """Hashes a kept file again only when its size or time has changed since it was last found good."""
    stat = path.stat()
    stamp = (stat.st_size, stat.st_mtime_ns)
    if known and (known.get("size"), known.get("mtime_ns")) == stamp and known.get("sha256") == expected:
        return
    found = _sha256(path)
    if expected is not None and found != expected:
        raise ConfigError(f"{setting}: {path} has SHA-256 {found}, not {expected}; delete it to fetch it again")
    _write_receipt(receipt, path, known.get("address", ""), found)


def _download(address: str, path: Path, expected: str | None, pinned: bool, setting: str) -> str:
    """Fetches into a temporary file beside `path`, checks, then renames; returns the SHA-256."""
    log.info("fetching %s", address)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):  # of a killed process: a live one writes
        with suppress(FileNotFoundError):  # another process cleans up at the same time
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file, _explained(address, setting):
            found = _copy(address, file, path.parent, setting)
            file.flush()
            os.fsync(file.fileno())
        if expected is not None and found != expected:
            why = "another file is published there now" if pinned else "it is not the file that was fetched before"
            raise ConfigError(
                f"{setting}: {address} gave SHA-256 {found}, not {expected} ({why}); "
                f"get the right {_file_name(address)} and give {setting}=/path/to/it"
            )
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return found


@contextmanager
def _explained(address: str, setting: str) -> Iterator[None]:
    """A network error as one line with the way out."""
    try:
        yield
    except urllib.error.HTTPError as error:
        why = f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        why = str(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = str(error) or type(error).__name__
    else:
        return
    way_out = f"fetch it elsewhere and give {setting}=/path/to/{_file_name(address)}"
    raise ConfigError(f"{setting}: cannot fetch {address} ({why}); {way_out}")


def _copy(address: str, file: IO[bytes], folder: Path, setting: str) -> str:
    request = urllib.request.Request(address, headers={"User-Agent": "bayes-merger"})
    digest, got = hashlib.sha256(), 0
    with _opener(address, setting).open(request, timeout=TIMEOUT) as answer:
        promised = answer.headers.get("Content-Length")
        free = shutil.disk_usage(folder).free
        if promised is not None and int(promised) > free:
            raise OSError(f"{math.ceil(int(promised) / 1e6)} MB do not fit into {folder}, {free // 10**6} MB are free")
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            got += len(chunk)
    if promised is not None and got != int(promised):
        raise OSError(f"the transfer ended after {got} of {promised} bytes")
    return digest.hexdigest()


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address that a download may use; hubs redirect to their storage."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        _check_scheme(newurl, self.setting)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _opener(address: str, setting: str) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_SafeRedirects(setting)]
    if _is_this_machine(address):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _check_scheme(address: str, setting: str) -> None:
    scheme = urllib.parse.urlsplit(address).scheme.lower()
    if scheme != "https" and not (scheme == "http" and _is_this_machine(address)):
        raise ConfigError(f"{setting}: {address} is not https; give an https address or the path of a file")


def _is_this_machine(address: str) -> bool:
    host = urllib.parse.urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
