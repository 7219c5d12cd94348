"""How far a command is, on a line of the terminal that is written over, where standard error is one; and its notes."""

from __future__ import annotations

import sys

from bayes_merger.errors import printable


def show(text: str, *, last: bool) -> None:
    """Write over the line; what follows the last one begins where it did."""
    if sys.stderr.isatty():
        print(f"\r{text:<50}", end="\r" if last else "", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print what is worth knowing of a command's work, a line, where results are not."""
    print(f"note: {printable(text, longest=400)}", file=sys.stderr, flush=True)


def matching(number: int, done: int, total: int) -> None:
    """Show how far the matching of neurons is."""
    show(f"matching: round {number}, {done} of {total} layers", last=done >= total)


def writing(done: int, total: int) -> None:
    """Show how much of a file is written."""
    show(f"writing: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", last=done >= total)


def drawing(done: int, total: int) -> None:
    """Show how many sampler steps of all are drawn."""
    show(f"drawing: {done} of {total} steps", last=done >= total)
