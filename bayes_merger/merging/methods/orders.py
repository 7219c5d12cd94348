"""Ranks of numbers: the count of a share, order statistics, and a stable sort order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_SMALL = 2**16  # up to so many numbers are partitioned directly
_PIECE = 2**18  # numbers compared at a time


def kept_count(share: float, count: int) -> int:
    """How many of ``count`` numbers make up a share in [0, 1], rounded down; at least one if the share is above 0."""
    return 0 if share <= 0 else min(max(int(share * count + 1e-9 * count), 1), count)


def order_statistic(numbers: Tensor, rank: int) -> Tensor:
    """The number of rank ``rank`` (from 0) in ascending order, as a 0-d tensor; exact.

    A sorted sample gives a lower and an upper bound, and only the numbers between them are partitioned: five times
    faster than numpy's partition of all, twenty times faster than torch's kthvalue.
    """
    flat = numbers.reshape(-1)
    if flat.device.type != "cpu":
        return flat.kthvalue(rank + 1).values
    import numpy as np

    array = flat.numpy()
    if array.size > _SMALL:
        sample = np.sort(array[:: array.size // 2**14])
        place, slack = rank / array.size * sample.size, 4 * sample.size**0.5
        low = sample[max(int(place - slack), 0)] if place > slack else -np.inf
        high = sample[int(place + slack)] if place + slack < sample.size else np.inf
        below, between = 0, []
        for begin in range(0, array.size, _PIECE):
            piece = array[begin : begin + _PIECE]
            below += int(np.count_nonzero(piece < low))
            between.append(piece[(piece >= low) & (piece <= high)])
        near = np.concatenate(between)
        if below <= rank < below + near.size:
            array, rank = near, rank - below
    return flat.new_tensor(np.partition(array, rank)[rank])


def stable_order(rows: Tensor) -> Tensor:
    """The indices that sort each row in ascending order, equal numbers in their order: torch's stable ``argsort``.

    Args:
        rows: Tensor ``(rows, numbers)`` in fp32.
    """
    import torch

    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return rows.argsort(dim=1, stable=True)
    import numpy as np

    # Number and index packed into one integer: numpy sorts those ten times faster than torch sorts either.
    bits = rows.add(0.0).numpy().view(np.int32)  # -0 becomes 0
    keys = (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64) << 32
    keys |= np.arange(rows.shape[1])
    keys.sort(axis=1)
    return torch.from_numpy(keys & 0xFFFFFFFF)
