"""Pictures worth looking at, by formula: hills under a sun, in colours of their own for every merge."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bayes_merger.run.folder import RunFolder

SIZES = ((1, 1), (3, 2), (2, 3))


@lru_cache(maxsize=64)
def landscape(seed: int, hue: float, width: int, height: int) -> Image.Image:
    """The seed says where the hills and the sun are, the hue (0 to 1) what colour the evening is."""
    place = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    sky, glow, dark = (np.array(colorsys.hsv_to_rgb(h % 1, s, v)) for h, s, v in _evening(hue))
    picture = sky + (glow - sky) * y[..., None] ** 1.4
    sun = np.hypot((x - place.uniform(0.2, 0.8)) * width / height, y - place.uniform(0.2, 0.45))
    picture += np.clip(1.2 - sun * 9, 0, 1)[..., None] * 0.5 + np.exp(-sun * 5)[..., None] * 0.18
    for hill in range(5):
        near = (hill + 1) / 5
        edge = 0.42 + 0.11 * hill
        for octave in range(1, 6):
            edge = edge + 0.07 * near**0.3 / octave * np.sin(x * 4.5 * octave + place.uniform(0, 7))
        blend = np.clip((y - edge) * height / 1.5, 0, 1)[..., None]
        picture += (glow * (1 - near) * 0.75 + dark * near - picture) * blend
    return Image.fromarray(np.uint8(np.clip(picture, 0, 1) * 255))


def _evening(hue: float) -> tuple[tuple[float, float, float], ...]:
    return (hue + 0.58, 0.62, 0.62), (hue + 0.07, 0.5, 0.98), (hue + 0.68, 0.6, 0.16)


def paint(folder: RunFolder, side: int = 96, *, square: bool = False, trials: str = "*") -> None:
    """Put landscapes in the place of a study's grey pictures; they name the merge, as a run's do."""
    for path in sorted(folder.path.glob(f"images/{trials}/*.png")):
        trial, payload = int(path.parent.name), sum(path.stem.encode())
        wide, high = (1, 1) if square else SIZES[payload % 3]
        picture = landscape(payload, 0.13 * (trial % 8), side * wide // max(wide, high), side * high // max(wide, high))
        texts = PngInfo()
        texts.add_text("parameters", f"a ring, trial {trial}, alpha 0.3")
        picture.save(path, pnginfo=texts, compress_level=1)
