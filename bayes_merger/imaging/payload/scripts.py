"""Extensions of A1111 and Forge in a request: `alwayson_scripts`, where each has its own arguments.

Web UIs list all that are installed, most of which are off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bayes_merger.errors import ConfigError, printable

_OF_THE_PAGE = ("sampler", "seed", "refiner", "comments", "extra options", "api payload", "never oom integrated")
"""Parts of the page: a request has what they say in its fields
(`ScriptBuiltinUI.setup_for_ui_only` in https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/scripts.py)."""

_WORDS = "dynamic prompts"
_MORE_THAN_WORDS = (1, 3, 4, 5)  # all combinations, words from a network, words from a server, random weights


def check_scripts(scripts: Any) -> None:
    """Refuse scripts that do something to a picture.

    Raises:
        ConfigError: naming the script.
    """
    if not isinstance(scripts, Mapping | None):
        raise ConfigError(f"alwayson_scripts: expected scripts by name, got {printable(repr(scripts), longest=60)}")
    for name, about in (scripts or {}).items():
        arguments = about.get("args") if isinstance(about, Mapping) else about
        arguments = list(arguments.values()) if isinstance(arguments, Mapping) else arguments
        if _is_on(str(name).lower(), arguments if isinstance(arguments, list) else [arguments]):
            shown = printable(str(name), longest=60)
            raise ConfigError(f"alwayson_scripts.{shown} is not supported (it is on); remove it")


def _is_on(name: str, arguments: Sequence[Any]) -> bool:
    """Whether a script does something: the first of its arguments says so, or each of its units for itself."""
    if name in _OF_THE_PAGE or not any(argument not in (None, "", [], {}) for argument in arguments):
        return False
    if name.startswith(_WORDS):  # choices and wildcards are drawn here
        return any(arguments[place] is True for place in _MORE_THAN_WORDS if place < len(arguments))
    units = [argument for argument in arguments if isinstance(argument, Mapping)]
    return arguments[0] is not False and (not units or any(map(_is_unit_on, units)))


def _is_unit_on(unit: Mapping[str, Any]) -> bool:
    """Whether one of ADetailer's, ControlNet's or AnimateDiff's units is on."""
    return not (unit.get("enabled") is False or unit.get("enable") is False or unit.get("ad_model") == "None")
