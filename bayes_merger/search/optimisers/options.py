"""Options of an optimiser, checked when it is chosen, before the run starts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from bayes_merger.errors import ConfigError, nearest


def check_number(name: str, value: object, least: float, most: float = math.inf, *, whole: bool = False) -> None:
    """Refuse an option that is not a number between ``least`` and ``most``, ends included.

    Args:
        name: of the option, for the message.
        value: what was given.
        least: smallest number allowed.
        most: greatest number allowed.
        whole: whether only whole numbers are allowed.

    Raises:
        ConfigError: naming the option, the value and what is allowed.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or math.isnan(value):
        raise ConfigError(f"optimiser: {name} = {value!r} is not a {'whole ' if whole else ''}number")
    if not least <= value <= most:
        allowed = f"must be at least {least:g}" if math.isinf(most) else f"must lie in {least:g} ... {most:g}"
        raise ConfigError(f"optimiser: {name} = {value} {allowed}")


def check_range(name: str, value: object, least: float) -> tuple[float, float]:
    """Two numbers of at least ``least``, the smaller first.

    Raises:
        ConfigError: naming what is wrong.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ConfigError(f"optimiser: {name} = {value!r} is not a range; write two numbers such as [0.5, 30]")
    for end in value:
        check_number(name, end, least)
    low, high = value
    if low > high:
        raise ConfigError(f"optimiser: {name} = [{low}, {high}] runs backwards; write [{high}, {low}]")
    return float(low), float(high)


def check_flag(name: str, value: object) -> None:
    """Refuse an option that is neither true nor false.

    Raises:
        ConfigError: naming it.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"optimiser: {name} = {value!r} is not true or false")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse an option that is not one of the choices.

    Raises:
        ConfigError: naming the nearest.
    """
    if value not in choices:
        raise ConfigError(f"optimiser: unknown {name} {value!r}; {nearest(str(value), choices)}")


def check_names(factory: Callable[..., Any]) -> None:
    """Refuse options that the optimiser does not have.

    Args:
        factory: an optimiser's function or class, or a ``functools.partial`` of it with its options.

    Raises:
        ConfigError: naming the first such option, and the nearest that exists.
    """
    if not isinstance(factory, partial):
        return
    known = keywords_of(factory.func)
    if known is None:
        return
    options = [name for name in known if name not in ("space", "seed")]
    for name in factory.keywords:
        if name == "seed":
            raise ConfigError(
                f"optimiser: seed = {factory.keywords[name]!r} is not an option; it is the study's, like  seed=1"
            )
        if name not in options:
            hint = nearest(name, options) if options else "it has none"
            raise ConfigError(f"optimiser: {factory.func.__name__} has no option {name!r}; {hint}")


def keywords_of(function: Callable[..., Any]) -> list[str] | None:
    """The keywords that a function or class accepts; None: any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
