"""The numbers the optimiser may turn, and how they become the weights of every block.

A merge method takes one or more weights (``alpha``, perhaps ``beta``), each with a number per block: 26 for a
Stable Diffusion 1 model (``BASE``, ``IN00``-``IN11``, ``M00``, ``OUT00``-``OUT11``). Each is searched, unless a rule
says otherwise. The three kinds of rule are those of the original sd-webui-bayesian-merger's guides:

* *frozen*: the number is fixed and never searched;
* *ranges*: the number is searched between these two, instead of the method's own range;
* *groups*: these blocks share one number.

Besides the blocks there may be *ratios*: numbers with a name of their own, which the caller has found in finer rules
about parts of blocks. They are searched like the others, and stand among the weights as if they were blocks.

A rule that makes no sense is an error, never a warning: a misspelt block would silently change what is searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.search.names import has_weight, names_of, parameter_name

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution

Range = tuple[float, float]

WIDEST: Range = (-1.0, 2.0)
"""No range may reach further (unless the merge method's own does): 0 is model A, 1 is model B, and one whole
difference beyond either there is only noise left to draw."""

ANCHORS = (0.0, 1.0, 0.5)
"""Every weight at once: pure A, pure B, the even mix."""


@dataclass(frozen=True)
class Parameter:
    """One number the optimiser may turn.

    Attributes:
        name: ``BLOCK.weight``, that of the first block it drives, or the bare name of a ratio.
        low: least value, included.
        high: greatest value, included; above ``low``.
        drives: every ``BLOCK.weight`` (for a ratio, ``NAME.weight``) that takes this number.
    """

    name: str
    low: float
    high: float
    drives: tuple[str, ...]


@dataclass(frozen=True)
class SearchSpace:
    """What is searched and what is fixed; together they cover every weight of every block exactly once.

    Attributes:
        blocks: the architecture's blocks, in order.
        weights: the weights the merge method takes, in order.
        parameters: the numbers to search, in the order of the weights, then of the blocks.
        fixed: the frozen ones, ``BLOCK.weight`` -> value.
    """

    blocks: tuple[str, ...]
    weights: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, float]

    def assemble(self, values: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """The weights a merge takes: weight name -> block -> number.

        Args:
            values: one number per parameter, by name, inside its range.

        Raises:
            ConfigError: if a value is missing, unknown, or outside its range.
        """
        self.check(values)
        numbers = dict(self.fixed)
        for parameter in self.parameters:
            numbers |= dict.fromkeys(parameter.drives, float(values[parameter.name]))
        assembled = {
            weight: {block: numbers[parameter_name(block, weight)] for block in self.blocks} for weight in self.weights
        }
        for name, number in numbers.items():
            block, _, weight = name.rpartition(".")
            assembled[weight].setdefault(block, number)  # a ratio
        return assembled

    def values_of(self, weights: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The parameter values that :meth:`assemble` turns into these weights.

        Raises:
            ConfigError: if no values do: a frozen number or a range says otherwise, or a group is torn apart.
        """
        numbers = {parameter_name(block, weight): x for weight, row in weights.items() for block, x in row.items()}
        known = {*self.fixed, *(name for parameter in self.parameters for name in parameter.drives)}
        if numbers.keys() != known:
            odd = min(numbers.keys() ^ known)
            raise ConfigError(f"{odd}: the space has {', '.join(self.weights)} for {len(self.blocks)} blocks, no other")
        for name, value in self.fixed.items():
            if numbers[name] != value:
                raise ConfigError(f"{name} = {numbers[name]:g} cannot be reached: it is frozen at {value:g}")
        for parameter in self.parameters:
            if len({numbers[name] for name in parameter.drives}) > 1:
                raise ConfigError(f"{', '.join(parameter.drives)} cannot differ: they are one group")
        values = {parameter.name: float(numbers[parameter.drives[0]]) for parameter in self.parameters}
        self.check(values)
        return values

    def check(self, values: Mapping[str, float]) -> None:
        """Refuse values that are not exactly one number inside the range of each parameter.

        Raises:
            ConfigError: naming the first that is wrong.
        """
        names = {parameter.name for parameter in self.parameters}
        for name in values:
            if name not in names:
                raise ConfigError(f"{name} is not searched here; {nearest(name, names)}")
        for parameter in self.parameters:
            if parameter.name not in values:
                raise ConfigError(f"{parameter.name} has no value; give one for each of the {len(names)} parameters")
            value = _number(values[parameter.name], parameter.name)
            if not parameter.low <= value <= parameter.high:
                raise ConfigError(f"{parameter.name} = {value:g} is outside {parameter.low:g} ... {parameter.high:g}")

    def anchors(self) -> list[dict[str, float]]:
        """Pure A, pure B and the even mix, each clipped into the ranges; what clipping made equal comes once."""
        found: list[dict[str, float]] = []
        for anchor in ANCHORS:
            values = {p.name: min(max(anchor, p.low), p.high) for p in self.parameters}
            if values not in found:
                found.append(values)
        return found

    def distributions(self) -> dict[str, FloatDistribution]:
        """The space as Optuna knows it, in the order of the parameters."""
        from optuna.distributions import FloatDistribution

        return {p.name: FloatDistribution(p.low, p.high) for p in self.parameters}

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, enough for :meth:`from_json` to build an equal space."""
        return {
            "blocks": list(self.blocks),
            "weights": list(self.weights),
            "parameters": [
                {"name": p.name, "low": p.low, "high": p.high, "drives": list(p.drives)} for p in self.parameters
            ],
            "fixed": dict(self.fixed),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SearchSpace:
        """The space that :meth:`to_json` wrote down."""
        return SearchSpace(
            blocks=tuple(data["blocks"]),
            weights=tuple(data["weights"]),
            parameters=tuple(
                Parameter(name=p["name"], low=p["low"], high=p["high"], drives=tuple(p["drives"]))
                for p in data["parameters"]
            ),
            fixed=dict(data["fixed"]),
        )


def build_space(
    blocks: Sequence[str],
    weights: Mapping[str, Range],
    *,
    frozen: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Any] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    ratios: Sequence[Parameter] = (),
) -> SearchSpace:
    """The search space of a merge method on an architecture, under a person's rules.

    Args:
        blocks: the architecture's blocks, ``BASE`` first.
        weights: each weight the method takes and the range it is searched in by default.
        frozen: name -> number; a frozen member freezes its whole group.
        ranges: name -> ``[low, high]``.
        groups: lists of names. Names without a weight (``[IN00, IN01]``) make one group per weight.
        ratios: numbers beyond the blocks, each with its range and the weights it drives; they may be frozen and
            given other ranges by their bare names.

    Names are those of :mod:`bayes_merger.search.names`, or nested: ``IN00: {alpha: 0.5}``.

    Raises:
        ConfigError: for a name, value or combination that makes no sense, or when nothing is left to search.
    """
    order = tuple(weights)
    bare = {ratio.name for ratio in ratios}
    frozen, own_frozen = _apart(frozen, bare)
    ranges, own_ranges = _apart(ranges, bare)
    names = [parameter_name(block, weight) for weight in order for block in blocks]
    defaults = {parameter_name(block, weight): weights[weight] for weight in order for block in blocks}
    wide = {name: (min(WIDEST[0], low), max(WIDEST[1], high)) for name, (low, high) in defaults.items()}
    fixed = {
        name: _number(value, f"frozen: {rule}")
        for name, (rule, value) in _by_parameter("frozen", frozen, blocks, order).items()
    }
    bounds = defaults | {
        name: _range(value, f"ranges: {rule}", wide[name])
        for name, (rule, value) in _by_parameter("ranges", ranges, blocks, order).items()
    }
    for name, value in fixed.items():
        low, high = bounds[name]
        if not low <= value <= high:
            raise ConfigError(
                f"frozen: {name} = {value:g} is outside its range {low:g} ... {high:g}; widen it in ranges"
            )
    together: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    for group in _groups(groups, blocks, order):
        members = tuple(sorted(group, key=names.index))
        _check_group(members, fixed, bounds)
        together |= dict.fromkeys(members, members)
        fixed |= {name: fixed[member] for member in members if member in fixed for name in members}
    parameters = tuple(
        Parameter(name, float(bounds[name][0]), float(bounds[name][1]), together[name])
        for name in names
        if name == together[name][0] and name not in fixed
    )
    fixed = {name: fixed[name] for name in names if name in fixed}
    for ratio in ratios:
        parameter = _ruled(ratio, own_frozen, own_ranges)
        if parameter.low == parameter.high:
            fixed |= dict.fromkeys(parameter.drives, parameter.low)
        else:
            parameters = (*parameters, parameter)
    if not parameters:
        raise ConfigError("nothing is left to search: every parameter is frozen; free at least one")
    return SearchSpace(tuple(blocks), order, parameters, fixed)


def _apart(rules: Mapping[str, Any] | None, bare: set[str]) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    """Rules about blocks, and those about ratios."""
    if not isinstance(rules, Mapping):
        return rules, {}
    own = {name: value for name, value in rules.items() if name in bare}
    return {name: value for name, value in rules.items() if name not in bare}, own


def _ruled(ratio: Parameter, frozen: Mapping[str, Any], ranges: Mapping[str, Any]) -> Parameter:
    """A ratio under the rules about it; a frozen one has both ends where it is frozen."""
    name = ratio.name
    if name in ranges:
        low, high = _range(ranges[name], f"ranges: {name}", WIDEST)
        ratio = replace(ratio, low=low, high=high)
    if name not in frozen:
        return ratio
    value = _number(frozen[name], f"frozen: {name}")
    if not ratio.low <= value <= ratio.high:
        raise ConfigError(f"frozen: {name} = {value:g} is outside its range {ratio.low:g} ... {ratio.high:g}; "
                          "widen it in ranges")  # fmt: skip
    return replace(ratio, low=value, high=value)


_GUIDE = {"frozen": "frozen", "ranges": "ranges", "groups": "groups"} | {
    "frozen_params": "frozen",  # as the original's guides have them
    "custom_ranges": "ranges",
}


def space_from_guide(
    blocks: Sequence[str], weights: Mapping[str, Range], guide: Mapping[str, Any], ratios: Sequence[Parameter] = ()
) -> SearchSpace:
    """The space a configuration describes, with the keys of :func:`build_space` or those of the original's guides.

    Raises:
        ConfigError: for an unknown key, the same rules under two keys, or whatever :func:`build_space` refuses.
    """
    rules: dict[str, Any] = {}
    for key, value in guide.items():
        if key not in _GUIDE:
            raise ConfigError(f"space: unknown rule {key!r}; {nearest(str(key), _GUIDE)}")
        if value is None:
            continue  # a key left empty in YAML
        if rules.get(_GUIDE[key]):
            raise ConfigError(f"space: {key} and {_GUIDE[key]} are the same rules under two names; keep one")
        rules[_GUIDE[key]] = value
    return build_space(blocks, weights, ratios=ratios, **rules)


def _by_parameter(
    kind: str, rules: Mapping[str, Any] | None, blocks: Sequence[str], weights: Sequence[str]
) -> dict[str, tuple[str, Any]]:
    """Parameter name -> (the rule's own name, its value); a parameter ruled twice is an error."""
    if rules is not None and not isinstance(rules, Mapping):
        raise ConfigError(f"{kind}: {rules!r} is not a mapping; write   {kind}: {{IN00.alpha: ...}}")
    found: dict[str, tuple[str, Any]] = {}
    for rule, value in _flat(rules or {}).items():
        for name in _named(kind, rule, blocks, weights):
            if name in found:
                raise ConfigError(f"{kind}: {found[name][0]} and {rule} both rule {name}; keep one")
            found[name] = (rule, value)
    return found


def _flat(rules: Mapping[str, Any]) -> dict[str, Any]:
    """``{IN00: {alpha: .5}}`` as ``{IN00.alpha: .5}``: Hydra's command line splits names at the dot."""
    flat: dict[str, Any] = {}
    for rule, value in rules.items():
        inner = {f"{rule}.{key}": x for key, x in value.items()} if isinstance(value, Mapping) else {rule: value}
        for name, x in inner.items():
            if name in flat:
                raise ConfigError(f"{name} is ruled twice; keep one")
            flat[name] = x
    return flat


def _named(kind: str, rule: object, blocks: Sequence[str], weights: Sequence[str]) -> tuple[str, ...]:
    try:
        return names_of(rule, blocks, weights)
    except ConfigError as error:
        raise ConfigError(f"{kind}: {error}") from None


def _groups(
    groups: Sequence[Sequence[str]] | None, blocks: Sequence[str], weights: Sequence[str]
) -> list[tuple[str, ...]]:
    """Each group's parameters; no parameter in two."""
    if groups is not None and not _is_list(groups):
        raise ConfigError(f"groups: {groups!r} is not a list of lists; write   groups: [[IN00, IN01], [OUT10, OUT11]]")
    found: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for group in groups or ():
        if not _is_list(group) or not group:
            raise ConfigError(f"groups: {group!r} is not a list of names; write   groups: [[IN00, IN01]]")
        for members in _members(group, blocks, weights):
            for name in members:
                if name in seen:
                    raise ConfigError(f"groups: {name} is in two groups, or twice in one; a parameter has one group")
                seen.add(name)
            found.append(members)
    return found


def _members(group: Sequence[str], blocks: Sequence[str], weights: Sequence[str]) -> list[tuple[str, ...]]:
    meant = [(rule, _named("groups", rule, blocks, weights)) for rule in group]
    bare = [rule for rule, _ in meant if not has_weight(rule, weights)]
    names = [name for _, found in meant for name in found]
    if len(bare) < len(meant) and bare and len(weights) > 1:
        raise ConfigError(
            f"groups: {bare[0]} does not say which weight, others in its group do; write {bare[0]}.{weights[0]}"
        )
    if not bare:
        return [tuple(names)]
    return [tuple(name for name in names if name.endswith(f".{weight}")) for weight in weights]


def _check_group(members: Sequence[str], fixed: Mapping[str, float], bounds: Mapping[str, Range]) -> None:
    first = members[0]
    for name in members[1:]:
        if tuple(bounds[name]) != tuple(bounds[first]):
            raise ConfigError(
                f"groups: {first} and {name} share one number but not one range "
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


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{what}: {value!r} is not a number; write one such as 0.5")
    return float(value)


def _range(value: object, what: str, widest: Range) -> Range:
    if not _is_list(value) or len(value) != 2:
        raise ConfigError(f"{what}: {value!r} is not a range; write two numbers such as [0.2, 0.8]")
    low, high = (_number(end, what) for end in value)
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
