"""How far a command is, on a line of the terminal that is written over; nothing where standard error is no terminal."""

from __future__ import annotations

import sys


def show(text: str, *, last: bool) -> None:
    """Write over the line; what follows the last one begins where it did."""
    if sys.stderr.isatty():
        print(f"\r{text:<50}", end="\r" if last else "", file=sys.stderr, flush=True)


def drawing(done: int, total: int) -> None:
    """Show how many sampler steps of all are drawn."""
    show(f"drawing: {done} of {total} steps", last=done >= total)
