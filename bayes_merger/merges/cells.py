"""The cells of a grid: the settings of a run, numbers as ``merge`` takes them, and axes -> merges and payloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import hash_all
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.merges.from_settings import recipe_by_hand
from bayes_merger.merging.models.named import with_paths
from bayes_merger.merging.models.opening import open_each, references
from bayes_merger.merging.plan.planning import check_weights, plan_recipe
from bayes_merger.merging.rebasin.aligning import Progress
from bayes_merger.merging.rebasin.settings import Alike
from bayes_merger.merging.rebasin.written import tables_in
from bayes_merger.merging.recipe.postprocess import ADJUST
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.settings import SETTINGS
from bayes_merger.merging.saliency.settings import hashed
from bayes_merger.run.matching import match_drawing
from bayes_merger.run.models import orders_in
from bayes_merger.run.payloads import check_payloads, resolve_payloads
from bayes_merger.run.rebasin import find_orders
from bayes_merger.run.xy.axes import Axis, Chosen, drawn_payloads, merge_words
from bayes_merger.run.xy.grid import Cell, Form, Grid, Merge, unmerged_recipe

_TABLES = ("options", "saliency", "act", "rebasin")
Models = dict[str, Checkpoint]


def is_number(word: str) -> bool:
    """Whether a word gives a number or an option as ``merge`` takes it, and is no setting of a run."""
    name = word.lstrip("~").partition("=")[0].partition(".")[0]
    known = {field.name for field in fields(RunConfig)} | {"experiment"}
    return name not in known and not name.startswith("model_")


class Cells:
    """Makes the cells of a grid. Files stay open until `close`.

    Args:
        config: the settings of a run, of which the models, the merge, the payloads and the generator count.
        numbers: weights and options, as ``merge`` takes them.
    """

    def __init__(self, config: RunConfig, numbers: Mapping[str, str]) -> None:
        if config.recipe:
            raise ConfigError("recipe: a grid is of one step; give model_a=, model_b= and method=")
        self._config = config
        self._given = {**_settings(config), **numbers}
        self._open: dict[tuple[Any, ...], Models] = {}
        self._forms: dict[tuple[Any, ...], Form] = {}
        self._merges: dict[str, Merge] = {}
        self._unmerged: dict[tuple[str, ...], Merge] = {}
        self._payloads: dict[tuple[Any, ...], tuple[Payload, ...]] = {}

    def grid(self, axes: Sequence[Axis]) -> Grid:
        """The cells of these axes.

        Raises:
            ConfigError: a setting or value that makes no sense.
            CheckpointError: a model file that cannot be used.
        """
        cells: dict[tuple[int, int, int], Cell] = {}
        unmerged: dict[tuple[int, int, int], Cell] = {}
        counts = {axis.place: len(axis.values) for axis in axes}
        for place in product(*(range(counts.get(name, 1)) for name in "zyx")):
            at = dict(zip("zyx", place, strict=True))
            chosen = [(axis, axis.values[at[axis.place]]) for axis in axes]
            try:
                merge = self._merge(chosen)
                payloads = self._drawn(chosen, merge.checkpoints["a"])
            except ConfigError as error:
                values = ", ".join(f"{axis.place}={axis.label(at[axis.place])}" for axis in axes)
                raise ConfigError(f"{error} (in the cell {values})") from error
            cells[place[0], place[1], place[2]] = Cell(merge, payloads)
            if merge.loaded not in self._unmerged:
                self._unmerged[merge.loaded] = self._model_a(merge)
            unmerged[place[0], place[1], place[2]] = Cell(self._unmerged[merge.loaded], payloads)
        return Grid(tuple(axes), cells, unmerged)

    def leaves_a(self, axes: Sequence[Axis]) -> bool:
        """Whether what these axes do not merge stays model A because nobody has given alpha."""
        words = merge_words(self._given, [(axis, axis.values[0]) for axis in axes])
        return "alpha" not in self._given and words.get("alpha") == "0" and all(axis.kind != "alpha" for axis in axes)

    def notes(self) -> list[str]:
        """What is worth knowing of the models of the cells made so far, as ``merge`` says it, one line each."""
        return list(dict.fromkeys(note for form in self._forms.values() for note in form.structure.remarks))

    def find_orders(self, progress: Progress | None = None, note: Callable[[str], object] | None = None) -> list[str]:
        """Find and verify the orders of models that take another's, and say what they do, a line each.

        Args:
            progress: told how far the matching by weights is.
            note: told what is drawn for it.

        Raises:
            CheckpointError: one cannot be found, or a model would answer something else.
        """
        match = partial(match_drawing, config=self._config, note=note)
        return [line for models in self._open.values() for line in find_orders(models.values(), match, progress)]

    def close(self) -> None:
        """Let go of the model files."""
        for models in self._open.values():
            for model in models.values():
                model.close()

    def _merge(self, chosen: Chosen) -> Merge:
        config = self._config
        words = with_paths(tables_in(merge_words(self._given, chosen)), config.models_dir)
        dtype = words.pop("dtype", config.dtype)
        key = tuple(
            (name, repr(words[name])) for name in sorted(words) if name.startswith(("model_", "rebasin", "vae"))
        )
        recipe, models = recipe_by_hand(words, dtype, partial(self._opened, key))
        return self._made(recipe, models, key)

    def _opened(self, key: tuple[Any, ...], paths: Mapping[str, str], rebasin: Mapping[str, Alike]) -> Models:
        if key not in self._open:
            self._open[key] = open_each(paths, rebasin=orders_in(self._config, rebasin))
        return self._open[key]

    def _made(self, recipe: MergeRecipe, models: Mapping[str, Checkpoint], key: tuple[Any, ...]) -> Merge:
        known = repr((key, recipe))
        if known not in self._merges:
            kind = (key, repr(recipe.with_weights({})))
            if kind not in self._forms:
                self._forms[kind] = Form(plan_recipe(recipe, models, checked=False))
                hash_all(models.values())
            form = self._forms[kind]
            check_weights(recipe.weights, form.structure, recipe.vae)
            recipe = replace(recipe, models=references(models, hashed=True)).with_files(hashed)
            self._merges[known] = Merge(recipe, models, form.numbers(recipe.weights), form.sizes, form.texts)
        return self._merges[known]

    def _model_a(self, merge: Merge) -> Merge:
        models = dict(merge.checkpoints)
        models = {name: models.get(name, models["a"]) for name in ("a", "b", *(["vae"] if "vae" in models else []))}
        recipe = unmerged_recipe(merge.recipe)
        return self._made(recipe, models, merge.loaded)

    def _drawn(self, chosen: Chosen, model: Checkpoint) -> tuple[Payload, ...]:
        key = (model.path, *((axis.kind, value) for axis, value in chosen if axis.drawn))
        if key not in self._payloads:
            config = replace(self._config, payloads=drawn_payloads(self._config.payloads, chosen))
            self._payloads[key] = resolve_payloads(config, model)
            check_payloads(self._payloads[key], model, config.generator.prediction_type)
        return self._payloads[key]


def _settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a run's merge by the names that ``merge`` has for them."""
    models = {"a": config.model_a, "b": config.model_b, "c": config.model_c, **config.models}
    found: dict[str, Any] = {f"model_{name}": path for name, path in models.items() if path}
    found |= {
        name: value for name in (*SETTINGS, ADJUST) if name not in _TABLES and (value := getattr(config, name, None))
    }
    found |= config.options
    for table in _TABLES[1:]:
        found |= {f"{table}.{name}": value for name, value in getattr(config, table).items()}
    return found
