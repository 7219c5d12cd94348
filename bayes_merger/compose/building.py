"""The objects that settings name by ``_target_``.

A dotted name is a function that will be called, so it is taken only from whom the user trusts: our files, and those of
the user's own ``conf/`` and ``scorers/``. What a study names that somebody sent must be named there, too; so must a
command that it wants to run, or a file that it wants to write.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import partial, reduce
from pathlib import Path, PurePath
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bayes_merger.config import data_root
from bayes_merger.documents import files_below, read_document
from bayes_merger.errors import BayesMergerError, ConfigError, one_line, printable

TRUSTED = {
    "_target_": "is built from",
    "viewer": "is a command",
    "ledger": "is a file to write",
    "address": "is asked to draw",
    "models_folder": "is a folder to write into",
    "workflow": "is what ComfyUI is told to do",
}
"""Settings that reach beyond a study -> what their value is."""

_PYTHON_FILES = ("scorers", "optimisers")  # folders where the user's own Python files are dropped


def build(what: str, settings: Mapping[str, Any], **extra: Any) -> Any:
    """The object a ``_target_`` names, with its settings.

    Args:
        what: the setting's name, for the error.
        settings: the ``_target_`` and the arguments it takes, which may be built themselves.
        **extra: arguments from code; ``_partial_=True`` gives the callable instead of calling it.

    Raises:
        ConfigError: no such target, or arguments that it does not take.
    """
    if "_target_" not in settings:
        raise ConfigError(f"{what}: its YAML needs a _target_, the dotted name of what to build")
    for folder in _PYTHON_FILES:
        if (own := str(Path.cwd() / folder)) not in sys.path:
            sys.path.append(own)
    importlib.invalidate_caches()  # a file may be newer than this process's last look
    try:
        return _built({**settings, **extra})
    except (Exception, SystemExit) as error:  # constructors of the user's own may raise anything
        text = printable(" ".join(line.strip() for line in str(error).strip().splitlines()[:2]), longest=300)
        kind = "" if isinstance(error, BayesMergerError | TypeError | SyntaxError) else f"{type(error).__name__}: "
        raise ConfigError(f"{what}: {kind}{text}".removesuffix(": ")) from error


def _built(data: Any) -> Any:
    if isinstance(data, list):
        return [_built(item) for item in data]
    if not isinstance(data, Mapping):
        return data
    arguments = {key: _built(value) for key, value in data.items() if key not in _ABOUT_BUILDING}
    if "_target_" not in data:
        return arguments
    target = _located(data["_target_"])
    made = partial(target, *_built(data.get("_args_", [])), **arguments)
    return made if data.get("_partial_") else made()


_ABOUT_BUILDING = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


def _located(name: Any) -> Any:
    try:
        found = _of_own_file(str(name)) or pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        shown = printable(str(name), longest=60)
        said = str(error)
        if "relative import" in said or (
            isinstance(error, ImportError) and (error.name or "").split(".")[0] in _PYTHON_FILES
        ):
            raise ConfigError(
                f"_target_: '{shown}' imports another file of its folder as of a package; write  from FILE import ..."
            ) from error
        if isinstance(error, ModuleNotFoundError) and error.name and not str(name).startswith(error.name):
            raise ConfigError(f"_target_: '{shown}' needs {error.name}, which is not installed") from error
        raise ConfigError(f"_target_: nothing is called '{shown}' ({one_line(error)}); give a dotted name") from error
    if not callable(found):
        raise ConfigError(f"_target_: '{printable(str(name), longest=60)}' cannot be called")
    return found


def _of_own_file(name: str) -> Any:
    """What a dotted name is in a Python file of the user's own; None where there is no such file.

    Such a file comes before an installed module of its name, and ``scorers.`` in front of it is as good as nothing.
    """
    first, _, rest = name.partition(".")
    module, _, inside = rest.partition(".") if first in _PYTHON_FILES and rest else (first, "", rest)
    files = (Path.cwd() / folder / f"{module}.py" for folder in _PYTHON_FILES)
    file = next((file for file in files if module and PurePath(module).name == module and file.is_file()), None)
    if file is None or not inside:
        return None
    return reduce(getattr, inside.split("."), _loaded(module, file))


def _loaded(name: str, file: Path) -> Any:
    """A Python file as the module of its name, or where that is another one, as one of its own."""
    if name not in sys.modules and (found := importlib.util.find_spec(name)) and found.origin == str(file):
        return importlib.import_module(name)
    for known in (name, f"own {name}"):
        if getattr(sys.modules.get(known), "__file__", None) == str(file):
            return sys.modules[known]
    spec = importlib.util.spec_from_file_location(f"own {name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]  # as Python's own import does: half of it would be taken for all of it
        raise
    return module


def check_trusted(settings: Mapping[str, Any], typed: Collection[str]) -> None:
    """Whether a study names only what the user's own files and ours name, too.

    Args:
        settings: of the study.
        typed: settings that the user has given.

    Raises:
        ConfigError: something that reaches beyond it; the text says which file to put where.
    """
    own: dict[str, list[Any]] = {}
    wanted = {group: settings.get(group) for group in ("scorers", "optimiser", "generator")}
    for place, key, value in _named(wanted):
        if value is None or place in typed:
            continue
        own = own or _of_own_files()
        if value not in own[key] and not (key == "ledger" and _is_inside(value)):
            group, _, rest = place.partition(".")
            name = rest.partition(".")[0] if group == "scorers" else "NAME"
            file = f"{'' if group == 'scorers' else 'conf/'}{group}/{printable(name)}.yaml"
            shown = printable(str(value), longest=80)
            raise ConfigError(
                f"{printable(place)}: '{shown}' {TRUSTED[key]}, which a study may only name if a file of yours does; "
                f"if you trust it, put a {file} with  {key}: {shown}  into the working folder"
            )


def _is_inside(ledger: Any) -> bool:
    """Whether a file of ratings lies in the working folder."""
    path = PurePath(str(ledger))
    return path.suffix == ".jsonl" and not path.is_absolute() and not path.drive and ".." not in path.parts


def _named(data: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every setting that reaches beyond a study: where it stands, its name and value."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            inner = f"{place}.{key}".lstrip(".")
            if key in TRUSTED and not isinstance(value, Mapping | list):
                yield inner, key, value
            yield from _named(value, inner)
    elif isinstance(data, list):
        for item in data:
            yield from _named(item, place)


def _of_own_files() -> dict[str, list[Any]]:
    """Setting -> the values that our files and the user's own give it."""
    found: dict[str, list[Any]] = {key: [] for key in TRUSTED}
    for folder in (data_root(), Path.cwd()):
        for path in (path for part in ("conf", "scorers") for path in files_below(folder / part, (".yaml",))):
            try:
                content = read_document(path)
            except ConfigError:
                continue  # whoever chooses it is told what is wrong with it
            for _, key, value in _named(content):
                found[key].append(_resolved(value))
    return found


def _resolved(value: Any) -> Any:
    """A value of the user's own file as it is when a run is composed, if it refers to nothing else there."""
    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        return OmegaConf.create({"value": value}).value
    except OmegaConfBaseException:
        return value
