"""Downloads over https: one at a time for each file, resumed where they were cut off, checked before they count."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import logging
import math
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import IO

from filelock import FileLock

from bayes_merger.errors import ConfigError

log = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a single byte
CHUNK = 1 << 20

Progress = Callable[[int, int], None]
"""Is told how many bytes are here, and how many there are in all (0: nobody knows)."""


def nothing(done: int, total: int) -> None:
    """Progress that nobody watches."""


class NotFetched(ConfigError):
    """A file that cannot be had from where it is."""


def download(
    address: str, path: Path, expected: str | None, pinned: bool, setting: str, progress: Progress = nothing
) -> str:
    """Fetch a file, check it, and only then give it its name; what was cut off before goes on where it ended.

    Args:
        address: where it is.
        path: where it goes; its folder exists. Until it is whole its name ends in `.part`.
        expected: SHA-256 it must have, None for any.
        pinned: whether that is the publisher's, not that of an earlier download.
        setting: the configuration's name of it, for messages.
        progress: is told of every megabyte.

    Returns:
        Its SHA-256.

    Raises:
        NotFetched: no network, no room.
        ConfigError: another content.
    """
    part, mark = (path.with_name(f"{path.name}.{end}") for end in ("part", "version"))
    with _explained(address, setting), FileLock(path.with_name(path.name + ".lock")):
        if path.is_file():  # another process was faster
            return _sha256(path)
        if progress is nothing:  # seen where logs are not shown: a download can take an hour
            log.warning("%s: fetching %s, once", setting, address)
            progress = _told(setting)
        _copy(address, part, mark, setting, progress)
        found = _sha256(part)
        if expected is None or found == expected:
            part.replace(path)
        else:
            part.unlink()
        mark.unlink(missing_ok=True)
    if expected not in (None, found):
        why = "another file is published there now" if pinned else "it is not the file that was fetched before"
        raise ConfigError(
            f"{setting}: {address} gave SHA-256 {found}, not {expected} ({why}); "
            f"get the right {file_name(address)} and give {setting}=/path/to/it"
        )
    return found


def _told(setting: str) -> Progress:
    """Progress in the log: a line where it begins, which has the size, and one for each tenth."""
    began = time.monotonic()
    last, before = -1, 0

    def tell(done: int, total: int) -> None:
        nonlocal last, before
        before = before or done
        tenth = 10 * done // total if total else done >> 27
        if tenth == last:
            return
        last = tenth
        size = f" of {total / 1e6:,.0f}" if total else ""
        speed = (done - before) / max(time.monotonic() - began, 1e-3)
        left = f", {speed / 1e6:.1f} MB/s, {_in_words((total - done) / speed)} left" if speed and total > done else ""
        log.warning("%s: %s%s MB%s", setting, f"{done / 1e6:,.0f}", size, left)

    return tell


def _in_words(seconds: float) -> str:
    """
    >>> _in_words(18.4), _in_words(200)
    ('18 s', '3 min')
    """
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def file_name(address: str) -> str:
    """The name of the file at an address."""
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name or "weights"


def check_address(address: str, setting: str) -> None:
    """Whether a download may go there.

    Raises:
        ConfigError: neither `https` nor this machine.
    """
    scheme = urllib.parse.urlsplit(address).scheme.lower()
    if scheme != "https" and not (scheme == "http" and _is_this_machine(address)):
        raise ConfigError(f"{setting}: {address} is not https; give an https address or the path of a file")


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
    way_out = f"try again, or fetch it elsewhere and give {setting}=/path/to/{file_name(address)}"
    raise NotFetched(f"{setting}: cannot fetch {address} ({why}); {way_out}")


def _copy(address: str, part: Path, mark: Path, setting: str, progress: Progress) -> None:
    """The bytes from where `part` ends, if the server still has the version that they began with."""
    version = mark.read_text(encoding="utf-8") if mark.is_file() and part.is_file() else ""
    begun = part.stat().st_size if version else 0
    headers = {"User-Agent": "bayes-merger"}
    if begun:
        headers |= {"Range": f"bytes={begun}-", "If-Range": version}
    try:
        opened = _ask(urllib.request.Request(address, headers=headers), setting)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not begun:
            raise
        part.unlink()  # nothing is left of it there: it was whole, or is another file now
        _copy(address, part, mark, setting, progress)
        return
    with opened as answer:
        if answer.status != 206 or not str(answer.headers["Content-Range"]).startswith(f"bytes {begun}-"):
            begun = 0
            mark.unlink(missing_ok=True)
            if version := _version(answer.headers):
                mark.write_text(version, encoding="utf-8")
        promised = answer.headers["Content-Length"]
        total = begun + int(promised) if promised is not None else 0
        _check_room(total - begun, part.parent)
        got = begun
        with part.open("r+b" if begun else "wb") as file:
            file.truncate(begun)
            file.seek(begun)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                got += len(chunk)
                progress(got, total)
            file.flush()
            os.fsync(file.fileno())
    if promised is not None and got != total:
        raise OSError(f"the transfer ended after {got} of {total} bytes")


def _version(headers: Message) -> str:
    """What tells one content at an address from another: a strong ETag; nothing else is safe to go on with."""
    tag = str(headers["ETag"] or "")
    return "" if tag.startswith("W/") else tag


def _check_room(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{math.ceil(needed / 1e6)} MB do not fit into {folder}, {free // 10**6} MB are free")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address that a download may use; hubs redirect to their storage."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        check_address(newurl, self.setting)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _ask(request: urllib.request.Request, setting: str) -> http.client.HTTPResponse:
    handlers: list[urllib.request.BaseHandler] = [_SafeRedirects(setting)]
    if _is_this_machine(request.full_url):
        handlers.append(urllib.request.ProxyHandler({}))
    answer: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT)
    return answer


def _is_this_machine(address: str) -> bool:
    host = urllib.parse.urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
