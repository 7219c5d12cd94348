"""What a merge method is: a function whose signature is its models, its weights and their defaults.

Positional arguments are the models (those with a default may be left out), keyword-only ones the weights that can be
searched and, where the default is a text or a whole number, options that hold for a whole merge::

    @merge_method(elementwise=True)
    def add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0) -> Tensor: ...

    @merge_method(elementwise=False, choices={"vote": ("sum", "count")})
    def ties(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0, vote: str = "sum") -> Tensor: ...

Models beyond the named ones, ``*more``, are what further models go to, as many as are given: d, e, f and so on::

    @merge_method(elementwise=True)
    def n_average(a: Tensor, b: Tensor, c: Tensor | None = None, *more: Tensor, alpha: Weight = 1.0) -> Tensor: ...

A keyword called ``key`` is told which tensor it is: what random methods seed their generator with, besides ``seed``.

**Two stages.** What is costly and does not depend on (all of) the weights, lengths, sorts, decompositions, is the work
of a function of its own, which takes the models and by keyword those weights and options that it does depend on (and
``key``). The method takes what that gives by a keyword called ``prepared`` and asks for it itself where it is not
given::

    def _lengths(a: Tensor, b: Tensor) -> Prepared: ...

    @merge_method(elementwise=True, prepare=_lengths)
    def slerp(a: Tensor, b: Tensor, *, alpha: Weight = 0.5, prepared: Prepared | None = None) -> Tensor:
        angle, length_a, length_b = prepared or _lengths(a, b)

A search then does the first stage once per tensor. Both ways give the same bits, since it is the same code. Where
there are two stages, ``elementwise`` speaks of the second.

**Statistics of the whole model** are a ``ModelStatistic``: each tensor's share of them, and what they come to. The
method takes them by a keyword called ``statistics``; without, the tensor at hand is the whole model.

Importing this module is light: the functions themselves (and torch) come with the first call that needs them.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bayes_merger.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import Tensor

MODEL_NAMES = tuple(string.ascii_lowercase)
"""What the models of a merge are called, in order."""

Weight = float
"""A number that decides how much of a model goes in."""

Prepared = tuple[Any, ...]
"""What a first stage gives: tensors (one of the models' shape is cut into pieces with them) and numbers."""

Statistics = tuple[float, ...]
"""Numbers about whole models."""

Numbers = Mapping[str, float]
Options = Mapping[str, str | int]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class WeightRange:
    """One weight of a method.

    Attributes:
        default: what the method takes when nothing is said.
        low: lower end of the range that is searched.
        high: upper end of it.
        least: the smallest number for which the formula has a meaning.
        most: the largest one.
    """

    default: float
    low: float = 0.0
    high: float = 1.0
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class Option:
    """One setting of a method that is the same for every tensor and is not searched.

    Attributes:
        default: what the method takes when nothing is said.
        choices: the texts it may be; empty for a whole number.
    """

    default: str | int
    choices: tuple[str, ...] = ()

    def read(self, name: str, value: object) -> str | int:
        """The value, which may still be a text from the command line.

        Raises:
            ConfigError: it is none of the choices, or no whole number.
        """
        if self.choices:
            if value not in self.choices:
                raise ConfigError(f"{name}: {value!r} is unknown; give one of {', '.join(self.choices)}")
            return str(value)
        text = "" if isinstance(value, bool) else str(value)
        if not re.fullmatch(r"-?\d+", text):
            raise ConfigError(f"{name}: {value!r} is not a whole number")
        return int(text)


@dataclass(frozen=True)
class ModelStatistic:
    """Statistics over all merged tensors of the models, taken before the first of them is merged.

    Attributes:
        each: a tensor's share of them, from the models' tensors in fp32: a small tensor of any shape.
        conclude: what the shares of all tensors, ordered by key, come to.
    """

    per_tensor: Callable[..., Tensor]
    reduce: Callable[[list[Tensor]], Statistics]


@dataclass(frozen=True)
class MethodSpec:
    """What is known of a merge method without running it.

    Attributes:
        name: the name it is registered under.
        function: the pure function itself, on fp32 tensors of one shape.
        models: its models, ``("a", "b")`` or ``("a", "b", "c")``; of a bound one all that are given, in order.
        optional: those of them that may be left out.
        many: whether further models (d, e, f, ...) may follow them; a bound one has its further models in ``models``.
        weights: weight name to range.
        options: option name to what it may be.
        keyed: whether the function is to be told the key of the tensor.
        prepare: the first stage, if there are two.
        prepared_by: those of the weights that the first stage depends on.
        read: models that the second stage still reads; the others may be of any dtype there.
        survey: the statistics of whole models that the function takes, if it takes any.
        elementwise: whether every output number depends only on the input numbers at its place (and on what is
            prepared), so that a tensor may be worked on in pieces.
        selects: whether every number of the result is one of the models' own, so that there is nothing to round.
        fused: whether the result is ``torch.lerp(a, b, alpha)``, which needs no copies in fp32.
        between: whether every number of the result lies between the models' while all weights are in [0, 1].
        pole: the text of what is wrong with a set of weights, or ``None``.
        aliases: names that other programs give it.
        summary: the first line of its docstring.
    """

    name: str
    function: Callable[..., Any]
    models: tuple[str, ...]
    optional: tuple[str, ...]
    many: bool
    weights: Mapping[str, WeightRange]
    options: Mapping[str, Option]
    keyed: bool
    prepare: Callable[..., Prepared] | None
    prepared_by: tuple[str, ...]
    read: tuple[str, ...]
    statistic: ModelStatistic | None
    elementwise: bool
    selects: bool
    fused: bool
    between: bool
    pole: Callable[[Numbers], str | None]
    aliases: tuple[str, ...]
    summary: str

    def takes(self, models: Iterable[str]) -> bool:
        """Whether it can be applied to exactly these models."""
        given, own = set(models), set(self.models)
        if given - own:
            return self.many and own <= given <= set(MODEL_NAMES)
        return own - set(self.optional) <= given

    def check_further(self, models: Iterable[str], prefix: str = "model_") -> None:
        """Refuse models that it does not take, and further ones after a gap; what it needs is not asked for.

        Args:
            models: names of the models that are there; names that are no letters are not looked at.
            prefix: what stands before a model's name where it was given, for the error.

        Raises:
            ConfigError: there is such a model; the text names it and the way out.
        """
        given = set(models).intersection(MODEL_NAMES)
        for name in sorted(given.difference(self.models)):
            if not self.many:
                raise ConfigError(
                    f"{prefix}{name}: method '{self.name}' takes no model {name.upper()}; leave it out, or choose "
                    + (f"one of any number of models: {', '.join(_of_many())}" if max(given) > "c" else "one that does")
                )
            for gap in self.optional:
                if gap not in given:
                    raise ConfigError(
                        f"{prefix}{name}: {self.name} takes its models in order, and there is no {gap.upper()} before "
                        f"{name.upper()}; name this one {prefix}{gap}"
                    )

    def known_models(self, models: Iterable[str]) -> tuple[str, ...]:
        """Its own models, and where it takes any number those of these that follow, and the next one that could."""
        given = set(models)
        further = [name for name in MODEL_NAMES if name not in self.models] if self.many else []
        following = next((name for name in further if name not in given), "")
        return (*self.models, *(name for name in further if name in given or name == following))

    def bind(self, models: Iterable[str], options: Options | None = None) -> MethodSpec:
        """The same method with these options, of exactly the models that are given and those it cannot do without.

        Args:
            models: names of the models that are there.
            options: option name to value; the others keep their defaults.

        Raises:
            ConfigError: an option that the method has not, a value that it cannot be, or a model that it does not take.
        """
        given = set(models)
        self.check_further(given)
        values = {}
        for name, value in (options or {}).items():
            if name not in self.options:
                raise ConfigError(f"options: {self.name} has no option '{name}'; {nearest(name, self.options)}")
            values[name] = self.options[name].read(name, value)
        own = tuple(name for name in self.models if name in given or name not in self.optional)
        kept = own + tuple(name for name in MODEL_NAMES if name in given.difference(own))
        return replace(
            self,
            models=kept,
            optional=(),
            many=False,
            read=kept if self.read == self.models else self.read,
            function=partial(self.function, **values) if values else self.function,
            prepare=_with_options(self.prepare, values),
        )

    def with_statistics(self, statistics: Statistics) -> MethodSpec:
        """The same method for models of which these statistics are known."""
        return replace(self, function=partial(self.function, statistics=statistics), statistic=None)

    def prepared(self, models: Iterable[Tensor], weights: Numbers, key: str = "") -> Prepared | None:
        """The first stage's work on tensors in fp32; ``None`` where the method has only one."""
        if self.prepare is None:
            return None
        needed = {name: weights[name] for name in self.prepared_by}
        if "key" in inspect.signature(self.prepare).parameters:
            return self.prepare(*models, **needed, key=key)
        return self.prepare(*models, **needed)

    def check(self, weights: Numbers, where: str = "") -> None:
        """Refuse weights for which the formula has no meaning.

        Args:
            weights: weight name to number.
            where: the block they belong to, for the error.

        Raises:
            ConfigError: a weight out of its bounds, not finite, or at a pole.
        """
        place = f" of {where}" if where else ""
        for name, value in weights.items():
            bounds = self.weights[name]
            if not (math.isfinite(value) and bounds.least <= value <= bounds.most):
                raise ConfigError(f"{name}{place}: {value} is outside {self.name}'s {_interval(bounds)}")
        if wrong := self.pole(weights):
            raise ConfigError(f"weights{place}: {self.name} {wrong}")

    def stays_between(self, weights: Numbers) -> bool:
        """Whether the result surely lies between the models, so that it cannot overflow."""
        return self.between and all(0 <= value <= 1 for value in weights.values())


def _with_options(prepare: Callable[..., Prepared] | None, options: Options) -> Callable[..., Prepared] | None:
    if prepare is None:
        return None
    known = inspect.signature(prepare).parameters
    taken = {name: value for name, value in options.items() if name in known}
    return partial(prepare, **taken) if taken else prepare


def _interval(bounds: WeightRange) -> str:
    return f"range [{bounds.least:g}, {bounds.most:g}]" if math.isfinite(bounds.least) else "range: give a number"


_SPECS: dict[str, MethodSpec] = {}
_TOLD = ("key", "prepared", "statistics")  # keywords that are neither weights nor options
_FAMILIES = ("linear", "angular", "masks", "sparse", "drops", "centres", "spectral", "matrix", "with_statistics")


def merge_method(
    *,
    elementwise: bool,
    fused: bool = False,
    between: bool = False,
    selects: bool = False,
    prepare: Callable[..., Prepared] | None = None,
    read: tuple[str, ...] | None = None,
    statistic: ModelStatistic | None = None,
    search: Mapping[str, tuple[float, float]] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    choices: Mapping[str, tuple[str, ...]] | None = None,
    pole: Callable[[Numbers], str | None] = lambda weights: None,
    aliases: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Register a merge method and return the function untouched.

    Args:
        elementwise: see ``MethodSpec``.
        fused: see ``MethodSpec``.
        between: see ``MethodSpec``.
        selects: see ``MethodSpec``.
        prepare: see ``MethodSpec``.
        read: see ``MethodSpec``; all models when not said.
        survey: see ``MethodSpec``.
        search: weight name to the range searched by default, [0, 1] when not said.
        bounds: weight name to the range in which the formula has a meaning, all numbers when not said.
        choices: option name to the texts it may be.
        pole: says what is wrong with weights that are each in bounds.
        aliases: names that other programs give it.
    """

    def register(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        models = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _TOLD]
        weights = {
            p.name: WeightRange(p.default, *(search or {}).get(p.name, (0.0, 1.0)), *(bounds or {}).get(p.name, ()))
            for p in keywords
            if isinstance(p.default, float)
        }
        options = {
            p.name: Option(p.default, (choices or {}).get(p.name, ()))
            for p in keywords
            if not isinstance(p.default, float)
        }
        name = function.__name__
        _SPECS[name] = MethodSpec(
            name=name,
            function=function,
            models=tuple(p.name for p in models),
            optional=tuple(p.name for p in models if p.default is not p.empty),
            many=any(p.kind is p.VAR_POSITIONAL for p in parameters),
            weights=weights,
            options=options,
            keyed=any(p.name == "key" for p in parameters),
            prepare=prepare,
            prepared_by=tuple(n for n in weights if prepare and n in inspect.signature(prepare).parameters),
            read=tuple(p.name for p in models) if read is None else read,
            statistic=statistic,
            elementwise=elementwise,
            selects=selects,
            fused=fused,
            between=between,
            pole=pole,
            aliases=aliases,
            summary=(inspect.getdoc(function) or "").partition("\n")[0],
        )
        return function

    return register


def _specs() -> dict[str, MethodSpec]:
    for family in _FAMILIES:
        importlib.import_module(f"bayes_merger.merging.methods.{family}")
    return _SPECS


def _of_many() -> list[str]:
    """The methods that take any number of models."""
    return sorted(name for name, spec in _specs().items() if spec.many)


def _folded(name: str) -> str:
    """``Weighted Sum``, ``weighted-sum`` and ``weightedSum`` are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def method_spec(name: str) -> MethodSpec:
    """What is known of the method called ``name``; the names that other programs use are understood.

    Raises:
        ConfigError: there is no such method.
    """
    specs = _specs()
    if name in specs:
        return specs[name]
    for spec in specs.values():
        if _folded(name) in {_folded(known) for known in (spec.name, *spec.aliases)}:
            return spec
    raise ConfigError(f"method: '{name}' is unknown; {nearest(name, specs)}")


class _Methods(Mapping[str, Callable[..., Any]]):
    """Method name, or the name that another program gives it, to function; filled at first use."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        try:
            return method_spec(name).function
        except ConfigError as error:
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        return iter(_specs())

    def __len__(self) -> int:
        return len(_specs())


METHODS: Mapping[str, Callable[..., Any]] = _Methods()
"""Name (aliases too) to function, of every method."""
