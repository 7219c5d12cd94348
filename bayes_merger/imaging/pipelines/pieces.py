"""Feed-forward layers that work on a few tokens at a time, whose wide middle then stays in the processor's cache.

A token's answer depends on no other token, and one thread computes it in fp32 alike however many are beside it, as long
as they are more than a few: pictures are those of whole layers, bit for bit. Several threads, and half precision, add
up in an order that the number of tokens decides: they work on all at once. On a GPU many at once are faster.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor

_FEWEST = 256  # tokens: fewer cost more calls than they save, and matrices of a few rows are computed otherwise
_CACHED = 1 << 20  # bytes: half of what a core of today's processors has to itself


class InPieces(FeedForward):  # type: ignore[misc]
    """A feed-forward layer."""

    def forward(self, hidden_states: Tensor, *rest: Any, **others: Any) -> Tensor:
        """The answer to tokens: shape `(..., width)`."""
        tokens = hidden_states.flatten(0, -2)
        most = max(_FEWEST, _CACHED // (8 * self.net[2].in_features))  # a gate of as many numbers is beside them
        pieces = math.ceil(len(tokens) / most)
        if pieces == 1 or not _is_exact(tokens) or torch.is_grad_enabled():
            answer: Tensor = super().forward(hidden_states, *rest, **others)
            return answer
        parent = super().forward
        return torch.cat([parent(piece) for piece in tokens.tensor_split(pieces)]).view(*hidden_states.shape[:-1], -1)


def _is_exact(tokens: Tensor) -> bool:
    """Whether pieces have the bits of the whole."""
    return tokens.dtype == torch.float32 and torch.get_num_threads() == 1
