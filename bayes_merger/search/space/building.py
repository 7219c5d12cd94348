"""The search space of a merge method on an architecture, under the user's rules.

An invalid rule is an error, never a warning: a misspelt block would silently change what is searched.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bayes_merger.errors import ConfigError
from bayes_merger.search.space.names import parameter_name
from bayes_merger.search.space.rules import (
    Range,
    by_parameter,
    check_group,
    read_groups,
    read_number,
    read_range,
    split_rules,
)
from bayes_merger.search.space.space import Parameter, SearchSpace, shortened

WIDEST: Range = (-1.0, 2.0)
"""No range may be wider (unless the merge method's own is): 0 is model A, 1 is model B, and a whole difference
outside of [0, 1] gives only noise for pictures."""


def build_space(
    blocks: Sequence[str],
    weights: Mapping[str, Range],
    *,
    frozen: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Any] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    extra_parameters: Sequence[Parameter] = (),
    given: Mapping[str, float] | None = None,
) -> SearchSpace:
    """The search space of a merge method on an architecture, under the user's rules.

    Args:
        blocks: the architecture's blocks, ``BASE`` first.
        weights: each weight the method takes and the range it is searched in by default.
        frozen: name -> number; a frozen member freezes its whole group.
        ranges: name -> ``[low, high]``.
        groups: lists of names. Names without a weight (``[IN00, IN01]``) make one group per weight.
        extra_parameters: numbers besides the blocks, each with its range and the weights it drives; rules may freeze
            them or set their range by name. Weights of blocks that they drive are not searched separately.
        given: ``BLOCK.weight`` -> number, for those that a recipe sets: rules about them have no effect, and a rule
            about nothing else is an error.

    Names are those of :mod:`bayes_merger.search.space.names`, or nested: ``IN00: {alpha: 0.5}``.

    Raises:
        ConfigError: for a name, value or combination that makes no sense, or when nothing is left to search.
    """
    order = tuple(weights)
    bare = {extra.name for extra in extra_parameters}
    frozen, own_frozen = split_rules(frozen, bare)
    ranges, own_ranges = split_rules(ranges, bare)
    bounds = _bounds(ranges, blocks, weights)
    taken = {*(given or {}), *(name for extra in extra_parameters for name in extra.drives)}
    for kind, rules in (("frozen", frozen), ("ranges", ranges)):
        _check_free(kind, rules, blocks, order, taken)
    fixed = {name: number for name, number in _fixed(frozen, blocks, order, bounds).items() if name not in taken}
    together = _together(groups, blocks, order, fixed, bounds)
    _check_groups(together, taken)
    parameters = [
        Parameter(name, *bounds[name], together[name])
        for name in bounds
        if name not in taken and name == together[name][0] and not any(member in fixed for member in together[name])
    ]
    fixed = {
        name: next(fixed[member] for member in together[name] if member in fixed)
        for name in bounds
        if name not in taken and any(member in fixed for member in together[name])
    }
    fixed |= given or {}
    for extra in extra_parameters:
        parameter = _with_rules(extra, own_frozen, own_ranges)
        if parameter.low == parameter.high:
            fixed |= dict.fromkeys(parameter.drives, parameter.low)
        else:
            parameters.append(parameter)
    if not parameters:
        raise ConfigError("nothing is left to search: every parameter is frozen; free at least one")
    return SearchSpace(tuple(blocks), order, tuple(parameters), fixed)


def _bounds(
    ranges: Mapping[str, Any] | None, blocks: Sequence[str], weights: Mapping[str, Range]
) -> dict[str, tuple[float, float]]:
    """The range of every parameter, in the order of the weights, then of the blocks."""
    bounds = {
        parameter_name(block, weight): (float(low), float(high))
        for weight, (low, high) in weights.items()
        for block in blocks
    }
    for name, (rule, value) in by_parameter("ranges", ranges, blocks, tuple(weights)).items():
        low, high = bounds[name]
        bounds[name] = read_range(value, f"ranges: {rule}", (min(WIDEST[0], low), max(WIDEST[1], high)))
    return bounds


def _fixed(
    frozen: Mapping[str, Any] | None, blocks: Sequence[str], weights: Sequence[str], bounds: Mapping[str, Range]
) -> dict[str, float]:
    """The frozen parameters and their values, each inside its range."""
    fixed = {}
    for name, (rule, value) in by_parameter("frozen", frozen, blocks, weights).items():
        fixed[name] = read_number(value, f"frozen: {rule}")
        low, high = bounds[name]
        if not low <= fixed[name] <= high:
            raise ConfigError(
                f"frozen: {name} = {fixed[name]:g} is outside its range {low:g} ... {high:g}; widen it in ranges"
            )
    return fixed


def _together(
    groups: Sequence[Sequence[str]] | None,
    blocks: Sequence[str],
    weights: Sequence[str],
    fixed: Mapping[str, float],
    bounds: Mapping[str, Range],
) -> dict[str, tuple[str, ...]]:
    """For every parameter, all that share its number, including itself, in the order of the bounds."""
    names = list(bounds)
    together: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    for group in read_groups(groups, blocks, weights):
        members = tuple(sorted(group, key=names.index))
        check_group(members, fixed, bounds)
        together |= dict.fromkeys(members, members)
    return together


def _with_rules(extra: Parameter, frozen: Mapping[str, Any], ranges: Mapping[str, Any]) -> Parameter:
    """An extra parameter under its rules; if frozen, both ends of its range are its number."""
    name = extra.name
    if name in ranges:
        low, high = read_range(ranges[name], f"ranges: {name}", (min(WIDEST[0], extra.low), max(WIDEST[1], extra.high)))
        extra = replace(extra, low=low, high=high)
    if name not in frozen:
        return extra
    value = read_number(frozen[name], f"frozen: {name}")
    if not extra.low <= value <= extra.high:
        raise ConfigError(f"frozen: {name} = {value:g} is outside its range {extra.low:g} ... {extra.high:g}; "
                          "widen it in ranges")  # fmt: skip
    return replace(extra, low=value, high=value)


def _check_free(
    kind: str, rules: Mapping[str, Any] | None, blocks: Sequence[str], weights: Sequence[str], taken: set[str]
) -> None:
    """Refuse rules that are only about numbers that a recipe sets."""
    named: dict[str, list[str]] = {}
    for name, (rule, _) in by_parameter(kind, rules, blocks, weights).items():
        named.setdefault(rule, []).append(name)
    for rule, names in named.items():
        if set(names) <= taken:
            raise ConfigError(
                f"{kind}: {rule} has no effect, because the recipe sets {shortened(names)}; change it there"
            )


def _check_groups(together: Mapping[str, Sequence[str]], taken: Container[str]) -> None:
    """Refuse groups of which a recipe sets some members and not others."""
    for members in together.values():
        if torn := [name for name in members if (name in taken) != (members[0] in taken)]:
            raise ConfigError(
                f"groups: {members[0]} and {torn[0]} cannot share a number, because the recipe sets one of them"
            )
