"""The numbers the optimiser may change, and how they become the weights of every block.

A merge method takes one or more weights (``alpha``, perhaps ``beta``), each with a number per block: 26 for a
Stable Diffusion 1 model (``BASE``, ``IN00``-``IN11``, ``M00``, ``OUT00``-``OUT11``). Each is searched, unless a rule
says otherwise. The three kinds of rule are those of the original sd-webui-bayesian-merger's guides:

* *frozen*: the number is fixed and never searched;
* *ranges*: the number is searched between these two, instead of the method's own range;
* *groups*: these blocks share one number.

Besides the blocks there may be *extra parameters*: numbers with their own names, from the caller's rules about
parts of blocks. They are searched like the others, and are stored among the weights as if they were blocks.

:mod:`bayes_merger.search.space.building` makes a space of such rules.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.search.space.names import parameter_name
from bayes_merger.search.space.rules import read_number

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution

ANCHORS = (0.0, 1.0, 0.5)
"""Every weight at once: pure A, pure B, the even mix."""


@dataclass(frozen=True)
class Parameter:
    """One number the optimiser may change.

    Attributes:
        name: ``BLOCK.weight``, that of the first block it drives, or the bare name of an extra parameter.
        low: least value, included.
        high: greatest value, included; above ``low``.
        drives: every ``BLOCK.weight`` (for an extra parameter, ``NAME.weight``) that takes this number.
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
        idle: those of the frozen ones that change nothing, whatever their value.
    """

    blocks: tuple[str, ...]
    weights: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, float]
    idle: tuple[str, ...] = ()

    def without_idle(self, names: Container[str]) -> SearchSpace:
        """The space less the parameters that change nothing, frozen as near to 0 (model A) as they may be.

        Args:
            names: the idle ``BLOCK.weight``; a parameter stays if it drives another one too.

        Raises:
            ConfigError: no parameter is left.
        """
        idle = [p for p in self.parameters if all(name in names for name in p.drives)]
        if len(idle) == len(self.parameters):
            raise ConfigError(
                "nothing is left to search: the models are equal wherever a weight is searched, so all merges are the "
                "same; give other models, or free other weights"
            )
        frozen = {name: min(max(0.0, p.low), p.high) for p in idle for name in p.drives}
        return replace(
            self,
            parameters=tuple(p for p in self.parameters if p not in idle),
            fixed={**self.fixed, **frozen},
            idle=(*self.idle, *frozen),
        )

    def assemble(self, values: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """The weights a merge takes: weight name -> block -> number.

        Args:
            values: one number per parameter, by name, inside its range.

        Raises:
            ConfigError: if a value is missing, unknown, or outside its range.
        """
        self.check(values)
        assembled = {weight: dict(row) for weight, row in self._least.items()}
        for weight, driven in self._driven.items():
            assembled[weight] |= {block: float(values[name]) for block, name in driven}
        return assembled

    @cached_property
    def _least(self) -> dict[str, dict[str, float]]:
        """The weights at the least value of every parameter; thousands of trials are made of it."""
        numbers = dict(self.fixed)
        for parameter in self.parameters:
            numbers |= dict.fromkeys(parameter.drives, parameter.low)
        assembled = {
            weight: {block: numbers[parameter_name(block, weight)] for block in self.blocks} for weight in self.weights
        }
        for name, number in numbers.items():
            block, _, weight = name.rpartition(".")
            assembled.setdefault(weight, {}).setdefault(
                block, number
            )  # an extra parameter, or not a weight of the method
        return assembled

    @cached_property
    def _driven(self) -> dict[str, list[tuple[str, str]]]:
        """Of each weight, the blocks that have a parameter, and its name."""
        found: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.parameters:
            for name in parameter.drives:
                block, _, weight = name.rpartition(".")
                found.setdefault(weight, []).append((block, parameter.name))
        return found

    def values_of(self, weights: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The parameter values that :meth:`assemble` turns into these weights.

        Idle weights may have any numbers: the merge is the same.

        Raises:
            ConfigError: if there are none: a frozen number or a range forbids it, or members of a group differ.
        """
        numbers = {parameter_name(block, weight): x for weight, row in weights.items() for block, x in row.items()}
        known = {*self.fixed, *(name for parameter in self.parameters for name in parameter.drives)}
        if numbers.keys() != known:
            odd = min(numbers.keys() ^ known)
            raise ConfigError(f"{odd}: the space has {', '.join(self.weights)} for {len(self.blocks)} blocks, no other")
        for name, value in self.fixed.items():
            if numbers[name] != value and name not in self.idle:
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
        names = self.names
        if not values.keys() <= self._known:
            name = next(name for name in values if name not in names)
            raise ConfigError(f"{name} is not searched here; {nearest(name, names)}")
        for parameter in self.parameters:
            if parameter.name not in values:
                raise ConfigError(f"{parameter.name} has no value; give one for each of the {len(names)} parameters")
            value = values[parameter.name]
            if type(value) is not float or value != value:
                value = read_number(value, parameter.name)
            if not parameter.low <= value <= parameter.high:
                raise ConfigError(f"{parameter.name} = {value:g} is outside {parameter.low:g} ... {parameter.high:g}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def anchors(self) -> list[dict[str, float]]:
        """Pure A, pure B and the even mix, each clipped to the ranges; rows that become equal are listed once."""
        found: list[dict[str, float]] = []
        for anchor in ANCHORS:
            values = {p.name: min(max(anchor, p.low), p.high) for p in self.parameters}
            if values not in found:
                found.append(values)
        return found

    def project(
        self, weights: Mapping[str, Mapping[str, float]], defaults: Mapping[str, float]
    ) -> tuple[dict[str, float], list[str]]:
        """The values of the space nearest to weights that may lie outside it.

        Args:
            weights: weight name -> block (or extra parameter) -> number; missing ones have their weight's default.
            defaults: a number for each weight.

        Returns:
            One value per parameter, and a short description of each number that was changed.
        """
        numbers = {parameter_name(block, weight): x for weight, row in weights.items() for block, x in row.items()}
        values: dict[str, float] = {}
        clipped, averaged = [], []
        for parameter in self.parameters:
            wanted = [numbers.get(name, defaults[name.rpartition(".")[2]]) for name in parameter.drives]
            mean = math.fsum(wanted) / len(wanted)
            values[parameter.name] = min(max(mean, parameter.low), parameter.high)
            clipped += [parameter.name] * (values[parameter.name] != mean)
            averaged += [parameter.name] * (max(wanted) > min(wanted))
        frozen = [
            name for name, value in self.fixed.items() if numbers.get(name, value) != value and name not in self.idle
        ]
        missing = [name for p in self.parameters for name in p.drives if name not in numbers]
        changes = {"frozen": frozen, "clipped": clipped, "averaged in groups": averaged, "by default": missing}
        return values, [f"{shortened(names)} {how}" for how, names in changes.items() if names]

    def distributions(self) -> dict[str, FloatDistribution]:
        """The space as Optuna knows it, in the order of the parameters; all trials share it, so it is never changed."""
        return self._distributions

    @cached_property
    def _distributions(self) -> dict[str, FloatDistribution]:
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
            **({"idle": list(self.idle)} if self.idle else {}),  # what has none is as it was before there were any
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SearchSpace:
        """The space that :meth:`to_json` wrote down.

        Raises:
            ConfigError: an idle weight that is not frozen.
        """
        idle = tuple(data.get("idle", ()))
        if odd := [name for name in idle if name not in data["fixed"]]:
            raise ConfigError(f"idle: {odd[0]!r} is not frozen")
        return SearchSpace(
            blocks=tuple(data["blocks"]),
            weights=tuple(data["weights"]),
            parameters=tuple(
                Parameter(name=p["name"], low=p["low"], high=p["high"], drives=tuple(p["drives"]))
                for p in data["parameters"]
            ),
            fixed=dict(data["fixed"]),
            idle=idle,
        )


def shortened(names: Sequence[str]) -> str:
    """Names in a message: themselves, or how many weights they are."""
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} weights"
