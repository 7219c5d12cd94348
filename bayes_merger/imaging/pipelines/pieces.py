"""Feed-forward layers that work on a few tokens at a time, whose wide middle then stays in the processor's cache.

A token's answer depends on no other token, and one thread computes it in fp32 alike however many are beside it, as long
as they are more than a few: pictures are those of whole layers, bit for bit. Several threads, and half precision, add
up in an order that the number of tokens decides: they work on all at once. On a GPU many at once are faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_CACHED = 1 << 20  # bytes: half of what a core of today's processors has to itself
_FEWEST = 256  # tokens: fewer cost more calls than they save, and matrices of a few rows are computed otherwise


class InPieces(nn.Module):
    """A feed-forward layer of diffusers, with the same parameters under the same names.

    Attributes:
        net: the layers that follow each other.
        whole: whether all tokens are computed at once.
    """

    def __init__(self, net: nn.ModuleList) -> None:
        super().__init__()
        self.net = net
        self.whole = False
        inner = net[2]
        assert isinstance(inner, nn.Linear)
        self._most = max(_FEWEST, _CACHED // (8 * inner.in_features))  # a gate of as many numbers is beside them

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The answer to tokens: shape `(..., width)`."""
        tokens = hidden_states.flatten(0, -2)
        pieces = math.ceil(len(tokens) / self._most)
        if self.whole or pieces == 1 or not _is_exact(tokens) or torch.is_grad_enabled():
            return self._answer(hidden_states)
        answers = [self._answer(piece) for piece in tokens.tensor_split(pieces)]
        return torch.cat(answers).view(*hidden_states.shape[:-1], -1)

    def _answer(self, tokens: Tensor) -> Tensor:
        for layer in self.net:
            tokens = layer(tokens)
        return tokens


def _is_exact(tokens: Tensor) -> bool:
    """Whether pieces have the bits of the whole."""
    return tokens.dtype == torch.float32 and torch.get_num_threads() == 1


def take_in_pieces(network: nn.Module) -> None:
    """Let all feed-forward layers of a network work so; its parameters stay what and where they are."""
    from diffusers.models.attention import FeedForward

    for name, layer in list(network.named_modules()):
        if isinstance(layer, FeedForward):
            network.set_submodule(name, InPieces(layer.net))


@contextmanager
def in_one_piece(network: nn.Module) -> Iterator[None]:
    """For whoever watches a network's layers: each of them sees all of a call at once."""
    layers = [layer for layer in network.modules() if isinstance(layer, InPieces)]
    for layer in layers:
        layer.whole = True
    try:
        yield
    finally:
        for layer in layers:
            layer.whole = False
