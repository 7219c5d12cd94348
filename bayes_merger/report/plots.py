"""The figures of a study: the course of the search, the Pareto front, the weights on the U-Net."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from bayes_merger.merging.recipe.postprocess import method_weights
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.report.colours import colour, ink
from bayes_merger.report.contents import bare
from bayes_merger.report.convergence import convergence_of
from bayes_merger.report.figures import new_figure
from bayes_merger.run.record import chosen_trial, complete_trials, final_of, front_of, objectives_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, SOFT = "#2166ac", "#e08214", "#8a8a8a", "#595959"  # colour-blind safe; SOFT is for letters


def convergence_figure(study: optuna.study.Study) -> Figure:
    """Every trial's points, the best so far, what all trials together say it was worth, and its models' points."""
    found = convergence_of(study)
    last = max(found.points[-1][0], 1)
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    if found.design >= 0:
        axes.axvspan(-0.5, found.design + 0.5, color="#f0f0f0", label="start design")
    numbers, values = zip(*found.points, strict=True)
    axes.scatter(numbers, values, s=18, color=GREY, label="trial", zorder=2)
    lines = ((found.best, BLUE, "-", "best observed"), (found.believed, ORANGE, "--", "best posterior mean"))
    for points, tone, style, name in lines:
        if points:
            numbers, values = zip(*(*points, (last, points[-1][1])), strict=True)
            axes.step(numbers, values, where="post", color=tone, linestyle=style, linewidth=2, label=name, zorder=3)
    for name, value in found.parents.items():
        axes.axhline(value, color=GREY, linestyle=":", linewidth=1, zorder=1)
        axes.annotate(f" {name}", (1.0, value), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=SOFT)
    for number, value in found.points:
        if number == found.chosen:
            axes.scatter(
                [number], [value], s=110, color=ORANGE, edgecolor="white", marker="*", label="chosen", zorder=4
            )
    axes.set_xlabel("trial")
    axes.set_ylabel("points" if len(study.directions) == 1 else "weighted sum of points")
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_title(study.study_name)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    _bare(axes)
    return figure


def front_figure(study: optuna.study.Study) -> Figure:
    """All trials in the plane of each two objectives, the Pareto front, and its members on fresh seeds."""
    names = objectives_of(study)
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    figure = new_figure(6.2 * len(pairs), 5)
    front, taken = front_of(study), chosen_trial(study).number
    final = final_of(study)
    for place, (i, j) in enumerate(pairs):
        axes = figure.add_subplot(1, len(pairs), place + 1)
        done = complete_trials(study)
        axes.scatter([t.values[i] for t in done], [t.values[j] for t in done], s=18, color=GREY, label="trial")
        edge = sorted((t.values[i], t.values[j]) for t in front)
        style: dict[str, Any] = {"marker": "o", "color": BLUE, "label": "Pareto front", "zorder": 3}
        if len(names) == 2:
            axes.step(*zip(*edge, strict=True), where="pre", **style)
        else:
            axes.plot(*zip(*edge, strict=True), linestyle="", **style)
        for trial in front:
            star = " *" if trial.number == taken else ""
            axes.annotate(f"{trial.number}{star}", (trial.values[i], trial.values[j]), xytext=(5, 5),
                          textcoords="offset points", fontsize=8, color=BLUE)  # fmt: skip
        again = [one for one in final.rescored if one.objectives] if final else []
        if again:
            x, y = ([one.objectives[k] for one in again] for k in (i, j))
            dx, dy = ([one.objective_errors[k] or 0.0 for one in again] for k in (i, j))
            axes.errorbar(x, y, xerr=dx, yerr=dy, fmt="D", markersize=4, color=ORANGE, linewidth=1,
                          label="on fresh seeds, ± standard error", zorder=4)  # fmt: skip
            for one in again:
                axes.annotate(str(one.trial), (one.objectives[i], one.objectives[j]), xytext=(5, -11),
                              textcoords="offset points", fontsize=8, color=ORANGE)  # fmt: skip
        axes.set_xlabel(f"{names[i]}, points")
        axes.set_ylabel(f"{names[j]}, points")
        axes.legend(loc="best", frameon=False, fontsize=8)
        _bare(axes)
    figure.suptitle(f"{study.study_name}    (* chosen: the best weighted sum)", fontsize=10)
    return figure


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def unet_figure(recipe: MergeRecipe, title: str, idle: Collection[str] = ()) -> Figure:
    """The weights on a picture of the U-Net: IN goes down on the left, OUT up on the right, M00 at the bottom.

    Args:
        recipe: the merge.
        title: above it.
        idle: the weights that change nothing, as in ``IN00.alpha``; they are hatched.
    """
    weights = method_weights(recipe.weights)
    figure = new_figure(3.9 * len(weights), 6.2)
    low = min(0.0, *(min(blocks.values()) for blocks in weights.values()))
    high = max(1.0, *(max(blocks.values()) for blocks in weights.values()))
    for number, (weight, blocks) in enumerate(weights.items()):
        axes = figure.add_subplot(1, len(weights), number + 1)
        _draw_unet(axes, blocks, low, high, {name for name in blocks if f"{name}.{weight}" in idle})
        axes.set_title(_ends(recipe, weight), fontsize=9)
    figure.suptitle(title, fontsize=11)
    if idle:
        figure.supxlabel("hatched: the models are equal there", fontsize=8)
    return figure


def _ends(recipe: MergeRecipe, weight: str) -> str:
    """What a weight's numbers mean: of a weighted sum the models by name."""
    if recipe.method != "weighted_sum" or not {"a", "b"} <= recipe.models.keys():
        return weight
    a, b = (textwrap.shorten(Path(bare(recipe.models[role].path)).stem, 28, placeholder="...") for role in ("a", "b"))
    return f"{weight}\n0 is A, {a}\n1 is B, {b}"


def _draw_unet(axes: Axes, blocks: Mapping[str, float], low: float, high: float, idle: Collection[str]) -> None:
    left = [name for name in blocks if name.startswith("IN")]
    right = [name for name in blocks if name.startswith("OUT")][::-1]
    middle = [name for name in blocks if name not in (*left, *right, "BASE")]
    places = {"BASE": (0.5, -1.2)} if "BASE" in blocks else {}
    places |= _column(left, 0.0) | _column(right, 1.0)
    bottom = max(len(left), len(right))
    places |= {name: (0.5, bottom + row) for row, name in enumerate(middle)}
    for name, (x, y) in places.items():
        share = (blocks[name] - low) / (high - low)
        looks: dict[str, Any] = {"color": colour(share)}
        text, letters = f"{name}  {blocks[name]:.2f}", ink(share)
        if name in idle:
            looks = {"facecolor": "white", "edgecolor": "#c0c0c0", "linewidth": 0, "hatch": "////"}
            text, letters = name, SOFT
        width = 0.9 if name in ("BASE", *middle) else 0.82
        axes.barh(y, width, left=x - width / 2, height=0.86, **looks)
        label = axes.text(x, y, text, ha="center", va="center", fontsize=8, color=letters)
        if name in idle:
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    axes.invert_yaxis()
    axes.set_xlim(-0.5, 1.5)
    axes.set_axis_off()


def _column(names: Sequence[str], x: float) -> dict[str, tuple[float, float]]:
    return {name: (x, row) for row, name in enumerate(names)}
