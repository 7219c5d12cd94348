"""The parser of every command's arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn

from bayes_merger.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message}; see  {self.prog} --help")


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which merge is meant."""
    parser.add_argument("source", nargs="+", metavar="NAME | RECIPE | key=value", help="what to merge")
    parser.add_argument("--trial", type=int, help="a trial of the study instead of its best")
    parser.add_argument("--dtype", help="dtype of the file: auto, fp16, bf16, fp32, fp8_e4m3fn or fp8_e5m2")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
