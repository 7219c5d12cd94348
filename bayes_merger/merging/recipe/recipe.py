"""Merges as data: all that is needed to build a merged model again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from bayes_merger.checkpoints.architectures import ARCHITECTURES, divided
from bayes_merger.checkpoints.blocks import Architecture, BlockWeights
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.method import MethodSpec, Options, method_spec
from bayes_merger.merging.recipe.settings import IN_ALL_FILES, OF_A_STEP, SETTINGS, MergeSettings, read_settings
from bayes_merger.merging.saliency.settings import Reference, each_file, strengthened


@dataclass(frozen=True)
class ModelRef:
    """Which file a model is.

    Attributes:
        path: where it lay when the recipe was written.
        sha256: of the file, hex; empty when nobody has looked.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class RecipeStep:
    """One step of a merge in several.

    Attributes:
        name: of what it makes, for later steps; its weights are called ``NAME_alpha``.
        method: name of the merge method.
        models: the method's models (``a``, ``b``, ``c``, ...) to names of the recipe's models or of earlier steps.
        options: as in a recipe.
        elements: as in a recipe.
        vae: as in a recipe.
        saliency: as in a recipe.
        act: as in a recipe.
    """

    name: str
    method: str
    models: Mapping[str, str]
    options: Options = field(default_factory=dict)
    elements: tuple[str, ...] = ()
    vae: str = "a"
    saliency: Mapping[str, Any] = field(default_factory=dict)
    act: Mapping[str, Reference] = field(default_factory=dict)

    @property
    def spec(self) -> MethodSpec:
        """The method, with the weight that saliency adds.

        Raises:
            ConfigError: it does not exist.
        """
        return strengthened(method_spec(self.method), self.saliency)

    def weight(self, name: str) -> str:
        """What one of its method's weights is called among those of all steps."""
        return f"{self.name}_{name}"


@dataclass(frozen=True, kw_only=True)
class MergeRecipe(MergeSettings):
    """All that is needed to build one merged model again: its settings, its models and its numbers.

    Attributes:
        models: model name (``a``, ``b``, ``c``, ``d`` to ``z``; with ``steps`` any) to file.
        weights: weight name -> block -> number, every block of the architecture.
        architecture: name of the models' architecture.
        steps: of a merge in several, in order, each with its own method, options, rules and ``vae``; ``method``
            is then the last one's, and the weights are those of all steps (``RecipeStep.weight``).
        note: for people, where its weights come from; the merge is the same without it.
    """

    models: Mapping[str, ModelRef]
    weights: BlockWeights
    architecture: str
    steps: tuple[RecipeStep, ...] = ()
    note: str = ""

    @property
    def architecture_blocks(self) -> Architecture:
        """The architecture with the blocks that its weights are for.

        Raises:
            ConfigError: the architecture is unknown.
        """
        return divided(ARCHITECTURES[known_architecture(self.architecture)], self.blocks)

    @property
    def base(self) -> str:
        """The name of the model that it starts from."""
        return base_of(self.steps)

    @property
    def digest(self) -> str:
        """16 hex digits that name the merge, wherever its models lie."""
        data = self.to_json()
        data["models"] = {name: model.sha256 for name, model in self.models.items()}
        for table in (data, *data.get("steps", [])):
            table |= {k: v for k, v in each_file(table, lambda _, file: {**file, "path": ""}).items() if k in table}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain data; ``from_json`` gives an equal one. What older files do not have comes last."""
        settings = self.settings_data()
        later = {name: settings.pop(name) for name in SETTINGS if name in settings and name not in IN_ALL_FILES}
        return {
            "method": settings.pop("method"),
            "models": {name: asdict(model) for name, model in self.models.items()},
            "weights": {name: dict(blocks) for name, blocks in self.weights.items()},
            "architecture": self.architecture,
            **settings,
            **({"steps": [_step_data(step) for step in self.steps]} if self.steps else {}),
            **later,
            **({"note": self.note} if self.note else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MergeRecipe:
        """The recipe that ``to_json`` described.

        Raises:
            ConfigError: a field is missing, unknown or of the wrong form; its subject is ``recipe``.
        """
        known = {field.name for field in fields(cls)}
        try:
            for name in data:
                if name not in known:
                    raise ConfigError(f"'{name}' is not a field of it; {nearest(name, known)}")
            for name in ("method", "models", "weights", "architecture"):
                if name not in data:
                    raise ConfigError(f"there is no '{name}' in it; it was not written by this program")
            return cls(
                **vars(read_settings({**data, "method": _text(data, "method")})),
                models=_models(data["models"]),
                weights=_weights(data["weights"]),
                architecture=_text(data, "architecture"),
                steps=_steps(data.get("steps", [])),
                note=_text(data, "note") if "note" in data else "",
            )
        except ConfigError as error:
            raise ConfigError(str(error), subject="recipe") from error

    def with_weights(self, weights: BlockWeights) -> MergeRecipe:
        """The same merge with other weights."""
        return replace(self, weights=weights)

    @property
    def activation_files(self) -> list[tuple[str, Reference]]:
        """Its files of activations, those of all steps too, each with what the user calls it."""
        found: list[tuple[str, Reference]] = []

        def seen(name: str, file: Reference) -> Reference:
            found.append((name, file))
            return file

        self.with_files(seen)
        return found

    def with_files(self, change: Callable[[str, Reference], Reference]) -> MergeRecipe:
        """The same merge with its files of activations changed, those of all steps too.

        Args:
            change: as for ``each_file``.
        """

        def changed(of: RecipeStep | MergeRecipe) -> dict[str, Any]:
            return each_file({"saliency": of.saliency, "act": of.act}, change)

        return replace(self, steps=tuple(replace(step, **changed(step)) for step in self.steps), **changed(self))


def base_of(steps: Sequence[RecipeStep]) -> str:
    """The model that a merge starts from: ``a``, or the ``a`` of the ``a`` of its last step."""
    models = {step.name: step.models["a"] for step in steps}
    name = steps[-1].name if steps else "a"
    while name in models:
        name = models[name]
    return name


def _step_data(step: RecipeStep) -> dict[str, Any]:
    data = asdict(step) | {"models": dict(step.models), "options": dict(step.options), "elements": list(step.elements)}
    return {name: value for name, value in data.items() if value or name not in _LATER_IN_STEPS}


_LATER_IN_STEPS = ("saliency", "act")  # than the oldest recipes; written only if used


def _steps(data: Any) -> tuple[RecipeStep, ...]:
    known = {field.name for field in fields(RecipeStep)}
    if not isinstance(data, list | tuple) or not all(
        isinstance(s, Mapping) and known.difference(_LATER_IN_STEPS) <= set(s) <= known for s in data
    ):
        raise ConfigError(f"steps is not a list of tables with {', '.join(sorted(known))}")
    found = []
    for step in data:
        models = step["models"]
        if not isinstance(models, Mapping) or not all(isinstance(name, str) for name in models.values()):
            raise ConfigError("the models of a step are not a table of names")
        settings = read_settings(step)
        own = {name: getattr(settings, name) for name in OF_A_STEP}
        texts = {name: _text(step, name) for name in ("name", "method", "vae")}
        found.append(RecipeStep(**own | texts, models=dict(models)))
    return tuple(found)


def _text(data: Mapping[str, Any], name: str) -> str:
    if not isinstance(data[name], str):
        raise ConfigError(f"{name} is {data[name]!r}; give a text")
    return str(data[name])


def _models(data: Any) -> dict[str, ModelRef]:
    wanted = {"path", "sha256"}
    if not isinstance(data, Mapping) or not all(isinstance(m, Mapping) and set(m) == wanted for m in data.values()):
        raise ConfigError("models is not a table of path and sha256 per model")
    return {str(name): ModelRef(_text(model, "path"), _text(model, "sha256")) for name, model in data.items()}


def _weights(data: Any) -> dict[str, dict[str, float]]:
    if not isinstance(data, Mapping) or not all(isinstance(blocks, Mapping) for blocks in data.values()):
        raise ConfigError("weights is not a table of a number per block for every weight")
    for name, blocks in data.items():
        for block, number in blocks.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ConfigError(f"weight {block}.{name} is {number!r}; give a number")
    return {str(name): {str(block): float(number) for block, number in blocks.items()} for name, blocks in data.items()}


def known_architecture(name: str) -> str:
    """The name, if it is that of an architecture.

    Raises:
        ConfigError: it is not.
    """
    if name not in ARCHITECTURES:
        raise ConfigError(f"recipe: architecture '{name}' is unknown; {nearest(name, ARCHITECTURES)}")
    return name
