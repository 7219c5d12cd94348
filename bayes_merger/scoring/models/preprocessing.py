"""Pictures as a tower wants them: resized, cropped, normalised; on a GPU there, with the very numbers of Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# Pillow resamples bytes with whole numbers: every coefficient in units of 2^-22, rounded; one pass along the rows, one
# along the columns, each rounded to a byte. In float64 such sums are exact, so a matrix gives the same bytes anywhere.
UNIT = 1 << 22

FITS = ("shortest", "longest", "squash")

_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become the input of a tower.

    Attributes:
        size: edge of the square it takes, in pixels.
        mean: subtracted from each colour, of a range of 0 to 1.
        std: each colour is divided by it then.
        fit: `shortest` cuts the middle out of a picture whose shorter edge fits, `longest` adds black bars to one whose
            longer edge fits, `squash` squeezes the whole picture into the square.
    """

    size: int
    mean: tuple[float, float, float] = _OPENAI_MEAN
    std: tuple[float, float, float] = _OPENAI_STD
    fit: str = "shortest"

    @classmethod
    def from_open_clip(cls, size: int, settings: Mapping[str, Any]) -> Preprocessing:
        """Of an open_clip model's `preprocess_cfg`.

        Raises:
            ValueError: another way to resize than this class has.
        """
        fit, how = settings.get("resize_mode", "shortest"), settings.get("interpolation", "bicubic")
        if fit not in FITS or how != "bicubic":
            raise ValueError(f"resize_mode {fit!r} with {how!r} is not supported; give one of {', '.join(FITS)}")
        mean, std = (tuple(settings.get(key, usual)) for key, usual in (("mean", _OPENAI_MEAN), ("std", _OPENAI_STD)))
        return cls(int(settings.get("size", size)), mean, std, fit)

    def __call__(self, images: Sequence[Image], device: str = "cpu") -> Tensor:
        """Shape N x 3 x size x size, float32, on the device."""
        import torch

        squares = [self._square(image, device) for image in images]
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return (torch.stack(squares).float() / 255 - mean) / std

    def arguments(self, images: Sequence[Image], device: str) -> tuple[Tensor]:
        """The same, as the arguments of a model that sees pictures only."""
        return (self(images, device),)

    def _square(self, image: Image, device: str) -> Tensor:
        """Bytes, 3 x size x size: the CPU's by Pillow, which is four times as fast there."""
        import torch

        width, height = self._resized(*image.size)
        if image.mode == "RGB" and torch.device(device).type == "cuda":
            pixels = resize(_bytes(image).to(device), width, height)
        else:
            pixels = _bytes(image.resize((width, height), _bicubic()).convert("RGB")).to(device)
        return self._centred(pixels)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """The size before the crop or the bars, rounded as torchvision and open_clip do."""
        size = self.size
        if self.fit == "squash":
            return size, size
        if self.fit == "longest":
            ratio = max(width, height) / size
            return max(round(width / ratio), 1), max(round(height / ratio), 1)
        return (size, size * height // width) if width <= height else (size * width // height, size)

    def _centred(self, pixels: Tensor) -> Tensor:
        import torch

        height, width = pixels.shape[1:]
        if self.fit == "longest":
            left, top = (self.size - width) // 2, (self.size - height) // 2
            bars = (left, self.size - width - left, top, self.size - height - top)
            return torch.nn.functional.pad(pixels, bars)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return pixels[:, top : top + self.size, left : left + self.size]


def resize(pixels: Tensor, width: int, height: int) -> Tensor:
    """Bicubic with antialiasing, on the device of `pixels`, byte for byte what Pillow's `Image.resize` gives.

    Args:
        pixels: bytes, 3 x height x width.
        width: of the result.
        height: of the result.
    """
    import torch

    for axis, length in ((2, width), (1, height)):
        if pixels.shape[axis] != length:
            matrix = _coefficients(pixels.shape[axis], length).to(pixels.device)
            sums = torch.movedim(pixels.double(), axis, -1) @ matrix.T
            rounded = torch.floor((sums + UNIT // 2) / UNIT).clamp(0, 255).to(torch.uint8)
            pixels = torch.movedim(rounded, -1, axis)
    return pixels


@lru_cache(maxsize=16)
def _coefficients(given: int, wanted: int) -> Tensor:
    """Shape wanted x given, float64, whole numbers: what each pixel adds to each pixel of the result.

    Keys' kernel with a = -1/2, as wide as `given / wanted` pixels where the picture shrinks.
    """
    import torch

    scale = given / wanted
    stretch = max(scale, 1.0)
    matrix = torch.zeros(wanted, given, dtype=torch.float64)
    for row in range(wanted):
        centre = (row + 0.5) * scale
        first = max(int(centre - 2 * stretch + 0.5), 0)
        end = min(int(centre + 2 * stretch + 0.5), given)
        x = ((torch.arange(first, end, dtype=torch.float64) - centre + 0.5) / stretch).abs()
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        taps = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
        matrix[row, first:end] = taps / taps.sum()
    return torch.trunc(matrix * UNIT + 0.5 * matrix.sign())


def _bytes(image: Image) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def _bicubic() -> Any:
    from PIL.Image import Resampling

    return Resampling.BICUBIC
