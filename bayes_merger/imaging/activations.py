"""What a live pipeline's layers are fed and answer while it draws, summed up channel by channel.

A hook on every matrix and convolution of the denoiser and the text encoders adds up, over all places of a drawing:

- `in_sq`, `in_abs`: the squares and the sizes of its input, per input channel;
- `guided_in`, `guided_out`: the squares of what guidance makes of it, conditional less unconditional, per input and
  per output channel: the *response*. Both halves are in one batch where guidance is on, so that it costs a difference.

Only sums are kept, in fp64: memory is that of the file that is written, whatever is drawn. The statistics of Wanda,
https://arxiv.org/abs/2306.11695, are the roots of `in_sq`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.activations.names import About
from bayes_merger.checkpoints.activations.sums import Activations
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.gradients import SeenCalls
from bayes_merger.imaging.layers import Layer, layers_of
from bayes_merger.imaging.pipelines.pieces import in_one_piece
from bayes_merger.imaging.pipelines.pipeline import LivePipeline

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


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
        self._memory: Tensor | None = None
        self._last: tuple[Tensor, int, dict[str, Tensor]] | None = None  # q, k and v are fed the same tensor
        self._rows: dict[tuple[str, str, int, int], Tensor] = {}
        self._pending: tuple[list[Tensor], list[Tensor]] = [], []  # rows, and what is added to each
        self._counts: dict[tuple[str, str], list[float]] = {}

    def see_time(self, _: Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A forward pre-hook of the denoiser."""
        self._add_pending()
        time = positional[1] if len(positional) > 1 else named["timestep"]
        share = float(time.flatten()[0] if hasattr(time, "flatten") else time) / self._time_unit
        self._band = min(max(int(share * self._into.about.bands), 0), self._into.about.bands - 1)

    def see_layer(self, layer: Layer, given: Tensor, answer: Tensor) -> None:
        """Add what a layer is fed and answers."""
        import torch

        self.denoiser_seen = self.denoiser_seen or layer.in_denoiser
        channels = 1 if isinstance(layer.module, torch.nn.Conv2d) else given.dim() - 1
        if layer.begin == 0:  # what is stacked in one tensor is fed the same
            if self._last is None or self._last[0] is not given or self._last[1] != given._version:
                self._last = (given, given._version, self._of_input(given, channels, layer.in_denoiser))
            for statistic, sums in self._last[2].items():
                self.add(layer, statistic, sums)
            self.count(layer, "n", given.numel() / given.shape[channels])
        if self._guided and layer.in_denoiser:
            self.add(layer, "guided_out", _summed(self._response(answer).square_(), channels))
            if layer.begin == 0:
                self.count(layer, "guided_n", given.numel() / given.shape[channels] / 2)

    def _of_input(self, given: Tensor, channels: int, in_denoiser: bool) -> dict[str, Tensor]:
        import torch

        room = self._room(given)
        found = {
            "in_sq": _summed(torch.square(given.float(), out=room), channels),
            "in_abs": _summed(torch.abs(given, out=room), channels),
        }
        if self._guided and in_denoiser:
            found["guided_in"] = _summed(self._response(given).square_(), channels)
        return found

    def _response(self, both: Tensor) -> Tensor:
        """Conditional less unconditional, the second half of a batch less the first, in fp32."""
        import torch

        half = both.shape[0] // 2
        return torch.sub(both[half:], both[:half], out=self._room(both[half:]))

    def _room(self, like: Tensor) -> Tensor:
        """Memory for as many numbers in fp32, which is used again: allocating it would take longer than a sum."""
        import torch

        if self._memory is None or self._memory.numel() < like.numel() or self._memory.device != like.device:
            self._memory = torch.empty(like.numel(), dtype=torch.float32, device=like.device)
        return self._memory[: like.numel()].view(like.shape)

    def add(self, layer: Layer, statistic: str, sums: Tensor) -> None:
        """Add to a statistic of a layer in the present band."""
        band, begin = self._band if layer.in_denoiser else 0, layer.begin if statistic.endswith("_out") else 0
        row = self._rows.get((layer.key, statistic, begin, band))
        if row is None:
            row = self._new_row(layer, statistic, sums, band, begin)
            self._rows[layer.key, statistic, begin, band] = row
        self._pending[0].append(row)
        self._pending[1].append(sums)

    def _add_pending(self) -> None:
        """Add what the last call gave, all at once: one by one, small layers would take longer to watch than to run."""
        import torch

        if self._pending[0]:
            torch._foreach_add_(*self._pending)
        self._pending = [], []

    def _new_row(self, layer: Layer, statistic: str, sums: Tensor, band: int, begin: int) -> Tensor:
        """Where the sums of one module in one band are added up, on its device: in fp64 if that has it."""
        import torch

        table = self._into.sums.setdefault(layer.key, {})
        if statistic not in table:
            width = layer.rows if statistic.endswith("_out") else len(sums)
            dtype = torch.float32 if sums.device.type == "mps" else torch.float64
            table[statistic] = torch.zeros(self._bands_of(layer), width, dtype=dtype, device=sums.device)
        return table[statistic][band, begin : begin + len(sums)]

    def _bands_of(self, layer: Layer) -> int:
        return self._into.about.bands if layer.in_denoiser else 1

    def count(self, layer: Layer, name: str, places: float) -> None:
        """Add to a count of a layer in the present band."""
        counts = self._counts.setdefault((layer.key, name), [0.0] * self._bands_of(layer))
        counts[self._band if layer.in_denoiser else 0] += places

    def see_gradient(self, layer: Layer, statistic: str, squares: Tensor) -> None:
        """Add the squared gradients of one probe."""
        self.add(layer, statistic, squares)
        if statistic == "gradient_in":
            self.count(layer, "gradient_n", 1)

    def finish(self, layers: Sequence[Layer]) -> None:
        """Bring all that was added up to the CPU, and in the order of the checkpoint's rows."""
        import torch

        self._add_pending()
        for (key, name), counts in self._counts.items():
            self._into.counts.setdefault(key, {})[name] = torch.tensor(counts, dtype=torch.float64)
        swapped = {layer.key for layer in layers if layer.swapped}
        for key, table in self._into.sums.items():
            for statistic, sums in table.items():
                halves = sums.chunk(2, 1)[::-1] if key in swapped and statistic.endswith("_out") else (sums,)
                table[statistic] = torch.cat(halves, 1).cpu().double()


def _summed(numbers: Tensor, channels: int) -> Tensor:
    """The sum of each channel; torch's norms cost five times as much as squares and sums."""
    return numbers.sum([dim for dim in range(numbers.dim()) if dim != channels])


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
        with in_one_piece(network):
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
