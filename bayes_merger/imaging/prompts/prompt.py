r"""AUTOMATIC1111's prompt syntax, the part that controls attention: `(a)`, `(a:1.2)`, `[a]`, `\(`, `BREAK`.

What depends on the step is read in `editing`, networks in `networks`, word lists in `wildcards`. What cannot be drawn
(`AND`) is refused at start-up rather than drawn as if it were words. The syntax is described at
https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.prompts.editing import said_at_last
from bayes_merger.imaging.prompts.networks import network_tags, without_tags

ROUND = 1.1  # (a) strengthens by this factor
SQUARE = 1 / 1.1  # [a] weakens by it

_PIECES = re.compile(
    r"""
    \\(?P<literal>[()\[\]\\]?)           # an escaped bracket or backslash; any other backslash is left out
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)   # the end of (a:1.2)
    | (?P<bracket>[()\[\]])
    | \s*\b(?P<break>BREAK)\b\s*
    | (?P<text>\w+ | \s+ | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_DEEPEST = 100  # weighing takes time for each text inside each bracket; 1.1 ** 100 is 13781
_AND = re.compile(r"\bAND\b")


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
            found.append(Segment(token if piece["literal"] is None else piece["literal"], 1.0, part))
    for start in opened["("]:
        weigh(start, ROUND)
    for start in opened["["]:
        weigh(start, SQUARE)
    return _joined(found)


def plain_prompt(text: str) -> str:
    """The words alone, for scorers that read the prompt.

    >>> plain_prompt("a (red:1.3) [old] house [by day:by night:0.5] BREAK stars <lora:sky:1>")
    'a red old house by night stars'
    """
    parts: dict[int, str] = {}
    for segment in parse_prompt(said_at_last(without_tags(text))):
        parts[segment.part] = parts.get(segment.part, "") + segment.text
    return " ".join(" ".join(parts.values()).split())


def check_prompt(text: str, *, negative: bool = False) -> None:
    """Refuse syntax that would silently be drawn as words.

    Args:
        text: the prompt.
        negative: whether it is a negative prompt, where web UIs read neither networks nor `AND`.

    Raises:
        ConfigError: for `AND`, brackets without end, and tags of networks that are not understood.
    """
    if _depth(text) > _DEEPEST:
        raise ConfigError(f"prompt: more than {_DEEPEST} brackets inside each other; remove some, or write \\( for one")
    tags = network_tags(text)
    if negative and tags:
        raise ConfigError(f"negative_prompt: <lora:{tags[0].name}:...> does nothing there; put it into the prompt")
    if not negative and _AND.search(text):
        raise ConfigError("prompt: AND (composable diffusion) is not supported; write `and`, or use BREAK")


def _depth(text: str) -> int:
    """The most unescaped brackets that are open at once."""
    depth = most = 0
    for piece in re.finditer(r"\\.|[(\[]|[)\]]", text, re.DOTALL):
        depth += (piece.group() in "([") - (piece.group() in ")]")
        most, depth = max(most, depth), max(depth, 0)
    return most


def _joined(segments: list[Segment]) -> list[Segment]:
    found: list[Segment] = []
    for segment in segments:
        if found and (found[-1].weight, found[-1].part) == (segment.weight, segment.part):
            found[-1] = Segment(found[-1].text + segment.text, segment.weight, segment.part)
        else:
            found.append(segment)
    return found
