"""ComfyUI as the program that draws, over its HTTP API.

The API is that of https://github.com/comfyanonymous/ComfyUI/blob/master/server.py: a graph is queued, its history says
when it is done and which pictures it made. A batch there has one seed, so pictures are asked for one at a time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed, nearest, one_line, printable
from bayes_merger.imaging.payload.passed_on import Request
from bayes_merger.imaging.payload.payload import Payload
from bayes_merger.imaging.payload.workflow import LOADERS, Workflow, choices, comfy_names
from bayes_merger.imaging.server import PAUSES, Answer, DrawnThere, Server, opened

_LOOKING, _LONGEST = 0.1, 1.0  # seconds between two looks whether a picture is done
_CLIENT = "bayes-merger"
_ATTEMPTS = 3  # at a picture whose place in the queue is lost, as after ComfyUI was started again


class ComfyUI(Server):
    """A running ComfyUI.

    Args:
        address: such as `http://127.0.0.1:8188`.
        timeout: seconds that a picture may take, with loading the model.
        workflow: what draws it.
        pauses: seconds before each further attempt.
        waiting: told, once, when it does not answer and is waited for.

    Raises:
        ConfigError: that is no such address.
    """

    called = "ComfyUI"
    start = "start it"
    missing = "is that ComfyUI?"
    reads = "the folder that its workflow's loader reads from, like .../models/checkpoints"
    at_once = 1

    def __init__(
        self,
        address: str,
        timeout: float,
        workflow: Workflow,
        *,
        pauses: Sequence[float] = PAUSES,
        waiting: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(address, timeout, pauses=pauses, waiting=waiting)
        self._workflow = workflow
        self._samplers: list[str] = []
        self._schedules: list[str] = []

    def look(self) -> dict[str, Any]:
        """A digest of the workflow, of which it has all nodes and the files that these load."""
        self._samplers, self._schedules = (self._choices("KSampler", name) for name in ("sampler_name", "scheduler"))
        known = {kind: self._about(kind) for kind in self._workflow.kinds}
        try:
            self._workflow.check_nodes(known)
        except ConfigError as error:
            raise ConfigError(f"generator.workflow: ComfyUI at {self.address} {error}") from error
        return {"workflow": self._workflow.digest}

    def check_payload(self, payload: Payload) -> None:
        """Whether it has the sampler and the schedule, and takes the words for what they are."""
        self._workflow.check(payload)
        for field, name, known in zip(
            ("sampler_name", "scheduler"), comfy_names(payload), (self._samplers, self._schedules), strict=True
        ):
            if name not in known:
                raise ConfigError(f"{field}: ComfyUI has no {printable(repr(name))}; {nearest(name, known)}")

    def _choices(self, node: str, name: str) -> list[str]:
        """What an input of a node may be."""
        if (found := choices(self._about(node), name)) is None:
            raise BayesMergerError(f"{self.address} has no {node} with a {name}; is that ComfyUI?")
        return found

    def _about(self, node: str) -> Any:
        """What it says of a node; None: it has none of that kind."""
        data = self.ask(f"/object_info/{quote(node, safe='')}", attempts=1)
        return data.get(node) if isinstance(data, Mapping) else None

    def files(self) -> dict[str, str]:
        """The models that it knows: name of the file -> what ComfyUI calls it."""
        listed = self._choices(self._workflow.loader, LOADERS[self._workflow.loader])
        return {re.split(r"[\\/]", name)[-1]: name for name in listed}

    def draw(self, request: Request, file: str, title: str) -> list[DrawnThere]:
        """The pictures of a request.

        Args:
            request: what is drawn.
            file: the model's, without its folder.
            title: what ComfyUI calls it.

        Raises:
            TrialFailed: it could not draw them: out of memory, another error of its own, or a flat colour.
            BayesMergerError: it does not answer, or does not take the graph.
        """
        graphs = [self._workflow.filled(request.payload, index, title) for index in request.indices]
        return [DrawnThere(opened(self._picture(graph, request), request), "") for graph in graphs]

    def steps(self) -> tuple[int, int]:
        """Zeros: it says so only over a web socket."""
        return 0, 0

    def _picture(self, graph: Mapping[str, Any], request: Request) -> bytes:
        for _ in range(_ATTEMPTS):
            number, done = self._queued(graph, request), None
            try:
                if (done := self._done(number, request)) is not None:
                    return self._view(_image_of(done, self._workflow.picture, request))
            finally:
                with suppress(BayesMergerError):
                    self._leave(number, finished=done is not None)
        raise BayesMergerError(f"{request}: ComfyUI at {self.address} has lost it {_ATTEMPTS} times")

    def _leave(self, number: str, *, finished: bool) -> None:
        """Let nothing of ours stay there, nor be drawn for nobody."""
        for path in ("/queue", "/history"):
            self.answered("POST", path, {"delete": [number]}, 1)
        if not finished and self._place(number) == 0:  # an older one ends whatever it draws: it has to be ours
            self.answered("POST", "/interrupt", {"prompt_id": number}, 1)

    def _queued(self, graph: Mapping[str, Any], request: Request) -> str:
        # without a client, a picture that it remembers from an equal graph would not be in the history
        answer = self.answered("POST", "/prompt", {"prompt": graph, "client_id": _CLIENT})
        if answer.status == 400:
            raise BayesMergerError(f"{request}: ComfyUI does not take its workflow: {_refusal(answer)}")
        data = self.good(answer, "/prompt")
        number = data.get("prompt_id") if isinstance(data, Mapping) else None
        if not isinstance(number, str) or not re.fullmatch(r"[\w-]{1,100}", number):
            raise BayesMergerError(f"{request}: the answer of {self.address} is not ComfyUI's")
        return number

    def _done(self, number: str, request: Request) -> Mapping[str, Any] | None:
        """What the history says of a graph, once it says something; None: nobody there knows of it any more."""
        until, pause, missed, told = time.monotonic() + self._timeout, _LOOKING, False, False
        while True:
            history = self.ask(f"/history/{number}")
            if isinstance(history, Mapping) and isinstance(done := history.get(number), Mapping):
                return done
            if missed:  # also after it was not in the queue, which it leaves before it is in the history
                return None
            place = self._place(number)
            missed = place is None
            if place:  # others' work is before it, however long that takes
                until = time.monotonic() + self._timeout
                if not told:
                    self._waiting(f"ComfyUI at {self.address} has other work to do first: {place} in its queue")
                told = True
            if time.monotonic() > until:
                raise BayesMergerError(
                    f"{request}: ComfyUI at {self.address} has not drawn it in {self._timeout:g} s; is it stuck? "
                    "generator.timeout=SECONDS waits longer"
                )
            time.sleep(_LONGEST if missed else pause)
            pause = min(1.5 * pause, _LONGEST)

    def _place(self, number: str) -> int | None:
        """How many are before a graph in the queue, 0 while it is drawn; None: it is not there."""
        queue = self.ask("/queue")
        try:
            running, pending = ([entry[1] for entry in queue[f"queue_{part}"]] for part in ("running", "pending"))
        except (IndexError, KeyError, TypeError) as error:
            raise BayesMergerError(f"the answer of {self.address} is not ComfyUI's queue") from error
        if number in running:
            return 0
        return len(running) + pending.index(number) if number in pending else None

    def _view(self, image: Mapping[str, Any]) -> bytes:
        path = "/view?" + urlencode({key: str(image.get(key, "")) for key in ("filename", "subfolder", "type")})
        answer = self.answered("GET", path, None)
        self.good(answer, "/view")
        return answer.content


def _image_of(done: Mapping[str, Any], node: str, request: Request) -> Mapping[str, Any]:
    """The picture that a graph has made.

    Raises:
        TrialFailed: it failed.
    """
    status = done.get("status")
    if isinstance(status, Mapping) and status.get("status_str") == "error":
        raise TrialFailed(f"{request}: ComfyUI cannot draw it: {_failure(status)}")
    try:
        images = [image for image in done["outputs"][node]["images"] if isinstance(image, Mapping)]
    except (KeyError, TypeError) as error:
        raise BayesMergerError(f"{request}: ComfyUI has made no picture (no {one_line(error)})") from error
    if len(images) != 1:
        raise BayesMergerError(
            f"{request}: ComfyUI has made {len(images) or 'no'} pictures where one is asked for; give a "
            "generator.workflow that makes one"
        )
    return images[0]


def _failure(status: Mapping[str, Any]) -> str:
    """What went wrong, from the messages of a history."""
    messages = status.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, list) and len(message) == 2 and isinstance(told := message[1], Mapping):
            if message[0] == "execution_interrupted":
                return "it was interrupted"
            if message[0] == "execution_error":
                words = (told.get("node_type"), told.get("exception_type"), told.get("exception_message"))
                return printable(one_line(": ".join(str(word) for word in words if word)), longest=300)
    return "no reason given"


def _refusal(answer: Answer) -> str:
    """Why a graph was refused: the error, and what is wrong with each node."""
    data = answer.data if isinstance(answer.data, Mapping) else {}
    error, nodes = data.get("error"), data.get("node_errors")
    words = [str(error.get("message")) if isinstance(error, Mapping) else str(error)]
    for node in nodes.values() if isinstance(nodes, Mapping) else ():
        if isinstance(node, Mapping):
            found, kind = node.get("errors") or (), node.get("class_type")
            words += [f"{kind}: {e.get('message')} ({e.get('details')})" for e in found if isinstance(e, Mapping)]
    return printable(one_line("; ".join(words)), longest=300)
