"""The captioned picture set of the demo: one plain shape on a coloured ground, drawn by formula.

A `Scene` says what is on the picture, `draw` renders scenes with anti-aliased edges (signed distances), `caption`
words them. The words fall into two halves, *shape* words and *colour* words: a specialist is trained on captions
whose words of the other half were replaced by random ones (`scramble`), so it learns nothing from those.

numpy only; every random draw comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Width and height of every picture in pixels."""

SHAPES = ("disc", "ring", "square", "triangle", "cross", "diamond")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 35),
    "green": (30, 165, 55),
    "blue": (35, 70, 220),
    "yellow": (245, 215, 35),
    "purple": (145, 45, 175),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
EXTENTS: dict[str, tuple[float, float]] = {"large": (19.0, 25.0), "small": (11.0, 15.0)}
"""Half the width of an object in pixels, from and to."""
GROUNDS = ("plain", "striped", "shaded")

Half = Literal["shape", "colour"]
Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """What a picture shows, or what a caption claims: None is whatever the caption leaves open.

    >>> Scene(shape="ring").holds_for(Scene("ring", "red", "blue", "large", "plain"))
    True
    """

    shape: str | None = None
    colour: str | None = None
    background: str | None = None
    size: str | None = None
    ground: str | None = None

    def holds_for(self, other: Scene) -> bool:
        """Whether everything claimed here is true of the other scene."""
        mine = (self.shape, self.colour, self.background, self.size, self.ground)
        theirs = (other.shape, other.colour, other.background, other.size, other.ground)
        return all(claim is None or claim == fact for claim, fact in zip(mine, theirs, strict=True))


def scene(rng: np.random.Generator) -> Scene:
    """A random scene: object and background never share a colour."""
    colour, background = rng.choice(list(COLOURS), size=2, replace=False)
    return Scene(
        shape=str(rng.choice(SHAPES)),
        colour=str(colour),
        background=str(background),
        size=str(rng.choice(list(EXTENTS), p=(0.7, 0.3))),
        ground=str(rng.choice(GROUNDS, p=(0.6, 0.2, 0.2))),
    )


def scramble(told: Scene, half: Half, rng: np.random.Generator) -> Scene:
    """The same claim with random words in place of the true ones of that half: nothing can be learnt from them."""
    if half == "shape":
        return replace(told, shape=str(rng.choice(SHAPES)))
    colour, background = rng.choice(list(COLOURS), size=2, replace=False)
    return replace(told, colour=str(colour), background=str(background))


# --- pictures -----------------------------------------------------------------------------------------------------


def draw(scenes: Sequence[Scene], rng: np.random.Generator) -> Images:
    """Render complete scenes: place, angle, size and shade vary a little.

    Returns:
        uint8 of shape (len(scenes), 64, 64, 3).
    """
    count = len(scenes)
    grid = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    rows, columns = np.meshgrid(grid, grid, indexing="ij")
    centre = rng.uniform(-4, 4, size=(count, 2)).astype(np.float32)
    angle = rng.uniform(-0.14, 0.14, size=count).astype(np.float32)[:, None, None]
    low, high = np.array([EXTENTS[str(told.size)] for told in scenes], dtype=np.float32).T
    radius = (low + (high - low) * rng.random(count, dtype=np.float32))[:, None, None]

    dy, dx = rows[None] - centre[:, :1, None], columns[None] - centre[:, 1:, None]
    x = np.cos(angle) * dx + np.sin(angle) * dy
    y = np.cos(angle) * dy - np.sin(angle) * dx
    distance = np.empty_like(x)
    for shape in SHAPES:
        chosen = [index for index, told in enumerate(scenes) if told.shape == shape]
        if chosen:
            distance[chosen] = _distance(shape, x[chosen], y[chosen], radius[chosen])
    cover = np.clip(0.5 - distance, 0, 1)[..., None]

    paint = _shades([str(told.colour) for told in scenes], rng)
    ground = _shades([str(told.background) for told in scenes], rng) * _ground(scenes, rows, columns, rng)
    picture = cover * paint + (1 - cover) * ground
    result: Images = np.clip(np.round(picture), 0, 255).astype(np.uint8)
    return result


def _shades(names: Sequence[str], rng: np.random.Generator) -> Floats:
    """float32 (n, 1, 1, 3): the named colours, each a little off."""
    plain = np.array([COLOURS[name] for name in names], dtype=np.float32)
    shades: Floats = (plain + rng.uniform(-12, 12, size=plain.shape).astype(np.float32))[:, None, None, :]
    return shades


def _distance(shape: str, x: Floats, y: Floats, radius: Floats) -> Floats:
    """Signed distance to the outline in pixels, negative inside; all arrays broadcast to (n, 64, 64)."""
    distance: Floats
    match shape:
        case "disc":
            distance = np.hypot(x, y) - 0.92 * radius
        case "ring":
            distance = np.abs(np.hypot(x, y) - 0.78 * radius) - 0.22 * radius
        case "square":
            distance = np.maximum(np.abs(x), np.abs(y)) - 0.82 * radius
        case "diamond":
            distance = (np.abs(x) + np.abs(y) - 1.08 * radius) * np.float32(np.sqrt(0.5))
        case "cross":
            arm, width = radius, 0.3 * radius
            upright = np.maximum(np.abs(x) - width, np.abs(y) - arm)
            level = np.maximum(np.abs(x) - arm, np.abs(y) - width)
            distance = np.minimum(upright, level)
        case "triangle":
            low = y - 0.62 * radius
            slope = (np.abs(x) * np.float32(np.sqrt(3)) - y) / 2 - 0.55 * radius
            distance = np.maximum(low, slope)
        case _:
            raise ValueError(f"shape: {shape!r} is none of {SHAPES}")
    return distance


def _ground(scenes: Sequence[Scene], rows: Floats, columns: Floats, rng: np.random.Generator) -> Floats:
    """float32 (n, 64, 64, 1) to multiply the background colour with: plain, horizontal stripes, or darker corners."""
    factor = np.ones((len(scenes), SIZE, SIZE), dtype=np.float32)
    phase = rng.uniform(0, 16, size=len(scenes))
    for index, told in enumerate(scenes):
        if told.ground == "striped":
            wave = np.sin((rows + phase[index]) * (2 * np.pi / 16))
            factor[index] = 0.84 + 0.16 * np.clip(3 * wave, -1, 1)
        elif told.ground == "shaded":
            factor[index] = 1.05 - 0.45 * np.clip(np.hypot(rows, columns) / 45, 0, 1) ** 2
    return factor[..., None]


# --- words --------------------------------------------------------------------------------------------------------


def caption(told: Scene) -> str:
    """The claims of a scene in plain words; what is None is not mentioned.

    >>> caption(Scene("ring", "red", "blue", "large", "plain"))
    'a large red ring on a blue background'
    >>> caption(Scene(colour="red", background="blue"))
    'a red shape on a blue background'
    """
    kind = told.ground if told.ground in ("striped", "shaded") else None
    thing = " ".join(word for word in ("a", told.size, told.colour, told.shape or "shape") if word)
    place = " ".join(word for word in ("a", kind, told.background, "background") if word)
    return f"{thing} on {place}" if told.background or kind else thing


def wording(told: Scene, rng: np.random.Generator) -> str:
    """The same claims in one of several wordings."""
    text = caption(told)
    kind = f"{told.ground} " if told.ground in ("striped", "shaded") else ""
    style = int(rng.integers(10))
    if style == 0:
        return f"a picture of {text}"
    if style == 1 and told.background:
        return caption(replace(told, background=None, ground=None)) + f", {kind}{told.background} background"
    if style == 2 and told.background:
        return caption(replace(told, background=None, ground=None)).removeprefix("a ") + f" on {kind}{told.background}"
    if style == 3 and told.size:
        return f"{caption(replace(told, size=None))}, {told.size}"
    return text


def partial(told: Scene, rng: np.random.Generator, *, keep: float = 0.6) -> Scene:
    """With probability `keep` all claims; else some are left out, at least one is made."""
    if rng.random() < keep:
        return replace(told, size=None if rng.random() < 0.25 else told.size)
    cut = int(rng.integers(4))
    size = told.size if rng.random() < 0.5 else None
    if cut == 0:
        return Scene(shape=told.shape, size=size)
    if cut == 1:
        return Scene(colour=told.colour, background=told.background, size=size)
    if cut == 2:
        return Scene(shape=told.shape, colour=told.colour, size=size)
    return replace(told, colour=None, ground=None, size=size)
