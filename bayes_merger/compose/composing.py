"""What the user has and types -> the settings of a run as plain data; a study's settings, with changes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bayes_merger.compose.building import check_trusted
from bayes_merger.compose.explaining import explained
from bayes_merger.compose.payloads import split_payloads
from bayes_merger.compose.sources import NAMED_FILES, Written, register, shown
from bayes_merger.compose.typed import FILES, FURTHER, check_typed, gathered, in_full, is_open, quoted
from bayes_merger.compose.verbatim import Verbatim
from bayes_merger.config import RunConfig, data_root
from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.merging.models.named import with_paths
from bayes_merger.merging.rebasin.written import files_and_orders, steps_with_files, tables_in
from bayes_merger.paths import user_path
from bayes_merger.run.choices import GROUPS, choices
from bayes_merger.run.outside import is_outside, without_drawing


def compose_run(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run as plain data, every value resolved.

    Raises:
        ConfigError: an unknown setting or choice, a wrong type, a value that must be given.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    overrides = gathered(overrides)
    check_typed(overrides)
    for override in overrides:
        key, _, choice = override.partition("=")
        if key == "experiment" and choice not in ("null", *choices(key)):  # optional to Hydra, which would skip it
            raise ConfigError(f"{key}: no '{printable(choice)}'; {nearest(choice, choices(key))}")
    read, others = _read_files(overrides)
    typed, others = split_payloads(others)
    words = Verbatim()
    with explained(others, words, _known_settings):
        config = _composed(others, words)
        given = words.show(OmegaConf.to_container(config.payloads, resolve=False))
        config.payloads = {}
        for key, data in words.hide(read).items():
            OmegaConf.update(config, key, OmegaConf.merge(data, config[key]), merge=False, force_add=True)
        if config.recipe:
            _name_models(config, words)
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"'{missing[0]}' has no value: give it like  {missing[0]}=...")
        plain = with_files(words.show(OmegaConf.to_container(config, resolve=True)))
    files = given.pop(NAMED_FILES, {})
    check_finite(plain)
    plain = with_paths(plain, plain["models_dir"])
    if is_outside(plain):
        return _by_name(without_drawing(plain, overrides))
    return _by_name(plain | {"payloads": typed.applied(list(files), given)})


def check_finite(settings: Any, name: str = "", before: Any = None) -> None:
    """Refuse what YAML calls numbers and neither JSON nor a search can use.

    Args:
        settings: or a part of them.
        name: of that part.
        before: what a study has there; an own scorer may have been given any number before this was refused.

    Raises:
        ConfigError: naming the setting.
    """
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            had = before.get(key) if isinstance(before, Mapping) else None
            check_finite(value, f"{name}.{key}" if name else str(key), had)
    elif isinstance(settings, list):
        for value in settings:
            check_finite(value, name)
    elif isinstance(settings, float) and not math.isfinite(settings):
        if name.startswith("scorers.") and isinstance(before, float) and repr(before) == repr(settings):
            return
        raise ConfigError(f"{printable(name)}: {settings} is no number to reckon with; give a finite one")


def with_files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run in which models are files; what tables say of them besides is in ``rebasin``.

    Raises:
        ConfigError: a table without a file, or one that contradicts ``rebasin``.
    """
    models = {name: settings[f"model_{name}"] for name in "abc"}
    files, orders = files_and_orders(models, settings["rebasin"])
    further, orders = files_and_orders(settings["models"], orders)
    named = {f"model_{name}": file for name, file in files.items()}
    recipe = settings["recipe"]
    return {
        **settings,
        **named,
        "models": further,
        "rebasin": orders,
        "recipe": steps_with_files(recipe) if recipe else recipe,
    }


def _by_name(settings: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in settings.items()}


def _read_files(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What lies in the files that ``recipe=`` and ``blocks=`` name, and the other overrides."""
    from bayes_merger.merging.recipe.step_file import read_yaml, recipe_data

    read: dict[str, Any] = {}
    others = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in FILES and value and not value.startswith("{"):
            path = user_path(value)
            read[key] = recipe_data(path) if key == "recipe" else read_yaml(path, key)
            if not isinstance(read[key], dict):
                raise ConfigError(f"{key}: {path} holds no table")
        else:
            others.append(override)
    return read, others


def _name_models(config: DictConfig, words: Verbatim) -> None:
    """A run of a recipe in several steps is called by its first models, and has no others."""
    from bayes_merger.merging.recipe.step_file import read_steps

    named = [key for key in ("model_a", "model_b", "model_c") if not OmegaConf.is_missing(config, key)]
    given = {key: config[key] for key in named} | {f"model_{name}": path for name, path in config.models.items()}
    for key, path in given.items():
        if path is not None:
            raise ConfigError(f"{key}: the recipe names its models; give it as recipe.models.NAME=FILE, or no recipe=")
    try:
        file = read_steps(words.show(OmegaConf.to_container(config.recipe, resolve=True)))
    except ConfigError as error:
        raise ConfigError(f"recipe: {error}") from None
    others = [path for name, path in file.models.items() if name != file.base]
    config.model_a = words.hide(file.models[file.base])
    config.model_b = words.hide(others[0]) if others else config.model_a


def _composed(overrides: Sequence[str], words: Verbatim) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(data_root() / "conf"), version_base="1.3"):
        config = compose("config", overrides=[quoted(override, words) for override in overrides])
    with open_dict(config):
        for name, files in config.scorers.pop(NAMED_FILES, {}).items():
            if len(files) > 1:
                both = " and ".join(shown(Path(file)) for file in files)
                raise ConfigError(f"scorers: {both} both hold '{printable(name)}'; rename it in one")
    return config


def followers(overrides: Sequence[str]) -> frozenset[str]:
    """The settings whose values follow other settings, such as ``optimiser.rows``; a study keeps what they were.

    Args:
        overrides: as typed; they compose.
    """

    def leaves(tree: Any, key: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(tree, Mapping):
            yield key, tree
            return
        for name, branch in tree.items():
            yield from leaves(branch, f"{key}.{name}" if key else str(name))

    others = split_payloads(_read_files(overrides)[1])[1]
    raw = OmegaConf.to_container(_composed(others, Verbatim()), resolve=False)
    return frozenset(key for key, value in leaves(raw, "") if str(value).startswith("${") and ":" not in str(value))


def validate(values: Mapping[str, Any]) -> RunConfig:
    """A stored configuration as the dataclasses of ``bayes_merger.config``.

    Raises:
        ConfigError: it does not fit the schema.
    """
    words = Verbatim()
    with explained([], words, _known_settings):
        run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), words.hide(values)))
    shown_run = words.show(run)
    assert isinstance(shown_run, RunConfig)
    return shown_run


def changed(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A stored configuration with ``overrides`` (``n_iters=100``, ``optimiser=tpe``) applied.

    What is stored is plain data: it was resolved when the study began, and may be somebody else's.

    Raises:
        ConfigError: an unknown setting or choice, a wrong type, or settings that reach beyond the study.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("payloads", {}), Mapping):
        raise ConfigError("the settings of the study are damaged")
    overrides = gathered(overrides)
    check_typed(overrides)
    overrides = _by_path(overrides, values.get("models_dir"))
    typed, others = split_payloads(overrides)
    chosen = [override for override in others if override.partition("=")[0] in GROUPS]
    words = Verbatim()
    with explained(others, words, _known_settings):
        register()
        config = OmegaConf.merge(OmegaConf.structured(Written), words.hide({**values, "payloads": {}}))
        if chosen:
            composed = _composed(chosen, words)
            for group in (override.partition("=")[0] for override in chosen):
                OmegaConf.update(config, group, composed[group], merge=False)
        OmegaConf.set_struct(config, True)
        for override in (override for override in others if override not in chosen):
            parsed = OverridesParser.create().parse_override(quoted(override, words))
            force = is_open(f"{parsed.key_or_group}.")
            OmegaConf.update(config, parsed.key_or_group, parsed.value(), merge=True, force_add=force)
        plain = with_files(words.show(OmegaConf.to_container(config, resolve=True)))
    check_finite(plain, before=values)
    check_trusted(plain, typed={in_full(override).partition("=")[0] for override in others})
    given = values.get("payloads", {}) if typed.chosen is None else {}
    return _by_name(plain | {"payloads": typed.applied((), given)})


def _by_path(overrides: Sequence[str], models_dir: str | None) -> list[str]:
    """Overrides with paths in the place of models' names: what a study has is left as it is."""
    typed = tables_in(dict(in_full(override).split("=", 1) for override in overrides if "=" in override))
    paths = with_paths(typed, typed.get("models_dir", models_dir))
    given = [f"{key}={json.dumps(path) if isinstance(path, Mapping) else path}" for key, path in paths.items()]
    return [*given, *(each for each in overrides if "=" not in each)]


def _known_settings(overrides: Sequence[str]) -> list[str]:
    """Every setting's full name, with the config groups as the user chose them."""

    def walk(node: Any, prefix: str) -> list[str]:
        names = []
        for key, child in node.items():
            names.append(f"{prefix}{key}")
            if isinstance(child, dict):
                names += walk(child, f"{prefix}{key}.")
        return names

    chosen = [text for text in overrides if text.partition("=")[0] in GROUPS]
    try:
        config = _composed(chosen, Verbatim())
    except (ConfigError, HydraException, OmegaConfBaseException):  # it is these choices that are wrong
        config = OmegaConf.structured(RunConfig)
    return ["experiment", *list(FURTHER)[:3], *walk(OmegaConf.to_container(config), "")]


def settings_text(overrides: Sequence[str]) -> str:
    """The composed settings as YAML, without the password of the storage."""
    settings = compose_run(overrides)
    if settings["storage"]:
        from bayes_merger.search.study.storage import redacted

        settings["storage"] = redacted(settings["storage"])
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=1000))


def settings_help() -> str:
    """The settings with their comments, and the choices of each config group."""
    text = (data_root() / "conf" / "config.yaml").read_text(encoding="utf-8")
    lines = ["Settings and their defaults:", ""]
    lines += [f"  {line}" if line else "" for line in text[text.index("model_a:") :].rstrip().splitlines()]
    lines += ["", "Choices:", ""]
    for group in GROUPS:
        lines.append(f"  {group:<10} {', '.join(choices(group))}")
    return "\n".join(lines) + "\n"
