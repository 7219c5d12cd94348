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
from bayes_merger.checkpoints.blocks import weights_to_string
from bayes_merger.merging.engine.multi_step import alone
from bayes_merger.merging.plan.planning import method_weights
from bayes_merger.merging.recipe.elements import parse_rules
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTMENTS
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.record import (
    chosen_trial,
    complete_trials,
    final_of,
    front_of,
    mean_scores,
    objectives_of,
    posterior_of,
    recipe_of,
    state_of,
    value_of,
)
from bayes_merger.search.surrogates.posterior import StudyPosterior, TrialPosterior

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
    for old in folder.best.glob("*.png"):
        old.unlink()
    _copy_pictures(trial, folder, folder.best)
    write_plot(convergence_figure(study), folder.best / "convergence.png")
    write_plot(unet_figure(recipe, f"{folder.name}: trial {trial.number}"), folder.best / "unet.png")
    if objectives_of(study):
        write_front(study, folder)
    return recipe


def write_front(study: optuna.study.Study, folder: RunFolder) -> None:
    """Write ``best/front.png``, and ``best/front/NNNN/`` with recipe, weights and pictures for each of its trials."""
    place = folder.best / "front"
    if place.is_dir():
        shutil.rmtree(place)
    for trial in front_of(study):
        own = place / f"{trial.number:04d}"
        recipe = recipe_of(study, trial)
        write_json(own / "recipe.json", recipe.to_json())
        write_atomically(own / "weights.txt", weights_text(recipe, f"{folder.name}-{trial.number}"))
        _copy_pictures(trial, folder, own)
    write_plot(front_figure(study), folder.best / "front.png")


def weights_text(recipe: MergeRecipe, name: str) -> str:
    """The weights as lines to paste: 26 numbers, BASE first, as supermerger and model-mixer take them."""
    architecture = recipe.architecture_blocks
    lines = []
    weights = method_weights(recipe.weights)
    for weight, blocks in weights.items():
        text = weights_to_string(blocks, architecture)
        lines += [f"{weight} ({architecture.blocks[0]}, {architecture.blocks[1]} ... {architecture.blocks[-1]}):", text]
        lines += ["as a line of supermerger's mbwpresets.tsv:", f"{name}-{weight}\t{text}", ""]
    beyond = [
        f"{block}.{weight} = {number:.4g}"
        for weight, blocks in weights.items()
        for block, number in blocks.items()
        if block not in architecture.blocks
    ]
    lines += ["beyond the blocks:", *beyond, ""] if beyond else []
    if ADJUST in recipe.weights:
        adjust = recipe.weights[ADJUST]
        lines += ["for supermerger's adjust:", ",".join(f"{adjust[name]:.4g}" for name in ADJUSTMENTS), ""]
    for own in [alone(recipe, step) for step in recipe.steps] or [recipe]:
        rules = parse_rules(own.elements, architecture, tuple(method_weights(own.weights)))
        texts = [rule.with_numbers(own.weights) for rule in rules]
        lines += ["for supermerger's elemental merge:", *texts, ""] if texts else []
    return "\n".join(lines)


def summary(study: optuna.study.Study) -> dict[str, Any]:
    """One study as data: trials, best, weights, the closing table."""
    trials = study.get_trials(deepcopy=False)
    done = complete_trials(study)
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials)
    final = final_of(study)
    known = posterior_of(study)
    config = study.user_attrs.get("config", {})
    best = chosen_trial(study, known) if done else None
    data = {
        "name": study.study_name,
        "trials": {
            "finished": len(done) + pruned,
            "failed": sum(
                trial.state == optuna.trial.TrialState.FAIL
                and "reason" in trial.user_attrs
                and trial.user_attrs["reason"] != "interrupted"
                for trial in trials
            ),
            "pruned": pruned,
            "budget": config.get("init_points", 0) + config.get("n_iters", 0),
        },
        "state": state_of(study),
        "stopped": study.user_attrs.get("stopped"),
        "method": _method(config),
        "optimiser": config.get("optimiser", {}).get("_target_", "").rsplit(".", 1)[-1],
        "models": study.user_attrs.get("recipe", {}).get("models", {}),
        "best": _trial_data(best) | _belief_data(known, best.number) if best else None,
        "best_observed": _as_data(known.best_observed) if known.best_observed else None,
        "best_posterior_mean": _as_data(known.best) if known.best and known.fitted else None,
        "noise": known.noise,
        "final": final.to_json() if final else None,
    }
    if names := objectives_of(study):
        data |= {"objectives": names, "front": front_data(study, names)}
    return data


def _method(config: Mapping[str, Any]) -> str | None:
    """The merge method, or those of a recipe's steps one after the other."""
    steps = config.get("recipe", {}).get("steps", [])
    return ", then ".join(step.get("method", "weighted_sum") for step in steps) or config.get("method")


def front_data(study: optuna.study.Study, names: Sequence[str]) -> list[dict[str, Any]]:
    """The Pareto front as data; with means and standard errors on fresh seeds where members were drawn again."""
    final = final_of(study)
    again = {one.trial: one for one in final.rescored} if final else {}
    rows = []
    for trial in front_of(study):
        row: dict[str, Any] = {
            "trial": trial.number,
            "values": dict(zip(names, trial.values, strict=True)),
            "weighted_sum": value_of(trial),
        }
        if one := again.get(trial.number):
            row["fresh"] = dict(zip(names, one.objectives, strict=True))
            row["fresh_error"] = dict(zip(names, one.objective_errors, strict=True))
        rows.append(row)
    return rows


def _trial_data(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    data = {
        "trial": trial.number,
        "value": value_of(trial) if trial.values else None,
        "scores": mean_scores(trial.user_attrs.get("scores", [])),
        "weights": trial.user_attrs.get("weights", {}),
        "images": trial.user_attrs.get("images", []),
    }
    return data | ({"values": list(trial.values)} if trial.values and len(trial.values) > 1 else {})


def _as_data(belief: TrialPosterior) -> dict[str, Any]:
    return {"trial": belief.trial, "value": belief.observed, "mean": belief.mean, "sd": belief.sd}


def _belief_data(known: StudyPosterior, number: int) -> dict[str, Any]:
    return next(({"mean": b.mean, "sd": b.sd} for b in known.each if known.fitted and b.trial == number), {})


def trials_data(study: optuna.study.Study) -> list[dict[str, Any]]:
    """Every trial as data, with its posterior mean; failed ones and those cut short with their reason."""
    rows = []
    known = posterior_of(study)
    for trial in study.get_trials(deepcopy=False):
        row = {"state": trial.state.name.lower(), **_trial_data(trial), **_belief_data(known, trial.number)}
        if "seconds" in trial.user_attrs:
            row["seconds"] = trial.user_attrs["seconds"]
        if reason := trial.user_attrs.get("reason"):
            row["reason"] = reason
        rows.append(row)
    return rows


def _copy_pictures(trial: optuna.trial.FrozenTrial, folder: RunFolder, place: Path) -> None:
    """The trial's pictures; where only the best ones' were kept, those that the final round has drawn once more."""
    names = [folder.path / name for name in trial.user_attrs.get("images", [])]
    for source in names or sorted(folder.images(trial.number).glob("*.png")):
        if source.is_file():
            shutil.copyfile(source, place / source.name)


def write_plot(figure: Figure, path: Path) -> None:
    """A figure as PNG, whole or not at all."""
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
    """Every trial's points, the best so far, and what all trials together say the best so far was worth."""
    figure = _new_figure(8, 4.5)
    axes = figure.add_subplot()
    trials = complete_trials(study)
    known = posterior_of(study)
    init = sum(trial.user_attrs.get("phase") == "design" for trial in trials)
    numbers = list(range(1, len(trials) + 1))
    values = [value_of(trial) for trial in trials]
    axes.axvspan(0.5, init + 0.5, color="#f0f0f0", label="start design")
    axes.scatter(numbers, values, s=18, color=GREY, label="trial", zorder=2)
    best = [max(values[:count]) for count in numbers]
    axes.step(numbers, best, where="post", color=BLUE, linewidth=2, label="best observed", zorder=3)
    if known.fitted:
        means = [belief.mean for belief in known.each]
        believed = [max(means[:count]) for count in numbers]
        axes.step(numbers, believed, where="post", color=ORANGE, linewidth=1.5, linestyle="--",
                  label="best posterior mean", zorder=3)  # fmt: skip
    winner = chosen_trial(study, known)
    position = [trial.number for trial in trials].index(winner.number) + 1
    axes.scatter([position], [value_of(winner)], s=110, color=ORANGE, edgecolor="white", marker="*",
                 label="taken home", zorder=4)  # fmt: skip
    axes.set_xlabel("trial with a score")
    axes.set_ylabel("points" if len(study.directions) == 1 else "weighted sum of points")
    axes.set_xlim(0.5, max(len(trials), 2) + 0.5)
    axes.set_title(study.study_name)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    _bare(axes)
    return figure


def front_figure(study: optuna.study.Study) -> Figure:
    """All trials in the plane of each two objectives, the Pareto front, and its members on fresh seeds."""
    names = objectives_of(study)
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    figure = _new_figure(6.2 * len(pairs), 5)
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
    figure.suptitle(f"{study.study_name}    (* taken home: the best weighted sum)", fontsize=10)
    return figure


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def unet_figure(recipe: MergeRecipe, title: str) -> Figure:
    """The weights on a picture of the U-Net: IN goes down on the left, OUT up on the right, M00 at the bottom."""
    weights = method_weights(recipe.weights)
    figure = _new_figure(3.9 * len(weights), 6.2)
    low = min(0.0, *(min(blocks.values()) for blocks in weights.values()))
    high = max(1.0, *(max(blocks.values()) for blocks in weights.values()))
    for number, (weight, blocks) in enumerate(weights.items()):
        axes = figure.add_subplot(1, len(weights), number + 1)
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
