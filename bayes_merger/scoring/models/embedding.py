"""Models in memory that turn pictures or texts into vectors: in batches, each input once, shared by all scorers."""

from __future__ import annotations

import hashlib
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError, is_out_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Module

log = logging.getLogger(__name__)

REMEMBERED = 1024  # vectors that a model keeps, 3 kB each: more than a trial's pictures, or a study's prompts
SPARE = 1 << 30  # bytes of a GPU that are left to what nobody planned


class Embedder:
    """A model and what it needs to turn inputs into vectors of one length.

    On a GPU it computes in half precision, and stays there between trials only where pictures can be drawn beside it.

    Args:
        model: on the CPU.
        run: of the model, takes what `prepare` makes, gives N x width.
        prepare: a batch of inputs and a device to the model's arguments.
        device: where it computes.
    """

    def __init__(
        self,
        model: Module,
        run: Callable[..., Tensor],
        prepare: Callable[[Sequence[Any], str], tuple[Tensor, ...]],
        device: str,
    ) -> None:
        import torch

        self._model = model.eval().requires_grad_(False)
        self._run = run
        self._prepare = prepare
        self._device = torch.device(device)
        self._dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        self._model.to(self._dtype)
        self._bytes = sum(weight.nbytes for weight in self._model.parameters())
        self._is_there = self._device.type != "cuda"
        self._drawing = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
        self._known: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __call__(self, inputs: Sequence[Any], keys: Sequence[Hashable], batch_size: int) -> Tensor:
        """Vectors of shape N x width, float32 on the CPU; those of recent inputs are remembered by their keys."""
        import torch

        waiting = {key: one for key, one in zip(keys, inputs, strict=True) if key not in self._known}
        found = {key: self._known[key] for key in keys if key in self._known}
        if waiting:
            self._come()
            with torch.inference_mode():
                vectors = self._batches(list(waiting.values()), batch_size)
            found.update(zip(waiting, vectors, strict=True))
            self._leave_if_tight()
        for key in keys:
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return torch.stack([found[key] for key in keys])

    def _batches(self, inputs: Sequence[Any], batch_size: int) -> list[Tensor]:
        """One vector each; a batch that does not fit into the memory is halved."""
        vectors: list[Tensor] = []
        while len(vectors) < len(inputs):
            batch = inputs[len(vectors) : len(vectors) + batch_size]
            try:
                given = (
                    part.to(self._dtype) if part.is_floating_point() else part
                    for part in self._prepare(batch, str(self._device))
                )
                vectors += self._run(*given).float().cpu()
            except RuntimeError as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                batch_size = len(batch) // 2
                log.warning("a GPU without memory for %d pictures at once: scoring %d at once", len(batch), batch_size)
        return vectors

    def _come(self) -> None:
        """Onto the GPU; other models, idle now, leave it where there is no room for all."""
        import torch

        if self._is_there:
            return
        if _available(self._device) - torch.cuda.memory_allocated(self._device) < self._bytes + SPARE:
            for other in list(_SHARED.values()):
                other.leave()
        self._model.to(self._device)
        self._is_there = True

    def _leave_if_tight(self) -> None:
        if self._device.type != "cuda":
            return
        same = [other for other in _SHARED.values() if other._device == self._device and other._is_there]
        towers = sum(other._bytes for other in same)
        drawing = min((other._drawing for other in same), default=self._drawing)  # the first came before any tower
        if not stays(_available(self._device), drawing, towers):
            self.leave()

    def leave(self) -> None:
        """Off the GPU, into the machine's memory, until it is needed again."""
        import torch

        if self._device.type == "cuda" and self._is_there:
            self._model.to("cpu")
            self._is_there = False
            torch.cuda.empty_cache()


def all_stay() -> bool:
    """Whether every model that has been needed so far stays on its GPU, so that it may also work while one draws."""
    return all(embedder._is_there for embedder in list(_SHARED.values()))


def stays(available: int, drawing: int, towers: int) -> bool:
    """Whether models of so many bytes may stay on a GPU while pictures are drawn.

    >>> stays(available=8 << 30, drawing=7 << 30, towers=1 << 30)
    False
    """
    return drawing + towers + SPARE <= available


def _available(device: Any) -> int:
    """Bytes of a GPU that this process has or can have."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def shared(key: Hashable, make: Callable[[], Embedder]) -> Embedder:
    """The embedder of this key: the one that some scorer holds already, else a new one.

    Scorers are built apart from each other by the configuration, yet must not each hold gigabytes. Nothing but the
    scorers keeps an embedder: with the last of them it is freed.
    """
    found = _SHARED.get(key)
    if found is None:
        found = _SHARED[key] = make()
    return found


_SHARED: weakref.WeakValueDictionary[Hashable, Embedder] = weakref.WeakValueDictionary()


def usable_device(device: str, setting: str) -> str:
    """The device that is meant: `auto` is the first GPU if there is one.

    Raises:
        ConfigError: no such device here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        there = {"cpu": 1, "cuda": torch.cuda.device_count()}[found.type]
    except (RuntimeError, TypeError, KeyError):
        raise ConfigError(f"{setting}.device: {device!r} is not a device; use auto, cpu, cuda or cuda:1") from None
    if (found.index or 0) >= there:
        raise ConfigError(f"{setting}.device: no {device} is usable here; give {setting}.device=cpu")
    return device


def pixel_key(image: Image) -> bytes:
    """A digest of a picture's pixels, the key that its vectors are remembered by."""
    if image.mode == "P":  # its bytes mean nothing without the palette
        image = image.convert("RGBA")
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()
