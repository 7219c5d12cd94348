"""What a run is made of, checked at start-up: nothing heavy is loaded and nothing is written here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bayes_merger.checkpoints.architectures import divided
from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import hash_all
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.architectures import drawn
from bayes_merger.imaging.pipelines.device import check_offload, check_place
from bayes_merger.imaging.pipelines.schedulers import PREDICTIONS
from bayes_merger.imaging.pipelines.speed import check_speed
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.method import MethodSpec, method_spec
from bayes_merger.merging.models.lora import is_lora
from bayes_merger.merging.models.opening import references, steps_recipe, with_orders
from bayes_merger.merging.rebasin.aligning import Pair
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.settings import VAE_FILE
from bayes_merger.merging.recipe.step_file import StepFile
from bayes_merger.merging.saliency.opening import seen_files
from bayes_merger.merging.saliency.settings import hashed as hashed_file
from bayes_merger.run.attributes import CONFIG, FRESH, PAYLOADS, RECIPE, SCORERS, STANDARDS
from bayes_merger.run.checks import check_no_person, check_numbers, check_rating
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.fresh import stored_words
from bayes_merger.run.models import merge_settings, open_models, open_steps, read_recipe
from bayes_merger.run.objectives import check_objectives
from bayes_merger.run.outside import OUTSIDE, check_outside
from bayes_merger.run.payloads import all_drawn, check_payloads, path_of, payloads_of_trials, there
from bayes_merger.run.points import combination, standardised
from bayes_merger.run.prompt_files import NO_FILES, PromptFiles, find_files
from bayes_merger.run.rebasin import find_orders
from bayes_merger.run.spaces import make_space, make_steps_space
from bayes_merger.run.web_ui import WEB_UIS, check_web_ui
from bayes_merger.scoring.combination import Combination
from bayes_merger.scoring.rater.scorer import RaterScorer
from bayes_merger.scoring.scorer import Scale, Scorer
from bayes_merger.scoring.scores import prepare_scorers
from bayes_merger.search.samplers import make_sampler
from bayes_merger.search.space.space import SearchSpace


@dataclass(frozen=True)
class RunSetup:
    """A run before it starts.

    Attributes:
        config: the settings.
        checkpoints: model name (``a``, ``b``, ``c``, ``d``, ...) to the opened file.
        method: the merge method's models and weights.
        space: what the optimiser may turn.
        payloads: what is drawn, seeds and wildcards resolved.
        scorers: who judges, by name.
        sampler: makes the Optuna sampler of this run.
        steps: the recipe, when it has several steps; ``checkpoints`` then has its models by its names, and ``method``
            the weights of all steps.
        files: the LoRAs and embeddings that the prompts name.
        web_ui: of a web UI that draws, its settings that change what it draws.
        standards: the scales that the study has fixed for its scorers, if it has.
        fresh: both parts of what the final round draws, as the study has them; empty: not yet resolved.
        activations: the files of activations that its merges name.
        notes: on the models, as ``merge`` has them: what not all of them have, how much of a LoRA fits.
    """

    config: RunConfig
    checkpoints: Mapping[str, Checkpoint]
    method: MethodSpec
    space: SearchSpace
    payloads: tuple[Payload, ...]
    scorers: Mapping[str, Scorer]
    sampler: Callable[..., Any]
    steps: StepFile | None = None
    files: PromptFiles = NO_FILES
    web_ui: Mapping[str, Any] | None = None
    standards: Mapping[str, Scale] = field(default_factory=dict)
    fresh: tuple[tuple[Payload, ...], ...] = ()
    activations: tuple[Checkpoint, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Checkpoint, ...]:
        """The files that its merges are made of, which must stay as they are."""
        return (*self.checkpoints.values(), *self.activations)

    @property
    def base(self) -> Checkpoint:
        """The model that the merge starts from, whose file becomes the live pipeline."""
        return self.checkpoints[self.steps.base if self.steps else "a"]

    @property
    def architecture(self) -> Architecture:
        """The blocks that weights are for."""
        settings = self.steps.settings if self.steps else merge_settings(self.config)
        return divided(self.base.architecture, settings.blocks)

    @property
    def trials(self) -> int:
        """How many trials the run has."""
        return self.config.init_points + self.config.n_iters

    @property
    def rater(self) -> str | None:
        """The scorer that is a person whose ratings come later, through the ledger; None if there is none."""
        return next((name for name, scorer in self.scorers.items() if getattr(scorer, "deferred", False)), None)

    @property
    def assistant(self) -> RaterScorer | None:
        """The model of the person who rates; None if there is none."""
        return next((scorer for scorer in self.scorers.values() if isinstance(scorer, RaterScorer)), None)

    @property
    def combination(self) -> Combination:
        """How scores become points."""
        scorers = {name: (scorer.importance, scorer.scale) for name, scorer in self.scorers.items()}
        payloads = {payload.name: payload.importance for payload in self.payloads}
        return standardised(combination(self.config.scoring, scorers, payloads), self.standards)

    def judges(self, scorer: str, payload: str) -> bool:
        """Whether a scorer judges the pictures of a payload."""
        shares = self.config.scoring.payloads.get(scorer)
        return shares is None or (payload in shares and (isinstance(shares, list) or shares[payload] != 0))

    def with_standards(self, stored: Mapping[str, Any]) -> RunSetup:
        """The same with the scales that a study has fixed since, if it has.

        Args:
            stored: the study's attributes.
        """
        return replace(self, standards=stored.get(STANDARDS) or {}) if self.config.scoring.standardise else self

    def constant_steps(self) -> frozenset[str]:
        """The steps of the recipe of which no number is searched."""
        if self.steps is None:
            return frozenset()
        searched = {name.partition(".")[2] for parameter in self.space.parameters for name in parameter.drives}
        return frozenset(
            step.name
            for step in self.steps.steps
            if not any(step.weight(name) in searched for name in step.spec.weights)
        )

    def recipe(self, weights: Mapping[str, Mapping[str, float]], *, hashed: bool = True) -> MergeRecipe:
        """All that is needed to build one candidate again; without hashes when only its form is checked."""
        numbers = {name: dict(blocks) for name, blocks in weights.items()}
        if self.steps is not None:
            found = steps_recipe(self.steps, self.checkpoints, dtype=self.config.dtype, hashed=hashed)
            vae = VAE_FILE if "vae" in self.checkpoints else found.vae
            found = replace(found, weights=numbers, clip=self.config.clip or found.clip, vae=vae)
            return with_orders(found, self.checkpoints).with_files(hashed_file) if hashed else found
        settings = merge_settings(self.config)
        if "vae" in self.checkpoints:
            settings = replace(settings, vae=VAE_FILE)
        models, name = references(self.checkpoints, hashed), self.base.architecture.name
        recipe = MergeRecipe(**vars(settings), models=models, weights=numbers, architecture=name)
        return with_orders(recipe, self.checkpoints).with_files(hashed_file) if hashed else recipe

    def stored(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a study remembers, so that it can be resumed and its merges rebuilt from it alone.

        Args:
            settings: of the run, as plain data.
        """
        return {
            CONFIG: dict(settings),
            RECIPE: {key: value for key, value in self.recipe({}).to_json().items() if key != "weights"},
            PAYLOADS: [payload.to_json() for payload in self.payloads],
            SCORERS: {name: [scorer.importance, list(scorer.scale)] for name, scorer in self.scorers.items()},
            **({FRESH: [[payload.to_json() for payload in part] for part in self.fresh]} if self.fresh else {}),
            **({STANDARDS: {name: list(scale) for name, scale in self.standards.items()}} if self.standards else {}),
        }

    def close(self) -> None:
        """Let go of the model files."""
        for checkpoint in (*self.files.loras.values(), *self.checkpoints.values()):
            checkpoint.close()


def check_setup(
    config: RunConfig,
    scorers: Mapping[str, Scorer],
    sampler: Callable[..., Any],
    folder: Path,
    *,
    payloads: tuple[Payload, ...] | None = None,
    stored: Mapping[str, Any] = MappingProxyType({}),
) -> RunSetup:
    """Check everything that can be checked from settings and file headers.

    Args:
        config: the settings.
        scorers: the scorers, built but not loaded.
        sampler: the optimiser's factory.
        folder: the study's own folder, for scorers that keep something there.
        payloads: the resolved payloads of a study that goes on; ``None`` resolves the config's.
        stored: the attributes of a study whose final round is drawn with the same words.

    Raises:
        ConfigError: a setting, rule, payload or scorer that makes no sense.
        CheckpointError: a model file that cannot be used.
    """
    check_numbers(config)
    checkpoints, spec, space, steps = open_and_divide(config)
    base = checkpoints[steps.base if steps else "a"]
    if payloads is None:
        payloads = payloads_of_trials(config, base)
    words = stored_words(config, payloads, stored)
    files, web_ui = _check_generator(config, payloads, base, words)
    setup = RunSetup(config, checkpoints, spec, space, payloads, scorers, sampler, steps, files, web_ui, fresh=words)
    values = {parameter.name: parameter.low for parameter in space.parameters}
    recipe = setup.recipe(space.assemble(values), hashed=False)
    plan(recipe, checkpoints)
    setup = replace(setup, activations=seen_files(recipe.activation_files))
    within = {parameter.name: min(max(0.5, parameter.low), parameter.high) for parameter in space.parameters}
    setup = replace(setup, notes=plan(setup.recipe(space.assemble(within), hashed=False), checkpoints).remarks)
    if config.generator.program != OUTSIDE:
        setup.combination.check()
    check_rating(config, scorers)
    check_objectives(config, scorers)
    check_sampler(sampler, space, config)
    if config.workers > 1:
        check_no_person(scorers, "give  workers=1")
    prepare_scorers(scorers.values(), folder)
    if setup.rater and setup.assistant:
        setup.assistant.ledger = getattr(scorers[setup.rater], "ledger", None)
    return setup


def _check_generator(
    config: RunConfig, payloads: Sequence[Payload], model: Checkpoint, words: Sequence[Sequence[Payload]]
) -> tuple[PromptFiles, Mapping[str, Any] | None]:
    """The files that prompts name, or what makes a web UI's pictures comparable, where one draws."""
    generator = config.generator
    if generator.program == OUTSIDE:
        check_outside(config)
        return NO_FILES, None
    if generator.program in WEB_UIS:
        return NO_FILES, check_web_ui(config, payloads)
    for name in ("config", "text_encoder_3"):
        there(path_of(getattr(generator, name)), f"generator.{name}")
    if generator.prediction_type not in (None, "auto", *PREDICTIONS):
        kinds = " or ".join(PREDICTIONS)
        raise ConfigError(f"generator.prediction_type: '{generator.prediction_type}' is unknown; give {kinds}, or null")
    check_payloads(payloads, model, generator.prediction_type)
    files = find_files(all_drawn(config, payloads, words), model, path_of(config.loras), path_of(config.embeddings))
    check_offload(generator.offload)
    if (generator.device, generator.dtype) != ("auto", "auto"):  # needs torch, which takes its time
        check_place(generator.device, generator.dtype)
    check_speed(generator.attention, generator.compile, generator.device, generator.dtype, drawn(model).half)
    return files, None


def open_and_divide(config: RunConfig) -> tuple[dict[str, Checkpoint], MethodSpec, SearchSpace, StepFile | None]:
    """The models of a run, opened, the method that merges them, what is searched, and its steps if it has several.

    Raises:
        ConfigError: a setting or rule that makes no sense.
        CheckpointError: a model file that cannot be used.
    """
    steps = read_recipe(config)
    if steps is None:
        spec = merge_settings(config).spec
        checkpoints = open_models(config, spec)
        spec = spec.bind(checkpoints, config.options)
        base = checkpoints["a"]
        space = make_space(config, spec, divided(base.architecture, merge_settings(config).blocks, base.shapes))
    else:
        checkpoints = open_steps(steps, config)
        spec = replace(method_spec(steps.steps[-1].method), weights=steps.weights)
        loras = [name for name, checkpoint in checkpoints.items() if is_lora(checkpoint)]
        space = make_steps_space(config, steps, checkpoints[steps.base].architecture, loras)
    return checkpoints, spec, space, steps


def check_sampler(sampler: Callable[..., Any], space: SearchSpace, config: RunConfig) -> None:
    """Whether the optimiser can be made, knows its options, and knows as many objectives as there are.

    Raises:
        ConfigError: it does not.
    """
    made = make_sampler(sampler, space.distributions(), config.seed)
    made.check_objectives(max(len(config.objectives), 1))


def check_space(setup: RunSetup, folder: RunFolder, free: int | None = None) -> None:
    """Whether the disk holds what the run will write.

    Args:
        parts: the run.
        folder: where it will write.
        free: bytes that are free there; ``None`` asks the system.

    Raises:
        ConfigError: it does not.
    """
    place = folder.path.absolute()
    while not place.exists():
        place = place.parent
    needed = 64 << 20
    if setup.config.final.save:
        needed += sum(file.stat().st_size for file in setup.base.files)
    free = shutil.disk_usage(place).free if free is None else free
    if free < needed:
        raise ConfigError(
            f"runs: {place} has {free / 1e9:.1f} GB free and the best merge needs {needed / 1e9:.1f} GB; "
            "make room, or give another folder with  runs=FOLDER"
        )


def check_models(setup: RunSetup, note: Callable[[str], object] | None = None) -> list[str]:
    """What can only be seen by reading the models whole: seconds for large ones, before anything is written.

    Args:
        setup: the run.
        note: told what takes long because models draw for it.

    Returns:
        What is done to models whose neurons are put in another order, in words.

    Raises:
        ConfigError: they are all the same.
        CheckpointError: one holds NaN or infinity, or computes something else with its neurons in another order.
    """
    hash_all(setup.checkpoints.values())
    if len({checkpoint.sha256() for checkpoint in setup.checkpoints.values()}) == 1:
        names = " and ".join(f"model_{name}" for name in setup.checkpoints)
        raise ConfigError(f"{names}: are the same model, so every merge of them is; give two different files")
    for checkpoint in setup.checkpoints.values():
        checkpoint.scan()
    return find_orders(setup.checkpoints.values(), lambda pair: _match(pair, setup, note))


def _match(pair: Pair, setup: RunSetup, note: Callable[[str], object] | None) -> Permutation:
    """The order of a model's neurons by their activations in the run's own payloads."""
    from bayes_merger.run.matching import match_drawing

    return match_drawing(pair, setup.config, setup.payloads, note=note)
