"""Prompts that change while a picture is drawn: `[a:b:0.5]`, `[b:10]`, `[a::10]` and `[a|b]`.

The grammar and the rule of steps are AUTOMATIC1111's:
https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#prompt-editing

A bracket that is none of these forms is text, and so is the whole prompt where web UIs cannot read it: with a `|`
outside of brackets, or a backslash at its end. Steps are counted in calls of the network, of which samplers of second
order make two per step; a time with a point is a part of all of them. In a second pass, whole numbers count on from the
first one, and `1.5` is half of the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

_PLAIN = re.compile(r"(?:[^\\\[\]():|]|\\.)+")
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True)
class _Edit:
    """`[before:after:when]`."""

    before: _Prompt
    after: _Prompt
    when: str


@dataclass(frozen=True)
class _Alternation:
    """`[a|b|c]`."""

    options: Sequence[_Prompt]


_Prompt = tuple["str | _Edit | _Alternation", ...]


@dataclass(frozen=True)
class Span:
    """A stretch of a drawing with one text.

    Attributes:
        last: the last step, from 1, that the text is meant for.
        text: the prompt without what changes.
    """

    last: int
    text: str


def changes(text: str) -> bool:
    """Whether a prompt changes while it is drawn."""
    return any(not isinstance(piece, str) for piece in _parsed(text))


def said_at_last(text: str) -> str:
    """What a prompt says in the end, and of alternatives all.

    >>> said_at_last("a [red:blue:0.5] [cat|dog]")
    'a blue cat dog'
    """

    def words(prompt: _Prompt) -> Iterator[str]:
        for piece in prompt:
            if isinstance(piece, str):
                yield piece
            elif isinstance(piece, _Edit):
                yield from words(piece.after)
            else:
                yield " ".join("".join(words(option)) for option in piece.options)

    return "".join(words(_parsed(text)))


def spans(text: str, steps: int, before: int | None = None) -> list[Span]:
    """What a prompt says, step by step; a step at which something might change ends a span, even if nothing does.

    >>> spans("a [red:blue:0.5] ball", 10)
    [Span(last=5, text='a red ball'), Span(last=10, text='a blue ball')]

    Args:
        text: the prompt, in A1111's syntax.
        steps: of this pass, in calls of the network.
        before: those of the first pass, if this is the second one.
    """
    prompt = _parsed(text)
    times = _Times(steps, before)
    ends = {steps, *(end for end in times.ends(prompt) if end >= 1)}
    return [Span(last, "".join(times.words(prompt, last))) for last in sorted(ends)]


def by_call(found: Sequence[Span], calls: int) -> list[str]:
    """The text of each call of the network.

    Web UIs count calls from 0 and compare with steps counted from 1, so that the first text stays a call longer.
    """
    return [next((span.text for span in found if call <= span.last), found[-1].text) for call in range(calls)]


@dataclass(frozen=True)
class _Times:
    steps: int
    before: int | None

    def words(self, prompt: _Prompt, step: int) -> Iterator[str]:
        """The words of a prompt at a step, counted from 1."""
        for piece in prompt:
            if isinstance(piece, str):
                yield piece
            elif isinstance(piece, _Edit):
                yield from self.words(piece.before if step <= self._at(piece.when) else piece.after, step)
            else:
                yield from self.words(piece.options[(step - 1) % len(piece.options)], step)

    def ends(self, prompt: _Prompt) -> Iterator[int]:
        """The steps after which a prompt may change; below 1 it is before the first."""
        for piece in prompt:
            if isinstance(piece, _Edit):
                yield self._at(piece.when)
                yield from self.ends((*piece.before, *piece.after))
            elif isinstance(piece, _Alternation):
                yield from range(1, self.steps + 1)
                yield from self.ends(tuple(chain(*piece.options)))

    def _at(self, when: str) -> int:
        """The step after which an edit takes place; none of this pass where it is 0."""
        if "." in when:
            step = (float(when) - (self.before is not None)) * self.steps
        else:
            step = float(when) - (self.before or 0)
        return int(max(0, min(self.steps, step)))


def _parsed(text: str) -> _Prompt:
    found = _Parser(text).whole()
    return (text,) if found is None else found


class _Parser:
    """Reads a prompt from left to right; every bracket is looked at once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._known: dict[int, tuple[_Prompt, int] | None] = {}

    def whole(self) -> _Prompt | None:
        """The prompt, in which brackets and colons may stand for themselves; None where it cannot be read."""
        found: list[str | _Edit | _Alternation] = []
        at = 0
        while at < len(self._text):
            pieces, end = self._prompt(at)
            if end == at:
                if self._text[at] not in "[]():":
                    return None
                pieces, end = (self._text[at],), at + 1
            found += pieces
            at = end
        return tuple(found)

    def _prompt(self, at: int) -> tuple[_Prompt, int]:
        """The pieces that begin here, and where they end."""
        found: list[str | _Edit | _Alternation] = []
        while at < len(self._text):
            if plain := _PLAIN.match(self._text, at):
                found.append(plain.group())
                at = plain.end()
            elif self._text[at] in "([" and (group := self._group(at)):
                found += group[0]
                at = group[1]
            else:
                break
        return tuple(found), at

    def _group(self, at: int) -> tuple[_Prompt, int] | None:
        if at not in self._known:
            self._known[at] = self._in_brackets(at)
        return self._known[at]

    def _in_brackets(self, at: int) -> tuple[_Prompt, int] | None:
        closing = ")" if self._text[at] == "(" else "]"
        begins, marks, parts = [at + 1], "", []
        while True:
            part, end = self._prompt(begins[-1])
            parts.append(part)
            mark = self._text[end : end + 1]
            if mark not in (":", "|"):
                break
            marks += mark
            begins.append(end + 1)
        if mark != closing:
            return None
        if not marks or (closing == ")" and marks == ":"):
            return (self._text[at], *_joined(parts), closing), end + 1
        if closing == "]" and set(marks) == {"|"}:
            return (_Alternation(parts),), end + 1
        when = _NUMBER.fullmatch(self._text, begins[-1], end)
        if closing == "]" and marks in (":", "::") and when:
            return (_Edit(parts[0] if marks == "::" else (), parts[-2], when[1]),), end + 1
        return None


def _joined(parts: Sequence[_Prompt]) -> _Prompt:
    return tuple(piece for number, part in enumerate(parts) for piece in ((":", *part) if number else part))
