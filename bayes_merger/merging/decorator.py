"""The decorator that registers a merge method: it reads and checks the function's signature."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from bayes_merger.errors import BayesMergerError, ConfigError
from bayes_merger.merging.method import MethodSpec, Numbers, register
from bayes_merger.merging.own_files import in_one_line, shown
from bayes_merger.merging.parameters import Cost, ModelStatistic, Option, Prepared, Weight, WeightRange

Function = TypeVar("Function", bound=Callable[..., Any])
Ranges = Mapping[str, tuple[float, float]]
Choices = Mapping[str, tuple[str, ...]]

_PASSED = ("key", "prepared", "statistics")  # keywords that are neither weights nor options
_SETTINGS = (
    "act", "adjust", "base", "blocks", "channels", "clip", "compat", "dtype", "elements", "ema", "method", "rebasin",
    "saliency", "vae",
)  # fmt: skip
_UNMEASURED = Cost(100, 12, measured=False)  # slower than most of ours, and more copies
_UNMEASURED_IN_PIECES = Cost(50, measured=False)


@overload
def merge_method(function: Function, /) -> Function: ...


@overload
def merge_method(
    *,
    elementwise: bool = False,
    fused: bool = False,
    between: bool = False,
    linear: bool = False,
    selects: bool = False,
    adds_difference: bool = False,
    prepare: Callable[..., Prepared] | None = None,
    read: tuple[str, ...] | None = None,
    statistic: ModelStatistic | None = None,
    search: Ranges | None = None,
    bounds: Ranges | None = None,
    choices: Choices | None = None,
    pole: Callable[[Numbers], str | None] = ...,
    cost: Cost | None = None,
    aliases: tuple[str, ...] = (),
) -> Callable[[Function], Function]: ...


def merge_method(function: Function | None = None, /, **settings: Any) -> Function | Callable[[Function], Function]:
    """Register a merge method and return the function unchanged; it needs none of the arguments.

    Args:
        function: the method, where the decorator is used without parentheses.
        settings: ``search``: weight name to the range searched by default, [0, 1] where it is not given; ``bounds``:
            weight name to the range in which the formula is defined, all numbers where it is not given; ``choices``:
            option name to the texts it accepts; ``cost``, a cautious guess where it is not given; and what
            ``MethodSpec`` calls ``elementwise``, ``fused``, ``between``, ``linear``, ``selects``, ``adds_difference``,
            ``prepare``, ``read`` (all models where it is not given), ``statistic``, ``pole`` and ``aliases``.

    Raises:
        ConfigError: the signature is invalid, or the name is in use.
    """

    def decorate(function: Function) -> Function:
        register(_spec_of(function, **settings))
        return function

    return decorate if function is None else decorate(function)


def _spec_of(
    function: Callable[..., Any],
    *,
    search: Ranges | None = None,
    bounds: Ranges | None = None,
    choices: Choices | None = None,
    prepare: Callable[..., Prepared] | None = None,
    read: tuple[str, ...] | None = None,
    statistic: ModelStatistic | None = None,
    cost: Cost | None = None,
    **promises: Any,
) -> MethodSpec:
    source, name = _source(function), function.__name__
    parameters = inspect.signature(function).parameters
    search, bounds, choices = search or {}, bounds or {}, choices or {}
    keywords = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in _PASSED]
    models = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    fault = (
        _fault_of_models(models, list(parameters.values()))
        or _fault_of_keywords(keywords, choices)
        or _fault_of_settings(keywords, parameters, {"search": search, "bounds": bounds, "choices": choices})
        or _fault_of_stages(parameters, prepare, statistic)
    )
    if fault:
        raise ConfigError(f"{shown(source) if source else function.__module__}: merge method '{name}': {fault}")
    weights = {
        p.name: WeightRange(p.default, *search.get(p.name, (0.0, 1.0)), *bounds.get(p.name, ()))
        for p in keywords
        if isinstance(p.default, float)
    }
    in_pieces = promises.get("elementwise") and prepare is None and statistic is None
    return MethodSpec(
        name=name,
        function=_checked(function, name, source) if source else function,
        models=tuple(p.name for p in models),
        optional=tuple(p.name for p in models if p.default is not p.empty),
        many=any(p.kind is p.VAR_POSITIONAL for p in parameters.values()),
        weights=weights,
        tensors=frozenset(p.name for p in keywords if p.name in weights and p.annotation in ("Weight", Weight)),
        options={p.name: Option(p.default, choices.get(p.name, ())) for p in keywords if p.name not in weights},
        keyed="key" in parameters,
        prepare=_guarded(prepare, name, source) if source and prepare else prepare,
        prepared_by=tuple(n for n in weights if prepare and n in inspect.signature(prepare).parameters),
        read=tuple(p.name for p in models) if read is None else read,
        statistic=statistic,
        cost=cost or (_UNMEASURED_IN_PIECES if in_pieces else _UNMEASURED),
        summary=(inspect.getdoc(function) or "").partition("\n")[0],
        source=source,
        sha256=hashlib.sha256(source.read_bytes()).hexdigest() if source and source.is_file() else "",
        **promises,
    )


def _source(function: Callable[..., Any]) -> Path | None:
    """The file of a function that is not the package's own."""
    return None if function.__module__.startswith("bayes_merger.") else Path(function.__code__.co_filename)


def _fault_of_models(models: list[inspect.Parameter], parameters: list[inspect.Parameter]) -> str:
    names = tuple(p.name for p in models)
    if names not in (("a", "b"), ("a", "b", "c")):
        return f"its models are called {', '.join(names) or 'nothing'}; call them a, b or a, b, c, further ones *more"
    if any(p.default is not p.empty for p in models[:2]) or any(p.default not in (p.empty, None) for p in models):
        return "a and b have no default, and that of c can only be None"
    for p in parameters:
        if p.kind in (p.VAR_KEYWORD, p.POSITIONAL_ONLY):
            return f"takes '{p}'; name each weight as a keyword, like  *, alpha: Weight = 0.5"
    return ""


def _fault_of_keywords(keywords: list[inspect.Parameter], choices: Choices) -> str:
    for p in keywords:
        if p.name in _SETTINGS:
            return f"'{p.name}' is a setting of every merge; give this weight another name"
        if p.default is p.empty:
            return f"weight '{p.name}' has no default; write  {p.name}: Weight = 0.5"
        if p.annotation in (float, "float", "Weight", Weight) and not isinstance(p.default, float):
            return f"weight '{p.name}' has the default {p.default!r}; write a number with a point, like 1.0"
        if isinstance(p.default, bool) or not isinstance(p.default, float | int | str):
            return f"'{p.name}' has the default {p.default!r}; a weight has a number with a point, an option a text"
        if isinstance(p.default, str) and p.default not in choices.get(p.name, ()):
            example = f"choices={{'{p.name}': ('{p.default}', ...)}}"
            return f"option '{p.name}': '{p.default}' is not one of its choices; name them all, like  {example}"
    if not any(isinstance(p.default, float) for p in keywords):
        return "has no weight to search; add a keyword like  *, alpha: Weight = 0.5"
    return ""


def _fault_of_settings(
    keywords: list[inspect.Parameter], parameters: Mapping[str, object], settings: Mapping[str, Mapping[str, Any]]
) -> str:
    for setting, given in settings.items():
        for name in given:
            if name not in parameters:
                return f"{setting}: it has no keyword '{name}'"
    for p in keywords:
        for setting in ("search", "bounds"):
            low, high = settings[setting].get(p.name, (p.default, p.default))
            if not low <= p.default <= high:
                return f"{setting}: the default {p.default} of '{p.name}' is outside [{low}, {high}]"
    return ""


def _fault_of_stages(
    parameters: Mapping[str, object], prepare: Callable[..., Prepared] | None, statistic: ModelStatistic | None
) -> str:
    for keyword, stage, setting in (("prepared", prepare, "prepare"), ("statistics", statistic, "statistic")):
        if (stage is None) == (keyword in parameters):
            return f"the decorator's {setting}= and the keyword '{keyword}' go together; add the other, or drop both"
    return ""


def _guarded(function: Callable[..., Any], name: str, source: Path) -> Callable[..., Any]:
    """A method (or its first stage) from outside the package: its exceptions become one line that names the file."""

    @functools.wraps(function)
    def guarded(*models: Any, **keywords: Any) -> Any:
        try:
            return function(*models, **keywords)
        except BayesMergerError:
            raise
        except Exception as error:
            raise ConfigError(f"{shown(source)}: merge method '{name}': {in_one_line(error)}") from error

    return guarded


def _checked(function: Callable[..., Any], name: str, source: Path) -> Callable[..., Any]:
    """A method from outside the package, whose result must be a tensor like A."""
    guarded = _guarded(function, name, source)

    @functools.wraps(function)
    def checked(*models: Any, **keywords: Any) -> Any:
        result, a = guarded(*models, **keywords), models[0]
        if type(result) is not type(a) or result.shape != a.shape or result.dtype != a.dtype:
            found = f"{result.dtype} {list(result.shape)}" if type(result) is type(a) else f"{type(result).__name__}"
            raise ConfigError(
                f"{shown(source)}: merge method '{name}' returned {found} for models of {a.dtype} {list(a.shape)}; "
                "return a tensor of their shape and dtype"
            )
        return result

    return checked
