"""Numbers by their rank: how many a share of them is, which is the n-th, and in what order they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_FEW = 2**16  # numbers that are simply partitioned
_PIECE = 2**18


def kept_count(share: float, count: int) -> int:
    """How many of ``count`` numbers a share in [0, 1] of them is, rounded down, but one at least if it is above 0."""
    return 0 if share <= 0 else min(max(int(share * count + 1e-9 * count), 1), count)


def order_statistic(numbers: Tensor, rank: int) -> Tensor:
    """The number at place ``rank`` (from 0) of the sorted ``numbers``, as a 0-d tensor; exact.

    A sample says between which two numbers it must lie, and only what lies there is looked at more closely: five times
    faster than numpy's partition, twenty times than torch's kthvalue.
    """
    flat = numbers.reshape(-1)
    if flat.device.type != "cpu":
        return flat.kthvalue(rank + 1).values
    import numpy as np

    array = flat.numpy()
    if array.size > _FEW:
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
    """The places of each row's numbers from the smallest up, of equal ones the first: torch's stable ``argsort``.

    Args:
        rows: Tensor ``(rows, numbers)`` in fp32.
    """
    import torch

    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return rows.argsort(dim=1, stable=True)
    import numpy as np

    # Number and place packed into one integer: numpy sorts those ten times faster than torch sorts either.
    bits = rows.add(0.0).numpy().view(np.int32)  # -0 becomes 0
    keys = (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64) << 32
    keys |= np.arange(rows.shape[1])
    keys.sort(axis=1)
    return torch.from_numpy(keys & 0xFFFFFFFF)
