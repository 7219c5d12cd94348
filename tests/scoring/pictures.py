"""Pictures to judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bayes_merger.scoring import ImageToScore


def noise(seed: int, size: tuple[int, int] = (40, 56), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def judged(
    index: int = 0,
    *,
    payload: str = "portrait",
    prompt: str = "a red cat",
    candidate: str = "c1",
    image: Image.Image | None = None,
    path: Path | None = None,
) -> ImageToScore:
    return ImageToScore(payload, index, 100 + index, prompt, image or noise(index), path, candidate)
