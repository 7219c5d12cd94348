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
    """Of what a vector of sums is: a statistic of a layer, of all bands of timesteps or of one."""

    key: str
    statistic: str
    begin: int
    width: int
    banded: bool


_COUNTING = {"in_sq": 1.0, "guided_out": 0.5, "gradient_in": 1.0}  # statistics, and their share of the places


class _Seen(NamedTuple):
    """Sums of layers, in vectors that may have several entries each, over so many places; 0 where another counts."""

    entries: list[_Entry]
    places: list[float]
    sums: list[Tensor]


class Recording:
    """The sums of one drawing, and what is known of the present call of the denoiser.

    Args:
        into: where the sums go.
        guided: whether each batch has both halves of guidance.
        time_unit: the timestep of pure noise.
    """

    def __init__(self, into: Activations, guided: bool, time_unit: float) -> None:
        self._into, self._guided, self._time_unit = into, guided, time_unit
        self._band, self._share = 0, -1.0  # of the present call, the lowest band and share of noise are those of 0
        self._nth, self._looks = 0, True
        self._rooms: dict[tuple[Any, ...], tuple[tuple[Tensor, ...], Tensor]] = {}
        self._memory: dict[Any, Tensor] = {}
        self._last: tuple[Tensor, int, list[Tensor]] | None = None  # q, k and v are fed the same tensor
        self._known: dict[tuple[str, int], tuple[Any, int, _Seen]] = {}  # and some layers are in every call
        self._pending = _Seen([], [], [])  # of the present call
        self._pending_of: set[tuple[str, int]] = set()  # layers
        self._pending_banded = True
        self._entries: dict[tuple[str, int], list[_Entry]] = {}  # of a layer; the same ones in every call
        self._totals: dict[tuple[_Entry, ...], tuple[Tensor, Tensor]] = {}  # sums and places, of each band

    def see_time(self, _: Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A forward pre-hook of the denoiser, which decides whether this call is looked at.

        Of three calls or more that follow one another in a band every second one is, beginning with the first: their
        neighbours tell nearly the same.
        """
        self._add_pending()
        time, bands = positional[1] if len(positional) > 1 else named["timestep"], self._into.about.bands
        share = float(time.flatten()[0] if hasattr(time, "flatten") else time) / self._time_unit
        band = min(max(int(share * bands), 0), bands - 1)
        self._nth = self._nth + 1 if band == self._band and share < self._share else 0
        is_last = 2 * share - self._share < band / bands - 1e-6  # if the next step is as long
        self._looks = self._nth % 2 == 0 or (self._nth == 1 and is_last)
        self._band, self._share = band, share

    def see_layer(self, layer: Layer, given: Tensor, answer: Tensor) -> None:
        """Add what a layer is fed and answers; a layer that is fed the same again, like a prompt, answers the same."""
        if layer.in_denoiser and not self._looks:
            return
        place, version = (layer.key, layer.begin), given._version
        known = self._known.get(place)
        if known is None or known[0]() is not given or known[1] != version:
            channels = _channels(layer, given)
            sums, places = self._of_layer(layer, given, answer, channels), given.numel() / given.shape[channels]
            if place not in self._entries:
                self._entries[place] = list(self._entries_of(layer, given.shape[channels], answer.shape[channels]))
            entries = self._entries[place]
            counted = [0 if entry.begin else places * _COUNTING.get(entry.statistic, 0) for entry in entries]
            known = self._known[place] = weakref.ref(given), version, _Seen(entries, counted, sums)
        if place in self._pending_of or layer.in_denoiser is not self._pending_banded:
            self._add_pending()  # each prompt by itself, so that there are few layouts, however many are read
            self._pending_banded = layer.in_denoiser
        self._pending_of.add(place)
        self._pending.entries.extend(known[2].entries)
        self._pending.places.extend(known[2].places)
        self._pending.sums.extend(known[2].sums)

    def _entries_of(self, layer: Layer, width: int, rows: int) -> Iterator[_Entry]:
        """What the sums of a layer are, in their order."""
        guided = self._guided and layer.in_denoiser
        if layer.begin == 0:  # what is stacked in one tensor is fed the same
            for statistic in ("in_sq", "in_abs", *(["guided_in"] if guided else [])):
                yield _Entry(layer.key, statistic, 0, width, layer.in_denoiser)
        if guided:
            yield _Entry(layer.key, "guided_out", layer.begin, rows, True)

    def _of_layer(self, layer: Layer, given: Tensor, answer: Tensor, channels: int) -> list[Tensor]:
        guided = self._guided and layer.in_denoiser
        found: list[Tensor] = []
        if layer.begin == 0:
            if self._last is None or self._last[0] is not given or self._last[1] != given._version:
                sums = [self._sizes(given, channels)]
                if guided:
                    sums.append(self._response(given, channels))
                self._last = given, given._version, sums
            found += self._last[2]
        if guided:
            response, places = self._response(answer, channels), answer.numel() // answer.shape[channels]
            fed = given.numel() // given.shape[channels]  # which is what is counted; of stride 2 four times the answers
            found.append(response if places == fed else response * (fed / places))
        return found

    def _sizes(self, given: Tensor, channels: int) -> Tensor:
        """The sums of the squares and of the sizes, one after the other, in fp32."""
        if _fits(given):
            return self._sizes_of(given, channels)
        return _total([self._sizes_of(piece, channels) for piece in _pieces(given, channels)])

    def _sizes_of(self, piece: Tensor, channels: int) -> Tensor:
        import torch

        (squares, sizes), both = self._room(piece, channels, 2)
        torch.abs(piece if piece.dtype == torch.float32 else sizes.copy_(piece), out=sizes)
        torch.mul(sizes, sizes, out=squares)
        return _summed(both)

    def _response(self, both: Tensor, channels: int) -> Tensor:
        """The squares of conditional less unconditional, the second half of a batch less the first, summed in fp32."""
        without, prompted = both.chunk(2)
        if _fits(prompted):
            return self._response_of(without, prompted, channels)
        pieces = zip(_pieces(without, channels), _pieces(prompted, channels), strict=True)
        return _total([self._response_of(*halves, channels) for halves in pieces])

    def _response_of(self, without: Tensor, prompted: Tensor, channels: int) -> Tensor:
        import torch

        (squares,), room = self._room(prompted, channels, 1)
        if prompted.dtype == torch.float32:  # in one pass over memory
            torch.ops.aten.mse_loss.out(prompted, without, 0, out=squares)
        else:
            squares.copy_(prompted).sub_(without).square_()
        return _summed(room)

    def _room(self, like: Tensor, channels: int, times: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Memory for so many times as many numbers in fp32: each of them, and all as `_summed` takes them.

        It is used again: to allocate it, and to look at it in another way, would take longer than a sum.
        """
        import torch

        name = (times, like.shape, like.device)
        room = self._rooms.get(name)
        if room is None:
            memory, size = self._memory.get(like.device), times * like.numel()
            if memory is None or memory.numel() < size:
                self._rooms = {other: room for other, room in self._rooms.items() if other[2] != like.device}
                memory = self._memory[like.device] = like.new_empty(size, dtype=torch.float32)
            every = memory[:size].view(times, *like.shape)
            pictures = like.dim() == 4 and channels == 1
            room = self._rooms[name] = every.unbind(), every.flatten(3) if pictures else every.flatten(1, -2)
        return room

    def _add_pending(self) -> None:
        """Add what the last call gave, as one vector: one by one, small layers would take longer to watch than to run.

        In fp64, where the device has it.
        """
        import torch

        entries, places, sums = self._pending
        self._pending, self._pending_of = _Seen([], [], []), set()
        if not sums:
            return
        device, layout = sums[0].device, tuple(entries)
        made = torch.cat([part if part.device == device else part.to(device) for part in sums])
        if layout not in self._totals:
            rows = self._into.about.bands if entries[0].banded else 1
            exact = torch.float32 if device.type == "mps" else torch.float64
            nothing = torch.zeros(rows, len(made), dtype=exact, device=device)
            self._totals[layout] = nothing, torch.zeros(rows, len(entries), dtype=torch.float64)
        totals, counts = self._totals[layout]
        row = min(self._band, len(totals) - 1)
        totals[row].add_(made)
        counts[row].add_(torch.tensor(places, dtype=torch.float64))

    def check(self, layers: Sequence[Layer]) -> None:
        """Whether all layers were seen at work.

        Raises:
            ConfigError: one was not.
        """
        unseen = [layer.key for layer in layers if (layer.key, layer.begin) not in self._known]
        if unseen:
            raise ConfigError(
                f"activations: {len(unseen)} of {len(layers)} layers were not seen at work, {unseen[0]} first; do not "
                "offload or compile the model"
            )

    def see_gradient(self, layer: Layer, statistic: str, squares: Tensor) -> None:
        """Add the squared gradients of one probe."""
        begin = 0 if statistic == "gradient_in" else layer.begin
        self._pending.entries.append(_Entry(layer.key, statistic, begin, len(squares), layer.in_denoiser))
        self._pending.places.append(0 if layer.begin else _COUNTING.get(statistic, 0))
        self._pending.sums.append(squares)

    def finish(self, layers: Sequence[Layer]) -> None:
        """Put all that was added up where it goes, on the CPU and in the order of the checkpoint's rows.

        Raises:
            ConfigError: something is infinite or NaN.
        """
        import torch

        self._add_pending()
        known = {layer.key: layer for layer in layers}
        for entries, (totals, counts) in self._totals.items():
            parts = totals.cpu().double().split([entry.width for entry in entries], 1)
            for entry, part, places in zip(entries, parts, counts.unbind(1), strict=True):
                if not bool(part.isfinite().all()):  # gradients may overflow in fp16 where the answers do not
                    raise ConfigError(
                        f"activations: {entry.statistic} of {entry.key} is more than can be held; measure with  "
                        "generator.dtype=fp32"
                    )
                self._put(known[entry.key], entry, part, places)
        self._totals.clear()
        for key, table in self._into.sums.items():
            for statistic, sums in table.items():
                if known[key].swapped and statistic.endswith("_out"):
                    table[statistic] = torch.cat(sums.chunk(2, 1)[::-1], 1)

    def _put(self, layer: Layer, entry: _Entry, part: Tensor, places: Tensor) -> None:
        """Add the sums of all bands, over so many places each."""
        import torch

        if not entry.banded:
            part, places = part.sum(0, keepdim=True), places.sum(0, keepdim=True)
        table = self._into.sums.setdefault(layer.key, {})
        width = layer.rows if entry.statistic.endswith("_out") else entry.width
        if entry.statistic not in table and width == entry.width:
            table[entry.statistic] = part
        else:
            if entry.statistic not in table:
                table[entry.statistic] = torch.zeros(len(part), width, dtype=torch.float64)
            table[entry.statistic].narrow(1, entry.begin, entry.width).add_(part)
        if entry.statistic in _COUNTING and not entry.begin:
            counts, name = self._into.counts.setdefault(layer.key, {}), COUNT_OF[entry.statistic]
            counts[name] = counts.get(name, 0) + places


def _channels(layer: Layer, given: Tensor) -> int:
    """Which dimension the channels are: pictures are `(n, channels, height, width)`, tokens `(..., channels)`."""
    import torch

    return 1 if isinstance(layer.module, torch.nn.Conv2d) else given.dim() - 1


def _fits(numbers: Tensor) -> bool:
    return numbers.numel() <= _CACHED or numbers.device.type != "cpu"


def _pieces(numbers: Tensor, channels: int) -> Sequence[Tensor]:
    """Pictures or tokens in parts that stay in a core's cache while they are gone through again."""
    rows = numbers if channels == 1 else numbers.flatten(0, -2)
    pieces: Sequence[Tensor] = rows.split(max(1, _CACHED * len(rows) // rows.numel()))
    return pieces


def _total(parts: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.stack(list(parts)).sum(0)


def _summed(numbers: Tensor) -> Tensor:
    """The sums of each channel, `(times x channels)`, of `(times, n, channels)` or `(times, n, channels, places)`.

    Places first, which lie beside each other: a third of the time; torch's norms cost five times as much.
    """
    return (numbers if numbers.dim() == 3 else numbers.sum(3)).sum(1).flatten()


@contextmanager
def recorded(pipeline: LivePipeline, about: About, *, guided: bool, gradients: int = 0) -> Iterator[Activations]:
    """The activations of what is drawn while this is open; the pipeline is left as it was.

    Args:
        pipeline: that draws.
        about: what the statistics say about themselves; their one run is what is drawn.
        guided: whether everything drawn has both halves of guidance in each batch.
        gradients: how often the denoiser is probed afterwards, in calls that it was seen to make.

    Raises:
        ConfigError: a layer was not seen at work, because something was offloaded or compiled; or its numbers
            overflow.
    """
    found = Activations(about)
    recording = Recording(found, guided, pipeline.architecture.time_unit)
    network = pipeline.architecture.model.modules[pipeline.architecture.network]
    calls, layers = SeenCalls(gradients), layers_of(pipeline)
    handles = [network.register_forward_pre_hook(see, with_kwargs=True) for see in (recording.see_time, calls.see)]
    for layer in layers:
        handles.append(layer.module.register_forward_hook(_hook(recording, layer)))
    try:
        # of lean layers the others are seen before anything is written over
        with as_diffusers(network, of=(InPieces,)), pipeline.reading_anew():
            yield found
    finally:
        for handle in handles:
            handle.remove()
    recording.check(layers)
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
