"""What a live pipeline's layers are fed and answer while it draws, summed up channel by channel.

A hook on every matrix and convolution of the denoiser and the text encoders adds up, over all places of a drawing:

- `in_sq`, `in_abs`: the squares and the sizes of its input, per input channel;
- `guided_in`, `guided_out`: the squares of what guidance makes of it, conditional less unconditional, per input and
  per output channel: the *response*. Both halves are in one batch where guidance is on, so that it costs a difference.

Only sums are kept, in fp64: memory is that of the file that is written, whatever is drawn. The statistics of Wanda,
https://arxiv.org/abs/2306.11695, are the roots of `in_sq`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.activations.names import About
from bayes_merger.checkpoints.activations.sums import Activations
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.gradients import SeenCalls
from bayes_merger.imaging.pipelines.keymap import Home, homes, state_of
from bayes_merger.imaging.pipelines.pipeline import LivePipeline

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@dataclass(frozen=True)
class Layer:
    """A module whose weight is a tensor of the checkpoint, or some rows of one.

    Attributes:
        key: of the weight, as the checkpoint names it.
        module: a `Linear` or `Conv2d`.
        in_denoiser: whether it sees timesteps and guidance; text encoders do not.
        begin: its first row.
        rows: of the whole tensor.
        swapped: whether the checkpoint has the halves of its rows the other way round.
    """

    key: str
    module: Module
    in_denoiser: bool
    begin: int
    rows: int
    swapped: bool


def layers_of(pipeline: LivePipeline) -> list[Layer]:
    """The layers of a pipeline's denoiser and text encoders, as checkpoints name their weights."""
    modules = pipeline.architecture.model.modules
    drawn = (pipeline.architecture.network, *pipeline.architecture.encoders)
    found = homes({part: state_of(module) for part, module in modules.items()})
    return [
        layer
        for key, home in found.items()
        if home.part in drawn and not home.counterpart.transposed
        for layer in _layers_at(key, home, modules[home.part], home.part == pipeline.architecture.network)
    ]


def _layers_at(key: str, home: Home, part: Module, in_denoiser: bool) -> Iterator[Layer]:
    import torch

    begin, rows = 0, home.shape[0] if home.shape else 0
    for name, tensor in zip(home.names, home.tensors, strict=True):
        owner, _, parameter = name.rpartition(".")
        module = part.get_submodule(owner)
        if parameter == "weight" and isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            yield Layer(key, module, in_denoiser, begin, rows, home.counterpart.swapped)
        begin += tensor.shape[0] if tensor.dim() else 0


class _Recording:
    """The sums of one drawing, and what is known of the present call of the denoiser."""

    def __init__(self, into: Activations, guided: bool, time_unit: float) -> None:
        self._into, self._guided, self._time_unit = into, guided, time_unit
        self._band = 0
        self.denoiser_seen = False
        self._last: tuple[Tensor, int, dict[str, Tensor]] | None = None  # q, k and v are fed the same tensor

    def see_time(self, _: Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        time = positional[1] if len(positional) > 1 else named["timestep"]
        share = float(time.flatten()[0] if hasattr(time, "flatten") else time) / self._time_unit
        self._band = min(max(int(share * self._into.about.bands), 0), self._into.about.bands - 1)

    def see_layer(self, layer: Layer, given: Tensor, answer: Tensor) -> None:
        import torch

        self.denoiser_seen = self.denoiser_seen or layer.in_denoiser
        channels = 1 if isinstance(layer.module, torch.nn.Conv2d) else given.dim() - 1
        if layer.begin == 0:  # what is stacked in one tensor is fed the same
            if self._last is None or self._last[0] is not given or self._last[1] != given._version:
                self._last = (given, given._version, self._of_input(given, channels, layer.in_denoiser))
            for statistic, sums in self._last[2].items():
                self.add(layer, statistic, sums)
            self._count(layer, "n", given, given.shape[channels])
        if self._guided and layer.in_denoiser:
            self.add(layer, "guided_out", _squares(_response(answer), channels))
            if layer.begin == 0:
                self._count(layer, "guided_n", given, 2 * given.shape[channels])

    def _of_input(self, given: Tensor, channels: int, in_denoiser: bool) -> dict[str, Tensor]:
        import torch

        others = [dim for dim in range(given.dim()) if dim != channels]
        sizes = torch.linalg.vector_norm(given, 1, others, dtype=torch.float32).double()
        found = {"in_sq": _squares(given, channels), "in_abs": sizes}
        return found | ({"guided_in": _squares(_response(given), channels)} if self._guided and in_denoiser else {})

    def _row(self, layer: Layer, table: dict[str, Tensor], name: str, *shape: int) -> Tensor:
        import torch

        if name not in table:
            bands = self._into.about.bands if layer.in_denoiser else 1
            table[name] = torch.zeros(bands, *shape, dtype=torch.float64)
        return table[name][self._band if layer.in_denoiser else 0]

    def add(self, layer: Layer, statistic: str, sums: Tensor) -> None:
        table = self._into.sums.setdefault(layer.key, {})
        if not statistic.endswith("_out"):
            self._row(layer, table, statistic, len(sums)).add_(sums.cpu())
            return
        if layer.swapped:
            import torch

            sums = torch.cat(sums.chunk(2)[::-1])
        row = self._row(layer, table, statistic, layer.rows)
        row[layer.begin : layer.begin + len(sums)].add_(sums.cpu())

    def see_gradient(self, layer: Layer, statistic: str, squares: Tensor) -> None:
        self.add(layer, statistic, squares)
        if statistic == "gradient_in":
            self._row(layer, self._into.counts[layer.key], "gradient_n").add_(1)

    def _count(self, layer: Layer, count: str, given: Tensor, per_place: int) -> None:
        self._row(layer, self._into.counts.setdefault(layer.key, {}), count).add_(given.numel() / per_place)


def _response(both: Tensor) -> Tensor:
    """Conditional less unconditional, the second half of a batch less the first."""
    half = both.shape[0] // 2
    return both[half:] - both[:half]


def _squares(tensor: Tensor, channels: int) -> Tensor:
    """The sum of squares of each channel, in fp64; squares are taken in fp32, which half precision would overflow."""
    import torch

    others = [dim for dim in range(tensor.dim()) if dim != channels]
    squares: Tensor = torch.linalg.vector_norm(tensor, 2, others, dtype=torch.float32).double().square_()
    return squares


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
    recording = _Recording(found, guided, pipeline.architecture.time_unit)
    network = pipeline.architecture.model.modules[pipeline.architecture.network]
    calls, layers = SeenCalls(gradients), layers_of(pipeline)
    handles = [network.register_forward_pre_hook(see, with_kwargs=True) for see in (recording.see_time, calls.see)]
    for layer in layers:
        handles.append(layer.module.register_forward_hook(_hook(recording, layer)))
    pipeline.text_encoder_changed()  # what prompts mean is remembered, and the encoders would not be seen
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    if not recording.denoiser_seen:
        raise ConfigError("activations: the denoiser's layers were not seen at work; do not offload or compile it")
    own = [layer for layer in layers if layer.in_denoiser]
    calls.probe(network, own, recording.see_time, recording.see_gradient)
    _summarise(found)


def _hook(recording: _Recording, layer: Layer) -> Any:
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
