"""The parser of every command's arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from bayes_merger.errors import ConfigError

PLACES = ("runs", "storage")
"""Where studies are; every command understands both  --runs FOLDER  and  runs=FOLDER."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with places as options."""
        known = [place for place in PLACES if f"--{place}" in self._option_string_actions]
        words = [f"--{word}" if word.partition("=")[0] in known and "=" in word else word for word in args]
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message}; see  {self.prog} --help")


def as_settings(arguments: Sequence[str]) -> list[str]:
    """Arguments in which places are settings.

    >>> as_settings(["x", "--runs", "elsewhere", "--storage=study.db"])
    ['x', 'runs=elsewhere', 'storage=study.db']
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
            found.append(argument)
    if waiting:
        raise ConfigError(f"--{waiting}: needs a value, like  {waiting}=...")
    return found


def split_off(setting: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """One setting's value (empty if it is not there) and the other overrides."""
    values = [override.partition("=")[2] for override in overrides if override.partition("=")[0] == setting]
    return values[-1] if values else "", [o for o in overrides if o.partition("=")[0] != setting]


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which merge is meant."""
    parser.add_argument("source", nargs="+", metavar="NAME | RECIPE | key=value", help="what to merge")
    add_which(parser)
    parser.add_argument("--dtype", help="dtype of the file: auto, fp16, bf16, fp32, fp8_e4m3fn or fp8_e5m2")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")


def add_which(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which of a study's merges is meant."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, help="a trial of the study instead of its best")
    which.add_argument(
        "--predicted", action="store_true", help="the merge of which its model expects most, tried or not"
    )
