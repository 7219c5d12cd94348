"""The names that a rule of the search space may use, and which parameters they mean.

The one name of a parameter is ``BLOCK.weight`` (``IN00.alpha``). Users may abbreviate it, or use the names in the
original sd-webui-bayesian-merger's guides:

==================  =====================================
``IN00.alpha``      this parameter
``IN00``            every weight of the block
``IN00-IN05.beta``  a range of blocks, both ends included
``IN00-IN05``       the same, every weight
``alpha``           the weight in every block
``block_3_alpha``   the fourth block after BASE (``IN03.alpha``)
``base_alpha``      ``BASE.alpha``
==================  =====================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bayes_merger.errors import ConfigError, nearest

_ALIAS = re.compile(r"(?:block_(\d+)|base)_(\w+)", re.ASCII | re.IGNORECASE)


def parameter_name(block: str, weight: str) -> str:
    """The name of one weight of one block, as in ``IN00.alpha``."""
    return f"{block}.{weight}"


def names_of(rule: object, blocks: Sequence[str], weights: Sequence[str]) -> tuple[str, ...]:
    """The parameters a rule's name means, in the order of the weights, then of the blocks.

    Args:
        rule: what the user wrote; case does not matter.
        blocks: the architecture's blocks, ``BASE`` first.
        weights: the weights the merge method takes.

    Raises:
        ConfigError: for an unknown name; the text suggests the nearest.
    """
    if not isinstance(rule, str) or not rule.strip():
        raise ConfigError(f"{rule!r} is not the name of a parameter: write IN00.alpha, IN00-IN05 or alpha")
    text = rule.strip()
    alias = _ALIAS.fullmatch(text)
    if alias:
        named = (_aliased_block(text, alias, blocks),)
        return tuple(parameter_name(block, _weight(text, alias[2], weights)) for block in named)
    stem, dot, weight = text.partition(".")
    if not dot and stem.lower() in {known.lower() for known in weights}:
        return tuple(parameter_name(block, _weight(text, stem, weights)) for block in blocks)
    chosen = (_weight(text, weight, weights),) if dot else tuple(weights)
    span = _blocks(text, stem, blocks, weights)
    return tuple(parameter_name(block, weight) for weight in chosen for block in span)


def has_weight(rule: str, weights: Sequence[str]) -> bool:
    """Whether a rule's name says which weight it means (``IN00.alpha``, ``alpha``) or not (``IN00``)."""
    text = rule.strip().lower()
    return "." in text or text in {weight.lower() for weight in weights} or _ALIAS.fullmatch(text) is not None


def _aliased_block(rule: str, alias: re.Match[str], blocks: Sequence[str]) -> str:
    if alias[1] is None:
        return _block(rule, "BASE", blocks, ())
    others = [block for block in blocks if block != "BASE"]
    index = int(alias[1])
    if index >= len(others):
        raise ConfigError(
            f"{rule}: there is no block {index}; they run from block_0 ({others[0]}) "
            f"to block_{len(others) - 1} ({others[-1]})"
        )
    return others[index]


def _blocks(rule: str, stem: str, blocks: Sequence[str], weights: Sequence[str]) -> tuple[str, ...]:
    first, dash, last = stem.partition("-")
    start = blocks.index(_block(rule, first, blocks, weights))
    if not dash:
        return (blocks[start],)
    stop = blocks.index(_block(rule, last, blocks, weights))
    if stop < start:
        raise ConfigError(f"{rule}: {blocks[start]} comes after {blocks[stop]}; write {blocks[stop]}-{blocks[start]}")
    return tuple(blocks[start : stop + 1])


def _block(rule: str, name: str, blocks: Sequence[str], weights: Sequence[str]) -> str:
    wanted = name.strip().upper()
    for block in blocks:
        if block.upper() == wanted:
            return block
    raise ConfigError(f"{rule}: unknown block {name.strip()!r}; {nearest(name, [*blocks, *weights], listed=30)}")


def _weight(rule: str, name: str, weights: Sequence[str]) -> str:
    wanted = name.strip().lower()
    for weight in weights:
        if weight.lower() == wanted:
            return weight
    raise ConfigError(f"{rule}: the merge method has no weight {name.strip()!r}; {nearest(name, weights)}")
