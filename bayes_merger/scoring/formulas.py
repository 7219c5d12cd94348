"""What can be said of a picture without a model: is it sharp, noisy, colourful, clipped, blank, or seen before?

None of them is taste, and each can be fooled (noise is sharp, too). They are meant as hold-outs (`importance: 0`)
beside a scorer that judges, and to find what is broken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.scoring.scorer import TEN_POINTS, ImageToScore, ScorerBase

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


def contrast(image: Image) -> float:
    """Standard deviation of the brightness, 0 to 127.5 levels; 0 is black (or NaN once), white, or any one colour."""
    return float(_brightness(image).std())


def sharpness(image: Image) -> float:
    """`log10(1 + variance of the Laplacian)` of the brightness, 0 to about 5.

    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000.
    """
    level = _brightness(image)
    edges = level[1:-1, :-2] + level[1:-1, 2:] + level[:-2, 1:-1] + level[2:, 1:-1] - 4 * level[1:-1, 1:-1]
    return math.log10(1 + float(edges.var())) if edges.size else 0.0


def noise(image: Image) -> float:
    """Standard deviation of the noise, in levels, 0 upwards: what is left of the brightness when edges are taken out.

    Immerkær, Fast noise variance estimation, 1996.
    """
    level = _brightness(image)
    across = level[:, :-2] - 2 * level[:, 1:-1] + level[:, 2:]
    rough = across[:-2] - 2 * across[1:-1] + across[2:]
    return math.sqrt(math.pi / 2) * float(abs(rough).mean()) / 6 if rough.size else 0.0


def colourfulness(image: Image) -> float:
    """`sqrt(var rg + var yb) + 0.3 sqrt(mean rg^2 + mean yb^2)`, rg = R - G, yb = (R + G) / 2 - B.

    0 is grey, 100 vivid. Hasler and Süsstrunk, Measuring colourfulness in natural images, 2003.
    """
    colours = _colours(image)
    red, green, blue = (colours[..., channel] for channel in range(3))
    rg, yb = red - green, (red + green) / 2 - blue
    return math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())


def clipped(image: Image) -> float:
    """Share of the pixels that are as good as black or white, where no detail is left, 0 to 1."""
    colours = _colours(image)
    return float(((colours <= 2).all(axis=-1) | (colours >= 253).all(axis=-1)).mean())


FORMULAS: Mapping[str, Callable[[Image], float]] = {
    formula.__name__: formula for formula in (contrast, sharpness, noise, colourfulness, clipped)
}


class FormulaScorer(ScorerBase):
    """A number of each picture alone, by a formula.

    Args:
        name: what its scores are stored under.
        formula: its name, one of `FORMULAS`.
        importance: how much it counts beside other scorers.
        scale: the raw values that mean 0 and 10 points.
    """

    def __init__(self, name: str, formula: str, importance: float = 1.0, scale: Sequence[float] = TEN_POINTS) -> None:
        super().__init__(name, importance, scale)
        if formula not in FORMULAS:
            raise ConfigError(f"scorers.{name}.formula: no '{formula}'; {nearest(formula, FORMULAS)}")
        self._formula = FORMULAS[formula]

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The formula's value of every picture."""
        return [self._formula(image.image) for image in images]


def perceptual_hash(image: Image) -> int:
    """64 bits that stay nearly the same when a picture is scaled, compressed or slightly changed.

    A bit for each of the 8 x 8 slowest waves of the brightness: whether there is more of it than of the middle one.
    """
    import numpy as np
    from PIL.Image import Resampling
    from scipy.fft import dctn

    small = image.convert("L").resize((32, 32), Resampling.LANCZOS)
    waves = dctn(np.asarray(small, dtype=np.float64), norm="ortho")[:8, :8].ravel()
    bits = waves[1:] > np.median(waves[1:])  # the first is the mean brightness, no shape
    return int("".join("01"[int(bit)] for bit in bits), 2)


def distance(one: int, other: int) -> float:
    """Share of the bits in which two perceptual hashes differ: 0 is the same picture, about 0.5 another one."""
    return (one ^ other).bit_count() / 63


class DuplicateScorer(ScorerBase):
    """How far a picture is from the nearest one that another merge drew for the same prompt and seed, 0 to 1.

    0 is the same picture again, less than 0.1 hardly another one; 1 where nothing was drawn before. What was seen is
    kept in `hashes.jsonl` in the study's folder, for all workers and after a resume.

    Args:
        name: what its scores are stored under.
        importance: how much it counts beside other scorers.
        scale: the raw values that mean 0 and 10 points.
    """

    def __init__(self, name: str, importance: float = 1.0, scale: Sequence[float] = (0.0, 0.25)) -> None:
        super().__init__(name, importance, scale)
        self._file: Path | None = None
        self._seen: dict[tuple[str, int], dict[str, int]] = {}
        self._read = 0

    def prepare(self, folder: Path | None = None) -> None:
        """Takes the folder where hashes are kept."""
        self._file = folder / "hashes.jsonl" if folder is not None else None

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The distance of every picture to the nearest one of another merge."""
        self._catch_up()
        values, lines = [], []
        for image in images:
            found = perceptual_hash(image.image)
            seen = self._seen.setdefault((image.payload, image.index), {})
            values.append(min((distance(found, at) for who, at in seen.items() if who != image.candidate), default=1.0))
            if seen.get(image.candidate) != found:
                seen[image.candidate] = found
                lines.append(json.dumps([image.payload, image.index, image.candidate, f"{found:016x}"]))
        if self._file is not None and lines:
            with self._file.open("a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(lines) + "\n")  # a line that a kill cut short ends here
        return values

    def _catch_up(self) -> None:
        """What other processes have written since."""
        if self._file is None or not self._file.is_file():
            return
        with self._file.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for payload, index, candidate, found in _entries(whole):
            self._seen.setdefault((payload, index), {})[candidate] = found


def _entries(text: bytes) -> Iterator[tuple[str, int, str, int]]:
    """Every line that makes sense."""
    for line in text.splitlines():
        try:
            payload, index, candidate, found = json.loads(line)
            yield str(payload), int(index), str(candidate), int(found, 16)
        except (ValueError, TypeError, RecursionError):
            continue


def _brightness(image: Image) -> NDArray[np.float64]:
    import numpy as np

    return np.asarray(image.convert("L"), dtype=np.float64)


def _colours(image: Image) -> NDArray[np.float64]:
    import numpy as np

    return np.asarray(image.convert("RGB"), dtype=np.float64)
