"""What a page asks to be run, composed and checked as for the terminal: a new study, or one that another goes on as."""

from __future__ import annotations

import re
import shlex
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bayes_merger import compose
from bayes_merger.checkpoints.activations.names import SUFFIX
from bayes_merger.checkpoints.shelves import models_on, shelves
from bayes_merger.compose.asked import MODELS, check_asked, split_line
from bayes_merger.compose.changes import check_forked, is_forked
from bayes_merger.compose.schema import Field, fields, models_dir
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.checks import check_numbers
from bayes_merger.run.folder import RunFolder, check_name, is_begun, load
from bayes_merger.run.models import given_models, merge_settings
from bayes_merger.run.new_folder import new_folder
from bayes_merger.run.outside import OUTSIDE
from bayes_merger.run.turns import device_of
from bayes_merger.web.shelf import Shelf


@dataclass(frozen=True)
class Start:
    """A run: its ``settings`` like `name=value`, and further ones as they are typed on a ``line``.

    With ``fork`` it goes on from the study of that name, whose trials it takes over as far as they compare. It waits
    while another run draws on its device, unless it is to begin ``at_once``. With ``check`` nothing is started.
    """

    settings: list[str] = field(default_factory=list)
    line: str = ""
    fork: str = ""
    at_once: bool = False
    check: bool = False


@dataclass(frozen=True)
class Prepared:
    """A run that may be started.

    Attributes:
        folder: of its study.
        arguments: of the command line that starts it.
        command: that does the same in a terminal.
        trials: how many there are to be, of a fork beside those that it takes over; None: as `images_budget` allows.
        device: that it draws on.
    """

    folder: RunFolder
    arguments: list[str]
    command: str
    trials: int | None
    device: str


class Named(NamedTuple):
    """Files by the names that they may be given by."""

    models: dict[str, Path]
    activations: dict[str, Path]


class Starts:
    """Makes runs of what is asked.

    Args:
        shelf: where the studies are.
        models: the folder of models that the person has named; None: what the configuration says.
        taken: whether a name is that of a run which waits, or has just been started.
    """

    def __init__(self, shelf: Shelf, models: str | None, taken: Callable[[str], bool]) -> None:
        self._shelf, self._models, self._taken = shelf, models, taken
        self._composing = threading.Lock()  # Hydra has one state for the whole process

    def prepared(self, body: Start) -> Prepared:
        """A run, checked as the terminal does it.

        Raises:
            ConfigError: a setting that makes no sense, or that names a file, a program or a place.
            NotFound: no study of the name that is to be forked.
        """
        asked = [*(one for one in body.settings if one.partition("=")[2]), *_typed(body.line)]
        with self._composing:
            check_asked(asked, *self.named())
            return self._fork(body.fork, asked) if body.fork else self._run(asked)

    def choices(self, fork: str) -> tuple[list[Field], Named]:
        """The settings that may be given, and what has a name; of a fork with the study's values as defaults.

        Raises:
            ConfigError: its settings are not what a run writes.
            NotFound: no study of that name.
        """
        with self._composing:
            if not fork:
                return fields(), self.named()
            own = fields(compose.changed(self._stored(fork), []))
            return [
                one for one in own if one.name == "name" or (is_forked(one.name) and one.name not in MODELS)
            ], Named({}, {})

    def named(self) -> Named:
        """What has a name."""
        files = models_on(shelves(self._models or models_dir()))
        stems = Counter(path.stem for path in files)
        names = {path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.name}": path for path in files}
        activations = {name: path for name, path in names.items() if path.name.endswith(SUFFIX)}
        return Named({name: path for name, path in names.items() if name not in activations}, activations)

    def _run(self, asked: Sequence[str]) -> Prepared:
        overrides = [*self._places(), *asked]
        settings = compose.compose_run(overrides)
        config = compose.validate(settings)
        _check(config)
        named = any(one.startswith("name=") for one in asked)
        folder = self._free(new_folder(config, named=named), named=named)
        name = [] if named else [f"name={folder.name}"]
        return Prepared(
            folder,
            ["run", *overrides, *name, "web.page=off"],
            shlex.join(["bayes-merger", "run", *overrides]),
            None if config.images_budget else config.init_points + config.n_iters,
            device_of(settings),
        )

    def _fork(self, old: str, asked: Sequence[str]) -> Prepared:
        stored = self._stored(old)
        given = [one.partition("=")[2] for one in asked if one.startswith("name=")]
        changes = [one for one in asked if not one.startswith("name=")]
        check_forked(old, changes)
        folder = self._free(RunFolder(self._shelf.runs / check_name(given[-1] if given else old)), named=bool(given))
        settings = compose.changed(stored, [f"name={folder.name}", *changes])
        runs = [] if self._shelf.runs == Path("runs") else [f"runs={self._shelf.runs}"]
        command = ["fork", old, folder.name, *changes, *runs]
        shown = shlex.join(["bayes-merger", *command])
        config = compose.validate(settings)
        check_numbers(config)
        budgeted = any(one.startswith("images_budget=") for one in changes) and config.images_budget
        trials = None if budgeted else config.n_iters
        return Prepared(folder, [*command, "web.page=off"], shown, trials, device_of(settings))

    def _stored(self, study: str) -> dict[str, Any]:
        """The settings of a study.

        Raises:
            ConfigError: no run has made it.
        """
        stored = load(self._shelf.folder(study), whole=False).user_attrs.get(CONFIG)
        if not isinstance(stored, dict):
            raise ConfigError(f"study '{study}': no run has made it, so there is nothing to go on from")
        return stored

    def _free(self, folder: RunFolder, *, named: bool) -> RunFolder:
        """A folder of that name, or with a number behind it where nobody has chosen the name.

        Raises:
            ConfigError: the name is taken.
        """
        if named and self._is_taken(folder):
            raise ConfigError(f"name: there is a study '{folder.name}', or one waits to begin; choose another name")
        stem, number = re.sub(r"-\d+$", "", folder.name), 2
        while self._is_taken(folder):
            folder, number = RunFolder(folder.path.with_name(f"{stem}-{number}")), number + 1
        return folder

    def _is_taken(self, folder: RunFolder) -> bool:
        return self._taken(folder.name) or is_begun(folder)

    def _places(self) -> list[str]:
        """The settings that are the server's own."""
        runs = [] if self._shelf.runs == Path("runs") else [f"runs={self._shelf.runs}"]
        return runs + ([f"models_dir={self._models}"] if self._models else [])


def _typed(line: str) -> list[str]:
    """What is typed on a line: settings, with their dashes or as a whole command line, which people paste."""
    words = split_line(line)
    if words[:2] == ["bayes-merger", "run"]:
        words = words[2:]
    return [word.lstrip("-") if "=" in word else word for word in words]


def _check(config: RunConfig) -> None:
    """What the settings alone tell; the process that is started finds out all the rest.

    Raises:
        ConfigError: a number, or models, that make no sense.
    """
    check_numbers(config)
    if config.recipe or config.generator.program == OUTSIDE:
        return
    given = given_models(config, merge_settings(config).spec)
    for name, model in given.items():
        if same := next((other for other in given if other < name and given[other] == model), None):
            raise ConfigError(f"model_{name}: is model_{same} too, so nothing would be merged; choose another one")
