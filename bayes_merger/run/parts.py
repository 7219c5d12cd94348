"""What a run is made of, checked at start-up: nothing heavy is loaded and nothing is written here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_merger.config import RunConfig
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging.payload import Payload, payload_from_mapping, resolve
from bayes_merger.imaging.pipeline import check_place
from bayes_merger.imaging.prompt import check_prompt
from bayes_merger.merging.blocks import Architecture
from bayes_merger.merging.checkpoint import Checkpoint, open_checkpoint
from bayes_merger.merging.elements import named_ratios, parse_rules
from bayes_merger.merging.kinds import LORA
from bayes_merger.merging.lora import LoraModel
from bayes_merger.merging.method import MethodSpec, method_spec
from bayes_merger.merging.recipe import MergeRecipe, ModelRef, plan
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
    """

    config: RunConfig
    checkpoints: Mapping[str, Checkpoint]
    method: MethodSpec
    space: SearchSpace
    payloads: tuple[Payload, ...]
    scorers: Mapping[str, Scorer]
    sampler: Callable[..., Any]

    def recipe(self, weights: Mapping[str, Mapping[str, float]], *, hashed: bool = True) -> MergeRecipe:
        """All that is needed to build one candidate again; without hashes when only its form is checked."""
        models = {
            name: ModelRef(str(checkpoint.path.resolve()), checkpoint.sha256() if hashed else "")
            for name, checkpoint in self.checkpoints.items()
        }
        architecture = next(iter(self.checkpoints.values())).architecture.name
        return MergeRecipe(
            method=self.method.name,
            models=models,
            weights={name: dict(blocks) for name, blocks in weights.items()},
            architecture=architecture,
            dtype=self.config.dtype,
            vae=self.config.vae,
            elements=tuple(self.config.elements),
            compat=self.config.compat or "",
            options=dict(self.config.options),
        )

    def close(self) -> None:
        """Let go of the model files."""
        for checkpoint in self.checkpoints.values():
            checkpoint.close()


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
    spec = method_spec(config.method)
    checkpoints = open_models(config, spec)
    spec = spec.bind(checkpoints, config.options)
    space = make_space(config, spec, checkpoints["a"].architecture)
    parts = Parts(config, checkpoints, spec, space, payloads, scorers, sampler)
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
    return space_from_guide((*architecture.blocks, *slots), weights, config.space, ratios)


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
    names = {checkpoint.architecture.name for checkpoint in opened.values()}
    if len(names) > 1:
        kinds = ", ".join(f"model_{name} is {model.architecture.name}" for name, model in opened.items())
        raise CheckpointError(f"models of different architectures cannot be merged: {kinds}")
    architecture = opened["a"].architecture
    if architecture.name not in DRAWN:
        raise CheckpointError(
            f"model_a: {architecture.title} can be merged but not yet drawn, so a run cannot judge it; "
            "merge it by hand with  bayes-merger merge model_a=... model_b=... --out FILE"
        )
    return opened


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
        opened[name] = open_model(name, paths[name], None if alone else opened.get("a"))
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
    return {
        **rules,
        **options,
        **objectives,
        "models": {name: checkpoint.sha256() for name, checkpoint in parts.checkpoints.items()},
        "method": parts.method.name,
        "dtype": parts.config.dtype,
        "vae": parts.config.vae,
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
