"""Parses the user's rules on the search space: which parameters each rule means, and whether its value is valid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from bayes_merger.errors import ConfigError
from bayes_merger.search.space.names import has_weight, names_of

Range = tuple[float, float]


def split_rules(rules: Mapping[str, Any] | None, bare: set[str]) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    """Rules about blocks, and those about extra parameters (the ``bare`` names)."""
    if not isinstance(rules, Mapping):
        return rules, {}
    extra = {name: value for name, value in rules.items() if name in bare}
    return {name: value for name, value in rules.items() if name not in bare}, extra


def by_parameter(
    kind: str, rules: Mapping[str, Any] | None, blocks: Sequence[str], weights: Sequence[str]
) -> dict[str, tuple[str, Any]]:
    """Parameter name -> (the rule's own name, its value); a parameter set by two rules is an error."""
    if rules is not None and not isinstance(rules, Mapping):
        raise ConfigError(f"{kind}: {rules!r} is not a mapping; write   {kind}: {{IN00.alpha: ...}}")
    ruled: dict[str, tuple[str, Any]] = {}
    for rule, value in _flat(rules or {}).items():
        for name in _named(kind, rule, blocks, weights):
            if name in ruled:
                raise ConfigError(f"{kind}: {ruled[name][0]} and {rule} both set {name}; keep one")
            ruled[name] = (rule, value)
    return ruled


def _flat(rules: Mapping[str, Any]) -> dict[str, Any]:
    """``{IN00: {alpha: .5}}`` as ``{IN00.alpha: .5}``: Hydra's command line splits names at the dot."""
    flat: dict[str, Any] = {}
    for rule, value in rules.items():
        inner = {f"{rule}.{key}": x for key, x in value.items()} if isinstance(value, Mapping) else {rule: value}
        for name, x in inner.items():
            if name in flat:
                raise ConfigError(f"{name} is set twice; keep one")
            flat[name] = x
    return flat


def _named(kind: str, rule: object, blocks: Sequence[str], weights: Sequence[str]) -> tuple[str, ...]:
    try:
        return names_of(rule, blocks, weights)
    except ConfigError as error:
        raise ConfigError(f"{kind}: {error}") from None


def read_groups(
    groups: Sequence[Sequence[str]] | None, blocks: Sequence[str], weights: Sequence[str]
) -> list[tuple[str, ...]]:
    """Each group's parameters; no parameter in two."""
    if groups is not None and not _is_list(groups):
        raise ConfigError(f"groups: {groups!r} is not a list of lists; write   groups: [[IN00, IN01], [OUT10, OUT11]]")
    read: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for group in groups or ():
        if not _is_list(group) or not group:
            raise ConfigError(f"groups: {group!r} is not a list of names; write   groups: [[IN00, IN01]]")
        for members in _members(group, blocks, weights):
            for name in members:
                if name in seen:
                    raise ConfigError(f"groups: {name} is in two groups, or twice in one; a parameter has one group")
                seen.add(name)
            read.append(members)
    return read


def _members(group: Sequence[str], blocks: Sequence[str], weights: Sequence[str]) -> list[tuple[str, ...]]:
    meant = [(rule, _named("groups", rule, blocks, weights)) for rule in group]
    bare = [rule for rule, _ in meant if not has_weight(rule, weights)]
    names = [name for _, parameters in meant for name in parameters]
    if len(bare) < len(meant) and bare and len(weights) > 1:
        raise ConfigError(
            f"groups: {bare[0]} does not say which weight, but others in its group do; write {bare[0]}.{weights[0]}"
        )
    if not bare:
        return [tuple(names)]
    return [tuple(name for name in names if name.endswith(f".{weight}")) for weight in weights]


def check_group(members: Sequence[str], fixed: Mapping[str, float], bounds: Mapping[str, Range]) -> None:
    """Refuse a group whose members cannot have the same number.

    Raises:
        ConfigError: they have different ranges, or are frozen at different numbers.
    """
    first = members[0]
    for name in members[1:]:
        if tuple(bounds[name]) != tuple(bounds[first]):
            raise ConfigError(
                f"groups: {first} and {name} share one number but have different ranges "
                f"({bounds[first][0]:g} ... {bounds[first][1]:g}, {bounds[name][0]:g} ... {bounds[name][1]:g}); "
                "give every member the same"
            )
    frozen = [name for name in members if name in fixed]
    for name in frozen[1:]:
        if fixed[name] != fixed[frozen[0]]:
            raise ConfigError(
                f"groups: {frozen[0]} and {name} share one number but are frozen at {fixed[frozen[0]]:g} "
                f"and {fixed[name]:g}; freeze one of them"
            )


def read_number(value: object, what: str) -> float:
    """A finite number.

    Raises:
        ConfigError: it is not one; the text begins with ``what``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{what}: {value!r} is not a number; write one such as 0.5")
    return float(value)


def read_range(value: object, what: str, widest: Range) -> Range:
    """Two numbers, the smaller first, inside the widest range.

    Raises:
        ConfigError: they are not; the text begins with ``what``.
    """
    if not _is_list(value) or len(value) != 2:
        raise ConfigError(f"{what}: {value!r} is not a range; write two numbers such as [0.2, 0.8]")
    low, high = (read_number(end, what) for end in value)
    if low == high:
        raise ConfigError(f"{what}: [{low:g}, {high:g}] leaves nothing to search; freeze it at {low:g} instead")
    if low > high:
        raise ConfigError(f"{what}: [{low:g}, {high:g}] runs backwards; write [{high:g}, {low:g}]")
    if low < widest[0] or high > widest[1]:
        raise ConfigError(
            f"{what}: [{low:g}, {high:g}] reaches outside {widest[0]:g} ... {widest[1]:g}, too far to merge"
        )
    return low, high


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
