"""Hydra in, plain data out: the only module that knows Hydra or OmegaConf.

The compose API is used rather than ``hydra.main``, which makes its output folder before our code runs: bad input
must leave nothing behind.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bayes_merger import demo
from bayes_merger.config import RunConfig, data_root
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.method import MODEL_NAMES

PATHS = ("model_a", "model_b", "model_c", "vae", "runs", "wildcards", "generator.config", "storage")
_PATH_TABLES = ("models.", "recipe.models.")
_PROMPTS = (".prompt", ".negative_prompt")  # text, whatever commas and colons are in it
DROP_INS = ("payloads", "scorers")
FURTHER = {f"model_{name}": f"models.{name}" for name in MODEL_NAMES if name > "c"}
"""How further models are given -> the settings that they are."""
GROUPS = (*DROP_INS, "optimiser", "space", "generator", "experiment")
FILES = ("recipe", "blocks")  # given as the name of a YAML file, kept as what is in it
OPEN = (
    "models",
    "space",
    "payloads",
    "options",
    "recipe",
)  # their own rooms know which names they may hold, and say so better than Hydra


class DropInSource(FileConfigSource):
    """A folder of which only ``payloads/`` and ``scorers/`` are config groups.

    With ``file://`` every folder beside them (``runs/``, ``tests/``, ...) would turn into a group. A file that
    forgot to wrap its content in its own name is wrapped here, so that several can be chosen at once.
    """

    @staticmethod
    def scheme() -> str:
        """The address prefix that picks this source."""
        return "drop-in"

    def is_group(self, config_path: str) -> bool:
        """Whether ``config_path`` is one of the drop-in folders (or the root of them)."""
        return config_path.split("/")[0] in ("", *DROP_INS) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether ``config_path`` is a YAML file in one of the drop-in folders."""
        return config_path.split("/")[0] in DROP_INS and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What lies in a drop-in folder."""
        if config_path in ("", "/"):
            return [name for name in DROP_INS if super(DropInSource, self).is_group(name)]
        return super().list(config_path, results_filter)

    def load_config(self, config_path: str) -> ConfigResult:
        """One payload or scorer, wrapped by its name."""
        result = super().load_config(config_path)
        stem = Path(config_path).stem
        if OmegaConf.is_dict(result.config) and ("prompt" in result.config or "_target_" in result.config):
            result.config = OmegaConf.create({stem: result.config})
        return result


class SearchPath(SearchPathPlugin):
    """What the user has in the working folder comes first, then what we ship."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folders to Hydra's search path."""
        here = Path.cwd()
        search_path.append("bayes-merger", f"drop-in://{data_root()}")
        if here != data_root():
            search_path.prepend("user", f"drop-in://{here}")
            if (here / "conf").is_dir():
                search_path.prepend("user", f"file://{here / 'conf'}")


def _register() -> None:
    plugins = Plugins.instance()
    for plugin in (DropInSource, SearchPath):
        plugins.register(plugin)
    ConfigStore.instance().store(name="schema", node=RunConfig)
    OmegaConf.register_new_resolver("demo", demo_path, replace=True)


def demo_path(what: str) -> str:
    """Where an embedded demo file lies: ``a``, ``b``, ``c``, ``config``, ``clip``, ``clip_config``, ``head``."""
    return str(demo.paths()[what])


def in_full(override: str) -> str:
    """An override by the name that its setting has in the configuration: ``model_d=FILE`` is ``models.d=FILE``."""
    key, equals, value = override.partition("=")
    return f"{FURTHER.get(key, key)}{equals}{value}"


def quoted(override: str) -> str:
    """An override that Hydra's grammar accepts: file names are full of spaces, brackets and ``=``."""
    key, equals, value = in_full(override).partition("=")
    if (key.partition(".")[0] in OPEN and "." in key) or key == "models":
        key = f"++{key}"
    override = f"{key}{equals}{value}"
    if not equals or not value:
        return override
    if key in ("elements", "anchors", "adjust") and not value.startswith(("[", "{")):
        return f"{key}=[{_quote(value)}]"
    bare = key.lstrip("+~")
    if (bare in PATHS or bare.startswith(_PATH_TABLES) or bare.endswith(_PROMPTS)) and value != "null":
        return f"{key}={_quote(value)}"
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return f"{key}={_quote(value)}"
    return override


def swept_values(override: str) -> list[str] | None:
    """The values of a sweep such as ``seed=0,1,2``, ``range(0,3)`` or ``choice(a,b)``, each as it would be typed alone.

    Commas in file names, prompts, elements and weights are text; to sweep those, write ``choice(...)``.

    Args:
        override: as typed.

    Returns:
        None where it is one value.

    Raises:
        ConfigError: a sweep whose values only a sweeper that learns could choose.
    """
    key, _, value = override.partition("=")
    bare = key.lstrip("+~")
    is_text = (
        bare in (*PATHS, *FURTHER, *FILES, "elements", "anchors", "adjust")
        or bare.startswith(_PATH_TABLES)
        or bare.endswith(_PROMPTS)
    )
    if is_text and not value.startswith("choice("):
        return None
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return None
    if not parsed.is_sweep_override():
        return None
    if parsed.is_interval_sweep():
        raise ConfigError(f"{key}: {value} is for sweepers that learn, which are not used; list the values")
    return [str(one) for one in parsed.sweep_string_iterator()]


def _quote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    # Hydra reads a backslash as one, but for those right before a quote
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    escaped = escaped.replace("${", "\\${")
    return f"'{escaped}'"


def compose_run(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run as plain data, every value resolved.

    Raises:
        ConfigError: an unknown setting or choice, a wrong type, a value that must be given.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise ConfigError(f"argument '{override}': settings are given like  name=value")
        key, _, choice = override.partition("=")
        if key == "experiment" and choice not in ("null", *choices(key)):  # optional to Hydra, which would skip it
            raise ConfigError(f"{key}: no '{choice}'; {nearest(choice, choices(key))}")
    read, overrides = _read_files(overrides)
    try:
        config = _composed(overrides)
        for key, data in read.items():
            OmegaConf.update(config, key, OmegaConf.merge(data, config[key]), merge=False, force_add=True)
        if config.recipe:
            _name_models(config)
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"'{missing[0]}' has no value: give it like  {missing[0]}=...")
        plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        _explain(error, overrides)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        raise ConfigError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _read_files(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What lies in the files that ``recipe=`` and ``blocks=`` name, and the other overrides."""
    from bayes_merger.merging.recipe.step_file import read_yaml, recipe_data

    read: dict[str, Any] = {}
    others = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in FILES and value and not value.startswith("{"):
            path = Path(value).expanduser()
            read[key] = recipe_data(path) if key == "recipe" else read_yaml(path, key)
            if not isinstance(read[key], dict):
                raise ConfigError(f"{key}: {path} holds no table")
        else:
            others.append(override)
    return read, others


def _name_models(config: DictConfig) -> None:
    """A run of a recipe in several steps is called by its first models, and has no others."""
    from bayes_merger.merging.recipe.step_file import read_steps

    named = [key for key in ("model_a", "model_b", "model_c") if not OmegaConf.is_missing(config, key)]
    given = {key: config[key] for key in named} | {f"model_{name}": path for name, path in config.models.items()}
    for key, path in given.items():
        if path is not None:
            raise ConfigError(f"{key}: the recipe names its models; give it as recipe.models.NAME=FILE, or no recipe=")
    try:
        file = read_steps(OmegaConf.to_container(config.recipe, resolve=True))
    except ConfigError as error:
        raise ConfigError(f"recipe: {error}") from None
    others = [path for name, path in file.models.items() if name != file.base]
    config.model_a = file.models[file.base]
    config.model_b = others[0] if others else config.model_a


def _composed(overrides: Sequence[str]) -> DictConfig:
    _register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(data_root() / "conf"), version_base="1.3"):
        return compose("config", overrides=[quoted(override) for override in overrides])


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

    raw = OmegaConf.to_container(_composed(_read_files(overrides)[1]), resolve=False)
    return frozenset(key for key, value in leaves(raw, "") if str(value).startswith("${") and ":" not in str(value))


def validate(values: Mapping[str, Any]) -> RunConfig:
    """A stored configuration as the dataclasses of ``bayes_merger.config``.

    Raises:
        ConfigError: it does not fit the schema.
    """
    try:
        run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), dict(values)))
    except OmegaConfBaseException as error:
        _explain(error, [])
    assert isinstance(run, RunConfig)
    return run


def changed(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A stored configuration with ``overrides`` (``n_iters=100``, ``optimiser=tpe``) applied.

    Raises:
        ConfigError: an unknown setting or choice, or a wrong type.
    """
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"argument '{override}': settings are given like  name=value")
    chosen = [override for override in overrides if override.partition("=")[0] in GROUPS]
    try:
        config = OmegaConf.merge(OmegaConf.structured(RunConfig), dict(values))
        if chosen:
            composed = _composed(chosen)
            for group in (override.partition("=")[0] for override in chosen):
                OmegaConf.update(config, group, composed[group], merge=False)
        OmegaConf.set_struct(config, True)
        for override in (override for override in overrides if override not in chosen):
            parsed = OverridesParser.create().parse_override(quoted(override))
            force = parsed.key_or_group.partition(".")[0] in OPEN
            OmegaConf.update(config, parsed.key_or_group, parsed.value(), merge=True, force_add=force)
        plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        _explain(error, overrides)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def build(what: str, settings: Mapping[str, Any], **extra: Any) -> Any:
    """The object a ``_target_`` names, with its settings.

    Args:
        what: the setting's name, for the error.
        settings: the ``_target_`` and the arguments it takes.
        **extra: arguments from code; ``_partial_=True`` gives the callable instead of calling it.

    Raises:
        ConfigError: no such target, or arguments that it does not take.
    """
    if "_target_" not in settings:
        raise ConfigError(f"{what}: its YAML needs a _target_, the dotted name of what to build")
    for folder in ("scorers", "optimisers"):  # the user's own Python files are dropped there
        if (own := str(Path.cwd() / folder)) not in sys.path:
            sys.path.append(own)
    try:
        return instantiate(dict(settings), _convert_="all", **extra)
    except HydraException as error:
        cause = error.__cause__ or error
        raise ConfigError(f"{what}: {_first_line(str(cause))}") from error


def _first_line(text: str) -> str:
    return " ".join(line.strip() for line in text.strip().splitlines()[:2])


def _explain(error: Exception, overrides: Sequence[str]) -> NoReturn:
    """One line for what Hydra says in many."""
    text = str(error)
    if found := re.search(r"Could not (?:find|load) '([\w\-]+)/([^']+)'", text):
        group, choice = found.groups()
        raise ConfigError(f"{group}: no '{choice}'; {nearest(choice, choices(group))}") from error
    if found := re.search(r"Key '([^']+)' (?:is not in struct|not in)", text):
        key = found.group(1)
        full = next((o.partition("=")[0] for o in overrides if o.partition("=")[0].split(".")[-1] == key), key)
        if full in FURTHER:
            raise ConfigError(f"{full}: in a YAML file it is written  models: {{{full[-1]}: FILE}}") from error
        raise ConfigError(f"unknown setting '{full}'; {nearest(full, _settings(overrides))}") from error
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        raise ConfigError(
            f"{found.group(1)}: several values; run a study with each by  --multirun, or write a list as [a,b]"
        ) from error
    if found := re.search(r"Could not override '([^']+)'", text):
        full = found.group(1)
        raise ConfigError(f"unknown setting '{full}'; {nearest(full, _settings(overrides))}") from error
    if found := re.search(r"Error merging override (.+)", text):
        reason = str(error.__cause__ or "").partition("\n")[0]
        raise ConfigError(f"{found.group(1).lstrip('+')}: {reason}") from error
    key = getattr(error, "full_key", None)
    value = _first_line(getattr(error, "msg", None) or text)
    raise ConfigError(f"{key}: {value}" if key and str(key) not in value else value) from error


def _settings(overrides: Sequence[str]) -> list[str]:
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
        config = _composed(chosen)
    except (HydraException, OmegaConfBaseException):
        config = OmegaConf.structured(RunConfig)
    return ["experiment", *list(FURTHER)[:3], *walk(OmegaConf.to_container(config), "")]


def settings_text(overrides: Sequence[str]) -> str:
    """The composed settings as YAML, without the password of the storage."""
    settings = compose_run(overrides)
    if settings["storage"]:
        from bayes_merger.search.study.storage import redacted

        settings["storage"] = redacted(settings["storage"])
    return str(OmegaConf.to_yaml(OmegaConf.create(settings)))


def settings_help() -> str:
    """The settings with their comments, and the choices of each config group."""
    text = (data_root() / "conf" / "config.yaml").read_text(encoding="utf-8")
    lines = ["Settings and their defaults:", ""]
    lines += [f"  {line}" if line else "" for line in text[text.index("model_a:") :].rstrip().splitlines()]
    lines += ["", "Choices:", ""]
    for group in GROUPS:
        lines.append(f"  {group:<10} {', '.join(choices(group))}")
    return "\n".join(lines) + "\n"


def choices(group: str) -> list[str]:
    """What a config group offers, the user's own files included."""
    folders = [data_root() / "conf", data_root(), Path.cwd() / "conf", Path.cwd()]
    if group not in DROP_INS:
        folders = [folders[0], folders[2]]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
