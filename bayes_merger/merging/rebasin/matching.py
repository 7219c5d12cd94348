"""Finding the order in which a model's neurons are most like another's: Git Re-Basin (Ainsworth et al., 2209.04836).

By weights, maximised is the inner product of all weights of A with B's in the new order, sum <W_A, P_out W_B P_in^T>,
by coordinate descent: the order of one space at a time, which is a linear assignment, until no order changes (their
algorithm 1). Where it ends depends on how it begins: in a first round, each space is compared by those tensors alone
whose other neurons came before, which finds the way through noise as large as the weights. By activations, it is the
correlation of what A's neurons and B's answer to the same inputs, sum <P, Z_A Z_B^T>, in each space by itself (their
section 3.1). Orders stay within what changes nothing: neurons within their cells, and whole cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.spaces import Axis, Space

if TYPE_CHECKING:
    import numpy
    from torch import Tensor

ROUNDS = 100
"""At most; a few are usual, since a space is looked at again only where a neighbour's order has changed."""

_LEAST = 1e-6  # a gain that counts, relative to all inner products: less is rounding of fp32


@dataclass(frozen=True)
class _Found:
    """The best order of a space's neurons, as they stand.

    Attributes:
        orders: of each track.
        gains: whether it gains anything.
        is_clear: whether it gains more than the order as they stand does over a random one.
    """

    orders: list[Tensor]
    gains: bool
    is_clear: bool


def match_weights(
    a: Checkpoint,
    b: Checkpoint,
    spaces: Sequence[Space],
    names_a: Mapping[str, str],
    names_b: Mapping[str, str],
    progress: Callable[[int, int, int], None] | None = None,
    *,
    anchored: bool = True,
) -> Permutation:
    """The order of B's neurons that is most like A's; the same files give the same order.

    One tensor of each model is in memory at a time, in fp32, and one matrix of neurons by neurons.

    Args:
        a: the model to be like.
        b: the model whose neurons are permuted.
        spaces: of B.
        names_a: key as spaces have it -> A's own; of the tensors that are compared.
        names_b: the same of B.
        progress: called as `progress(round, done, spaces)`, where rounds count from 1.
        anchored: whether the first round is as said above; it was not when the first recipes were written.

    Raises:
        CheckpointError: weights so large that their products are infinite.
    """
    permutation = Permutation(spaces)
    waiting = {space.name for space in spaces}
    stale = set(waiting)  # where something has changed since they were looked at: others would gain nothing
    neighbours = _neighbours(spaces)

    def best(space: Space) -> _Found:
        pairs = _by_weights(space, lambda key: _pair(a, b, key, names_a, names_b, permutation))
        return _best(space, pairs, "weights")

    for done, (space, part) in enumerate(_anchored(spaces, b, names_b) if anchored else (), start=1):
        found = best(part)
        if found.is_clear:
            permutation.reorder(space, found.orders)
        if part == space and found.is_clear == found.gains:
            stale.remove(space.name)
        if progress:
            progress(1, done, len(spaces))
    for number in range(1 + anchored, ROUNDS + 1):
        todo, waiting = waiting, set()
        for done, space in enumerate((space for space in spaces if space.name in todo), start=1):
            if space.name in stale:
                stale.remove(space.name)
                found = best(space)
                if found.gains:
                    permutation.reorder(space, found.orders)
                    waiting |= neighbours[space.name]
                    stale |= neighbours[space.name]
            if progress:
                progress(number, done, len(todo))
        if not waiting:
            break
    return permutation


def _anchored(spaces: Sequence[Space], b: Checkpoint, names_b: Mapping[str, str]) -> Iterator[tuple[Space, Space]]:
    """Each space, and it with those tensors alone whose other neurons came before; the one with most of them first."""
    unknown = Counter(key for space in spaces for key in space.keys)  # spaces that have it and did not come yet
    size = {key: math.prod(b.shapes[names_b[key]]) for key in unknown}
    todo = list(spaces)

    def share(space: Space) -> float:
        known = sum(size[key] for key in space.keys if unknown[key] == 1)
        return known / max(1, sum(size[key] for key in space.keys))

    while todo:
        space = max(todo, key=share)
        todo.remove(space)
        tracks = (tuple(axis for axis in track if unknown[axis.key] == 1) for track in space.tracks)
        yield space, replace(space, tracks=tuple(tracks))
        unknown.subtract(space.keys)


def match_activations(
    spaces: Sequence[Space],
    answers: Callable[[str, int], tuple[Tensor, Tensor] | None],
    progress: Callable[[int, int, int], None] | None = None,
) -> Permutation:
    """The order of B's neurons whose answers correlate best with those of A's.

    Args:
        spaces: of B.
        answers: gives, for a space's name and the number of its track, what A's neurons and B's answered to the same
            inputs, each ``[samples, neurons]``; none where nothing was seen.
        progress: as for `match_weights`, of one round.

    Raises:
        CheckpointError: answers that are infinite.
    """
    permutation = Permutation(spaces)
    for done, space in enumerate(spaces, start=1):
        tracks = ([pair] if (pair := answers(space.name, track)) else [] for track in range(len(space.tracks)))
        found = _best(space, [[(_unit(one), _unit(other)) for one, other in pairs] for pairs in tracks], "answers")
        if found.gains:
            permutation.reorder(space, found.orders)
        if progress:
            progress(1, done, len(spaces))
    return permutation


def _unit(answers: Tensor) -> Tensor:
    """What each neuron answered, a row each, so that inner products are correlations; zero where it is constant."""
    import torch

    rows = answers.float().T
    rows = rows - rows.mean(1, keepdim=True)
    return torch.nn.functional.normalize(rows)


def likeness(
    a: Checkpoint, b: Checkpoint, names_a: Mapping[str, str], names_b: Mapping[str, str], permutation: Permutation
) -> float:
    """The cosine of A's weights and B's in the new order, of all tensors that have neurons: 1 for equal models."""
    product = one_squared = other_squared = 0.0
    for key in sorted(permutation.keys):
        pair = _pair(a, b, key, names_a, names_b, permutation)
        if pair is not None:
            one, other = (tensor.flatten() for tensor in pair)
            product += float(one @ other)
            one_squared += float(one @ one)
            other_squared += float(other @ other)
    return product / math.sqrt(one_squared * other_squared) if one_squared and other_squared else 0.0


def _neighbours(spaces: Sequence[Space]) -> dict[str, set[str]]:
    """The spaces that share a tensor with each."""
    having: dict[str, set[str]] = {}
    for space in spaces:
        for key in space.keys:
            having.setdefault(key, set()).add(space.name)
    return {space.name: set().union(*(having[key] for key in space.keys)) - {space.name} for space in spaces}


def _pair(
    a: Checkpoint,
    b: Checkpoint,
    key: str,
    names_a: Mapping[str, str],
    names_b: Mapping[str, str],
    permutation: Permutation,
) -> tuple[Tensor, Tensor] | None:
    """A tensor of A, and B's as it stands; none where A has no such tensor. Those before need not be in memory."""
    a.release()
    b.release()
    own_a, own_b = names_a.get(key, ""), names_b[key]
    if own_a not in a.shapes:
        return None
    return a.tensor(own_a).float(), permutation.apply(key, b.tensor(own_b)).float()


_Pairs = Iterable[tuple["Tensor", "Tensor"]]  # numbers of A's neurons and of B's, a row each


def _by_weights(space: Space, pair: Callable[[str], tuple[Tensor, Tensor] | None]) -> list[_Pairs]:
    """The numbers of a space's neurons in all tensors that have them, for each track; a tensor at a time."""

    def rows(track: Sequence[Axis]) -> _Pairs:
        for axis in track:
            if (found := pair(axis.key)) is not None:
                one, other = (_neurons(tensor, axis, space.size) for tensor in found)
                yield one, other

    return [rows(track) for track in space.tracks]


def _best(space: Space, pairs: Sequence[_Pairs], what: str) -> _Found:
    """The best order of the neurons of a space.

    Args:
        space: the space.
        pairs: what its neurons are compared by, for each track.
        what: that is, for users.

    Raises:
        CheckpointError: an inner product is infinite.
    """
    import torch

    # likeness[i, j]: of A's neuron i and B's neuron j, summed over all that they are compared by
    tracks = [_likeness(space, some, what) for some in pairs]
    orders, after = _exchanged(space, tracks) if space.exchange else _within(space, tracks[0])
    before = sum(float(block.diagonal().sum()) for blocks in tracks for block in _diagonal(space, blocks))
    scale = sum(float(abs(block.diagonal()).sum()) for blocks in tracks for block in _diagonal(space, blocks))
    places = [(block, space.size if space.exchange else len(block)) for blocks in tracks for block in blocks.values()]
    random = sum(float(block.sum()) / count for block, count in places)  # what an order is expected to have
    gains = after - before > _LEAST * max(scale, abs(after))
    return _Found([torch.from_numpy(order) for order in orders], gains, gains and after - before > before - random)


_Blocks = dict[tuple[int, int], "numpy.ndarray"]  # cell of A, cell of B -> their neurons' likeness


def _diagonal(space: Space, blocks: _Blocks) -> Iterator[numpy.ndarray]:
    return (blocks[cell, cell] for cell in range(len(space.cells)))


def _likeness(space: Space, pairs: _Pairs, what: str) -> _Blocks:
    """The likeness of the neurons of all cells that may stand in each other's place."""
    import torch

    cells = torch.arange(space.size).split(space.cells)
    sums = [torch.zeros(len(cell), space.size if space.exchange else len(cell)) for cell in cells]
    for one, other in pairs:
        if space.exchange or len(cells) == 1:
            for part, rows in zip(sums, (one @ other.T).split(space.cells), strict=True):
                part += rows
        else:
            for part, cell in zip(sums, cells, strict=True):
                part += one[cell] @ other[cell].T
    if not all(part.isfinite().all() for part in sums):
        raise CheckpointError(
            f"{space.name}: the {what} are too large to be compared; one of these models is broken, use another"
        )
    if not space.exchange:
        return {(number, number): part.double().numpy() for number, part in enumerate(sums)}
    return {
        (number, other): block.double().numpy()
        for number, part in enumerate(sums)
        for other, block in enumerate(part.split(space.cells, dim=1))
    }


def _neurons(tensor: Tensor, axis: Axis, size: int) -> Tensor:
    """The numbers of each neuron in a tensor, a row each."""
    return tensor.narrow(axis.dim, axis.offset, size).movedim(axis.dim, 0).reshape(size, -1)


def _within(space: Space, blocks: _Blocks) -> tuple[list[numpy.ndarray], float]:
    """The best order where cells stay in their places, and its likeness."""
    import numpy
    from scipy.optimize import linear_sum_assignment

    order, total, offset = [], 0.0, 0
    for number, size in enumerate(space.cells):
        rows, columns = linear_sum_assignment(blocks[number, number], maximize=True)
        total += float(blocks[number, number][rows, columns].sum())
        order.append(columns + offset)
        offset += size
    return [numpy.concatenate(order)], total


def _exchanged(space: Space, tracks: Sequence[_Blocks]) -> tuple[list[numpy.ndarray], float]:
    """The best order where whole cells change places, too: first within each pair of cells, then of the cells."""
    import numpy
    from scipy.optimize import linear_sum_assignment

    count, size = len(space.cells), space.cells[0]
    likeness = numpy.zeros((count, count))
    inside = [{pair: linear_sum_assignment(block, maximize=True)[1] for pair, block in blocks.items()}
              for blocks in tracks]  # fmt: skip
    for blocks, best in zip(tracks, inside, strict=True):
        for (one, other), block in blocks.items():
            likeness[one, other] += block[numpy.arange(size), best[one, other]].sum()
    _, chosen = linear_sum_assignment(likeness, maximize=True)
    orders = [
        numpy.concatenate([best[one, int(other)] + size * int(other) for one, other in enumerate(chosen)])
        for best in inside
    ]
    return orders, float(likeness[numpy.arange(count), chosen].sum())
