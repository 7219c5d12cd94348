"""What the scripts of this room are given on their command lines, checked before they work for minutes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def whole(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number, `least` or more."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"{text!r} is not possible; give a whole number from {least}")
        return int(text)

    return number


def device(text: str) -> str:
    """The type of an argument that names a device of torch's on this machine."""
    import torch

    try:
        torch.empty(1, device=text).add_(1)
    except (RuntimeError, AssertionError, NotImplementedError):  # no such kind, none here, or torch is without it
        raise argparse.ArgumentTypeError(f"{text!r} is not on this machine; cpu is") from None
    return text


def new_folder(parser: argparse.ArgumentParser, option: str, folder: Path, *files: str) -> None:
    """Make a folder for files that are not there; what cannot be ends the script as argparse does, with exit code 2."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{option}: the folder {str(folder)!r} cannot be made ({error.strerror}); give another")
    if there := next((name for name in files if (folder / name).exists()), None):
        parser.error(f"{option}: {str(folder / there)!r} exists; give another folder")
