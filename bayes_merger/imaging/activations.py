"""What a live pipeline's layers are fed and answer while it draws, summed up channel by channel.

A hook on every matrix and convolution of the denoiser and the text encoders adds up, over all places of a drawing:

- `in_sq`, `in_abs`: the squares and the sizes of its input, per input channel;
- `guided_in`, `guided_out`: the squares of what guidance makes of it, conditional less unconditional, per input and
  per output channel: the *response*. Both halves are in one batch where guidance is on, so that it costs a difference.

Only sums are kept, in fp64: memory is that of the file that is written, whatever is drawn. The statistics of Wanda,
https://arxiv.org/abs/2306.11695, are the roots of `in_sq`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from bayes_merger.checkpoints.activations.names import COUNT_OF, About
from bayes_merger.checkpoints.activations.sums import Activations
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.gradients import SeenCalls
from bayes_merger.imaging.layers import Layer, layers_of
from bayes_merger.imaging.pipelines.lean import as_diffusers
from bayes_merger.imaging.pipelines.pieces import InPieces
from bayes_merger.imaging.pipelines.pipeline import LivePipeline

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


_CACHED = 2**18  # numbers, 1 MiB of them in fp32, and as many are written beside them


class _Entry(NamedTuple):
    """Of what a vector of sums is: a statistic of a layer, over so many places; 0 where another one counts them."""

    key: str
    statistic: str
    begin: int
    width: int
    places: float


_Pending = tuple[list[_Entry], list["Tensor"]]  # what is to be added, and where to
_Sums = list[tuple[str, "Tensor", float]]  # statistics, their sums, and the places that they count


def _entry(layer: Layer, statistic: str, sums: Tensor, places: float) -> _Entry:
    begin = layer.begin if statistic.endswith("_out") else 0
    return _Entry(layer.key, statistic, begin, len(sums), places)


class Recording:
    """The sums of one drawing, and what is known of the present call of the denoiser.

    Args:
        into: where the sums go.
        guided: whether each batch has both halves of guidance.
        time_unit: the timestep of pure noise.
    """

    def __init__(self, into: Activations, guided: bool, time_unit: float) -> None:
        self._into, self._guided, self._time_unit = into, guided, time_unit
        self._band = 0
        self.denoiser_seen = False
        self._rooms: dict[tuple[Any, ...], Tensor] = {}
        self._memory: dict[Any, Tensor] = {}
        self._last: tuple[Tensor, int, _Sums] | None = None  # q, k and v are fed the same tensor
        self._known: dict[tuple[str, int], tuple[Any, int, _Pending]] = {}  # and some layers are in every call
        self._pending: _Pending = [], []  # of the present call
        self._entries: dict[tuple[Any, ...], list[_Entry]] = {}  # of a layer; the same ones in every call
        self._totals: dict[tuple[int, tuple[_Entry, ...]], tuple[Tensor, int]] = {}  # and how many calls they are of

    def see_time(self, _: Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A forward pre-hook of the denoiser."""
        self._add_pending()
        time = positional[1] if len(positional) > 1 else named["timestep"]
        share = float(time.flatten()[0] if hasattr(time, "flatten") else time) / self._time_unit
        self._band = min(max(int(share * self._into.about.bands), 0), self._into.about.bands - 1)

    def see_layer(self, layer: Layer, given: Tensor, answer: Tensor) -> None:
        """Add what a layer is fed and answers; a layer that is fed the same again, like a prompt, answers the same."""
        self.denoiser_seen = self.denoiser_seen or layer.in_denoiser
        place, version = (layer.key, layer.begin), given._version
        known = self._known.get(place)
        if known is None or known[0]() is not given or known[1] != version:
            found, name = self._of_layer(layer, given, answer), (place, given.shape)
            if name not in self._entries:
                self._entries[name] = [_entry(layer, *one) for one in found]
            known = self._known[place] = weakref.ref(given), version, (self._entries[name], [one[1] for one in found])
        entries, sums = known[2]
        self._pending[0].extend(entries)
        self._pending[1].extend(sums)

    def _of_layer(self, layer: Layer, given: Tensor, answer: Tensor) -> _Sums:
        import torch

        channels = 1 if isinstance(layer.module, torch.nn.Conv2d) else given.dim() - 1
        guided = self._guided and layer.in_denoiser
        found: _Sums = []
        if layer.begin == 0:  # what is stacked in one tensor is fed the same
            if self._last is None or self._last[0] is not given or self._last[1] != given._version:
                self._last = given, given._version, self._of_input(given, channels, guided)
            found += self._last[2]
        if guided:
            places = 0 if layer.begin else given.numel() / given.shape[channels] / 2
            found.append(("guided_out", self._response(answer, channels), places))
        return found

    def _of_input(self, given: Tensor, channels: int, guided: bool) -> _Sums:
        import torch

        squares, absolutes = [], []
        for piece in _pieces(_rows(given, channels)):
            sizes = torch.abs(piece, out=self._room(piece))
            absolutes.append(_summed(sizes))
            squares.append(_summed(sizes.square_()))
        found: _Sums = [
            ("in_sq", _total(squares), given.numel() / given.shape[channels]),
            ("in_abs", _total(absolutes), 0),
        ]
        if guided:
            found.append(("guided_in", self._response(given, channels), 0))
        return found

    def _response(self, both: Tensor, channels: int) -> Tensor:
        """The squares of conditional less unconditional, the second half of a batch less the first, summed in fp32."""
        import torch

        parts = []
        for without, prompted in zip(*(_pieces(_rows(half, channels)) for half in both.chunk(2)), strict=True):
            room = self._room(prompted)
            if both.dtype == torch.float32:  # in one pass over memory
                torch.ops.aten.mse_loss.out(prompted, without, 0, out=room)
            else:
                torch.sub(prompted, without, out=room).square_()
            parts.append(_summed(room))
        return _total(parts)

    def _room(self, like: Tensor) -> Tensor:
        """Memory for as many numbers in fp32, which is used again: allocating it would take longer than a sum."""
        import torch

        name = (like.device, *like.shape)
        if name not in self._rooms:
            memory = self._memory.get(like.device)
            if memory is None or memory.numel() < like.numel():
                self._rooms = {other: room for other, room in self._rooms.items() if other[0] != like.device}
                memory = self._memory[like.device] = torch.empty(like.numel(), device=like.device)
            self._rooms[name] = memory[: like.numel()].view(like.shape)
        return self._rooms[name]

    def _add_pending(self) -> None:
        """Add what the last call gave, as one vector: one by one, small layers would take longer to watch than to run.

        In fp64, where the device has it.
        """
        import torch

        entries, sums = self._pending
        self._pending = [], []
        if not sums:
            return
        device = sums[0].device
        made = torch.cat([part if part.device == device else part.to(device) for part in sums])
        name = (self._band, tuple(entries))
        if name in self._totals:
            total, calls = self._totals[name]
            self._totals[name] = total.add_(made), calls + 1
        else:
            self._totals[name] = made if made.device.type == "mps" else made.double(), 1

    def see_gradient(self, layer: Layer, statistic: str, squares: Tensor) -> None:
        """Add the squared gradients of one probe."""
        self._pending[0].append(_entry(layer, statistic, squares, 1 if statistic == "gradient_in" else 0))
        self._pending[1].append(squares)

    def finish(self, layers: Sequence[Layer]) -> None:
        """Put all that was added up where it goes, on the CPU and in the order of the checkpoint's rows."""
        import torch

        self._add_pending()
        known = {layer.key: layer for layer in layers}
        for (band, entries), (total, calls) in self._totals.items():
            parts = total.cpu().double().split([entry.width for entry in entries])
            for entry, part in zip(entries, parts, strict=True):
                self._put(known[entry.key], band, entry, part, calls)
        for key, table in self._into.sums.items():
            for statistic, sums in table.items():
                if known[key].swapped and statistic.endswith("_out"):
                    table[statistic] = torch.cat(sums.chunk(2, 1)[::-1], 1)

    def _put(self, layer: Layer, band: int, entry: _Entry, part: Tensor, calls: int) -> None:
        import torch

        band, bands = (band, self._into.about.bands) if layer.in_denoiser else (0, 1)
        table = self._into.sums.setdefault(layer.key, {})
        if entry.statistic not in table:
            width = layer.rows if entry.statistic.endswith("_out") else entry.width
            table[entry.statistic] = torch.zeros(bands, width, dtype=torch.float64)
        table[entry.statistic][band].narrow(0, entry.begin, entry.width).add_(part)
        if entry.places:
            counts, name = self._into.counts.setdefault(layer.key, {}), COUNT_OF[entry.statistic]
            counts.setdefault(name, torch.zeros(bands, dtype=torch.float64))[band] += entry.places * calls


def _pieces(numbers: Tensor) -> Sequence[Tensor]:
    """Pictures or tokens in parts that stay in a core's cache while they are gone through again."""
    fits = numbers.numel() <= _CACHED or numbers.device.type != "cpu"
    return (numbers,) if fits else numbers.split(max(1, _CACHED * len(numbers) // numbers.numel()))


def _total(parts: Sequence[Tensor]) -> Tensor:
    import torch

    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def _rows(given: Tensor, channels: int) -> Tensor:
    """Pictures `(n, channels, height, width)` as they are, tokens as `(n, channels)`."""
    return given if channels == 1 else given.flatten(0, -2)


def _summed(numbers: Tensor) -> Tensor:
    """The sum of each channel, the second dimension; torch's norms cost five times as much as squares and sums."""
    return numbers.sum((0, 2, 3) if numbers.dim() == 4 else 0)


@contextmanager
def recorded(pipeline: LivePipeline, about: About, *, guided: bool, gradients: int = 0) -> Iterator[Activations]:
    """The activations of what is drawn while this is open; the pipeline is left as it was.

    Args:
        pipeline: that draws.
        about: what the statistics say about themselves; their one run is what is drawn.
        guided: whether everything drawn has both halves of guidance in each batch.
        gradients: how often the denoiser is probed afterwards, in calls that it was seen to make.

    Raises:
        ConfigError: no layer was seen at work, because something was offloaded or compiled.
    """
    found = Activations(about)
    recording = Recording(found, guided, pipeline.architecture.time_unit)
    network = pipeline.architecture.model.modules[pipeline.architecture.network]
    calls, layers = SeenCalls(gradients), layers_of(pipeline)
    handles = [network.register_forward_pre_hook(see, with_kwargs=True) for see in (recording.see_time, calls.see)]
    for layer in layers:
        handles.append(layer.module.register_forward_hook(_hook(recording, layer)))
    pipeline.text_encoder_changed()  # what prompts mean is remembered, and the encoders would not be seen
    try:
        with as_diffusers(network, of=(InPieces,)):  # the others are seen before anything is written over
            yield found
    finally:
        for handle in handles:
            handle.remove()
    if not recording.denoiser_seen:
        raise ConfigError("activations: the denoiser's layers were not seen at work; do not offload or compile it")
    own = [layer for layer in layers if layer.in_denoiser]
    calls.probe(network, own, recording.see_time, recording.see_gradient)
    recording.finish(layers)
    _summarise(found)


def _hook(recording: Recording, layer: Layer) -> Any:
    def see(_: Module, given: tuple[Any, ...], answer: Any) -> None:
        recording.see_layer(layer, given[0], answer)

    return see


def _summarise(found: Activations) -> None:
    """What people look at: the mean squares of every layer's input and of its response."""
    import torch

    for key, sums in found.sums.items():
        counts = found.counts[key]
        squares = float(sums["in_sq"].sum() / counts["n"].sum() / sums["in_sq"].shape[1])
        response = sums.get("guided_out")
        answered = 0.0 if response is None else float(response.sum() / counts["guided_n"].sum() / response.shape[1])
        found.by_run[key] = torch.tensor([[squares, answered]], dtype=torch.float64)
