"""Elemental rules: other weights for some tensors of some blocks, in supermerger's grammar.

::

    rules    := rule { ("," | newline) rule }
    rule     := blocks ":" elements ":" ratio
    blocks   := "" | "*" | ["NOT"] block { block }        block := ID | ID "-" ID
    elements := "" | "*" | ["NOT"] text { text }
    ratio    := one { ";" one }                           one := number | name | ""

``OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5`` sets the weight 0.5 for those tensors of the three blocks whose names
contain one of the two texts. Nothing or ``*`` means all; ``NOT`` means all but these. Later rules override earlier
ones. Names of blocks and ``NOT`` are not case-sensitive. A text is searched for in the part of a key that follows the
block's own name, so that ``ff`` means feed-forward (supermerger itself searches the whole key, and every U-Net key
contains ``ff`` in "diffusion": ``compat="supermerger"``).

The first ratio is alpha's; ratios of further weights follow after semicolons (``0.5;0.2``, ``;0.2`` for beta alone).
A name instead of a number is searched, and its value is stored among the weights as if it were a block.

The grammar is of https://github.com/hako-mikan/sd-webui-supermerger (elemental_en.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bayes_merger.checkpoints.blocks import Architecture, BlockWeights, Place
from bayes_merger.errors import ConfigError, nearest

COMPAT = ("", "supermerger")
"""How rules match keys: our way, or supermerger's (whole keys; TIME and LABEL belong to IN00)."""

Ratio = float | str
"""A number, or the name of one that is searched."""


@dataclass(frozen=True)
class ElementRule:
    """One rule.

    Attributes:
        text: as it was written.
        blocks: the blocks and slots it names; empty for all.
        but_blocks: whether it applies to all blocks but these.
        elements: the texts it searches for; empty for all tensors.
        but_elements: whether it applies to tensors with none of these texts.
        ratios: weight name and ratio, for each weight that it sets.
    """

    text: str
    blocks: frozenset[str]
    but_blocks: bool
    elements: tuple[str, ...]
    but_elements: bool
    ratios: tuple[tuple[str, Ratio], ...]

    def with_numbers(self, weights: BlockWeights) -> str:
        """The rule as text, names replaced by their numbers: what supermerger understands."""
        head, _, tail = self.text.rpartition(":")
        ratios = iter(self.ratios)
        shown = ["" if not part.strip() else _shown(*next(ratios), weights) for part in tail.split(";")]
        return f"{head}:{';'.join(shown)}"

    def covers(self, place: Place) -> bool:
        """Whether it applies to the tensors at ``place``."""
        return not self.blocks or bool(self.blocks & {place.block, place.slot}) != self.but_blocks

    def has(self, element: str) -> bool:
        """Whether it applies to tensors with this name."""
        return not self.elements or any(text in element for text in self.elements) != self.but_elements


def _shown(weight: str, ratio: Ratio, weights: BlockWeights) -> str:
    return f"{weights[weight][ratio] if isinstance(ratio, str) else ratio:.4g}"


def parse_rules(texts: Iterable[str], architecture: Architecture, weights: Sequence[str]) -> tuple[ElementRule, ...]:
    """Parse rules, in order.

    Args:
        texts: each holds one rule or several.
        architecture: the one whose blocks they name.
        weights: the weights that the method takes.

    Raises:
        ConfigError: a rule that is malformed or names an unknown block.
    """
    parts = [" ".join(part.split()) for text in texts for part in re.split(r"[,\n]", text)]
    order = sorted(weights, key=lambda name: name != "alpha")
    return tuple(_parsed(part, architecture, order) for part in parts if part)


def _parsed(text: str, architecture: Architecture, weights: Sequence[str]) -> ElementRule:
    if not text.isprintable():
        raise ConfigError(f"elements: {text!r} holds letters that cannot be seen; type the rule anew")
    try:
        parts = text.split(":")
        if len(parts) != 3:
            raise ConfigError(f"{len(parts) - 1} colons where 2 are wanted; write BLOCKS:ELEMENTS:RATIO")
        but_blocks, names = _negated(parts[0], "blocks")
        but_elements, elements = _negated(parts[1], "elements")
        blocks = frozenset(block for name in names for block in _span(name, architecture))
        return ElementRule(text, blocks, but_blocks, elements, but_elements, _ratios(parts[2], architecture, weights))
    except ConfigError as error:
        raise ConfigError(f"elements: '{text}': {error}") from None


def _negated(text: str, what: str) -> tuple[bool, tuple[str, ...]]:
    words = re.sub(r"\s+-\s+", "-", text.strip()).split()
    negated = bool(words) and words[0].upper() == "NOT"
    names = words[1:] if negated else words
    if negated and not names:
        raise ConfigError(f"NOT which {what}? Nothing follows it")
    if any(name.upper() == "NOT" for name in names):
        raise ConfigError(f"NOT stands before all {what}, once")
    if names == ["*"] and not negated:
        return False, ()
    if "*" in names:
        raise ConfigError(f"* already means all {what}; leave the others out")
    return negated, tuple(names)


def _span(name: str, architecture: Architecture) -> tuple[str, ...]:
    """The block called ``name``, or a range of consecutive blocks, both ends included."""
    first, dash, last = name.partition("-")
    ends = [architecture.block(end) for end in ((first, last) if dash else (first,))]
    if not dash:
        return (ends[0],)
    for end in ends:
        if end not in architecture.blocks:
            raise ConfigError(f"{end} stands in no row with others; name it alone")
    low, high = sorted(architecture.blocks.index(end) for end in ends)
    return architecture.blocks[low : high + 1]


def _ratios(text: str, architecture: Architecture, weights: Sequence[str]) -> tuple[tuple[str, Ratio], ...]:
    parts = [part.strip() for part in text.split(";")]
    if len(parts) > len(weights):
        raise ConfigError(f"{len(parts)} ratios, and the method has {len(weights)} ({', '.join(weights)})")
    ratios = tuple(
        (name, _ratio(part, architecture, weights)) for name, part in zip(weights, parts, strict=False) if part
    )
    if not ratios:
        raise ConfigError("there is no ratio; end it with a number, or with a name to search for")
    return ratios


def _ratio(text: str, architecture: Architecture, weights: Sequence[str]) -> Ratio:
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        if not math.isfinite(number):
            raise ConfigError(f"ratio {text} is not finite")
        return number
    if text in ("R", "U", "X"):
        raise ConfigError(f"ratio {text}: random ratios are not drawn here; give it a name, and it is searched")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", text):
        raise ConfigError(f"ratio '{text}' is neither a number nor a name")
    if text.upper() in (*architecture.blocks, *architecture.slots) or text in weights:
        raise ConfigError(f"ratio '{text}' is the name of a block or weight; choose another")
    return text


def named_ratios(rules: Iterable[ElementRule]) -> dict[str, tuple[str, ...]]:
    """The names used instead of ratios, each with the weights that it sets."""
    weights_of: dict[str, tuple[str, ...]] = {}
    for weight, ratio in (pair for rule in rules for pair in rule.ratios):
        if isinstance(ratio, str):
            weights_of[ratio] = tuple(dict.fromkeys((*weights_of.get(ratio, ()), weight)))
    return weights_of


def rules_of_keys(
    rules: Sequence[ElementRule], keys: Iterable[str], architecture: Architecture, compat: str = ""
) -> dict[str, tuple[ElementRule, ...]]:
    """Which rules apply to which key, in order; keys without any are left out.

    Args:
        rules: from ``parse_rules``.
        keys: the tensors that are merged.
        architecture: which place a key belongs to.
        compat: ``supermerger`` for its way of matching.

    Raises:
        ConfigError: a rule applies to no key, or no key contains its text.
    """
    if not rules:
        return {}
    known = {key: _matched(key, architecture, compat) for key in keys}
    rules_of: dict[str, tuple[ElementRule, ...]] = {}
    for rule in rules:
        chosen = [key for key, (place, element) in known.items() if rule.covers(place) and rule.has(element)]
        _check(rule, chosen, known)
        for key in chosen:
            rules_of[key] = (*rules_of.get(key, ()), rule)
    return rules_of


def _matched(key: str, architecture: Architecture, compat: str) -> tuple[Place, str]:
    """The place and the text of a key that rules are matched against."""
    place = architecture.place(key)
    if not compat:
        return place, architecture.element(key)
    first = place.slot in ("TIME", "LABEL") and "IN00" in architecture.blocks
    return (Place(place.role, "IN00", place.slot) if first else place), key


def _check(rule: ElementRule, chosen: Sequence[str], known: Mapping[str, tuple[Place, str]]) -> None:
    everywhere = [element for _, element in known.values()]
    inside = [element for place, element in known.values() if rule.covers(place)]
    if not inside:
        raise ConfigError(f"elements: '{rule.text}' matches no tensor: none of its blocks is merged")
    for text in rule.elements:
        if not any(text in element for element in everywhere):
            raise ConfigError(f"elements: '{rule.text}': no tensor has '{text}' in its name; {_near(text, everywhere)}")
    if not chosen:
        texts = " ".join(rule.elements)
        what = f"all of its blocks have '{texts}'" if rule.but_elements else f"none of its blocks has '{texts}'"
        raise ConfigError(f"elements: '{rule.text}' matches no tensor: {what}; {_near(rule.elements[0], inside)}")


def _near(text: str, elements: Iterable[str]) -> str:
    parts = {part for element in elements for part in element.split(".") if not part.isdigit()}
    if text in parts:
        parts.discard(text)
    return nearest(text, parts)
