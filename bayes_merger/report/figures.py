"""Figures, made without a display and written whole."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_plot(figure: Figure, path: Path) -> None:
    """A figure as PNG, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110)
    write_atomically(path, written.getvalue())


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, which needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_cells(
    axes: Axes,
    cells: Mapping[tuple[str, str], float],
    title: str,
    order: Sequence[str],
    label: str,
    *,
    centred: bool = False,
) -> None:
    """A heat map; cells that are not there, or NaN, stay white.

    Args:
        axes: to draw on.
        cells: row and column -> number.
        title: above it.
        order: of the rows; those without a cell are left out.
        label: what the colours mean.
        centred: whether 0 is the middle, of which both sides count alike.
    """
    rows = [row for row in order if any(own == row for own, _ in cells)]
    columns = sorted({column for _, column in cells})
    table = [[cells.get((row, column), math.nan) for column in columns] for row in rows]
    most = max((abs(number) for number in cells.values() if math.isfinite(number)), default=1.0) or 1.0
    looks: dict[str, Any] = {"vmin": -most, "vmax": most, "cmap": "PuOr_r"} if centred else {"cmap": "viridis"}
    image = axes.imshow(table, aspect="auto", **looks)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.figure.colorbar(image, ax=axes, label=label)
