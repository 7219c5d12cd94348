"""The parts whose effect is measured: blocks, parts of them, elemental rules; and which of too many are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.errors import ConfigError
from bayes_merger.merging.engine.difference import Difference, Sums
from bayes_merger.merging.recipe.elements import parse_rules, rules_of_keys

_PAIR = ("a", "b")
_NOTHING: Mapping[str, Sums] = MappingProxyType({})


@dataclass(frozen=True)
class Entry:
    """A part of the network whose numbers are taken from B.

    Attributes:
        rule: its elemental rule without the ratio, ``OUT05:attn2``.
        ratio: how much of B is taken.
        block: of an entry that is a block, or a part of one; else empty.
        part: of a block; empty for all of it.
        keys: the tensors.
        relative: the norm of B - A over these tensors, as a share of A's.
        promise: a guess at its effect before anything is drawn: that, or the same weighted by activations.
    """

    rule: str
    ratio: float
    block: str
    part: str
    keys: frozenset[str]
    relative: float
    promise: float

    @property
    def name(self) -> str:
        """For people: the block alone, where it is one."""
        name = self.block if self.block and not self.part else self.rule
        return name if self.ratio == 1 else f"{name}:{self.ratio:g}"


@dataclass(frozen=True)
class _Pair:
    """How two models differ in each tensor of the blocks, as it is and weighted by activations."""

    plain: Mapping[str, Sums]
    weighted: Mapping[str, Sums]
    architecture: Architecture


def entries_of(
    wanted: Sequence[str], found: Difference, architecture: Architecture, weighted: Mapping[str, Sums] = _NOTHING
) -> list[Entry]:
    """The entries that are asked for.

    Args:
        wanted: ``blocks``, ``elements`` (all parts of all blocks), ``elements:OUT05`` (those of one), or elemental
            rules with or without a ratio; without one, all of B is taken.
        found: the difference of A and B.
        architecture: whose blocks they are.
        weighted: the sums of those tensors of which activations are known, weighted by them.

    Raises:
        ConfigError: a rule that makes no sense or matches nothing, or one that is asked for twice.
    """
    rows = {row.key: row.sums[_PAIR] for row in found.rows if architecture.place(row.key).role == "block"}
    pair = _Pair(rows, {**rows, **{key: sums for key, sums in weighted.items() if key in rows}}, architecture)
    chosen = [entry for word in wanted for entry in _entries(word, pair)]
    names = [entry.name for entry in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--of: {name} is asked for twice; leave one out")
    return chosen


def _entries(word: str, pair: _Pair) -> Iterator[Entry]:
    kind, _, block = word.partition(":")
    architecture = pair.architecture
    if word == "blocks":
        for name in architecture.blocks:
            if any(architecture.place(key).block == name for key in pair.plain):
                yield _entry(f"{name}:", 1.0, pair, name)
    elif kind == "elements":
        for name in [architecture.block(block)] if block else architecture.blocks:
            yield from _parts(name, pair)
    else:
        rule, ratio = _split(word)
        whole = rule.removesuffix(":")
        yield _entry(rule, ratio, pair, whole if whole in architecture.blocks else "")


def _split(word: str) -> tuple[str, float]:
    parts = word.split(":")
    if len(parts) < 3 or not parts[2]:
        return ":".join([*parts, ""][:2]), 1.0
    try:
        return ":".join([parts[0], *parts[1:-1]]), float(parts[-1])
    except ValueError:
        raise ConfigError(f"--of: '{word}': ratio '{parts[-1]}' is not a number") from None


def _parts(block: str, pair: _Pair) -> Iterator[Entry]:
    """The parts of a block, each as the shortest text that names its tensors and no others."""
    parts: dict[str, set[str]] = {}
    for key in pair.plain:
        if pair.architecture.place(key).block == block:
            parts.setdefault(pair.architecture.part(key), set()).add(key)
    for part, keys in sorted(parts.items()):
        for text in ("", part, f".{part}.", f"{part}."):
            if _covered(text, parts, pair.architecture) == keys:
                yield _entry(f"{block}:{text}", 1.0, pair, block, part)
                break


def _covered(text: str, parts: Mapping[str, Iterable[str]], architecture: Architecture) -> set[str]:
    return {key for keys in parts.values() for key in keys if text in architecture.element(key)}


def _entry(rule: str, ratio: float, pair: _Pair, block: str = "", part: str = "") -> Entry:
    rules = parse_rules([f"{rule}:{ratio:g}"], pair.architecture, ["alpha"])
    keys = frozenset(rules_of_keys(rules, pair.plain, pair.architecture))
    plain, weighted = (_relative(sum((sums[key] for key in keys), Sums())) for sums in (pair.plain, pair.weighted))
    return Entry(rule, ratio, block, part, keys, plain, weighted)


def _relative(sums: Sums) -> float:
    return sums.relative if sums.first else math.inf if sums.apart else 0.0


def most_promising(entries: Sequence[Entry], most: int) -> list[Entry]:
    """Those of the entries that are drawn, in their order: no more than ``most``, and none that changes nothing."""
    alive = [entry for entry in entries if entry.relative and entry.ratio]
    chosen = set(sorted(alive, key=lambda entry: -entry.promise * abs(entry.ratio))[:most])
    return [entry for entry in entries if entry in chosen]
