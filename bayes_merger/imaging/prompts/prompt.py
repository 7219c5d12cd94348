r"""AUTOMATIC1111's prompt syntax, the part that controls attention: `(a)`, `(a:1.2)`, `[a]`, `\(`, `BREAK`.

What depends on the step or on other files (`[a:b:0.5]`, `[a|b]`, `AND`, `<lora:...>`) is refused at start-up rather
than drawn as if it were words. The syntax is described at
https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bayes_merger.errors import ConfigError, printable

ROUND = 1.1  # (a) strengthens by this factor
SQUARE = 1 / 1.1  # [a] weakens by it

_PIECES = re.compile(
    r"""
    \\(?P<literal>[()\[\]\\])            # an escaped bracket or backslash
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)   # the end of (a:1.2)
    | (?P<bracket>[()\[\]])
    | \s*\b(?P<break>BREAK)\b\s*
    | (?P<text>\w+ | \s+ | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_DEEPEST = 100  # weighing takes time for each text inside each bracket; 1.1 ** 100 is 13781
_EXTRA_NETWORK = re.compile(r"<\w+:[^>]+>")
_AND = re.compile(r"\bAND\b")
_TIMED = re.compile(r":\s*\d*\.?\d+\s*$")


@dataclass(frozen=True)
class Segment:
    """A stretch of a prompt with one weight.

    Attributes:
        text: the words, without brackets.
        weight: how much attention they get; 1 is neutral.
        part: how many `BREAK`s come before it.
    """

    text: str
    weight: float
    part: int = 0


def parse_prompt(text: str) -> list[Segment]:
    r"""The segments of a prompt; neighbours of equal weight are one, a bracket never closed counts to the end.

    >>> [(s.text, round(s.weight, 3)) for s in parse_prompt(r"a (((house:1.3)) [on] \(a\) hill")]
    [('a ', 1.0), ('house', 1.573), (' ', 1.1), ('on', 1.0), (' (a) hill', 1.1)]
    """
    found: list[Segment] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    part = 0

    def weigh(start: int, factor: float) -> None:
        found[start:] = [Segment(s.text, s.weight * factor, s.part) for s in found[start:]]

    for piece in _PIECES.finditer(text):
        kind, token = piece.lastgroup, piece.group()
        if kind == "break":
            part += 1
        elif kind == "bracket" and token in opened:
            opened[token].append(len(found))
        elif kind == "weight" and opened["("]:
            weigh(opened["("].pop(), float(piece["weight"]))
        elif token == ")" and opened["("]:
            weigh(opened["("].pop(), ROUND)
        elif token == "]" and opened["["]:
            weigh(opened["["].pop(), SQUARE)
        else:
            found.append(Segment(piece["literal"] or token, 1.0, part))
    for start in opened["("]:
        weigh(start, ROUND)
    for start in opened["["]:
        weigh(start, SQUARE)
    return _joined(found)


def plain_prompt(text: str) -> str:
    """The words alone, for scorers that read the prompt.

    >>> plain_prompt("a (red:1.3) [old] house BREAK night")
    'a red old house night'
    """
    parts: dict[int, str] = {}
    for segment in parse_prompt(text):
        parts[segment.part] = parts.get(segment.part, "") + segment.text
    return " ".join(" ".join(parts.values()).split())


def check_prompt(text: str) -> None:
    """Refuse syntax that would silently be drawn as words.

    Raises:
        ConfigError: for prompt editing, alternation, `AND` and networks called from the prompt; names the piece.
    """
    if _depth(text) > _DEEPEST:
        raise ConfigError(f"prompt: more than {_DEEPEST} brackets inside each other; remove some, or write \\( for one")
    if network := _EXTRA_NETWORK.search(text):
        shown = printable(network.group())
        raise ConfigError(
            f"prompt: {shown} calls another network, which is not supported; merge it into the models first"
        )
    if _AND.search(text):
        raise ConfigError("prompt: AND (composable diffusion) is not supported; write `and`, or use BREAK")
    for piece in _square_brackets(text):
        if _TIMED.search(piece) or "|" in piece:
            what = "edits the prompt while drawing" if _TIMED.search(piece) else "alternates words"
            raise ConfigError(rf"prompt: [{printable(piece)}] {what}, which is not supported; write \[ for a bracket")


def _depth(text: str) -> int:
    """The most unescaped brackets that are open at once."""
    depth = most = 0
    for piece in re.finditer(r"\\.|[(\[]|[)\]]", text, re.DOTALL):
        depth += (piece.group() in "([") - (piece.group() in ")]")
        most, depth = max(most, depth), max(depth, 0)
    return most


def _square_brackets(text: str) -> list[str]:
    """The text between each unescaped `[` and its `]`."""
    starts: list[int] = []
    found = []
    for piece in re.finditer(r"\\.|[\[\]]", text, re.DOTALL):
        if piece.group() == "[":
            starts.append(piece.end())
        elif piece.group() == "]" and starts:
            found.append(text[starts.pop() : piece.start()])
    return found


def _joined(segments: list[Segment]) -> list[Segment]:
    found: list[Segment] = []
    for segment in segments:
        if found and (found[-1].weight, found[-1].part) == (segment.weight, segment.part):
            found[-1] = Segment(found[-1].text + segment.text, segment.weight, segment.part)
        else:
            found.append(segment)
    return found
