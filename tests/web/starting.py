"""Runs that are asked for and not started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from starlette.routing import BaseRoute

from bayes_merger.errors import StorageError
from bayes_merger.run.folder import RunFolder
from bayes_merger.web.api.runs import RunData
from bayes_merger.web.children import Children
from bayes_merger.web.pages.rating import Sittings
from bayes_merger.web.routes import all_routes
from bayes_merger.web.shelf import Shelf


class Recorded(Children):
    """Remembers what would be started."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[list[str]] = []

    def start(self, folder: RunFolder, arguments: Sequence[str]) -> None:
        self.commands.append(list(arguments))


class Going(Recorded):
    """Runs that go on, but for those that cannot be started or have failed."""

    def __init__(self, hindered: str = "", failed: str = "") -> None:
        super().__init__()
        self._hindered, self._names, self._failed = hindered, set[str](), {failed: "no such model"}

    def start(self, folder: RunFolder, arguments: Sequence[str]) -> None:
        self.check_ended(folder)
        if folder.name == self._hindered:
            raise StorageError("the disk is full")
        super().start(folder, arguments)
        self._names.add(folder.name)

    def is_starting(self, folder: RunFolder) -> bool:
        return folder.name in self._names and not self.failure(folder)


def everything(runs: Path) -> list[BaseRoute]:
    """All that is served, but that nothing is started."""
    shelf = Shelf(runs)
    return all_routes(shelf, Sittings(shelf.folder, "ann"), RunData(shelf, children=Recorded()))
