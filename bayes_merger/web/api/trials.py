"""One trial as data: its merge in every form, its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.trial import FrozenTrial
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from bayes_merger.errors import nearest, printable
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.report.exports import MERGES
from bayes_merger.report.formats import formats
from bayes_merger.report.summary import trial_data
from bayes_merger.run.attributes import IMAGES, SCORES
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.predicted import predicted_recipe
from bayes_merger.run.record import begun_trial, chosen_trial, recipe_of
from bayes_merger.web.answers import NotFound, as_json
from bayes_merger.web.api import shapes
from bayes_merger.web.api.operations import PICTURE, TEXT, Operation
from bayes_merger.web.api.studies import SIZE, row_of
from bayes_merger.web.pictures import Sizes
from bayes_merger.web.shelf import Shelf, address, picture_id

BEST, PREDICTED = "best", "predicted"
"""What stands in the place of a trial's number for the best merge, and for the one of which most is expected."""


class TrialData:
    """What there is of one trial.

    Args:
        shelf: where the studies are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._sizes = Sizes()

    def routes(self) -> list[Operation]:
        """What the application serves."""
        api = "/api/v1/studies/{study}/trials/{trial}"
        return [
            Operation(api, self.one, shapes.Trial),
            Operation(api + "/recipe", self.recipe, dict[str, Any]),
            Operation(api + "/weights", self.weights, shapes.Numbers),
            Operation(api + "/exports/{form}", self.export, TEXT),
            Operation(api + "/pictures", self.pictures, list[shapes.Shown]),
            Operation(api + "/pictures/{id}", self.picture, PICTURE, SIZE),
        ]

    def one(self, request: Request) -> Response:
        """A trial as it is now, with its weights, its scores, and what the model believes of it, once it does."""
        folder = self._folder(request)
        row = trial_data(_trial(folder, request.path_params["trial"]))
        beliefs = (one for one in self._shelf.seen(folder).trials if one["trial"] == row["trial"])
        known = next(beliefs, {})
        return as_json(row_of(row | {name: known[name] for name in ("mean", "sd") if name in known}))

    def recipe(self, request: Request) -> Response:
        """The recipe of its merge: everything needed to make the same bytes again, with ``bayes-merger merge``."""
        return as_json(self._recipe(request).to_json())

    def weights(self, request: Request) -> Response:
        """The weights of its merge, and as text in every form that people paste."""
        recipe = self._recipe(request)
        pasted = [vars(one) for one in formats(recipe, self._folder(request).name)]
        return as_json({"weights": recipe.weights, "formats": pasted})

    def export(self, request: Request) -> Response:
        """Its merge in a form that other programs take: recipe, yaml, weights, comfyui, mecha."""
        form = request.path_params["form"]
        if form not in MERGES:
            raise NotFound(f"no form '{printable(form)}' of a merge; {nearest(form, MERGES)}")
        return PlainTextResponse(MERGES[form][1](self._recipe(request), self._folder(request).name))

    def pictures(self, request: Request) -> Response:
        """Its pictures that are there: of which payload, where, and what each scorer gave them."""
        folder = self._folder(request)
        trial = _trial(folder, request.path_params["trial"])
        place = f"{address(folder)}/trials/{trial.number}/pictures"
        return as_json([_shown(trial, place, path) for path in _paths(folder, trial)])

    def picture(self, request: Request) -> Response:
        """One of its pictures."""
        folder = self._folder(request)
        for path in _paths(folder, _trial(folder, request.path_params["trial"])):
            if picture_id(path) == request.path_params["id"]:
                return self._sizes.answer(path, request.query_params.get("size", "small"))
        raise NotFound("there is no such picture, or it is gone")

    def _folder(self, request: Request) -> RunFolder:
        return self._shelf.folder(request.path_params["study"])

    def _recipe(self, request: Request) -> MergeRecipe:
        folder, wanted = self._folder(request), request.path_params["trial"]
        if wanted == PREDICTED:
            return predicted_recipe(load(folder))
        study, trial = load(folder), _trial(folder, wanted)
        return recipe_of(study, begun_trial(study, trial.number))


def _trial(folder: RunFolder, wanted: str) -> FrozenTrial:
    study = load(folder)
    if wanted == BEST:
        return chosen_trial(study)
    for trial in study.get_trials(deepcopy=False):
        if str(trial.number) == wanted:
            return trial
    raise _missing(wanted)


def _missing(wanted: str) -> NotFound:
    return NotFound(f"there is no trial '{printable(wanted, longest=40)}'; give a number, or {BEST}")


def _paths(folder: RunFolder, trial: FrozenTrial) -> list[Path]:
    return folder.pictures(trial.user_attrs.get(IMAGES, []))


def _shown(trial: FrozenTrial, place: str, path: Path) -> dict[str, Any]:
    """A picture as data; its file is named by its payload and its number there."""
    payload, _, index = path.stem.rpartition("-")
    scores: list[Mapping[str, Any]] = [
        one for one in trial.user_attrs.get(SCORES, ()) if (one["payload"], str(one["index"])) == (payload, index)
    ]
    return {
        "payload": payload,
        "index": int(index) if index.isdecimal() else 0,
        "seed": scores[0]["seed"] if scores else None,
        "address": f"{place}/{quote(picture_id(path))}",
        "scores": {one["scorer"]: one["value"] for one in scores},
    }
