"""Where Hydra looks: the working folder's files before ours, and what it is told of each.

The compose API is used rather than ``hydra.main``, which makes its output folder before our code runs: bad input
must leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bayes_merger import demo
from bayes_merger.compose.foreign import way_out
from bayes_merger.config import MISSING, RunConfig, data_root
from bayes_merger.errors import ConfigError, one_line, printable
from bayes_merger.imaging.payload.files import known_payloads
from bayes_merger.run.choices import GROUPS, PAYLOADS, payload_places

NAMED_FILES = "_files_"
"""In the place of a payload: the files that were chosen. Beside scorers: name -> the files that hold it."""

_OWN = "own/config"


@dataclass
class Written(RunConfig):
    """A run as people write it: a model may be a table of its file and the order that its neurons take."""

    model_a: Any = MISSING
    model_b: Any = MISSING
    model_c: Any = None


class PayloadSource(ConfigSource):
    """Says which payload files are chosen, not what is in them."""

    @staticmethod
    def scheme() -> str:
        """The address prefix that picks this source."""
        return "payloads"

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether it is the group of payloads, or the root."""
        return config_path in ("", PAYLOADS)

    def is_config(self, config_path: str) -> bool:
        """Any name may be a payload's; whether there is such a file is asked later."""
        return config_path.startswith(f"{PAYLOADS}/")

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What there is to choose."""
        return known_payloads(payload_places()) if config_path == PAYLOADS else [PAYLOADS]

    def load_config(self, config_path: str) -> ConfigResult:
        """The name."""
        name = config_path.removeprefix(f"{PAYLOADS}/")
        chosen = OmegaConf.create({PAYLOADS: {NAMED_FILES: {name: None}}})
        header: dict[str, str | None] = {"package": "_global_"}
        return ConfigResult(config=chosen, path=self.path, provider=self.provider, header=header)


class ScorerSource(FileConfigSource):
    """A folder of which only ``scorers/`` is a config group.

    With ``file://`` every folder beside it (``runs/``, ``tests/``, ...) would turn into a group. A file that forgot to
    wrap its content in its own name is wrapped here, so that several can be chosen at once.
    """

    @staticmethod
    def scheme() -> str:
        """The address prefix that picks this source."""
        return "scorers"

    def is_group(self, config_path: str) -> bool:
        """Whether it is the group of scorers, or the root."""
        return config_path in ("", "scorers") and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether it is a scorer's file."""
        return config_path.startswith("scorers/") and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What there is to choose."""
        if config_path in ("", "/"):
            return ["scorers"] if super().is_group("scorers") else []
        return list(super().list(config_path, results_filter))

    def load_config(self, config_path: str) -> ConfigResult:
        """One scorer, wrapped by its name."""
        file = Path(self.path) / self._normalize_file_name(config_path)
        with _naming(file):
            result = super().load_config(config_path)
            _check_table(result.config)
            if "_target_" in result.config:
                result.config = OmegaConf.create({file.name.removesuffix(".yaml"): result.config})
            result.config[NAMED_FILES] = {str(key): {str(file): None} for key in result.config}
        return result


class OwnSource(FileConfigSource):
    """The working folder's ``conf/``: a ``config.yaml`` of a few values is laid over ours, experiments are global."""

    @staticmethod
    def scheme() -> str:
        """The address prefix that picks this source."""
        return "own"

    def is_group(self, config_path: str) -> bool:
        """Whether it is a folder of theirs."""
        return config_path == _OWN.partition("/")[0] or super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether it is a file of theirs; ``config.yaml`` only where it is complete, else it lies over ours."""
        if config_path in ("config", _OWN):
            return super().is_config("config") and self._is_complete() == (config_path == "config")
        return super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """One file."""
        path = "config" if config_path == _OWN else config_path
        file = Path(self.path) / self._normalize_file_name(path)
        with _naming(file):
            result = super().load_config(path)
            _check_table(result.config)
            is_experiment = path.startswith("experiment/")
            if config_path == _OWN or (is_experiment and _chooses_plainly(result.config)):
                own = OmegaConf.to_container(result.config)
                result.config = OmegaConf.create(_over_ours(own, on_others=is_experiment))
            if is_experiment or config_path == _OWN:
                result.header.setdefault("package", "_global_")
                if result.header["package"] is None:
                    result.header["package"] = "_global_"
        return result

    def _is_complete(self) -> bool:
        file = Path(self.path) / "config.yaml"
        with _naming(file):
            found = OmegaConf.load(file)
            return isinstance(found, DictConfig) and "schema" in (found.get("defaults") or ())


def _chooses_plainly(config: Any) -> bool:
    """Whether a file chooses as it is typed, ``scorers: [laion, clip]``, rather than in a list of Hydra's defaults."""
    plain = OmegaConf.to_container(config)
    return isinstance(plain, dict) and any(isinstance(plain.get(group), str | list) for group in GROUPS)


def _over_ours(settings: Any, *, on_others: bool) -> dict[str, Any]:
    """A few values as something that Hydra can lay over the whole: its choices override ours.

    Args:
        settings: of a file.
        on_others: whether it may be laid over other files of its folder, which its defaults name.

    Raises:
        ConfigError: a setting that there is not.
    """
    defaults: list[Any] = []
    entries = settings.pop("defaults", None) or ()
    others = [entry for entry in entries if isinstance(entry, str) and entry != "_self_"] if on_others else []
    for entry in entries:
        for group, choice in entry.items() if isinstance(entry, dict) else ():
            bare = group.removeprefix("override ").removeprefix("/")
            if bare not in GROUPS:
                raise ConfigError(f"defaults: no group '{printable(bare)}'; {way_out(bare, GROUPS)}")
            defaults.append({f"override /{bare}": choice})
    known = [field.name for field in fields(RunConfig)]
    for key, value in list(settings.items()):
        if key in GROUPS and isinstance(value, str | list):
            defaults.append({f"override /{key}": settings.pop(key)})
        elif key not in known:
            raise ConfigError(f"unknown setting '{printable(str(key))}'; {way_out(str(key), known)}")
    return {"defaults": [*others, "_self_", *defaults], **settings}


def _check_table(config: Any) -> None:
    if not isinstance(config, DictConfig):
        raise ConfigError("holds no settings, like  name: value")


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """What is wrong with a file of the user's, in one line that names it."""
    where = shown(file)
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = printable(one_line(getattr(error, "problem", None) or error))
        raise ConfigError(f"{where}{line}: not valid YAML ({what})") from None
    except OmegaConfBaseException as error:
        what = printable(str(error).strip().partition("\n")[0])
        raise ConfigError(f"{where}: {what}; for text with ${{ in it write \\${{") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: cannot be read ({printable(one_line(error))})") from None


def shown(file: Path) -> str:
    """A path for an error: relative to the working folder where it lies there."""
    return printable(str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file), longest=200)


class SearchPath(SearchPathPlugin):
    """What the user has in the working folder comes first, then what we ship."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folders to Hydra's search path."""
        here = Path.cwd()
        search_path.append("bayes-merger", f"scorers://{data_root()}")
        if here != data_root():
            search_path.prepend("user", f"scorers://{here}")
            if (here / "conf").is_dir():
                search_path.prepend("user", f"own://{here / 'conf'}")
        search_path.prepend("payloads", "payloads://here")


@cache
def register() -> None:
    """Tell Hydra of all this, once: the schema takes a tenth of the time of composing."""
    plugins = Plugins.instance()
    for plugin in (PayloadSource, ScorerSource, OwnSource, SearchPath):
        plugins.register(plugin)
    ConfigStore.instance().store(name="schema", node=Written)
    OmegaConf.register_new_resolver("demo", demo_path, replace=True)


def demo_path(what: str) -> str:
    """Where an embedded demo file lies: ``a``, ``b``, ``c``, ``config``, ``clip``, ``clip_config``, ``head``."""
    return str(demo.paths()[what])
