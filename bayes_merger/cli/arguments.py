"""The parser of every command's arguments."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bayes_merger.errors import ConfigError, close_to, printable
from bayes_merger.paths import user_path

PLACES = ("runs", "storage")
"""Where studies are; every command understands both  --runs FOLDER  and  runs=FOLDER."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line.

    Attributes:
        takes_settings: beside options, of which those that look like none are settings with needless dashes.
    """

    takes_settings = False

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with words before and behind options."""
        return self.parse_intermixed_args(args, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with places as options, and where to write."""
        known = [name for name in (*PLACES, "out") if f"--{name}" in self._option_string_actions]
        words = [f"--{word}" if word.partition("=")[0] in known and "=" in word else word for word in args]
        if self.takes_settings:
            options = [name.lstrip("-") for name in self._option_string_actions]
            words = [word if _is_option(word, options) else without_dashes(word) for word in words]
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            ConfigError: always.
        """
        word = re.search(r"(?:unrecognized arguments: |choice: ')([^\s'=]+)", message)
        known = [*self._option_string_actions, *(c for action in self._actions for c in action.choices or ())]
        close = close_to(word[1], map(str, known)) if word else []
        meant = f"did you mean {' or '.join(close)}?" if close else f"see  {self.prog} --help"
        raise ConfigError(f"{message}; {meant}")


def png_path(text: str) -> Path:
    """Where `--png` asks for a picture, which is nobody's model or other file.

    Raises:
        ConfigError: the name does not end in `.png`.
    """
    path = user_path(text)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--png: {printable(text)} is not a PNG; end the name in .png")
    return path


def without_dashes(argument: str) -> str:
    """A setting that was written as an option; anything else is left as it is.

    >>> without_dashes("--model-a=my-model.safetensors"), without_dashes("--debug")
    ('model_a=my-model.safetensors', '--debug')
    """
    found = re.fullmatch(r"--?([A-Za-z_][\w-]*)((?:\.[^=]*)?=.*)", argument, re.DOTALL)
    return found[1].replace("-", "_") + found[2] if found and found[1] not in ("cfg", "config-name") else argument


def _is_option(word: str, options: Sequence[str]) -> bool:
    name = word.lstrip("-").partition("=")[0]
    return any(option.startswith(name) for option in options) or bool(difflib.get_close_matches(name, options, n=1))


def without_quotes(argument: str) -> str:
    """A setting without the single quotes around it that cmd.exe hands on.

    >>> without_quotes("'space.ranges.IN00=[0.2,0.8]'")
    'space.ranges.IN00=[0.2,0.8]'
    """
    found = re.fullmatch(r"'([A-Za-z_][\w.-]*=.*)'", argument, re.DOTALL)
    return found[1] if found else argument


def as_settings(arguments: Sequence[str]) -> list[str]:
    """Arguments in which places are settings, and settings have no dashes.

    >>> as_settings(["x", "--runs", "elsewhere", "--storage=study.db", "--n_iters=3"])
    ['x', 'runs=elsewhere', 'storage=study.db', 'n_iters=3']
    """
    found: list[str] = []
    waiting = ""
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if waiting:
            found.append(f"{waiting}={argument}")
            waiting = ""
        elif argument.startswith("--") and name in PLACES:
            waiting = "" if equals else name
            found += [f"{name}={value}"] if equals else []
        else:
            found.append(without_dashes(argument))
    if waiting:
        raise ConfigError(f"--{waiting}: needs a value, like  {waiting}=...")
    return found


def is_setting(word: str) -> bool:
    """Whether a word is a setting, not the name of a file or folder, which may have any letters in it."""
    return "=" in word and not user_path(word).exists()


def split_off(setting: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """One setting's value (empty if it is not there) and the other overrides."""
    values = [override.partition("=")[2] for override in overrides if override.partition("=")[0] == setting]
    return values[-1] if values else "", [o for o in overrides if o.partition("=")[0] != setting]


def split_flag(flag: str, arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether an option without a value is given, and the other arguments."""
    return flag in arguments, [argument for argument in arguments if argument != flag]


def add_source(parser: Parser) -> None:
    """The arguments that say which merge is meant."""
    parser.takes_settings = True
    parser.add_argument("source", nargs="+", metavar="NAME | RECIPE | key=value", help="what to merge")
    add_which(parser)
    parser.add_argument("--dtype", help="dtype of the file: auto, fp16, bf16, fp32, fp8_e4m3fn or fp8_e5m2")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")


def _trial(text: str) -> int | None:
    """A trial's number; None for the best."""
    if text == "best":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a trial; leave it out for the best") from None


def add_which(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which of a study's merges is meant."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--trial", type=_trial, help="a trial of the study instead of its best")
    which.add_argument(
        "--predicted", action="store_true", help="the merge of which its model expects most, tried or not"
    )
