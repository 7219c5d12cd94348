"""What the user takes home from a study: recipe, weight strings, pictures, plots, a summary.

Everything is made from the study alone, so it can be made again at any time and after any crash.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from bayes_merger.atomic import write_atomically, write_json
from bayes_merger.merging.blocks import weights_to_string
from bayes_merger.merging.elements import parse_rules
from bayes_merger.merging.recipe import MergeRecipe
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.record import chosen_trial, complete_trials, final_of, mean_scores, recipe_of, state_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2166ac", "#e08214", "#8a8a8a"  # told apart by colour-blind readers too


def write_best(study: optuna.study.Study, folder: RunFolder) -> MergeRecipe:
    """Write ``best/``: recipe, weight strings, pictures, plots and summary; returns the recipe."""
    trial = chosen_trial(study)
    recipe = recipe_of(study, trial)
    write_json(folder.best / "recipe.json", recipe.to_json())
    write_atomically(folder.best / "weights.txt", weights_text(recipe, folder.name))
    write_json(folder.best / "summary.json", summary(study))
    _copy_pictures(trial, folder)
    _write_plot(convergence_figure(study), folder.best / "convergence.png")
    _write_plot(unet_figure(recipe, f"{folder.name}: trial {trial.number}"), folder.best / "unet.png")
    return recipe


def weights_text(recipe: MergeRecipe, name: str) -> str:
    """The weights as lines to paste: 26 numbers, BASE first, as supermerger and model-mixer take them."""
    architecture = recipe.layout
    lines = []
    for weight, blocks in recipe.weights.items():
        text = weights_to_string(blocks, architecture)
        lines += [f"{weight} ({architecture.blocks[0]}, {architecture.blocks[1]} ... {architecture.blocks[-1]}):", text]
        lines += ["as a line of supermerger's mbwpresets.tsv:", f"{name}-{weight}\t{text}", ""]
    beyond = [
        f"{block}.{weight} = {number:.4g}"
        for weight, blocks in recipe.weights.items()
        for block, number in blocks.items()
        if block not in architecture.blocks
    ]
    lines += ["beyond the blocks:", *beyond, ""] if beyond else []
    rules = parse_rules(recipe.elements, architecture, tuple(recipe.weights))
    lines += (
        ["for supermerger's elemental merge:", *(rule.with_numbers(recipe.weights) for rule in rules), ""]
        if rules
        else []
    )
    return "\n".join(lines)


def summary(study: optuna.study.Study) -> dict[str, Any]:
    """One study as data: trials, best, weights, the closing table."""
    trials = study.get_trials(deepcopy=False)
    done = complete_trials(study)
    final = final_of(study)
    config = study.user_attrs.get("config", {})
    best = chosen_trial(study) if done else None
    return {
        "name": study.study_name,
        "trials": {
            "finished": len(done),
            "failed": sum(
                trial.state == optuna.trial.TrialState.FAIL
                and "reason" in trial.user_attrs
                and trial.user_attrs["reason"] != "interrupted"
                for trial in trials
            ),
            "budget": config.get("init_points", 0) + config.get("n_iters", 0),
        },
        "state": state_of(study),
        "method": config.get("method"),
        "optimiser": config.get("optimiser", {}).get("_target_", "").rsplit(".", 1)[-1],
        "models": study.user_attrs.get("recipe", {}).get("models", {}),
        "best": _trial_data(best) if best else None,
        "final": final.to_json() if final else None,
    }


def _trial_data(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "value": trial.value,
        "scores": mean_scores(trial.user_attrs.get("scores", [])),
        "weights": trial.user_attrs.get("weights", {}),
        "images": trial.user_attrs.get("images", []),
    }


def trials_data(study: optuna.study.Study) -> list[dict[str, Any]]:
    """Every trial as data, failed ones with their reason."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        row = {"state": trial.state.name.lower(), **_trial_data(trial)}
        if reason := trial.user_attrs.get("reason"):
            row["reason"] = reason
        rows.append(row)
    return rows


def _copy_pictures(trial: optuna.trial.FrozenTrial, folder: RunFolder) -> None:
    for old in folder.best.glob("*.png"):
        old.unlink()
    for name in trial.user_attrs.get("images", []):
        source = folder.path / name
        if source.is_file():
            shutil.copyfile(source, folder.best / source.name)


def _write_plot(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def convergence_figure(study: optuna.study.Study) -> Figure:
    """Every trial's points, and the best so far as a line."""
    figure = _new_figure(8, 4.5)
    axes = figure.add_subplot()
    trials = complete_trials(study)
    init = study.user_attrs.get("config", {}).get("init_points", 0)
    numbers = list(range(1, len(trials) + 1))
    values = [trial.value or 0.0 for trial in trials]
    best = [max(values[:count]) for count in numbers]
    axes.axvspan(0.5, min(init, len(trials)) + 0.5, color="#f0f0f0", label="start design")
    axes.scatter(numbers, values, s=18, color=GREY, label="trial", zorder=2)
    axes.step(numbers, best, where="post", color=BLUE, linewidth=2, label="best so far", zorder=3)
    winner = chosen_trial(study)
    position = [trial.number for trial in trials].index(winner.number) + 1
    axes.scatter([position], [winner.value or 0.0], s=90, color=ORANGE, marker="*", label="taken home", zorder=4)
    axes.set_xlabel("trial")
    axes.set_ylabel("points")
    axes.set_xlim(0.5, max(len(trials), 2) + 0.5)
    axes.set_title(study.study_name)
    axes.legend(loc="best", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def unet_figure(recipe: MergeRecipe, title: str) -> Figure:
    """The weights on a picture of the U-Net: IN goes down on the left, OUT up on the right, M00 at the bottom."""
    figure = _new_figure(3.9 * len(recipe.weights), 6.2)
    low = min(0.0, *(min(blocks.values()) for blocks in recipe.weights.values()))
    high = max(1.0, *(max(blocks.values()) for blocks in recipe.weights.values()))
    for number, (weight, blocks) in enumerate(recipe.weights.items()):
        axes = figure.add_subplot(1, len(recipe.weights), number + 1)
        _draw_unet(axes, blocks, low, high)
        axes.set_title(f"{weight}: 0 is A, 1 is B" if recipe.method == "weighted_sum" else weight, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_unet(axes: Axes, blocks: Mapping[str, float], low: float, high: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("ab", [BLUE, "#f7f7f7", ORANGE])
    left = [name for name in blocks if name.startswith("IN")]
    right = [name for name in blocks if name.startswith("OUT")][::-1]
    middle = [name for name in blocks if name not in (*left, *right, "BASE")]
    places = {"BASE": (0.5, -1.2)} if "BASE" in blocks else {}
    places |= _column(left, 0.0) | _column(right, 1.0)
    bottom = max(len(left), len(right))
    places |= {name: (0.5, bottom + row) for row, name in enumerate(middle)}
    for name, (x, y) in places.items():
        share = (blocks[name] - low) / (high - low)
        axes.barh(y, 0.9 if name in ("BASE", *middle) else 0.82, left=x - 0.41, height=0.86, color=colours(share))
        dark = abs(share - 0.5) > 0.3
        axes.text(
            x,
            y,
            f"{name}  {blocks[name]:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark and share < 0.5 else "black",
        )
    axes.invert_yaxis()
    axes.set_xlim(-0.5, 1.5)
    axes.set_axis_off()


def _column(names: Sequence[str], x: float) -> dict[str, tuple[float, float]]:
    return {name: (x, row) for row, name in enumerate(names)}
