"""Runs are started, paused, let go on, stopped and given more trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from bayes_merger.config import MOST_TRIALS
from bayes_merger.errors import ConfigError
from bayes_merger.merging.method import METHODS
from bayes_merger.run import steering
from bayes_merger.run.control import PAUSE, WAITING, run_state, wish_of
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.outside import budget_of
from bayes_merger.run.turns import device_of_study
from bayes_merger.web.answers import as_json, writing
from bayes_merger.web.api.operations import Operation
from bayes_merger.web.api.starts import Start, Starts
from bayes_merger.web.children import Children, printed
from bayes_merger.web.queue import Queue
from bayes_merger.web.shelf import Shelf


@dataclass(frozen=True)
class Stop:
    """After the trial that is drawn, or ``now``: then it is drawn again when the run goes on."""

    now: bool = False


@dataclass(frozen=True)
class GoOn:
    """How many more ``trials`` there shall be."""

    trials: int = 0


@dataclass(frozen=True)
class Leave:
    """The ``study`` whose run is not to begin."""

    study: str


@dataclass(frozen=True)
class Nothing:
    """No fields."""


FORK = {"fork": {"type": "string", "description": "The study that another one is to go on from."}}


class Begun(TypedDict):
    """What is run: the command line that does the same, the study's name, its trials, and the study it waits for.

    A budget of pictures tells how many trials there are only when they are drawn: null.
    """

    command: str
    study: str
    trials: int | None
    after: str


class InQueue(TypedDict):
    """A run that has not begun: its study, the study that it waits for, and why it could not begin."""

    study: str
    after: str
    wrong: str


class Said(TypedDict):
    """What happens now, for people."""

    said: str


class Output(TypedDict):
    """Whether the study exists, whether a process for it runs, why the last one ended early, and what was printed."""

    begun: bool
    starting: bool
    failed: str
    text: str


class Model(TypedDict):
    """A model, or a file of activations, that can be given by name."""

    name: str
    bytes: int
    place: str


def _listed(name: str, path: Path) -> Model:
    return {"name": name, "bytes": path.stat().st_size, "place": path.parent.name}


class Setting(TypedDict):
    """A setting of a run: its name, kind and default, what it means, and the only values that make sense, if so."""

    name: str
    kind: str
    default: str
    about: str
    choices: list[str]


class Choices(TypedDict):
    """What a run can be made of."""

    models: list[Model]
    activations: list[Model]
    methods: list[str]
    settings: list[Setting]


class RunData:
    """Everything that starts and steers runs.

    Args:
        shelf: where the studies are.
        models: the folder of models that the person has named; None: what the configuration says.
        children: starts the processes.

    Attributes:
        queue: of the runs that wait for their device.
    """

    def __init__(self, shelf: Shelf, models: str | None = None, children: Children | None = None) -> None:
        self._shelf, self._children = shelf, children or Children()
        self.queue = Queue(shelf, self._children)
        self._starts = Starts(shelf, models, self.queue.has)

    def routes(self) -> list[Operation]:
        """What the application serves."""
        study = "/api/v1/studies/{study}"
        return [
            Operation("/api/v1/choices", self.choices, Choices, FORK),
            Operation("/api/v1/queue", self.waiting, list[InQueue]),
            Operation("/api/v1/queue/leave", writing(Leave)(self.leave), Said),
            Operation("/api/v1/studies", writing(Start)(self.start), Begun),
            Operation(study + "/output", self.output, Output),
            Operation(study + "/pause", writing(Nothing)(self.pause), Said),
            Operation(study + "/stop", writing(Stop)(self.stop), Said),
            Operation(study + "/resume", writing(GoOn)(self.resume), Said),
        ]

    def choices(self, request: Request) -> Response:
        """What a run can be started from: models and files of activations by name, merge methods, settings.

        Of a fork, `?fork=NAME`: the settings that may differ, with those of the study as defaults.
        """
        settings, named = self._starts.choices(request.query_params.get("fork", ""))
        listed = {
            what: [_listed(name, path) for name, path in files.items()] for what, files in named._asdict().items()
        }
        found = [vars(one) | {"choices": list(one.choices)} for one in settings]
        return as_json({**listed, "methods": sorted(METHODS), "settings": found})

    def start(self, _: Request, body: Start) -> dict[str, Any]:
        """Start a run, or check its settings.

        They are composed as `bayes-merger run` does it, or `fork`, and the errors are the same. What names a file, a
        program or a place is refused. The run is a process of its own and goes on without the server. While another one
        draws on its device it waits, and the answer says in `after` for which study.
        """
        run = self._starts.prepared(body)
        if body.check:
            after = "" if body.at_once else self.queue.after(run.folder, run.device)
        else:
            after = self.queue.start(run.folder, run.arguments, run.device, at_once=body.at_once)
        return {"command": run.command, "study": run.folder.name, "trials": run.trials, "after": after}

    def waiting(self, _: Request) -> Response:
        """The runs that wait for their device, in their order, and which study each waits for."""
        return as_json(self.queue.lines())

    def leave(self, _: Request, body: Leave) -> dict[str, str]:
        """Take a run out of the queue."""
        self.queue.leave(body.study)
        return {"said": "It no longer waits."}

    def output(self, request: Request) -> Response:
        """What a run that was started here has printed, and whether it has begun."""
        folder = self._folder(request)
        return as_json({
            "begun": folder.exists(),
            "starting": self._children.is_starting(folder),
            "failed": self._children.failure(folder),
            "text": printed(folder),
        })  # fmt: skip

    def pause(self, request: Request, _: Nothing) -> dict[str, str]:
        """Hold a run where it is, with its models in memory."""
        steering.pause(self._shelf.folder(request.path_params["study"]))
        return {"said": "It pauses at its next step."}

    def stop(self, request: Request, body: Stop) -> dict[str, str]:
        """End a run; `resume` goes on with it."""
        folder = self._shelf.folder(request.path_params["study"])
        waits = run_state(folder) == WAITING
        steering.stop(folder, now=body.now)
        if waits:
            return {"said": "It no longer waits."}
        return {"said": "It stops at its next step." if body.now else "It stops after this trial."}

    def resume(self, request: Request, body: GoOn) -> dict[str, str]:
        """Let a run go on, with more trials if they are asked for: one that is paused, or a new one of the study."""
        folder = self._shelf.folder(request.path_params["study"])
        running = run_state(folder)
        total = self._with_more(folder, body.trials) if body.trials else None
        if not running:
            changes = [] if total is None else [f"n_iters={total}"]
            command = ["resume", folder.name, f"runs={self._shelf.runs}", *changes, "web.page=off"]
            after = self.queue.start(folder, command, device_of_study(folder))
            return {"said": f"It waits for {after}." if after else "It starts again; that takes a while."}
        if running == WAITING and total is None:
            raise ConfigError(f"study '{folder.name}': waits already")
        if total is not None:
            steering.give_trials(folder, total)
        if total is None or wish_of(folder) == PAUSE:
            steering.go_on(folder)
        return {"said": "It goes on." if total is None else f"It has {body.trials} trials more."}

    def _with_more(self, folder: RunFolder, more: int) -> int:
        """The budget of suggested trials with so many more."""
        study = load(folder, whole=False)
        if budget_of(study) is None or not 0 < more <= MOST_TRIALS:
            raise ConfigError(f"trials: {more} more are not possible; give 1 or more of a study that a run has made")
        return int(study.user_attrs["config"]["n_iters"]) + more

    def _folder(self, request: Request) -> RunFolder:
        """Of a study that is there, or is being started."""
        name = request.path_params["study"]
        if self._children.knows(name):
            return RunFolder(self._shelf.runs / name)
        return self._shelf.folder(name)
