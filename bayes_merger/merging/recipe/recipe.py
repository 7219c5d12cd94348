"""Merges as data: the recipe of a merged model, and its plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from bayes_merger.checkpoints.architectures import ARCHITECTURES, OwnBlocks, divided, own_blocks
from bayes_merger.checkpoints.blocks import Architecture, BlockWeights, Place
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.method import Options, method_spec
from bayes_merger.merging.models.vae import VAE_FILE
from bayes_merger.merging.plan.routing import Checkpoints, MergePlan, PlanItem, listed, names_of, plan_structure
from bayes_merger.merging.recipe.elements import named_ratios
from bayes_merger.merging.recipe.postprocess import ADJUST, check_adjust

__all__ = [
    "MergePlan", "MergeRecipe", "ModelRef", "PlanItem", "RecipeStep", "check_weights", "numbers_at", "numbers_of",
    "plan", "plan_recipe",
]  # fmt: skip


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
    """

    name: str
    method: str
    models: Mapping[str, str]
    options: Options = field(default_factory=dict)
    elements: tuple[str, ...] = ()
    vae: str = "a"

    def weight(self, name: str) -> str:
        """What one of its method's weights is called among those of all steps."""
        return f"{self.name}_{name}"


@dataclass(frozen=True)
class MergeRecipe:
    """All that is needed to build one merged model again.

    Attributes:
        method: name of the merge method.
        models: model name (``a``, ``b``, ``c``, ``d`` to ``z``; with ``steps`` any) to file.
        weights: weight name -> block -> number, every block of the architecture.
        architecture: name of the models' architecture.
        dtype: of the result: ``fp16``, ``bf16``, ``fp32``, or ``None`` (also ``auto``) for model A's own.
        vae: a model's name to take its VAE as it is, ``merge`` to merge it with the weights of ``BASE``, ``file`` to
            take that of the file that is model ``vae``.
        options: the method's settings that are no weights, by name; the others keep their defaults.
        elements: elemental rules, see ``elements.py``; names in them have their numbers in ``weights``.
        compat: ``supermerger`` when the rules are to match as they do there.
        blocks: a division of the user's own, instead of the architecture's.
        channels: ``equal``, or ``pad`` to merge U-Nets with more input channels (inpainting, pix2pix) with ordinary
            ones: the common channels are merged, the others are those of the first model that has them.
        steps: of a merge in several, in order, each with its own method, options, rules and ``vae``; ``method``
            is then the last one's, and the weights are those of all steps (``RecipeStep.weight``).
        clip: ``hard`` or ``soft`` to keep the result between A and B, see ``finish.py``.
        ema: ``keep`` to merge the averages over training that model A's file has beside its weights, like these.
    """

    method: str
    models: Mapping[str, ModelRef]
    weights: BlockWeights
    architecture: str
    dtype: str | None = None
    vae: str = "a"
    options: Options = field(default_factory=dict)
    elements: tuple[str, ...] = ()
    compat: str = ""
    blocks: OwnBlocks = ()
    channels: str = "equal"
    steps: tuple[RecipeStep, ...] = ()
    clip: str = ""
    ema: str = "drop"

    @property
    def layout(self) -> Architecture:
        """The blocks that its weights are for.

        Raises:
            ConfigError: the architecture is unknown.
        """
        return divided(ARCHITECTURES[_known_architecture(self.architecture)], self.blocks)

    @property
    def base(self) -> str:
        """The name of the model that it starts from."""
        return base_of(self.steps)

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain data; ``from_json`` gives an equal one."""
        steps = {"steps": [_step_data(step) for step in self.steps]} if self.steps else {}
        return {
            "method": self.method,
            "models": {name: asdict(model) for name, model in self.models.items()},
            "weights": {name: dict(blocks) for name, blocks in self.weights.items()},
            "architecture": self.architecture,
            "dtype": self.dtype,
            "vae": self.vae,
            "options": dict(self.options),
            "elements": list(self.elements),
            "compat": self.compat,
            "blocks": [[name, list(starts)] for name, starts in self.blocks],
            "channels": self.channels,
            **steps,
            **({"clip": self.clip} if self.clip else {}),
            **({"ema": self.ema} if self.ema != "drop" else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MergeRecipe:
        """The recipe that ``to_json`` described.

        Raises:
            ConfigError: a field is missing, unknown or of the wrong form.
        """
        known = {field.name for field in fields(cls)}
        for name in data:
            if name not in known:
                raise ConfigError(f"recipe: '{name}' is not a field of it; {nearest(name, known)}")
        for name in ("method", "models", "weights", "architecture"):
            if name not in data:
                raise ConfigError(f"recipe: there is no '{name}' in it; it was not written by this program")
        return cls(
            method=_text(data, "method"),
            models=_models(data["models"]),
            weights=_weights(data["weights"]),
            architecture=_text(data, "architecture"),
            dtype=None if data.get("dtype") is None else _text(data, "dtype"),
            vae=_text(data, "vae") if "vae" in data else "a",
            options=_options(data.get("options", {})),
            elements=_elements(data.get("elements", [])),
            compat=_text(data, "compat") if "compat" in data else "",
            blocks=own_blocks(data["blocks"]) if data.get("blocks") else (),
            channels=_text(data, "channels") if "channels" in data else "equal",
            steps=_steps(data.get("steps", [])),
            clip=_text(data, "clip") if "clip" in data else "",
            ema=_text(data, "ema") if "ema" in data else "drop",
        )

    def with_weights(self, weights: BlockWeights) -> MergeRecipe:
        """The same merge with other weights."""
        return replace(self, weights=weights)


def base_of(steps: Sequence[RecipeStep]) -> str:
    """The model that a merge starts from: ``a``, or the ``a`` of the ``a`` of its last step."""
    models = {step.name: step.models["a"] for step in steps}
    name = steps[-1].name if steps else "a"
    while name in models:
        name = models[name]
    return name


def _step_data(step: RecipeStep) -> dict[str, Any]:
    return asdict(step) | {"models": dict(step.models), "options": dict(step.options), "elements": list(step.elements)}


def _steps(data: Any) -> tuple[RecipeStep, ...]:
    known = {field.name for field in fields(RecipeStep)}
    if not isinstance(data, list | tuple) or not all(isinstance(s, Mapping) and set(s) == known for s in data):
        raise ConfigError(f"recipe: steps is not a list of tables with {', '.join(sorted(known))}")
    found = []
    for step in data:
        models = step["models"]
        if not isinstance(models, Mapping) or not all(isinstance(name, str) for name in models.values()):
            raise ConfigError("recipe: the models of a step are not a table of names")
        texts = {name: _text(step, name) for name in ("name", "method", "vae")}
        found.append(
            RecipeStep(
                **texts, models=dict(models), options=_options(step["options"]), elements=_elements(step["elements"])
            )
        )
    return tuple(found)


def _text(data: Mapping[str, Any], name: str) -> str:
    if not isinstance(data[name], str):
        raise ConfigError(f"recipe: {name} is {data[name]!r}; give a text")
    return str(data[name])


def _options(data: Any) -> dict[str, str | int]:
    if not isinstance(data, Mapping) or not all(type(value) in (str, int) for value in data.values()):
        raise ConfigError("recipe: options is not a table of a text or whole number per option")
    return {str(name): value for name, value in data.items()}


def _elements(data: Any) -> tuple[str, ...]:
    if not isinstance(data, list | tuple) or not all(isinstance(text, str) for text in data):
        raise ConfigError("recipe: elements is not a list of rules")
    return tuple(data)


def _models(data: Any) -> dict[str, ModelRef]:
    wanted = {"path", "sha256"}
    if not isinstance(data, Mapping) or not all(isinstance(m, Mapping) and set(m) == wanted for m in data.values()):
        raise ConfigError("recipe: models is not a table of path and sha256 per model")
    return {str(name): ModelRef(_text(model, "path"), _text(model, "sha256")) for name, model in data.items()}


def _weights(data: Any) -> dict[str, dict[str, float]]:
    if not isinstance(data, Mapping) or not all(isinstance(blocks, Mapping) for blocks in data.values()):
        raise ConfigError("recipe: weights is not a table of a number per block for every weight")
    for name, blocks in data.items():
        for block, number in blocks.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ConfigError(f"recipe: weight {block}.{name} is {number!r}; give a number")
    return {str(name): {str(block): float(number) for block, number in blocks.items()} for name, blocks in data.items()}


def plan(recipe: MergeRecipe, checkpoints: Checkpoints) -> MergePlan:
    """What a recipe does to each tensor of these checkpoints, its last step if it has several; reads headers only.

    Args:
        recipe: the merge.
        checkpoints: model name to opened file, for every model of the method.

    Raises:
        ConfigError: unknown method, block or dtype; weights missing, extra or at a pole.
        CheckpointError: models that do not fit together.
    """
    from bayes_merger.merging.engine.multi_step import named, unfold

    unfolded = unfold(recipe, checkpoints)
    unfolded.set(recipe)
    if not recipe.steps:
        return plan_recipe(unfolded.last, unfolded.models)
    with named(recipe.steps[-1]):
        return plan_recipe(unfolded.last, unfolded.models)


def plan_recipe(recipe: MergeRecipe, checkpoints: Checkpoints, *, checked: bool = True) -> MergePlan:
    """The plan of a recipe in one step.

    Args:
        recipe: the merge.
        checkpoints: model name to what it is, file or computed.
        checked: whether its numbers are to be checked too.

    Raises:
        ConfigError: as ``plan``.
        CheckpointError: as ``plan``.
    """
    spec = method_spec(recipe.method)
    models = [name for name in recipe.models or checkpoints if name != "vae" or recipe.vae != VAE_FILE]
    if not spec.takes(models):
        more = " and any number after them" if spec.many else ""
        raise ConfigError(f"recipe: {spec.name} takes models {names_of(spec.models)}{more}, not {names_of(models)}")
    spec = spec.bind(models, recipe.options)
    structure = plan_structure(
        spec,
        checkpoints,
        recipe.dtype,
        recipe.vae,
        elements=recipe.elements,
        compat=recipe.compat,
        blocks=recipe.blocks,
        channels=recipe.channels,
        clip=recipe.clip,
        ema=recipe.ema,
    )
    if recipe.architecture != structure.architecture.name:
        wanted = _known_architecture(recipe.architecture)
        raise ConfigError(f"recipe: it is for {wanted}, and the models are {structure.architecture.name}")
    if not checked:
        return structure
    check_weights(recipe.weights, structure, recipe.vae)
    return replace(structure, notes=(*structure.notes, *_extrapolations(recipe.weights, structure)))


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ConfigError(f"recipe: architecture '{name}' is unknown; {nearest(name, ARCHITECTURES)}")
    return name


def check_weights(weights: BlockWeights, structure: MergePlan, vae: str) -> None:
    """Refuse weights that do not give every block of every weight one sensible number.

    Raises:
        ConfigError: a weight or block is missing, unknown, out of bounds or at a pole.
    """
    spec, architecture = structure.method, structure.architecture
    named = named_ratios(structure.rules)
    if ADJUST in weights:
        check_adjust(weights[ADJUST], architecture.name)
        weights = method_weights(weights)
    for name in weights:
        if name not in spec.weights:
            raise ConfigError(f"weights: {spec.name} has no weight '{name}'; {nearest(name, spec.weights)}")
    for name in spec.weights:
        if name not in weights:
            raise ConfigError(f"weights: {spec.name} needs '{name}' and there is none; give it a number for each block")
        ratios = [ratio for ratio, driven in named.items() if name in driven]
        _check_blocks(name, weights[name], architecture, vae, ratios)
    for block in (*architecture.blocks, *architecture.slots):
        if any(block in blocks for blocks in weights.values()):
            spec.check(numbers_at(_place_of(block, architecture), weights), block)
    for step in {(step.place, step.rules): step for step in structure.steps if step.rules}.values():
        spec.check(numbers_of(step, weights), f"'{step.rules[-1].text}'")


def _check_blocks(
    name: str, numbers: Mapping[str, float], architecture: Architecture, vae: str, ratios: Sequence[str]
) -> None:
    known = (*architecture.blocks, *architecture.slots, *ratios)
    for block, number in numbers.items():
        if block not in known:
            raise ConfigError(f"weights: '{block}' is not a block of {architecture.name}; {nearest(block, known)}")
        if block == "VAE" and "VAE" in architecture.slots and vae != "merge":
            raise ConfigError(f"weights: VAE.{name} has no effect, the VAE is model {vae.upper()}'s; set vae=merge")
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ConfigError(f"weights: {block}.{name} is {number!r}; give a finite number")
    lacking = [f"{block}.{name}" for block in architecture.blocks if block not in numbers]
    if lacking:
        raise ConfigError(f"weights: no number for {listed(lacking)}; every block of {architecture.name} needs one")
    lacking = [f"{ratio}.{name}" for ratio in ratios if ratio not in numbers]
    if lacking:
        raise ConfigError(f"weights: no number for {listed(lacking)}; an elemental rule names it")


def _place_of(block: str, architecture: Architecture) -> Place:
    """The block itself, or the block that a slot follows."""
    if architecture.whole is not None:  # the parts of a slot may lie in several blocks there
        return Place("block", block if block in architecture.blocks else architecture.blocks[0], block)
    follows = next((rule.block for rule in architecture.rules if rule.slot == block), block)
    return Place("block", follows, block)


def numbers_at(place: Place, weights: BlockWeights) -> dict[str, float]:
    """The method's weights for a tensor at ``place``: its slot's own where given, else its block's."""
    block, slot = place.block or "", place.slot or ""
    return {
        name: float(blocks[slot] if slot in blocks else blocks[block])
        for name, blocks in weights.items()
        if name != ADJUST
    }


def numbers_of(step: PlanItem, weights: BlockWeights) -> dict[str, float]:
    """The method's weights for a tensor: those of its place, then what elemental rules say."""
    numbers = numbers_at(step.place, weights)
    for rule in step.rules:
        for name, ratio in rule.ratios:
            numbers[name] = float(weights[name][ratio]) if isinstance(ratio, str) else ratio
    return numbers


def method_weights(weights: BlockWeights) -> BlockWeights:
    """The weights less the adjustments, which are not the method's."""
    return {name: blocks for name, blocks in weights.items() if name != ADJUST}


def _extrapolations(weights: BlockWeights, structure: MergePlan) -> list[str]:
    beyond = [
        f"{block}.{name} = {number:g}"
        for name, blocks in method_weights(weights).items()
        for block, number in blocks.items()
        if not 0 <= number <= 1
    ]
    beyond += [
        f"'{rule.text}'"
        for rule in structure.rules
        if any(not isinstance(ratio, str) and not 0 <= ratio <= 1 for _, ratio in rule.ratios)
    ]
    return [f"beyond [0, 1], so {structure.method.name} extrapolates: {listed(beyond)}"] if beyond else []
