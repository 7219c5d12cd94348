"""A program of the user's own that draws, over its HTTP API.

Nothing but the address that the user gave is asked: no redirect is followed, no proxy used, and what comes back is of
limited size and time.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import math
import os
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed, one_line, printable
from bayes_merger.imaging.payload.payload import Payload

if TYPE_CHECKING:
    from PIL.Image import Image

CREDENTIALS = "BAYES_MERGER_WEBUI_AUTH"
"""Environment variable: `USER:PASSWORD` of the web UI's `--api-auth`; it is never stored or shown."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each further attempt to reach a web UI that does not answer: it may be starting again."""

_LARGEST = 256 << 20  # bytes of an answer
_MOST_PIXELS = 8192 * 8192
_CONNECTING = 10.0  # seconds
_CHUNK = 1 << 16
_NO_REASON = "no reason given; its own window may say more"


class Unreachable(Exception):
    """Nobody answers, or the answer breaks off."""


@dataclass(frozen=True)
class Answer:
    """What it said.

    Attributes:
        status: of HTTP.
        content: as it came.
    """

    status: int
    content: bytes

    @cached_property
    def data(self) -> Any:
        """The JSON; None where it is none."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True)
class DrawnThere:
    """A picture and the program's own text about it; empty: it has none."""

    image: Image
    parameters: str


class Server:
    """A program that runs.

    Attributes:
        address: of it.
        called: what it is, for people.
        start: how it is made to answer.
        missing: what to do where it has no such API.
        reads: its folder of models, for people.
        at_once: most pictures in one request.

    Args:
        address: such as `http://127.0.0.1:7860`.
        timeout: seconds that one answer may take.
        pauses: seconds before each further attempt.
        waiting: told, once, when it does not answer and is waited for.

    Raises:
        ConfigError: that is no such address.
    """

    called: ClassVar[str]
    start: ClassVar[str]
    missing: ClassVar[str]
    reads: ClassVar[str]
    at_once: ClassVar[int]

    def __init__(
        self,
        address: str,
        timeout: float,
        *,
        pauses: Sequence[float] = PAUSES,
        waiting: Callable[[str], None] = lambda text: None,
    ) -> None:
        try:
            parts = urllib.parse.urlsplit(address)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            parts, self._host = urllib.parse.urlsplit(""), ""
        if parts.username or parts.password:
            raise ConfigError(
                f"generator.address: holds a password, which would be stored; put USER:PASSWORD into {CREDENTIALS}"
            )
        if parts.scheme not in ("http", "https") or not self._host or parts.query or parts.fragment:
            raise ConfigError(
                f"generator.address: {printable(repr(address))} is no address of a web UI; give one like "
                "http://127.0.0.1:7860"
            )
        if not 0 < timeout < math.inf:
            raise ConfigError(f"generator.timeout: {timeout} is no time; give seconds, such as 600")
        self.address = address
        self._secure, self._path = parts.scheme == "https", parts.path.rstrip("/")
        self._timeout, self._pauses, self._waiting = timeout, pauses, waiting
        secret = os.environ.get(CREDENTIALS, "")
        token = base64.b64encode(secret.encode()).decode()
        self._headers = {"Accept": "application/json", **({"Authorization": f"Basic {token}"} if secret else {})}

    def look(self) -> dict[str, Any]:
        """What it is and has; what of that makes its pictures comparable.

        Raises:
            BayesMergerError: it does not answer, or is another program.
        """
        raise NotImplementedError

    def check_payload(self, payload: Payload) -> None:
        """Whether it can draw a payload, once it was looked at.

        Raises:
            ConfigError: a sampler that it does not have, or what it would draw otherwise.
        """
        raise NotImplementedError

    def files(self) -> dict[str, str]:
        """The models that it knows: name of the file -> what it calls the model.

        Raises:
            BayesMergerError: it does not answer.
        """
        raise NotImplementedError

    def refresh(self) -> None:
        """Make it read its folder of models again, where it does not do so by itself."""

    def leave(self) -> None:
        """Let it be as it was before anything was drawn."""

    def check(self, payloads: Sequence[Payload]) -> dict[str, Any]:
        """Whether it runs and can draw the payloads.

        Returns:
            What makes its pictures comparable.

        Raises:
            ConfigError: it does not run, or cannot draw them.
        """
        try:
            state = self.look()
        except ConfigError:
            raise
        except BayesMergerError as error:
            raise ConfigError(f"generator.address: {error}") from error
        for payload in payloads:
            try:
                self.check_payload(payload)
            except ConfigError as error:
                raise ConfigError(f"payload {payload.name}: {error}") from error
        return state

    def title_of(self, file: str) -> str:
        """What it calls a model whose file is new in its folder.

        Raises:
            BayesMergerError: it does not see the file, so that its folder is another one.
        """
        self.refresh()
        found = self.files().get(file)
        if found is None:
            raise BayesMergerError(
                f"generator.models_folder: {self.called} at {self.address} does not list {file}, which lies there; "
                f"give {self.reads}"
            )
        return found

    def ask(self, path: str, body: Any = None, *, attempts: int = 0) -> Any:
        """The JSON behind a path; with a body it is posted.

        Raises:
            BayesMergerError: no answer, or one that says no.
        """
        return self.good(self.answered("GET" if body is None else "POST", path, body, attempts), path)

    def good(self, answer: Answer, path: str) -> Any:
        """The JSON of an answer that says yes.

        Raises:
            BayesMergerError: it says no.
        """
        where = f"{self.called} at {self.address}"
        if answer.status == 200:
            return answer.data
        if answer.status == 401:
            raise BayesMergerError(f"{where} wants another USER:PASSWORD than {CREDENTIALS} holds")
        reason = reason_of(answer)
        if answer.status == 404 and (reason == _NO_REASON or "Not Found" in reason):
            raise BayesMergerError(f"{self.address} has no {path}; {self.missing}")
        if 300 <= answer.status < 400:
            raise BayesMergerError(
                f"{self.address} sends elsewhere, which is not followed; give {self.called}'s own address"
            )
        raise BayesMergerError(f"{where} answers {path} with {answer.status}: {reason}")

    def answered(self, method: str, path: str, body: Any, attempts: int = 0) -> Answer:
        """An answer, with patience: what is asked can be asked again."""
        pauses = list(self._pauses[: attempts - 1] if attempts else self._pauses)
        told = False
        while True:
            try:
                return self.once(method, path, body, self._timeout)
            except TimeoutError as error:
                raise BayesMergerError(
                    f"{self.called} at {self.address} has not answered {path} for {self._timeout:g} s; is it stuck? "
                    "generator.timeout=SECONDS waits longer"
                ) from error
            except Unreachable as error:
                if not pauses:
                    raise BayesMergerError(
                        f"no {self.called.removeprefix('the ')} answers at {self.address} ({error}); {self.start}, or "
                        "give generator.address"
                    ) from error
                if not told:
                    self._waiting(f"{self.called} at {self.address} does not answer ({error}); waiting for it")
                told = True
                time.sleep(pauses.pop(0))

    def once(self, method: str, path: str, body: Any, timeout: float) -> Answer:
        """One request on a connection of its own.

        Raises:
            TimeoutError: it was taken and not answered in time.
        """
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=min(timeout, _CONNECTING))
        try:
            try:
                connection.connect()
                connection.sock.settimeout(timeout)
            except OSError as error:  # a time-out too: nobody is there
                raise Unreachable(one_line(error) or type(error).__name__) from error
            data = None if body is None else json.dumps(body).encode()
            headers = self._headers | ({"Content-Type": "application/json"} if data is not None else {})
            try:
                connection.request(method, self._path + path, data, headers)
                response = connection.getresponse()
                return Answer(response.status, _bounded(response, time.monotonic() + timeout))
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(one_line(error) or type(error).__name__) from error
        finally:
            connection.close()


def _bounded(response: http.client.HTTPResponse, until: float) -> bytes:
    parts, size = [], 0
    while part := response.read1(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > _LARGEST:
            raise BayesMergerError(f"an answer of more than {_LARGEST >> 20} MiB; is that a web UI?")
        if time.monotonic() > until:
            raise TimeoutError
    return b"".join(parts)


def reason_of(answer: Answer) -> str:
    """What went wrong there, in a line: of A1111's own error (`errors`), Forge's (`message`), or FastAPI's."""
    data = answer.data if isinstance(answer.data, Mapping) else {}
    words = [data.get("error"), data.get("errors") or data.get("message") or data.get("detail")]
    return printable(one_line(": ".join(str(word) for word in words if word) or _NO_REASON), longest=300)


def opened(data: bytes, request: object) -> Image:
    """A picture as it came, of limited size.

    Raises:
        TrialFailed: it is one flat colour.
        BayesMergerError: it is no picture.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            picture = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BayesMergerError(f"{request}: what was sent is no picture ({one_line(error)})") from error
    if all(len(set(band.getextrema())) == 1 for band in picture.split()):
        raise TrialFailed(f"{request}: one flat colour {picture.getpixel((0, 0))}")
    return picture
