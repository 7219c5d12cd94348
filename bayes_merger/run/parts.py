"""What a run is made of, checked at start-up: nothing heavy is loaded and nothing is written here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bayes_merger.config import RunConfig
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging.payload import Payload, payload_from_mapping, resolve
from bayes_merger.imaging.pipeline import check_place
from bayes_merger.imaging.prompt import check_prompt
from bayes_merger.merging.architectures import OwnBlocks, divided, own_blocks
from bayes_merger.merging.blocks import Architecture
from bayes_merger.merging.checkpoint import Checkpoint, open_checkpoint
from bayes_merger.merging.companions import VAE_FILE, VaeFile
from bayes_merger.merging.elements import named_ratios, parse_rules
from bayes_merger.merging.finish import ADJUST, ADJUSTMENT_RANGE, read_adjust
from bayes_merger.merging.kinds import LORA
from bayes_merger.merging.lora import LoraModel
from bayes_merger.merging.method import MethodSpec, method_spec
from bayes_merger.merging.recipe import MergeRecipe, ModelRef, plan
from bayes_merger.merging.routing import SMALL_DTYPES
from bayes_merger.merging.stepfile import StepFile, open_numbers, read_steps
from bayes_merger.run.objectives import check_objectives
from bayes_merger.run.pruning import check_pruning
from bayes_merger.scoring.scorer import Scorer
from bayes_merger.search.options import check_names
from bayes_merger.search.space import Parameter, SearchSpace, space_from_guide
from bayes_merger.search.stopping import read_time

DRAWN = ("sd1",)
"""The architectures that can be drawn; the others can be merged only."""


@dataclass(frozen=True)
class Parts:
    """A run before it starts.

    Attributes:
        config: the settings.
        checkpoints: model name (``a``, ``b``, ``c``) to the opened file.
        method: the merge method's models and weights.
        space: what the optimiser may turn.
        payloads: what is drawn, seeds and wildcards resolved.
        scorers: who judges, by name.
        sampler: makes the Optuna sampler of this run.
        steps: the recipe, when it has several steps; ``checkpoints`` then has its models by its names, and ``method``
            the weights of all steps.
    """

    config: RunConfig
    checkpoints: Mapping[str, Checkpoint]
    method: MethodSpec
    space: SearchSpace
    payloads: tuple[Payload, ...]
    scorers: Mapping[str, Scorer]
    sampler: Callable[..., Any]
    steps: StepFile | None = None

    @property
    def base(self) -> Checkpoint:
        """The model that the merge starts from, whose file becomes the live pipeline."""
        return self.checkpoints[self.steps.base if self.steps else "a"]

    @property
    def architecture(self) -> Architecture:
        """The blocks that weights are for."""
        return divided(self.base.architecture, own_division(self.config))

    def constant_steps(self) -> frozenset[str]:
        """The steps of the recipe of which no number is searched."""
        if self.steps is None:
            return frozenset()
        searched = {name.partition(".")[2] for parameter in self.space.parameters for name in parameter.drives}
        return frozenset(
            step.name
            for step in self.steps.steps
            if not any(step.weight(name) in searched for name in method_spec(step.method).weights)
        )

    def recipe(self, weights: Mapping[str, Mapping[str, float]], *, hashed: bool = True) -> MergeRecipe:
        """All that is needed to build one candidate again; without hashes when only its form is checked."""
        numbers = {name: dict(blocks) for name, blocks in weights.items()}
        if self.steps is not None:
            found = steps_recipe(self.steps, self.checkpoints, dtype=self.config.dtype, hashed=hashed)
            vae = VAE_FILE if "vae" in self.checkpoints else found.vae
            return replace(found, weights=numbers, clip=self.config.clip or "", vae=vae)
        return MergeRecipe(
            method=self.method.name,
            models=_references(self.checkpoints, hashed),
            weights=numbers,
            architecture=self.base.architecture.name,
            dtype=self.config.dtype,
            vae=VAE_FILE if "vae" in self.checkpoints else self.config.vae,
            elements=tuple(self.config.elements),
            compat=self.config.compat or "",
            options=dict(self.config.options),
            blocks=own_division(self.config),
            channels=self.config.channels,
            clip=self.config.clip or "",
        )

    def close(self) -> None:
        """Let go of the model files."""
        for checkpoint in self.checkpoints.values():
            checkpoint.close()


def _references(checkpoints: Mapping[str, Checkpoint], hashed: bool) -> dict[str, ModelRef]:
    return {n: ModelRef(str(c.path.resolve()), c.sha256() if hashed else "") for n, c in checkpoints.items()}


def own_division(config: RunConfig) -> OwnBlocks:
    """The blocks of the user's own, if there are any.

    Raises:
        ConfigError: they are malformed.
    """
    return own_blocks(config.blocks) if config.blocks else ()


def steps_recipe(file: StepFile, checkpoints: Mapping[str, Checkpoint], *, dtype: str, hashed: bool) -> MergeRecipe:
    """The recipe of a file in several steps, without its numbers.

    Args:
        file: the recipe.
        checkpoints: its models, opened.
        dtype: of the result, where the recipe does not say it.
        hashed: whether it holds the hashes of its files.

    Raises:
        CheckpointError: the model that it starts from is none.
    """
    settings: dict[str, Any] = {"dtype": dtype, **file.settings}
    return MergeRecipe(
        method=file.steps[-1].method,
        models=_references(checkpoints, hashed),
        weights={},
        architecture=checkpoints[file.base].architecture.name,
        blocks=file.blocks,
        steps=file.steps,
        **settings,
    )


def check_parts(
    config: RunConfig,
    scorers: Mapping[str, Scorer],
    sampler: Callable[..., Any],
    folder: Path,
    *,
    payloads: tuple[Payload, ...] | None = None,
) -> Parts:
    """Check everything that can be checked from settings and file headers.

    Args:
        config: the settings.
        scorers: the scorers, built but not loaded.
        sampler: the optimiser's factory.
        folder: the study's own folder, for scorers that keep something there.
        payloads: the resolved payloads of a study that goes on; ``None`` resolves the config's.

    Raises:
        ConfigError: a setting, rule, payload or scorer that makes no sense.
        CheckpointError: a model file that cannot be used.
    """
    _check_numbers(config)
    if payloads is None:
        payloads = resolve_payloads(config)
    for payload in payloads:
        for prompt in (*payload.prompts, *payload.negative_prompts):
            check_prompt(prompt)  # what a wildcard put in has not been seen yet
    steps = read_recipe(config)
    if steps is None:
        spec = method_spec(config.method)
        checkpoints = open_models(config, spec)
        spec = spec.bind(checkpoints, config.options)
        base = checkpoints["a"]
        space = make_space(config, spec, divided(base.architecture, own_division(config), base.shapes))
    else:
        checkpoints = open_steps(steps, config)
        spec = replace(method_spec(steps.steps[-1].method), weights=steps.weights)
        space = make_steps_space(config, steps, checkpoints[steps.base].architecture)
    parts = Parts(config, checkpoints, spec, space, payloads, scorers, sampler, steps)
    values = {parameter.name: parameter.low for parameter in space.parameters}
    plan(parts.recipe(space.assemble(values), hashed=False), checkpoints)
    if (config.generator.device, config.generator.dtype) != ("auto", "auto"):  # needs torch, which takes its time
        check_place(config.generator.device, config.generator.dtype)
    check_pruning(config, payloads, scorers)
    check_objectives(config, scorers)
    check_sampler(sampler, space, config)
    if config.workers > 1:
        check_no_person(scorers, "give  workers=1")
    for scorer in scorers.values():
        scorer.prepare(folder)
    return parts


def check_sampler(sampler: Callable[..., Any], space: SearchSpace, config: RunConfig) -> None:
    """Whether the optimiser can be made, knows its options, and knows as many objectives as there are.

    Raises:
        ConfigError: it does not.
    """
    check_names(sampler)
    made = sampler(space.distributions(), config.seed)
    if config.objectives:
        made.check_objectives(len(config.objectives))


def make_space(config: RunConfig, spec: MethodSpec, architecture: Architecture) -> SearchSpace:
    """What is searched: every block, the slots that a rule of the space names, and the names in elemental rules.

    Raises:
        ConfigError: a rule that makes no sense.
    """
    ruled = json.dumps(config.space)
    slots = [slot for slot in architecture.slots if re.search(rf"\b{slot}\b", ruled, re.IGNORECASE)]
    named = named_ratios(parse_rules(config.elements, architecture, tuple(spec.weights)))
    ratios = [
        Parameter(name, 0.0, 1.0, tuple(f"{name}.{weight}" for weight in driven)) for name, driven in named.items()
    ]
    weights = {name: (weight.low, weight.high) for name, weight in spec.weights.items()}
    given, adjusted = adjustments(config, (*named, *weights, *architecture.blocks, *architecture.slots))
    return space_from_guide((*architecture.blocks, *slots), weights, config.space, [*ratios, *adjusted], given)


def adjustments(config: RunConfig, taken: Collection[str]) -> tuple[dict[str, float], list[Parameter]]:
    """The adjustments that a run is given, and those that it searches.

    Raises:
        ConfigError: they make no sense, or a name is taken.
    """
    if config.adjust is None or config.adjust == []:
        return {}, []
    given: dict[str, float] = {}
    searched: dict[str, tuple[str, ...]] = {}
    for name, number in read_adjust(config.adjust).items():
        place = f"{name}.{ADJUST}"
        if not isinstance(number, str):
            given[place] = float(number)
        elif number in taken or number.upper() in taken:
            raise ConfigError(f"adjust: '{number}' is the name of something else; choose another for a number")
        else:
            searched[number] = (*searched.get(number, ()), place)
    return given, [Parameter(name, *ADJUSTMENT_RANGE, drives) for name, drives in searched.items()]


def read_recipe(config: RunConfig) -> StepFile | None:
    """The recipe in several steps that a run searches, if it does.

    Raises:
        ConfigError: it is malformed, or there are settings beside it that belong into it.
    """
    if not config.recipe:
        return None
    elsewhere = {
        "method": config.method != "weighted_sum",
        "elements": config.elements,
        "options": config.options,
        "vae": config.vae in ("b", "c", "merge"),
        "compat": config.compat,
        "blocks": config.blocks,
        "channels": config.channels != "equal",
    }
    for name, value in elsewhere.items():
        if value:
            raise ConfigError(f"{name}: a run of a recipe takes it from the recipe; write it there")
    try:
        return read_steps(config.recipe)
    except ConfigError as error:
        raise ConfigError(f"recipe: {error}") from None


def make_steps_space(config: RunConfig, file: StepFile, architecture: Architecture) -> SearchSpace:
    """What a recipe leaves open: its names, and the blocks of weights that say ``search``.

    Raises:
        ConfigError: a number or a rule that makes no sense, or nothing is open.
    """
    architecture = divided(architecture, file.blocks)
    weights = {name: (weight.low, weight.high) for name, weight in file.weights.items()}
    try:
        numbers = open_numbers(file, architecture)
    except ConfigError as error:
        raise ConfigError(f"recipe: {error}") from None
    beyond = [place for place in numbers.searched if place.partition(".")[0] not in architecture.blocks]
    if beyond:
        raise ConfigError(f"recipe: {beyond[0]}: parts of blocks take a name instead of  search")
    if not numbers.names and not numbers.searched and config.adjust is None:
        raise ConfigError("recipe: it leaves no number open; write a name, or  search,  in the place of one")
    ratios = [Parameter(name, *weights[drives[0].partition(".")[2]], drives) for name, drives in numbers.names.items()]
    given, adjusted = adjustments(config, (*numbers.names, *weights, *architecture.blocks, *architecture.slots))
    return space_from_guide(
        architecture.blocks, weights, config.space, [*ratios, *adjusted], {**numbers.fixed, **given}
    )


def open_steps(file: StepFile, config: RunConfig) -> dict[str, Checkpoint]:
    """The models of a recipe in several steps; LoRAs as they are.

    Raises:
        CheckpointError: a file that cannot be used.
    """
    opened = open_each(file.models, alone=True)
    _check_drawn(file.base, {name: model for name, model in opened.items() if model.kind is not LORA} or opened)
    return opened | _vae_of(config, opened[file.base])


def _vae_of(config: RunConfig, base: Checkpoint) -> dict[str, Checkpoint]:
    """The file whose VAE is taken, where that is none of the models'.

    Raises:
        CheckpointError: it cannot be used.
    """
    if config.vae in ("a", "b", "c", "merge"):
        return {}
    return {"vae": VaeFile(open_model("vae", config.vae), base)}


def check_no_person(scorers: Mapping[str, Scorer], way_out: str) -> None:
    """Whether several workers can judge: a person has one conversation at a time.

    Raises:
        ConfigError: one of the scorers asks a person.
    """
    for name, scorer in scorers.items():
        if getattr(scorer, "interactive", False):
            raise ConfigError(f"workers: scorer '{name}' asks a person, who can only talk to one; {way_out}")


def _check_numbers(config: RunConfig) -> None:
    for name, low in (("workers", 1), ("init_points", 1), ("n_iters", 0), ("final.rescore", 0), ("final.images", 0)):
        owner: Any = config
        for part in name.split("."):
            owner = getattr(owner, part)
        if owner < low:
            raise ConfigError(f"{name}: {owner} is too small; give {low} or more")
    if config.patience is not None and config.patience < 1:
        raise ConfigError(f"patience: {config.patience} is too small; give 1 or more, or null for none")
    read_time(config.time_limit)
    if config.dtype in SMALL_DTYPES:
        raise ConfigError(
            f"dtype: {config.dtype} is for files; search in fp16, and merge the best with  dtype={config.dtype}"
        )
    if config.images not in ("all", "best"):
        raise ConfigError(f"images: '{config.images}' is not one of all, best")


def resolve_payloads(config: RunConfig) -> tuple[Payload, ...]:
    """The payloads of a new study, with their seeds and wildcards drawn once.

    Raises:
        ConfigError: no payload, or one that makes no sense.
    """
    if not config.payloads:
        raise ConfigError("payloads: none chosen; give at least one, like  payloads=[portrait]")
    payloads = [payload_from_mapping(name, mapping) for name, mapping in config.payloads.items()]
    return resolve(payloads, config.seed, Path(config.wildcards) if config.wildcards else None)


def open_models(config: RunConfig, spec: MethodSpec) -> dict[str, Checkpoint]:
    """The checkpoints that the method takes.

    Raises:
        ConfigError: the method needs a model that is not given, or the other way round.
        CheckpointError: a file that cannot be used.
    """
    given = {"a": config.model_a, "b": config.model_b, "c": config.model_c}
    for name, path in given.items():
        if name in spec.models and name not in spec.optional and not path:
            raise ConfigError(f"model_{name}: method '{config.method}' needs it; give  model_{name}=FILE")
        if name not in spec.models and path:
            raise ConfigError(f"model_{name}: method '{config.method}' takes no model {name.upper()}; leave it out")
    opened = open_each({name: path for name, path in given.items() if path})
    _check_drawn("a", opened)
    return opened | _vae_of(config, opened["a"])


def _check_drawn(base: str, opened: Mapping[str, Checkpoint]) -> None:
    names = {checkpoint.architecture.name for checkpoint in opened.values()}
    if len(names) > 1:
        kinds = ", ".join(f"model_{name} is {model.architecture.name}" for name, model in opened.items())
        raise CheckpointError(f"models of different architectures cannot be merged: {kinds}")
    architecture = opened[base].architecture if base in opened else next(iter(opened.values())).architecture
    if architecture.name not in DRAWN:
        raise CheckpointError(
            f"model_{base}: {architecture.title} can be merged but not yet drawn, so a run cannot judge it; "
            "merge it by hand with  bayes-merger merge model_a=... model_b=... --out FILE"
        )


def open_each(paths: Mapping[str, str], *, alone: bool = False) -> dict[str, Checkpoint]:
    """The models given by these paths; LoRAs among them are applied to model A.

    Args:
        paths: model name to file.
        alone: leave LoRAs as they are: the steps of a recipe say what they are applied to.

    Raises:
        CheckpointError: as ``open_model``.
    """
    opened: dict[str, Checkpoint] = {}
    for name in sorted(paths):
        opened[name] = open_model(name, paths[name], None if alone or name == "vae" else opened.get("a"))
    return opened


def open_model(name: str, path: str, base: Checkpoint | None = None) -> Checkpoint:
    """The checkpoint given as ``model_{name}``.

    Args:
        name: of the model.
        path: of its file.
        base: model A, which a LoRA is applied to.

    Raises:
        CheckpointError: it cannot be used; the text begins with the setting's name.
    """
    try:
        found = open_checkpoint(Path(path).expanduser())
        return found if base is None or found.kind is not LORA else LoraModel(base, found)
    except CheckpointError as error:
        raise CheckpointError(f"model_{name}: {error}") from error


def fingerprint(parts: Parts, scorers: Mapping[str, Any]) -> dict[str, Any]:
    """What makes scores comparable: two runs with the same one may share trials.

    Args:
        parts: the run.
        scorers: their settings, as data.
    """
    judging = json.loads(json.dumps(scorers))
    rules = {"elements": list(parts.config.elements), "compat": parts.config.compat} if parts.config.elements else {}
    options = {"options": dict(parts.config.options)} if parts.config.options else {}
    objectives = {"objectives": list(parts.config.objectives)} if parts.config.objectives else {}
    finish = {name: getattr(parts.config, name) for name in ("clip", "adjust") if getattr(parts.config, name)}
    division = {"blocks": parts.config.blocks} if parts.config.blocks else {}
    channels = {"channels": parts.config.channels} if parts.config.channels != "equal" else {}
    recipe = {"recipe": {k: v for k, v in parts.config.recipe.items() if k != "models"}} if parts.config.recipe else {}
    return {
        **rules,
        **options,
        **division,
        **finish,
        **channels,
        **recipe,
        **objectives,
        "models": {name: checkpoint.sha256() for name, checkpoint in parts.checkpoints.items()},
        "method": parts.method.name,
        "dtype": parts.config.dtype,
        "vae": VAE_FILE if "vae" in parts.checkpoints else parts.config.vae,
        "space": parts.space.to_json(),
        "payloads": [payload.to_json() for payload in parts.payloads],
        "scorers": _without(judging, ("device", "batch_size", "setting", "viewer", "ledger", "confirm")),
        "prediction_type": parts.config.generator.prediction_type,
    }


def _without(tree: Any, keys: tuple[str, ...]) -> Any:
    """``tree`` less the settings that change how a score is got but not what it is."""
    if not isinstance(tree, dict):
        return tree
    return {key: _without(value, keys) for key, value in tree.items() if key not in keys}


def candidate_id(weights: Mapping[str, Mapping[str, float]]) -> str:
    """A short name of a merge within its study, the same for the same weights."""
    text = json.dumps(weights, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
