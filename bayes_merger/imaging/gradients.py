"""How much a live denoiser's answer depends on each of its weights, by gradients in calls that it was seen to make.

The Gauss-Newton diagonal of the denoising loss: for a random `z` of normal numbers, the mean over calls of
`(d <answer, z> / d w)^2` is the mean squared effect of `w` on the answer. It needs no target, and is the Fisher
information of https://arxiv.org/abs/2111.09832 with targets drawn from the model itself. Of each matrix only the means
of its rows and of its columns are kept, as Adafactor does, https://arxiv.org/abs/1804.04235: their product is as good
for a merge, and a thousandth of the size. No second model is in memory, and at any time the gradient of one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayes_merger.imaging.layers import Layer

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Add = Callable[[Layer, str, "Tensor"], None]


@dataclass(frozen=True)
class _Call:
    positional: tuple[Any, ...]
    named: dict[str, Any]


class SeenCalls:
    """Some calls of a network, evenly spread over all, as copies in the CPU's memory.

    Args:
        most: of them that are kept, at least.
    """

    def __init__(self, most: int) -> None:
        self._most, self._every, self._seen = most, 1, 0
        self._kept: list[_Call] = []

    def see(self, _: Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A forward pre-hook."""
        if self._most and self._seen % self._every == 0:
            self._kept.append(_Call(_to(positional, "cpu"), _to(named, "cpu")))
            if len(self._kept) >= 2 * self._most:
                self._kept, self._every = self._kept[::2], 2 * self._every
        self._seen += 1

    def probe(self, network: Module, layers: Sequence[Layer], at_call: Callable[..., None], add: Add) -> None:
        """Add `gradient_in` and `gradient_out` of random probes of the kept calls.

        Args:
            network: that was seen.
            layers: its own.
            at_call: told the arguments of each call, before it.
            add: told a layer, a statistic and its summands.
        """
        import torch

        device = next(network.parameters()).device
        with torch.enable_grad(), _watched(layers, add):
            for number in range(self._most if self._kept else 0):
                call = self._kept[number * len(self._kept) // self._most]
                at_call(network, call.positional, call.named)
                answer = network(*_to(call.positional, device), **_to(call.named, device))
                answer = answer[0] if isinstance(answer, tuple) else answer.sample
                generator = torch.Generator().manual_seed(number)
                probe = torch.randn(answer.shape, generator=generator).to(answer)
                (answer * probe).sum().backward()


def _to(value: Any, device: Any) -> Any:
    """Arguments on another device, as copies that no one writes to."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {name: _to(part, device) for name, part in value.items()}
    return type(value)(_to(part, device) for part in value) if isinstance(value, tuple | list) else value


@contextmanager
def _watched(layers: Sequence[Layer], add: Add) -> Iterator[None]:
    """Layers whose weights' gradients are squared, summed up and freed as soon as they are there."""
    weights: list[Any] = [layer.module.weight for layer in layers]
    before = [weight.requires_grad for weight in weights]
    handles = []
    for layer, weight in zip(layers, weights, strict=True):
        weight.requires_grad_(True)
        handles.append(weight.register_post_accumulate_grad_hook(_hook(layer, add)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for weight, needed in zip(weights, before, strict=True):
            weight.requires_grad_(needed)


def _hook(layer: Layer, add: Add) -> Callable[[Any], None]:
    def see(weight: Any) -> None:
        squares = weight.grad.float().square_().flatten(2) if weight.dim() > 2 else weight.grad.float().square_()
        squares = squares.mean(2) if squares.dim() > 2 else squares
        weight.grad = None
        add(layer, "gradient_in", squares.sum(0) / layer.rows)  # of what is stacked, each part adds its own rows
        add(layer, "gradient_out", squares.mean(1))

    return see
