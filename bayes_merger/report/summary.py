"""A study as data and as text: its best trials, its Pareto front, weight strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from bayes_merger.checkpoints.blocks import weights_to_string
from bayes_merger.merging.recipe.elements import parse_rules
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTMENTS, method_weights
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.steps import alone
from bayes_merger.report.formats import is_pasted
from bayes_merger.report.timing import pictures_of
from bayes_merger.report.verdict import verdict_of
from bayes_merger.run.attributes import CONFIG, IMAGES, RECIPE, SCORES, TIMES, WEIGHTS
from bayes_merger.run.holdout import trends
from bayes_merger.run.idle import space_of
from bayes_merger.run.outside import budget_of
from bayes_merger.run.predicted import prediction_of
from bayes_merger.run.record import (
    chosen_trial,
    complete_trials,
    final_of,
    front_of,
    left_out,
    mean_scores,
    objectives_of,
    posterior_of,
    state_of,
    value_of,
)
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.checked import reads_once
from bayes_merger.search.study.history import DESIGN, PHASE, REASON, WORKER
from bayes_merger.search.study.stopping import SECONDS, STOPPED
from bayes_merger.search.surrogates.posterior import StudyPosterior, TrialPosterior


def weights_text(recipe: MergeRecipe, name: str) -> str:
    """The weights as lines to paste: 26 numbers, BASE first, as supermerger and model-mixer take them."""
    architecture = recipe.architecture_blocks
    lines = []
    weights = method_weights(recipe.weights)
    for weight, blocks in weights.items():
        text = weights_to_string(blocks, architecture)
        lines += [f"{weight} ({architecture.blocks[0]}, {architecture.blocks[1]} ... {architecture.blocks[-1]}):", text]
        lines += ["as a line of supermerger's mbwpresets.txt:", f"{name}-{weight}\t{text}"] if is_pasted(recipe) else []
        lines.append("")
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


@reads_once
def summary(study: optuna.study.Study) -> dict[str, Any]:
    """One study as data: trials, best, weights, the closing table."""
    trials = study.get_trials(deepcopy=False)
    done, known = complete_trials(study), posterior_of(study)
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials)
    final = final_of(study)
    config = study.user_attrs.get(CONFIG, {})
    best = chosen_trial(study) if done else None
    data = {
        "name": study.study_name,
        "trials": {
            "finished": len(done) + pruned,
            "failed": sum(
                trial.state == optuna.trial.TrialState.FAIL
                and "reason" in trial.user_attrs
                and trial.user_attrs[REASON] != "interrupted"
                for trial in trials
            ),
            "pruned": pruned,
            "budget": budget_of(study),
        },
        "state": state_of(study),
        "stopped": study.user_attrs.get(STOPPED),
        "left_out": left_out(study) or None,
        "method": method_of(config),
        "optimiser": optimiser_of(config),
        "models": study.user_attrs.get(RECIPE, {}).get("models", {}),
        "idle": list(space_of(study).idle),
        "best": _trial_data(best) | _belief_data(known, best.number) if best else None,
        "best_observed": _as_data(known.best_observed) if known.best_observed else None,
        "best_posterior_mean": _as_data(known.best) if known.best and known.fitted else None,
        "noise": known.noise,
        "final": final.to_json() if final else None,
        "verdict": vars(found) if (found := verdict_of(study)) else None,
        "holdouts": [asdict(trend) | {"text": str(trend)} for trend in trends(study)],
    }
    if names := objectives_of(study):
        data |= {"objectives": names, "front": front_data(study, names)}
    return data


def method_of(config: Mapping[str, Any]) -> str | None:
    """The merge method, or those of a recipe's steps one after the other."""
    steps = (config.get("recipe") or {}).get("steps") or []
    return ", then ".join(step.get("method", "weighted_sum") for step in steps) or config.get("method")


def optimiser_of(config: Mapping[str, Any]) -> str:
    """The optimiser by its name."""
    return str((config.get("optimiser") or {}).get("_target_", "")).rsplit(".", 1)[-1]


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


def _trial_data(trial: FrozenTrial) -> dict[str, Any]:
    known, values = trial.user_attrs, trial.values
    data = {
        "trial": trial.number,
        "value": value_of(trial) if values else None,
        "scores": mean_scores(known.get(SCORES, [])),
        "weights": known.get(WEIGHTS, {}),
        "images": known.get(IMAGES, []),
    }
    return data | {"values": list(values)} if values and len(values) > 1 else data


def _as_data(belief: TrialPosterior) -> dict[str, Any]:
    return {"trial": belief.trial, "value": belief.observed, "mean": belief.mean, "sd": belief.sd}


def prediction_data(study: optuna.study.Study) -> dict[str, Any] | None:
    """The untried merge of which the most is expected, as data; None if it was tried, or there is no prediction."""
    found = prediction_of(study)
    if found is None or found.tried:
        return None
    weights = SearchSpace.from_json(study.user_attrs[DESIGN]["space"]).assemble(found.values)
    return {"mean": found.mean, "sd": found.sd, "weights": weights}


def _belief_data(known: StudyPosterior, number: int) -> dict[str, Any]:
    return next(({"mean": b.mean, "sd": b.sd} for b in known.each if known.fitted and b.trial == number), {})


@reads_once
def trials_data(study: optuna.study.Study, trials: Sequence[FrozenTrial] | None = None) -> list[dict[str, Any]]:
    """Every trial, or some, as data, with the posterior mean; failed ones and those cut short with their reason."""
    known = posterior_of(study)
    beliefs = {one.trial: {"mean": one.mean, "sd": one.sd} for one in known.each if known.fitted}
    shown = study.get_trials(deepcopy=False) if trials is None else trials
    return [trial_data(trial) | beliefs.get(trial.number, {}) for trial in shown]


def trial_data(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as data, without what the others say of it."""
    known = trial.user_attrs
    row = {"state": trial.state.name.lower(), **_trial_data(trial), "phase": known.get(PHASE, "search")}
    if SECONDS in known:
        row["seconds"] = known[SECONDS]
    if times := known.get(TIMES):
        row["times"] = times
        row["pictures"] = pictures_of(trial)
    if reason := known.get(REASON):
        row["reason"] = reason
    if trial.state == optuna.trial.TrialState.RUNNING and (until := known.get(WORKER, {}).get("until")):
        row["until"] = until
    return row
