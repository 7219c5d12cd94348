"""``show``: the studies in a folder, or one of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, UserError, printable
from bayes_merger.merging.plan.planning import method_weights
from bayes_merger.report import summary as report
from bayes_merger.report.tables import (
    best_lines,
    candidates_table,
    closing_table,
    front_table,
    verdict_line,
    with_error,
)
from bayes_merger.report.timing import timing, timing_table
from bayes_merger.report.verdict import pictures_compared
from bayes_merger.run.folder import RunFolder, find_study, load, studies
from bayes_merger.run.idle import about_idle, space_of
from bayes_merger.run.record import chosen_trial, final_of, posterior_of, recipe_of
from bayes_merger.search.study.history import PREDICTED


def show(arguments: Sequence[str]) -> None:
    """Print all studies, or one.

    Raises:
        ConfigError: no such study.
    """
    parser = Parser(prog="bayes-merger show", description="All studies; or one: its trials, the best, the weights.")
    parser.add_argument("name", nargs="?", help="the study")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--storage", default="", help="the database that has the study, if its folder is not here")
    parser.add_argument("--timing", action="store_true", help="where the time of a trial goes")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    options = parser.parse_args(arguments)
    if options.name is None and options.timing:
        raise ConfigError("--timing: of which study? give its name, like  bayes-merger show NAME --timing")
    if options.name is None:
        _show_all(Path(options.runs), options.json)
    elif options.timing:
        _show_timing(find_study(Path(options.runs), options.name, options.storage), options.json)
    else:
        _show_one(find_study(Path(options.runs), options.name, options.storage), options.json)


def _show_all(runs: Path, as_json: bool) -> None:
    rows, found = [], studies(runs)
    for folder in found:
        try:
            rows.append(report.summary(load(folder)))
        except UserError as error:
            print(printable(f"{folder.name}: {error}", longest=400), file=sys.stderr)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        if not found:
            print(f"no studies in {runs}; start one with  bayes-merger run ...")
        return
    table = Table("study", "state", "trials", "best", "method", "optimiser")
    for row in rows:
        best = row["best"]
        finished, budget = row["trials"]["finished"], row["trials"]["budget"]
        trials = f"{finished}/{budget}" if budget is not None else str(finished)
        value = f"{best['value']:.3f}" if best else ""
        table.add_row(row["name"], row["state"], trials, value, row["method"], row["optimiser"])
    Console().print(table)


def _show_one(folder: RunFolder, as_json: bool) -> None:
    study = load(folder)
    data = report.summary(study)
    if as_json:
        data |= {"prediction": report.prediction_data(study), "trials_list": report.trials_data(study)}
        print(json.dumps(data, indent=2))
        return
    console = Console()
    counts = data["trials"]
    of = f" of {counts['budget']}" if counts["budget"] is not None else ""
    more = "".join(
        f", {counts[key]} {words}" for key, words in (("pruned", "given up early"), ("failed", "failed")) if counts[key]
    )
    print(f"{data['name']}: {data['state']}, {counts['finished']}{of} trials{more}, "
          f"{data['method']}, {data['optimiser']}")  # fmt: skip
    if data["final"]:
        print(f"  {verdict_line(data)}")
    if data["stopped"]:
        print(f"  the search ended early; {printable(data['stopped'], longest=400)}")
    if data["left_out"]:
        print(f"  {data['left_out']}")
    for name, model in data["models"].items():
        print(f"  model {printable(name.upper())}  {printable(model['path'], longest=400)}  {model['sha256'][:10]}")
    if line := about_idle(space_of(study)):
        print(f"  {printable(line, longest=400)}")
    trials = report.trials_data(study)
    _print_unscored(trials)
    if not data["best"]:
        print("no finished trial yet")
        return
    console.print(_best_table(trials))
    if "front" in data:
        console.print(front_table(data["front"], data["best"]["trial"]))
    _print_final(console, study)
    recipe = recipe_of(study, chosen_trial(study))
    print()
    for line in best_lines(data):
        print(line)
    console.print(weights_table(recipe.weights, data["idle"]))
    print(report.weights_text(recipe, folder.name).rstrip())
    print(f"\nwrite it to a file:  bayes-merger merge {folder.typed} --out {quote(folder.name)}.safetensors")
    if found := report.prediction_data(study):
        expected = with_error(found["mean"], found["sd"])
        print(f"the model expects {expected} points of a merge that was not tried:  bayes-merger merge {folder.typed} "
              f"--predicted --out {quote(folder.name)}-predicted.safetensors")  # fmt: skip


def _show_timing(folder: RunFolder, as_json: bool) -> None:
    trials = report.trials_data(load(folder))
    if as_json:
        print(json.dumps(timing(trials), indent=2))
    elif table := timing_table(trials):
        Console().print(table)
    else:
        print(f"no trial of {folder.name} says where its time went; those of studies from now on do")


def _print_unscored(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        if row["state"] == "fail" and row.get("reason") != "interrupted":
            print(f"  trial {row['trial']} failed: {_reason(row)}")
    pruned = [row for row in rows if row["state"] == "pruned"]
    for row in pruned[:10]:
        print(f"  trial {row['trial']} given up: {_reason(row)}")
    if len(pruned) > 10:
        print(f"  and {len(pruned) - 10} more given up: show --json has them")


def _reason(row: Mapping[str, Any]) -> str:
    return printable(row.get("reason", "no reason stored"), longest=400)


def _best_table(trials: Sequence[Mapping[str, Any]], count: int = 10) -> Table:
    rows = sorted((row for row in trials if row["state"] == "complete"), key=lambda row: -row["value"])
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    believed = ["posterior mean"] if "mean" in rows[0] else []
    title = f"the best {min(count, len(rows))} trials"
    table = Table("trial", "points", *believed, *names, title=title, title_justify="left")
    for row in rows[:count]:
        scores = [f"{row['scores'][name]:.3f}" if name in row["scores"] else "" for name in names]
        mean = [with_error(row["mean"], row["sd"])] if believed else []
        number = f"{row['trial']}{' (predicted)' if row['phase'] == PREDICTED else ''}"
        table.add_row(number, f"{row['value']:.3f}", *mean, *scores)
    return table


def _print_final(console: Console, study: optuna.study.Study) -> None:
    final = final_of(study)
    if final and final.rescored:
        console.print(candidates_table(final, posterior_of(study)))
    if final and final.rows:
        console.print(closing_table(final, pictures_compared(study, final)))


def weights_table(weights: Mapping[str, Mapping[str, float]], idle: Collection[str] = ()) -> Table:
    """Block weights as a small table: IN, M and OUT side by side; adjustments are not weights of blocks.

    Args:
        weights: weight name -> block -> number.
        idle: those that change nothing, as in ``IN00.alpha``; their number does not matter and is not shown.
    """
    weights = method_weights(weights)
    blocks = list(dict.fromkeys(name for values in weights.values() for name in values))
    left = [name for name in blocks if name.startswith("IN")]
    right = [name for name in blocks if name.startswith("OUT")]
    middle = [name for name in blocks if name not in (*left, *right)]
    table = Table(*["block", *weights] * 3, title="weights", title_justify="left")
    for row in range(max(len(left), len(middle), len(right))):
        cells = []
        for column in (left, middle, right):
            name = column[row] if row < len(column) else ""
            cells.append(name)
            for weight, values in weights.items():
                number = f"{values[name]:.3f}" if name in values else ""
                cells.append("idle" if f"{name}.{weight}" in idle else number)
        table.add_row(*cells)
    return table
