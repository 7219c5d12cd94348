"""optuna-dashboard over all studies, for those who know it: read only, behind the same door as everything else.

It must lie at the root of a server (its pages name ``/static`` and ``/api/studies``), so it gets those addresses here
and nothing else. Only GET is passed on, and the storage that it is given cannot be written: its buttons would delete
studies that a run has open, and pictures.
"""

from __future__ import annotations

import copy
import sqlite3
import threading
from collections.abc import Container
from typing import Any, NoReturn

from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from starlette.datastructures import MutableHeaders
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bayes_merger.errors import UserError
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.web.answers import NotFound
from bayes_merger.web.shelf import Shelf

PATHS = ("/dashboard", "/static/", "/api/studies", "/api/meta", "/csv/")
"""The addresses that its pages name."""

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' data: 'unsafe-inline'; "
    "script-src 'self' 'unsafe-eval'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Of its answers: it makes styles, and its plots compile their shaders' code, as they go."""

SPAN = 10_000_000
"""Ids of a study's trials begin at so many times its own id."""


class Library(BaseStorage):
    """All studies of a shelf as one storage, read again only after they changed. Those that cannot be read are absent.

    Args:
        shelf: where they are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._names: list[str] = []
        self._known: dict[str, tuple[str, Study, list[FrozenTrial]]] = {}
        self._reading = threading.Lock()

    def get_all_studies(self) -> list[Any]:
        """All studies, the one touched last first."""
        from optuna.study._frozen import FrozenStudy

        found = []
        for folder in self._shelf.folders():
            try:
                id, study, _ = self._of(folder)
            except UserError:
                continue  # the list of studies says why
            found.append(FrozenStudy(folder.name, None, study.user_attrs, {}, id, directions=study.directions))
        return found

    def get_study_id_from_name(self, study_name: str) -> int:
        """A study's id, as long as this process lives.

        Raises:
            KeyError: there is none of that name.
        """
        return self._by_name(study_name)[0]

    def get_study_name_from_id(self, study_id: int) -> str:
        """A study's name.

        Raises:
            KeyError: there is none of that id.
        """
        if not 0 < study_id <= len(self._names):
            raise KeyError(study_id)
        return self._names[study_id - 1]

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The direction of each objective."""
        return self._by_id(study_id)[1].directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """A study's attributes."""
        return self._by_id(study_id)[1].user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """None: they are another program's notes, layouts and artifacts."""
        return {}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial.

        Raises:
            KeyError: there is none of that id.
        """
        return {trial._trial_id: trial for trial in self.get_all_trials(trial_id // SPAN)}[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials, in order; never copied, since nobody may change what was only read."""
        return [trial for trial in self._by_id(study_id)[2] if states is None or trial.state in states]

    def _by_id(self, study_id: int) -> tuple[int, Study, list[FrozenTrial]]:
        return self._by_name(self.get_study_name_from_id(study_id))

    def _by_name(self, name: str) -> tuple[int, Study, list[FrozenTrial]]:
        try:
            return self._of(self._shelf.folder(name))
        except (NotFound, UserError) as error:
            raise KeyError(name) from error

    def _of(self, folder: RunFolder) -> tuple[int, Study, list[FrozenTrial]]:
        """A study with its id and trials, whose ids differ from those of all other studies."""
        with self._reading:
            version, name = self._shelf.version(folder), folder.name
            known = self._known.get(name)
            if name not in self._names:
                self._names.append(name)
            id = self._names.index(name) + 1
            if known is None or known[0] != version:
                study = load(folder)
                trials = [copy.copy(trial) for trial in study.get_trials(deepcopy=False)]
                for trial in trials:
                    trial._trial_id = id * SPAN + trial.number
                known = self._known[name] = version, study, trials
            return id, *known[1:]

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = create_new_trial = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


class Inspector:
    """Its pages; made when they are first asked for, since few ask.

    Args:
        shelf: where the studies are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._app: ASGIApp | None = None
        self._making = threading.Lock()

    def routes(self) -> list[Route]:
        """What the application serves."""
        return [Route(path + "{rest:path}", self, methods=["GET"]) for path in PATHS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = POLICY
            await send(message)

        await self._made()(scope, receive, sending)

    def _made(self) -> ASGIApp:
        with self._making:
            if self._app is None:
                try:
                    from a2wsgi import WSGIMiddleware
                    from optuna_dashboard import wsgi
                except ImportError:
                    raise NotFound(
                        "optuna-dashboard is not installed; get it with  pip install 'bayes-merger[dashboard]'"
                    ) from None
                self._app = WSGIMiddleware(wsgi(Library(self._shelf)))
            return self._app
