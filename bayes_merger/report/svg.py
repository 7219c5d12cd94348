"""Figures as SVG, from plain data: what the report, and any page, shows inline. Colours and fonts are the page's.

Classes name what a shape is (``grid``, ``dot``, ``best``); the style sheet beside this file says how it looks, in light
and dark. Only what data decides is written here: places, sizes, and the colour of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bayes_merger.report.colours import colour, ink
from bayes_merger.report.convergence import Convergence

WIDTH, HEIGHT = 880, 320
LEFT, RIGHT, TOP, BOTTOM = 46, 122, 18, 34
"""The margins of a plot; on the right stand the names of its lines."""

BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " _.-~=+*#"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values in a line of text, at most ``width`` characters.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    if not values:
        return ""
    step = max(1, math.ceil(len(values) / width))
    shown = [max(values[i : i + step]) for i in range(0, len(values), step)]
    low, spread = min(shown), max(shown) - min(shown)
    return "".join(BARS[1 + round((value - low) / spread * 7)] if spread else BARS[1] for value in shown)


def nice_steps(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two, about ``count`` of them.

    >>> nice_steps(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


@dataclass(frozen=True)
class _Plot:
    """From trials and points to places on the drawing.

    Attributes:
        last: the number of the last trial; the first is 0.
        low: the least points that are drawn in their place.
        high: the most.
    """

    last: int
    low: float
    high: float

    def x(self, trial: float) -> float:
        return LEFT + trial / self.last * (WIDTH - RIGHT - LEFT)

    def y(self, points: float) -> float:
        place = HEIGHT - BOTTOM - (points - self.low) / (self.high - self.low) * (HEIGHT - BOTTOM - TOP)
        return min(max(place, TOP), HEIGHT - BOTTOM)

    def line(self, corners: Iterable[tuple[float, float]]) -> str:
        return "L".join(f"{self.x(trial):.1f} {self.y(points):.1f}" for trial, points in corners)


def convergence_svg(found: Convergence, unit: str = "points") -> str:
    """The course of a search: trials as dots, the best so far as steps with a band of noise, the parents as lines.

    Args:
        found: the course.
        unit: of the vertical axis.
    """
    if not found.points:
        return ""
    seen = sorted(value for _, value in (*found.points, *found.believed))
    plot = _Plot(max(found.points[-1][0], 1), *_range(seen, found.parents.values()))
    steps = _corners(found.believed or found.best, plot.last)
    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="points by trial">']
    parts += _frame(plot, found.design, unit)
    if found.noise > 0:
        upper = [(trial, points + found.noise) for trial, points in steps]
        lower = [(trial, points - found.noise) for trial, points in reversed(steps)]
        parts.append(f'<path class="band" d="M{plot.line([*upper, *lower])}Z"/>')
    dots = "".join(f"M{plot.x(trial):.1f} {plot.y(points):.1f}h0" for trial, points in found.points)
    parts.append(f'<path class="dots" d="{dots}"/>')
    parts.append(f'<path class="best" d="M{plot.line(_corners(found.best, plot.last))}"/>')
    if found.believed:
        parts.append(f'<path class="believed" d="M{plot.line(steps)}"/>')
    return "".join([*parts, *_names(plot, found), "</svg>"])


def _frame(plot: _Plot, design: int, unit: str) -> list[str]:
    """What lies under the data: the start design, grid, numbers, units."""
    right, bottom, parts = WIDTH - RIGHT, HEIGHT - BOTTOM, []
    if design >= 0:
        size = f'width="{plot.x(design) - LEFT:.1f}" height="{bottom - TOP}"'
        parts.append(f'<rect class="design" x="{LEFT}" y="{TOP}" {size}/>')
        parts.append(f'<text class="note" x="{LEFT + 4}" y="{bottom - 5}">start design</text>')
    for value in nice_steps(plot.low, plot.high):
        y = plot.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in nice_steps(0, plot.last, 8):
        if value == int(value):
            place = f'x="{plot.x(value):.1f}" y="{bottom + 17}"'
            parts.append(f'<text class="tick" {place} text-anchor="middle">{value:g}</text>')
    parts.append(f'<text class="note" x="{(LEFT + right) / 2}" y="{HEIGHT - 2}" text-anchor="middle">trial</text>')
    return [*parts, f'<text class="note" x="{LEFT}" y="{TOP - 3}">{escape(unit)}</text>']


def _range(values: Sequence[float], parents: Iterable[float]) -> tuple[float, float]:
    """The range that is drawn, of sorted values: a few very bad trials do not press all others together."""
    low, high = min([values[len(values) // 20], *parents]), values[-1]
    space = (high - low or 1.0) * 0.08
    return low - space, high + space


def _corners(points: Sequence[tuple[int, float]], last: int) -> list[tuple[int, float]]:
    """The corners of the line of what was best so far, to the last trial."""
    found = [points[0]]
    for trial, value in points[1:]:
        found += [(trial, found[-1][1]), (trial, value)]
    return [*found, (last, found[-1][1])]


def _names(plot: _Plot, found: Convergence) -> list[str]:
    """The parents' lines, the names of all lines at their right ends, none over another, and the chosen trial."""
    right, parts = WIDTH - RIGHT, []
    names = [("best seen", found.best[-1][1], "best-name")]
    names += [("believed", found.believed[-1][1], "believed-name")] if found.believed else []
    for name, value in found.parents.items():
        parts.append(f'<path class="parent" d="M{LEFT} {plot.y(value):.1f}H{right}"/>')
        names.append((name, value, "parent-name"))
    y = TOP - 9.0
    for name, value, kind in sorted(names, key=lambda one: -one[1]):
        y = max(y + 13.0, plot.y(value) + 4.0)
        parts.append(f'<text class="{kind}" x="{right + 7}" y="{y:.1f}">{name} {value:.2f}</text>')
    for trial, points in found.points:
        if trial == found.chosen:
            place = f'cx="{plot.x(trial):.1f}" cy="{plot.y(points):.1f}"'
            about = f"<title>trial {trial}, {points:.3f} points: the best merge</title>"
            parts.append(f'<circle class="chosen" {place} r="6">{about}</circle>')
    return parts


CELL = (92, 26, 6)
"""Width, height and gap of a cell of the network."""


def network_svg(
    weights: Mapping[str, float],
    idle: Collection[str] = (),
    importance: Mapping[str, float] | None = None,
    label: str = "weights of the blocks",
) -> str:
    """The weights of one kind on a picture of the network, with the number in each cell.

    A U-Net goes down on the left, through the middle and up on the right; other networks fill rows. A hatched cell
    is idle; a frame says that a block seems to matter, the wider the more.

    Args:
        weights: block -> number.
        idle: the blocks that change nothing.
        importance: block -> 0 to 1, of those that seem to matter.
        label: for those who cannot see it.
    """
    places, columns, rows = _places(list(weights))
    low, high = min(0.0, *weights.values()), max(1.0, *weights.values())
    wide, tall, gap = CELL
    width, height = columns * (wide + gap) + gap, rows * (tall + gap) + gap
    parts = [f'<svg class="network" viewBox="0 0 {width:g} {height:g}" width="{1.5 * width:g}" role="img" '
             f'aria-label="{escape(label)}">'
             '<defs><pattern id="idle" width="6" height="6" patternUnits="userSpaceOnUse" '
             'patternTransform="rotate(45)"><path class="hatch" d="M0 0V6"/></pattern></defs>']  # fmt: skip
    for name, (column, row) in places.items():
        x, y = gap + column * (wide + gap), gap + row * (tall + gap)
        box = f'x="{x:g}" y="{y:g}" width="{wide}" height="{tall}" rx="3"'
        share = (weights[name] - low) / (high - low)
        if name in idle:
            parts.append(f'<rect class="idle" fill="url(#idle)" {box}/>')
            text = f'<tspan x="{x + 8:g}">{escape(name)}</tspan>'
            parts.append(f'<text class="idle-name" y="{y + 17.5:g}">{text}</text>')
            continue
        parts.append(f'<rect fill="{colour(share)}" {box}><title>{escape(name)}: {weights[name]:.4f}</title></rect>')
        if importance and importance.get(name, 0.0) > 0:
            frame = 1.0 + 3.0 * importance[name] / max(importance.values())
            parts.append(f'<rect class="matters" {box} stroke-width="{frame:.1f}"/>')
        number = f'<tspan x="{x + wide - 8:g}" text-anchor="end">{weights[name]:.2f}</tspan>'
        text = f'<tspan x="{x + 8:g}">{escape(name)}</tspan>{number}'
        parts.append(f'<text class="cell" y="{y + 17.5:g}" fill="{ink(share)}">{text}</text>')
    return "".join([*parts, "</svg>"])


def _places(names: Sequence[str]) -> tuple[dict[str, tuple[float, float]], int, int]:
    """Column and row of each block, and how many there are of both."""
    left = [name for name in names if name.startswith("IN")]
    right = [name for name in names if name.startswith("OUT")][::-1]
    if not left or not right:
        columns = 6
        return {name: (place % columns, place // columns) for place, name in enumerate(names)}, columns, \
            -(-len(names) // columns)  # fmt: skip
    middle = [name for name in names if name not in (*left, *right, "BASE")]
    top = 1 if "BASE" in names else 0
    places: dict[str, tuple[float, float]] = {"BASE": (0.5, 0)} if top else {}
    places |= {name: (column, top + row) for column, side in enumerate((left, right)) for row, name in enumerate(side)}
    bottom = top + max(len(left), len(right))
    places |= {name: (0.5, bottom + row) for row, name in enumerate(middle)}
    return places, 2, bottom + len(middle)


def bars_svg(rows: Sequence[tuple[str, float, bool]], label: str) -> str:
    """Shares as bars with their names and numbers; faint where a row is not told from luck.

    Args:
        rows: name, share from 0 to 1, whether it is more than luck.
        label: for those who cannot see it.
    """
    most = max((share for _, share, _ in rows), default=0.0) or 1.0
    parts = [f'<svg class="bars" viewBox="0 0 300 {len(rows) * 20 + 4}" role="img" aria-label="{escape(label)}">']
    for row, (name, share, sure) in enumerate(rows):
        y = 4 + row * 20
        parts.append(f'<text class="tick" x="84" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="{"bar" if sure else "bar luck"}" x="92" y="{y + 1}" '
                     f'width="{max(1.0, 150 * share / most):.1f}" height="14" rx="2"/>')  # fmt: skip
        parts.append(f'<text class="tick" x="{98 + 150 * share / most:.1f}" y="{y + 12}">{share:.0%}</text>')
    return "".join([*parts, "</svg>"])
