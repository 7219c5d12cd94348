"""Choices in braces, as the extension dynamic-prompts has them: `{a|b}`, `{0.5::a|b}`, `{2$$a|b|c}`.

One option is drawn, or as many different ones as the number before `$$` says (or two numbers, `1-2$$`), in an order
that is drawn too, and joined by `, ` or by what stands before a second `$$`: `{2$$ and $$a|b}`. A weight and `::`
before an option make it likelier than the others, which have 1. The syntax is described at
https://github.com/adieyal/sd-dynamic-prompts/blob/main/docs/SYNTAX.md
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bayes_merger.errors import ConfigError, printable

_MARKS = re.compile(r"\\.|\$?\{|[}|]", re.DOTALL)
_COUNT = re.compile(r"\s*(\d*)(-?)(\d*)\s*\$\$(?:((?:(?!\$\$)[^{}])*)\$\$)?")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")
_LARGEST = 1_000_000  # a number; beyond this it is a slip of the keyboard


@dataclass(frozen=True)
class Option:
    """One of several texts, and how likely it is beside the others."""

    text: str
    weight: float = 1.0


def option(text: str) -> Option:
    """An option as it is written: `0.5::a`.

    Raises:
        ConfigError: its weight is too large to be meant.
    """
    found = _WEIGHT.match(text)
    return Option(text[found.end() :], _number(found[1])) if found else Option(text)


def _number(digits: str) -> float:
    number = float(digits)
    if number > _LARGEST:
        raise ConfigError(f"prompt: {printable(digits, longest=40)} is more than {_LARGEST}; write a smaller number")
    return number


def choose(options: Sequence[Option], draw: random.Random) -> str:
    """One of the options.

    Raises:
        ConfigError: all of them have weight 0.
    """
    weights = [one.weight for one in options]
    if len(set(weights)) == 1 and weights[0]:
        return draw.choice(options).text
    if not any(weights):
        raise ConfigError(f"prompt: all options beside '{printable(options[0].text, longest=40)}' have weight 0")
    return draw.choices(options, weights)[0].text


@dataclass(frozen=True)
class Choice:
    """What stands in a pair of braces.

    Attributes:
        options: as written, without their weights.
        low: how many are drawn at least.
        high: how many are drawn at most.
        between: what joins them.
    """

    options: tuple[Option, ...]
    low: int = 1
    high: int = 1
    between: str = ", "

    def drawn(self, draw: random.Random) -> str:
        """The options that are taken, joined."""
        if self.low == self.high == 1:
            return choose(self.options, draw)
        count = draw.randint(min(self.low, len(self.options)), min(self.high, len(self.options)))
        rest, taken = list(self.options), []
        for _ in range(count):
            # the first of equals goes: they are the same text
            taken.append(choose(rest, draw))
            rest.pop(next(at for at, one in enumerate(rest) if one.text == taken[-1]))
        return self.between.join(text.strip() for text in taken)


def first_choice(text: str) -> tuple[str, Choice, str] | None:
    r"""The text before the first pair of braces that is a choice, that choice, and the text behind it.

    Braces around a single word are text, as they are without the extension, and so is what follows `$` or `\`.
    """
    opened: list[tuple[int, list[int]]] = []
    pairs: list[tuple[int, list[int], int]] = []
    for mark in _MARKS.finditer(text):
        if mark.group().endswith("{"):
            opened.append((mark.start(), []))
        elif mark.group() == "|" and opened:
            opened[-1][1].append(mark.start())
        elif mark.group() == "}" and opened:
            pairs.append((*opened.pop(), mark.start()))
    end_of_text = -1
    for start, bars, end in sorted(pairs):
        if text[start] == "$":
            end_of_text = max(end_of_text, end)
        elif start > end_of_text and (choice := _choice(text, start + 1, bars, end)):
            return text[:start], choice, text[end + 1 :]
    return None


def _choice(text: str, start: int, bars: Sequence[int], end: int) -> Choice | None:
    start += text.startswith(("~", "@", "!"), start)  # how the extension would draw, which means nothing once per study
    count = _COUNT.match(text, start, end)
    bars = [bar for bar in bars if count is None or bar >= count.end()]  # another may be what joins them
    if not bars and count is None and not _WEIGHT.match(text, start, end):
        return None
    edges = [count.end() if count else start, *(bar + 1 for bar in bars)]
    options = tuple(option(text[low:high]) for low, high in zip(edges, [*bars, end], strict=True))
    if count is None:
        return Choice(options)
    low, dash, high = count.groups()[:3]
    least = int(_number(low)) if low else 1
    # a list may stand alone there, which has more than this one option
    most = int(_number(high)) if high else max(least, len(options)) if dash else least
    if most < least:
        raise ConfigError(f"prompt: {{{printable(count.group())}...}} takes at least {least} and at most {most}")
    return Choice(options, least, most, ", " if count[4] is None else count[4])
