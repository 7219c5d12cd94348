"""How models differ, tensor by tensor: read as a stream, a few megabytes in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.checkpoints.checkpoint import Checkpoint, torch_dtypes
from bayes_merger.checkpoints.header import FLOATS
from bayes_merger.merging.plan.costs import CHUNK
from bayes_merger.merging.plan.routing import Checkpoints

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[str, str]
"""Two models by name; the first is the one that is measured against."""

_PIECE = CHUNK // 4  # numbers; of up to three models and a difference, so that all stay in a core's cache
_RELEASE = 2**23  # numbers read of a model that is mapped, before its memory is released


@dataclass(frozen=True)
class Sums:
    """Sums over numbers that two models both have, from which all measures follow; those of parts add up.

    Attributes:
        tensors: how many there are.
        identical: how many of them are equal, number by number, also where their dtypes differ.
        numbers: in all tensors.
        first: squares of the first model's numbers.
        second: squares of the second's.
        apart: squares of their differences.
    """

    tensors: int = 0
    identical: int = 0
    numbers: int = 0
    first: float = 0.0
    second: float = 0.0
    apart: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Sums)))

    @property
    def cosine(self) -> float:
        """Of the angle between the two models' numbers, seen as vectors; NaN where one is all zeros."""
        # a.b = (|a|^2 + |b|^2 - |b - a|^2) / 2
        length = math.sqrt(self.first * self.second)
        return (self.first + self.second - self.apart) / 2 / length if length else math.nan

    @property
    def relative(self) -> float:
        """The norm of the difference as a share of the first model's norm; NaN where that is 0."""
        return math.sqrt(self.apart / self.first) if self.first else math.nan


@dataclass(frozen=True)
class Row:
    """A tensor that at least two of the models have in one shape.

    Attributes:
        key: its name in model A, or in the first model that has it.
        place: its slot (``TE``, ``VAE``, ...) where it has one, else its block, else its role (``ema``, ``other``).
        part: of the block, such as ``attn1``.
        matrix: whether it is one of the network's or its text encoders' weights with more than one dimension. Norms
            and biases are alike in any two models.
        sums: of each two models.
    """

    key: str
    place: str
    part: str
    matrix: bool
    sums: Mapping[Pair, Sums]


@dataclass
class Difference:
    """How models differ.

    Attributes:
        models: name to opened file.
        rows: the tensors that were compared.
        broken: those that were not, since a number is no number or infinite: model and key.
        lacking: model to the keys that others have and it has not.
        shapes: the keys of another shape in one of the models.
    """

    models: Checkpoints
    rows: list[Row] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    @property
    def pairs(self) -> list[Pair]:
        """Each two models; C, the possible ancestor, is what A and B are measured against."""
        return pairs_of(self.models)

    @cached_property
    def lacking(self) -> dict[str, list[str]]:
        """Model -> the keys that another has and it has not."""
        return {name: [k for k in _keys(self.models) if k not in m.shapes] for name, m in self.models.items()}

    @cached_property
    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Key -> model -> shape, where these differ."""
        found = {k: {n: m.shapes[k] for n, m in self.models.items() if k in m.shapes} for k in _keys(self.models)}
        return {key: shapes for key, shapes in found.items() if len(set(shapes.values())) > 1}

    def total(self, pair: Pair, rows: Iterable[Row] | None = None) -> Sums:
        """The sums of two models over some rows, all by default."""
        return sum((row.sums[pair] for row in (self.rows if rows is None else rows) if pair in row.sums), Sums())

    def grouped(self, name: Callable[[Row], str]) -> dict[str, list[Row]]:
        """The rows by a name that each is given."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(name(row), []).append(row)
        return found

    def agreement(self, corner: str, rows: Iterable[Row] | None = None) -> float:
        """The cosine of the angle at one of three models between the ways to the two others; NaN where one is equal.

        At a common ancestor of two models that were trained apart it is about 0, at a merge of the two others -1, and
        1/2 at each of three siblings that went equally far.
        """
        rows = self.rows if rows is None else list(rows)
        ends = [name for name in self.models if name != corner]
        apart = {frozenset(pair): self.total(pair, rows).apart for pair in self.pairs}
        # law of cosines: |y - z|^2 = |y - x|^2 + |z - x|^2 - 2 (y - x).(z - x)
        one, two = (apart[frozenset((corner, end))] for end in ends)
        length = math.sqrt(one * two)
        return (one + two - apart[frozenset(ends)]) / 2 / length if length else math.nan


def pairs_of(models: Iterable[str]) -> list[Pair]:
    """Each two models by name; what A and B are compared with comes first."""
    return [(y, x) if y == "c" else (x, y) for x, y in combinations(models, 2)]


def difference(models: Checkpoints, step: Callable[[int, int], None] = lambda done, total: None) -> Difference:
    """Compare two or three models.

    Args:
        models: name (``a``, ``b``, ``c``) to opened file, under model A's names for the same tensors.
        step: told how many tensors of how many are done.

    Raises:
        CheckpointError: a file cannot be read, or model A is of no known architecture.
    """
    found = Difference(models)
    architecture = models["a"].architecture
    keys, buffers = _keys(models), _Buffers()
    for number, key in enumerate(keys):
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for name, model in models.items():
            if key in model.shapes and model.dtypes[key] in FLOATS and 0 not in model.shapes[key]:
                by_shape.setdefault(model.shapes[key], []).append(name)
        for names in by_shape.values():
            if len(names) > 1:
                _compare(found, architecture, key, {name: models[name] for name in names}, buffers)
        step(number + 1, len(keys))
    return found


def _keys(models: Checkpoints) -> list[str]:
    return list(dict.fromkeys(key for model in models.values() for key in model.shapes))


def _compare(found: Difference, architecture: Architecture, key: str, models: Checkpoints, buffers: _Buffers) -> None:
    """Add a tensor's row, or say that it is broken."""
    squares = dict.fromkeys(models, 0.0)
    apart = dict.fromkeys(pairs_of(models), 0.0)
    equal = dict.fromkeys(apart, True)
    for pieces in buffers.pieces(key, models):
        for name, piece in pieces.items():
            squares[name] += float(piece.dot(piece))
        for one, two in apart:
            gap = buffers.between(pieces[one], pieces[two])
            square = float(gap.dot(gap))
            apart[one, two] += square
            equal[one, two] &= square == 0 and not gap.any()
    if broken := [name for name, square in squares.items() if not math.isfinite(square)]:
        found.broken += [(name, key) for name in broken]
        return
    place, count = architecture.place(key), math.prod(next(iter(models.values())).shapes[key])
    matrix = place.role == "block" and len(next(iter(models.values())).shapes[key]) > 1
    sums = {
        pair: Sums(1, int(equal[pair]), count, squares[pair[0]], squares[pair[1]], square)
        for pair, square in apart.items()
    }
    named = place.slot or place.block or place.role
    found.rows.append(Row(key, named, architecture.part(key), matrix, sums))


class _Buffers:
    """Memory for pieces of tensors, made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Tensor] = {}
        self._read = 0

    def pieces(self, key: str, models: Checkpoints) -> Iterator[dict[str, Tensor]]:
        """A tensor of several models in fp32, so many numbers at a time; each piece overwrites the one before."""
        count = math.prod(next(iter(models.values())).shapes[key])
        whole = {name: m.tensor(key).view(-1) for name, m in models.items() if not m.has_parts}
        for begin in range(0, count, _PIECE):
            size = min(_PIECE, count - begin)
            yield {
                name: self._wide(name, whole[name][begin : begin + size] if name in whole else
                                 self._part(name, model, key, begin, size))
                for name, model in models.items()
            }  # fmt: skip
        self._read += count if whole else 0
        if self._read > _RELEASE:
            self._read = 0
            for model in models.values():
                model.release()

    def between(self, one: Tensor, two: Tensor) -> Tensor:
        """The second less the first."""
        import torch

        return torch.sub(two, one, out=self._flat("", "F32", one.numel()))

    def _part(self, name: str, model: Checkpoint, key: str, begin: int, size: int) -> Tensor:
        out = self._flat(name, model.dtypes[key], size)
        model.read_part(key, begin, out)
        return out

    def _wide(self, name: str, piece: Tensor) -> Tensor:
        import torch

        if piece.dtype == torch.float32:
            return piece
        return self._flat(f"{name} wide", "F32", piece.numel()).copy_(piece)

    def _flat(self, name: str, dtype: str, size: int) -> Tensor:
        import torch

        if (name, dtype) not in self._made:
            self._made[name, dtype] = torch.empty(_PIECE, dtype=torch_dtypes()[dtype])
        return self._made[name, dtype][:size]
