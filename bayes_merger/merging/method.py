"""What a merge method is: a function whose signature names its models, its weights and their defaults.

Positional arguments are the models (those with the default ``None`` are optional), keyword-only ones the weights that
can be searched and, where the default is a text or a whole number, options that hold for a whole merge. The simplest
method needs nothing but the decorator; as ``merge_methods/halfway.py`` of the working folder this is all of it::

    from bayes_merger.merging import merge_method

    @merge_method
    def gentle_sum(a, b, *, alpha=0.5):
        'A moved towards B, least where they differ most: A + alpha d / (1 + |d|) with d = B - A.'
        step = b - a
        return a + alpha * step / (1 + step.abs())

``merge``, ``plan``, ``run`` and ``merge --help`` find it without further steps; `bayes_merger.testing.methods` tests
it. What the decorator's arguments promise, like ``elementwise=True``, makes a method faster::

    @merge_method(elementwise=True)
    def add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0) -> Tensor: ...

    @merge_method(choices={"vote": ("sum", "count")})
    def ties(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 1.0, vote: str = "sum") -> Tensor: ...

``*more`` takes any number of further models, d, e, f and so on::

    @merge_method(elementwise=True)
    def n_average(a: Tensor, b: Tensor, c: Tensor | None = None, *more: Tensor, alpha: Weight = 1.0) -> Tensor: ...

A keyword called ``key`` receives the tensor's name, from which random methods seed their generator, besides ``seed``.

**Two stages.** Costly work that does not depend on all of the weights (lengths, sorts, decompositions) goes into a
separate function, which takes the models and, by keyword, those weights and options that it depends on (and ``key``).
The method receives its result by a keyword called ``prepared``, and calls it itself where that is ``None``::

    def _lengths(a: Tensor, b: Tensor) -> Prepared: ...

    @merge_method(elementwise=True, prepare=_lengths)
    def slerp(a: Tensor, b: Tensor, *, alpha: Weight = 0.5, prepared: Prepared | None = None) -> Tensor:
        angle, length_a, length_b = prepared or _lengths(a, b)

A search then runs the first stage once per tensor. Both ways give the same bits, since it is the same code. Where
there are two stages, ``elementwise`` describes the second.

**Statistics of the whole model** are a ``ModelStatistic``: each tensor's share of them, and how the shares are reduced.
The method receives them by a keyword called ``statistics``; without, the tensor at hand is the whole model.

Importing this module is light: the functions themselves (and torch) are loaded by the first call that needs them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import math
import pkgutil
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.own_files import OWN_METHODS, run_files, shown
from bayes_merger.merging.parameters import Cost, ModelStatistic, Option, Prepared, Statistics, WeightRange

if TYPE_CHECKING:
    from torch import Tensor

MODEL_NAMES = tuple(string.ascii_lowercase)
"""What the models of a merge are called, in order."""

Numbers = Mapping[str, float]
Options = Mapping[str, str | int]

log = logging.getLogger(__name__)


def _no_pole(weights: Numbers) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """What is known about a merge method without running it.

    Attributes:
        name: the name it is registered under.
        function: the pure function itself, on fp32 tensors of one shape.
        models: its models, ``("a", "b")`` or ``("a", "b", "c")``; of a bound one all that are given, in order.
        optional: those of them that may be left out.
        many: whether further models (d, e, f, ...) may follow them; a bound one has its further models in ``models``.
        weights: weight name to range.
        tensors: those of the weights that may differ from number to number of a tensor.
        options: option name to its values.
        keyed: whether the function takes the tensor's name, by a keyword called ``key``.
        prepare: the first stage, if there are two.
        prepared_by: those of the weights that the first stage depends on.
        read: models that the second stage still reads; the others may be of any dtype there.
        statistic: the statistics of whole models that the function takes, if it takes any.
        elementwise: whether every output number depends only on the input numbers at its place (and on what is
            prepared), so that a tensor may be worked on in pieces.
        selects: whether every number of the result is one of the models' own, so that there is nothing to round.
        fused: whether the result is ``torch.lerp(a, b, alpha)``, which needs no copies in fp32.
        between: whether every number of the result lies between the models' while all weights are in [0, 1].
        linear: whether the result is a sum of the models, each times a number, so that NaN and infinity in a model stay
            what they are; other methods may hide them, and their models are checked.
        adds_difference: whether the result is A and a share of B - C, so that A alone decides what it predicts.
        pole: what is wrong with a set of weights as text, or ``None`` if they are valid.
        cost: time and memory.
        aliases: names that other programs use for it.
        summary: the first line of its docstring.
        source: the file it comes from, if it is not one of ours.
        sha256: of that file.
    """

    name: str
    function: Callable[..., Any]
    models: tuple[str, ...]
    optional: tuple[str, ...]
    many: bool
    weights: Mapping[str, WeightRange]
    tensors: frozenset[str]
    options: Mapping[str, Option]
    keyed: bool
    prepare: Callable[..., Prepared] | None
    prepared_by: tuple[str, ...]
    read: tuple[str, ...]
    statistic: ModelStatistic | None = None
    elementwise: bool = False
    selects: bool = False
    fused: bool = False
    between: bool = False
    linear: bool = False
    adds_difference: bool = False
    pole: Callable[[Numbers], str | None] = _no_pole
    cost: Cost
    aliases: tuple[str, ...] = ()
    summary: str
    source: Path | None = None
    sha256: str = ""

    def takes(self, models: Iterable[str]) -> bool:
        """Whether it can be applied to exactly these models."""
        given, own = set(models), set(self.models)
        if given - own:
            return self.many and own <= given <= set(MODEL_NAMES)
        return own - set(self.optional) <= given

    def check_further(self, models: Iterable[str], prefix: str = "model_") -> None:
        """Refuse models that it does not take, and further ones after a gap; missing models are not looked for.

        Args:
            models: names of the models that are given; names that are not letters are ignored.
            prefix: what precedes a model's name in the user's setting, for the error.

        Raises:
            ConfigError: such a model is given; the text names it and the way out.
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
        """The same method with these options, for exactly the models that are given and those it requires.

        A method from outside the package is named in the log, once per process.

        Args:
            models: names of the models that are given.
            options: option name to value; the others keep their defaults.

        Raises:
            ConfigError: an option the method does not have, a value it does not accept, or a model it does not take.
        """
        if self.source:
            _announce(self.name, self.source)
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
        """The same method for models with these statistics."""
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
        """Refuse weights for which the formula is not defined.

        Args:
            weights: weight name to number.
            where: the block they belong to, for the error.

        Raises:
            ConfigError: a weight outside its bounds, not finite, or at a pole.
        """
        place = f" of {where}" if where else ""
        for name, value in weights.items():
            bounds = self.weights[name]
            if not (math.isfinite(value) and bounds.least <= value <= bounds.most):
                raise ConfigError(f"{name}{place}: {value} is outside {self.name}'s {_interval(bounds)}")
        if wrong := self.pole(weights):
            raise ConfigError(f"weights{place}: {self.name} {wrong}")


def _with_options(prepare: Callable[..., Prepared] | None, options: Options) -> Callable[..., Prepared] | None:
    if prepare is None:
        return None
    known = inspect.signature(prepare).parameters
    taken = {name: value for name, value in options.items() if name in known}
    return partial(prepare, **taken) if taken else prepare


def _interval(bounds: WeightRange) -> str:
    return f"range [{bounds.least:g}, {bounds.most:g}]" if math.isfinite(bounds.least) else "range: give a number"


@functools.cache
def _announce(name: str, source: Path) -> None:
    log.warning("note: the merge method '%s' comes from %s", name, shown(source))


_SPECS: dict[str, MethodSpec] = {}
_loaded: list[Path] = []  # the folder whose methods are registered


def register(spec: MethodSpec) -> None:
    """Register a method; one from outside the package may not take a name that is in use.

    Raises:
        ConfigError: the name is in use.
    """
    if spec.source:
        _load_package()
        names = {_folded(name) for name in (spec.name, *spec.aliases)}
        for other in _SPECS.values():
            again = (other.name, other.function.__module__) == (spec.name, spec.function.__module__)
            if not again and not names.isdisjoint(_folded(name) for name in (other.name, *other.aliases)):
                owner = shown(other.source) if other.source else "bayes-merger"
                raise ConfigError(
                    f"{shown(spec.source)}: the merge method '{spec.name}' shares a name with '{other.name}' of "
                    f"{owner}; give it another one"
                )
    _SPECS[spec.name] = spec


@functools.cache
def _load_package() -> None:
    package = importlib.import_module("bayes_merger.merging.methods")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def _specs() -> dict[str, MethodSpec]:
    """All methods: the package's, those that are registered by a script, and those of the working folder."""
    _load_package()
    folder = Path.cwd() / OWN_METHODS
    if _loaded != [folder]:
        _forget()
        _loaded[:] = [folder]  # set before they are run: a file of methods may itself look up others
        try:
            run_files(folder, lambda path: any(spec.source == path for spec in _SPECS.values()))
        except BaseException:
            _forget()
            raise
    return _SPECS


def known_methods() -> list[str]:
    """The package's methods by name; nothing of the working folder is run."""
    _load_package()
    return sorted(name for name, spec in _SPECS.items() if not spec.source)


def _forget() -> None:
    """Remove the methods of the previous working folder."""
    for name in [spec.name for spec in _SPECS.values() if spec.source and spec.source.parent in _loaded]:
        del _SPECS[name]
    _loaded.clear()


def _of_many() -> list[str]:
    """The methods that take any number of models."""
    return sorted(name for name, spec in _specs().items() if spec.many)


def _folded(name: str) -> str:
    """``Weighted Sum``, ``weighted-sum`` and ``weightedSum`` are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def method_spec(name: str) -> MethodSpec:
    """The method called ``name``; the names that other programs use are accepted.

    Raises:
        ConfigError: the method does not exist, or a file in the working folder's merge_methods/ is faulty.
    """
    specs = _specs()
    if name in specs:
        return specs[name]
    for spec in specs.values():
        if _folded(name) in {_folded(known) for known in (spec.name, *spec.aliases)}:
            return spec
    raise ConfigError(f"method: '{name}' is unknown; {nearest(name, specs)}")


def own_sources(methods: Iterable[str]) -> dict[str, str]:
    """Name to the SHA-256 of the source file, for each of these methods that is not the package's."""
    specs = [method_spec(name) for name in methods]
    return {spec.name: spec.sha256 for spec in specs if spec.source}


class _Methods(Mapping[str, Callable[..., Any]]):
    """Method name, or the name that another program uses for it, to function; filled at first use."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        _specs()  # a faulty file is not a missing key
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
