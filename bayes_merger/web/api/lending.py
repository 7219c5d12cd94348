"""Ask and tell: merges for whoever draws and judges elsewhere, and what they got."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from starlette.requests import Request

from bayes_merger.asking import Asking
from bayes_merger.errors import ConfigError, one_line
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.lending import DAY
from bayes_merger.web.answers import writing
from bayes_merger.web.api import shapes
from bayes_merger.web.api.operations import Operation
from bayes_merger.web.shelf import Shelf


@dataclass(frozen=True)
class Ask:
    """Who asks, and for how many hours; the same `worker` gets the same merge until it tells what that got."""

    worker: Annotated[str, {"maxLength": 200}] = ""
    hours: Annotated[float, {"exclusiveMinimum": 0, "maximum": 8760}] = DAY


@dataclass(frozen=True)
class Tell:
    """What a merge got: a `score`, greater is better; or that it `failed`, and why."""

    trial: Annotated[int, {"minimum": 0}]
    score: float | None = None
    failed: str | None = None


class Lending:
    """The two ends of it.

    Args:
        shelf: where the studies are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._asking = Asking()

    def routes(self) -> list[Operation]:
        """What the application serves."""
        api = "/api/v1/studies/{study}"
        return [
            Operation(api + "/ask", writing(Ask)(self.ask), shapes.Lent),
            Operation(api + "/tell", writing(Tell)(self.tell), shapes.Told),
        ]

    def ask(self, request: Request, body: Ask) -> dict[str, Any]:
        """A merge to draw, of a study that draws none itself (`bayes-merger run ... generator=outside`).

        It is lent until a certain time. If nothing was told by then, it is lent again, and may be told all the same.
        Whoever asks again under the same `worker` before telling gets the same merge, so that nothing is lost when
        they are killed; several who draw at the same time need names of their own.
        """
        if len(body.worker) > 200:
            raise ConfigError("field 'worker' has more than 200 letters; give a shorter name")
        folder = self._shelf.folder(request.path_params["study"])
        loan = self._asking.ask(folder, body.worker, body.hours)
        recipe = loan.recipe.to_json() if loan.recipe else None
        command = _command(folder, loan.trial) if loan.trial is not None and loan.recipe else None
        return vars(loan) | {"recipe": recipe, "command": command}

    def tell(self, request: Request, body: Tell) -> dict[str, Any]:
        """What a merge got. Told the same once more, nothing changes: tell again when an answer was lost."""
        if (body.score is None) == (body.failed is None):
            raise ConfigError("give either 'score', a number, or 'failed', the reason why there is none")
        folder = self._shelf.folder(request.path_params["study"])
        told = self._asking.tell(folder, body.trial, body.score, one_line(body.failed or "", longest=400))
        best = None if told.value is None else {"trial": told.best, "value": told.value}
        return {name: getattr(told, name) for name in ("trial", "done", "budget", "over")} | {"best": best}


def _command(folder: RunFolder, trial: int) -> str:
    """What writes the merge."""
    return f"bayes-merger merge {folder.typed} --trial {trial} --out {folder.name}-{trial:04d}.safetensors"
