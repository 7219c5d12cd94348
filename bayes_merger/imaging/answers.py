"""What single layers of two live pipelines answer while both draw the same: samples of them, kept on the disk.

The second pipeline is fed the latents of the first at every step, so that a layer of one and the same layer of the
other answer at the same place of one picture; what they read of the text is their own encoders'. Of each call of a
layer the same random places are kept, in half precision.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.layers import Layer, layers_of
from bayes_merger.imaging.pipelines.lean import as_diffusers
from bayes_merger.imaging.pipelines.pipeline import LivePipeline

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

SAMPLES = 2048
"""Places that are kept of each layer, of a drawing of all payloads; of a call at least one."""

_LARGEST = 65504.0  # of half precision
_SPILL = 1 << 28  # bytes in memory before they go to the disk


class Place(NamedTuple):
    """Where a layer has some neurons.

    Attributes:
        key: of its weight, as the checkpoint names it.
        dim: they are what it answers (0), or what it is fed (1).
        offset: of the first of them there.
    """

    key: str
    dim: int
    offset: int


class Watched(NamedTuple):
    """Neurons that are watched at one of some places, the first that is there.

    Attributes:
        size: how many.
        places: where they may be seen.
    """

    size: int
    places: Sequence[Place]


class Samples:
    """What was kept of the answers of one pipeline, by the names of what was watched.

    Args:
        file: an empty one, open for writing and reading.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pieces: dict[str, list[tuple[int, int]]] = {}
        self._waiting: dict[str, list[Tensor]] = {}
        self._size = 0
        self._counts: dict[str, int] = {}
        self._widths: dict[str, int] = {}

    def add(self, name: str, rows: Tensor) -> None:
        """Keep some rows, ``[samples, neurons]``."""
        import torch

        rows = rows.float().clamp(-_LARGEST, _LARGEST).to("cpu", torch.float16)
        self._waiting.setdefault(name, []).append(rows)
        self._counts[name] = self._counts.get(name, 0) + len(rows)
        self._widths[name] = rows.shape[1]
        self._size += rows.nbytes
        if self._size > _SPILL:
            self.spill()

    def count(self, name: str) -> int:
        """How many rows there are."""
        return self._counts.get(name, 0)

    def spill(self) -> None:
        """Bring everything that is in memory to the disk."""
        end = self._file.seek(0, os.SEEK_END)
        for name, rows in self._waiting.items():
            size = sum(self._file.write(some.contiguous().numpy().tobytes()) for some in rows)
            self._pieces.setdefault(name, []).append((end, size))
            end += size
        self._waiting, self._size = {}, 0

    def read(self, name: str) -> Tensor:
        """All rows of a name, ``[samples, neurons]``."""
        import torch

        data = bytearray()
        for begin, size in self._pieces[name]:
            self._file.seek(begin)
            data += self._file.read(size)
        return torch.frombuffer(data, dtype=torch.float16).view(-1, self._widths[name])


class Latents:
    """What the denoiser of the first pipeline is fed, and the second one instead of its own."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._next: int | None = None

    def again(self) -> None:
        """Feed them from now on."""
        self._next = 0

    def see(self, _: Module, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A forward pre-hook of the denoiser.

        Raises:
            ConfigError: the second pipeline takes other steps.
        """
        sample = positional[0] if positional else named["sample"]
        if self._next is None:
            self._kept.append(sample.detach().to("cpu", copy=True))
            return None
        self._next += 1
        if self._next > len(self._kept) or self._kept[self._next - 1].shape != sample.shape:
            raise ConfigError("payloads: the two models do not draw in the same steps; take a plain sampler")
        sample = self._kept[self._next - 1].to(sample)
        return ((sample, *positional[1:]), named) if positional else (positional, {**named, "sample": sample})


class _Watch:
    """Hooks that keep samples of what layers are fed or answer."""

    def __init__(self, layers: Sequence[Layer], watched: Mapping[str, Watched], into: Samples, calls: int) -> None:
        self._into = into
        self._each = max(SAMPLES // max(calls, 1), 1)
        self._calls: dict[str, int] = {}
        self.hooks = [
            (layer.module, self._hook(name, one.size, place))
            for name, one in watched.items()
            if (found := _first(layers, one.places)) is not None
            for layer, place in [found]
        ]

    def _hook(self, name: str, size: int, place: Place) -> Any:
        import torch

        def see(module: Module, given: tuple[Any, ...], answer: Any) -> None:
            call = self._calls[name] = self._calls.get(name, 0) + 1
            seen = given[0] if place.dim else answer
            rows = seen.movedim(1, -1) if isinstance(module, torch.nn.Conv2d) else seen
            rows = rows.reshape(-1, rows.shape[-1])
            begin = place.offset if place.dim else 0  # a module that is some rows of a tensor answers those alone
            if room := min(self._each, 2 * SAMPLES - self._into.count(name), len(rows)):
                chosen = _chosen(f"{name} {call}", len(rows), room)
                self._into.add(name, rows[chosen.to(rows.device), begin : begin + size])

        return see


def _first(layers: Sequence[Layer], places: Sequence[Place]) -> tuple[Layer, Place] | None:
    """Where neurons are seen: what a layer is fed rather than what one answers, since more is done to it by then."""
    for place in sorted(places, key=lambda place: -place.dim):
        for layer in layers:
            fits = place.dim == 1 or (layer.begin == place.offset and not layer.swapped)
            if layer.key == place.key and fits:
                return layer, place
    return None


def _chosen(name: str, count: int, wanted: int) -> torch.Tensor:
    """Random places, the same for a name in all processes."""
    import torch

    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    return torch.randint(count, (wanted,), generator=torch.Generator().manual_seed(seed))


@contextmanager
def watched(
    pipeline: LivePipeline, what: Mapping[str, Watched], into: Samples, latents: Latents, calls: int
) -> Iterator[None]:
    """Keep samples of what is drawn while this is open; the pipeline is left as it was.

    Args:
        pipeline: that draws.
        what: is watched, by name.
        into: where the samples go.
        latents: that are remembered, or fed.
        calls: of the denoiser, about.

    Raises:
        ConfigError: no layer was seen at work, because something was offloaded or compiled.
    """
    network = pipeline.architecture.model.modules[pipeline.architecture.network]
    watch = _Watch(layers_of(pipeline), what, into, calls)
    handles = [network.register_forward_pre_hook(latents.see, with_kwargs=True)]
    handles += [module.register_forward_hook(hook) for module, hook in watch.hooks]
    pipeline.text_encoder_changed()  # what prompts mean is remembered, and the encoders would not be seen
    try:
        with as_diffusers(network):  # a call of a layer is one of the denoiser
            yield
    finally:
        for handle in handles:
            handle.remove()
    into.spill()
    if not any(into.count(name) for name in what):
        raise ConfigError("activations: the layers were not seen at work; do not offload or compile them")
