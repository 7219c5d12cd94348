"""Runs are started, paused, let go on, stopped and given more trials."""

from __future__ import annotations

import shlex
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from bayes_merger import compose
from bayes_merger.checkpoints.shelves import models_on, shelves
from bayes_merger.compose.asked import check_asked, split_line
from bayes_merger.compose.schema import fields, models_dir
from bayes_merger.errors import ConfigError
from bayes_merger.merging.method import METHODS
from bayes_merger.run import steering
from bayes_merger.run.control import PAUSE, run_state, wish_of
from bayes_merger.run.folder import RunFolder, load, new_folder
from bayes_merger.run.outside import budget_of
from bayes_merger.web.answers import as_json, writing
from bayes_merger.web.api.operations import Operation
from bayes_merger.web.children import Children, printed
from bayes_merger.web.shelf import Shelf


@dataclass(frozen=True)
class Start:
    """A run: its ``settings`` like `name=value`, and further ones as they are typed on a ``line``.

    With ``check`` nothing is started.
    """

    settings: list[str] = field(default_factory=list)
    line: str = ""
    check: bool = False


@dataclass(frozen=True)
class Stop:
    """After the trial that is drawn, or ``now``: then it is drawn again when the run goes on."""

    now: bool = False


@dataclass(frozen=True)
class GoOn:
    """How many more ``trials`` there shall be."""

    trials: int = 0


@dataclass(frozen=True)
class Nothing:
    """No fields."""


class Begun(TypedDict):
    """What is run: the command line that does the same, the study's name, and its trials."""

    command: str
    study: str
    trials: int


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
    """A model that can be given by name."""

    name: str
    bytes: int
    place: str


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
    methods: list[str]
    settings: list[Setting]


class RunData:
    """Everything that starts and steers runs.

    Args:
        shelf: where the studies are.
        models: the folder of models that the person has named; None: what the configuration says.
        children: starts the processes.
    """

    def __init__(self, shelf: Shelf, models: str | None = None, children: Children | None = None) -> None:
        self._shelf, self._models, self._children = shelf, models, children or Children()
        self._composing = threading.Lock()  # Hydra has one state for the whole process

    def routes(self) -> list[Operation]:
        """What the application serves."""
        study = "/api/v1/studies/{study}"
        return [
            Operation("/api/v1/choices", self.choices, Choices),
            Operation("/api/v1/studies", writing(Start)(self.start), Begun),
            Operation(study + "/output", self.output, Output),
            Operation(study + "/pause", writing(Nothing)(self.pause), Said),
            Operation(study + "/stop", writing(Stop)(self.stop), Said),
            Operation(study + "/resume", writing(GoOn)(self.resume), Said),
        ]

    def choices(self, _: Request) -> Response:
        """What a run can be started from: models by name, merge methods, settings."""
        with self._composing:
            settings = [vars(one) | {"choices": list(one.choices)} for one in fields()]
            models = self._found()
        listed = [
            {"name": name, "bytes": path.stat().st_size, "place": path.parent.name} for name, path in models.items()
        ]
        return as_json({"models": listed, "methods": sorted(METHODS), "settings": settings})

    def start(self, _: Request, body: Start) -> dict[str, Any]:
        """Start a run, or check its settings.

        They are composed as `bayes-merger run` does it, and its errors are the same. What names a file, a program or a
        place is refused. The run is a process of its own and goes on without the server.
        """
        asked = [*(one for one in body.settings if one.partition("=")[2]), *split_line(body.line)]
        with self._composing:
            check_asked(asked, self._found())
            overrides = [*self._places(), *asked]
            config = compose.validate(compose.compose_run(overrides))
        named = any(one.startswith("name=") for one in asked)
        folder = new_folder(config, named=named)
        if not body.check:
            shown = [] if any(one.startswith("preview=") for one in asked) else ["preview=true"]
            name = [] if named else [f"name={folder.name}"]
            command = ["run", *overrides, *shown, *name, "web.page=off"]
            self._children.start(folder, command)
        return {
            "command": shlex.join(["bayes-merger", "run", *overrides]),
            "study": folder.name,
            "trials": config.init_points + config.n_iters,
        }

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
        steering.stop(self._shelf.folder(request.path_params["study"]), now=body.now)
        return {"said": "It stops at its next step." if body.now else "It stops after this trial."}

    def resume(self, request: Request, body: GoOn) -> dict[str, str]:
        """Let a run go on, with more trials if they are asked for: one that is paused, or a new one of the study."""
        folder = self._shelf.folder(request.path_params["study"])
        running = run_state(folder)
        total = self._with_more(folder, body.trials) if body.trials else None
        if not running:
            changes = [] if total is None else [f"n_iters={total}"]
            self._children.start(folder, ["resume", folder.name, f"runs={self._shelf.runs}", *changes, "web.page=off"])
            return {"said": "It starts again; that takes a while."}
        if total is not None:
            steering.give_trials(folder, total)
        if total is None or wish_of(folder) == PAUSE:
            steering.go_on(folder)
        return {"said": "It goes on." if total is None else f"It has {body.trials} trials more."}

    def _with_more(self, folder: RunFolder, more: int) -> int:
        """The budget of suggested trials with so many more."""
        study = load(folder, whole=False)
        if budget_of(study) is None or not 0 < more <= steering.MOST_TRIALS:
            raise ConfigError(f"trials: {more} more are not possible; give 1 or more of a study that a run has made")
        return int(study.user_attrs["config"]["n_iters"]) + more

    def _folder(self, request: Request) -> RunFolder:
        """Of a study that is there, or is being started."""
        name = request.path_params["study"]
        if self._children.knows(name):
            return RunFolder(self._shelf.runs / name)
        return self._shelf.folder(name)

    def _places(self) -> list[str]:
        """The settings that are the server's own."""
        runs = [] if self._shelf.runs == Path("runs") else [f"runs={self._shelf.runs}"]
        return runs + ([f"models_dir={self._models}"] if self._models else [])

    def _found(self) -> dict[str, Path]:
        """The models that have a name."""
        files = models_on(shelves(self._models or models_dir()))
        stems = [path.stem for path in files]
        return {path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.name}": path for path in files}
