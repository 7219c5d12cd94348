"""``show``: the studies in a folder, or one of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import optuna
from rich.console import Console
from rich.table import Table

from bayes_merger import report
from bayes_merger.cli.terminal import closing_table
from bayes_merger.errors import ConfigError
from bayes_merger.run.folder import RunFolder, find_study, studies
from bayes_merger.run.record import Final, chosen_trial, final_of, recipe_of


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message}; see  {self.prog} --help")


def show(arguments: Sequence[str]) -> None:
    """Print all studies, or one.

    Raises:
        ConfigError: no such study.
    """
    parser = Parser(prog="bayes-merger show", description="All studies; or one: its trials, the best, the weights.")
    parser.add_argument("name", nargs="?", help="the study")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    options = parser.parse_args(arguments)
    if options.name is None:
        _show_all(Path(options.runs), options.json)
    else:
        _show_one(find_study(Path(options.runs), options.name), options.json)


def load(folder: RunFolder) -> optuna.study.Study:
    """A study for reading.

    Raises:
        ConfigError: the file holds no such study.
    """
    from bayes_merger.search.study import load_study, open_storage

    return load_study(open_storage(folder.where, create=False), folder.name)


def _show_all(runs: Path, as_json: bool) -> None:
    rows = []
    for folder in studies(runs):
        try:
            rows.append(report.summary(load(folder)))
        except ConfigError:
            continue  # a folder whose process died before the study began
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(f"no studies in {runs}; start one with  bayes-merger run ...")
        return
    table = Table("study", "state", "trials", "best", "method", "optimiser")
    for row in rows:
        best = row["best"]
        trials = f"{row['trials']['finished']}/{row['trials']['budget']}"
        value = f"{best['value']:.3f}" if best else ""
        table.add_row(row["name"], row["state"], trials, value, row["method"], row["optimiser"])
    Console().print(table)


def _show_one(folder: RunFolder, as_json: bool) -> None:
    study = load(folder)
    data = report.summary(study)
    if as_json:
        print(json.dumps({**data, "trials_list": report.trials_data(study)}, indent=2))
        return
    console = Console()
    counts = data["trials"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    print(f"{data['name']}: {data['state']}, {counts['finished']} of {counts['budget']} trials{failed}, "
          f"{data['method']}, {data['optimiser']}")  # fmt: skip
    for name, model in data["models"].items():
        print(f"  model {name.upper()}  {model['path']}  {model['sha256'][:10]}")
    _print_failures(study)
    if not data["best"]:
        print("no finished trial yet")
        return
    console.print(_best_table(study))
    _print_final(console, final_of(study))
    recipe = recipe_of(study, chosen_trial(study))
    print(f"\nbest: trial {data['best']['trial']}, {data['best']['value']:.3f} points")
    console.print(weights_table(recipe.weights))
    print(report.weights_text(recipe, folder.name).rstrip())
    print(f"\nwrite it to a file:  bayes-merger merge {folder.name} --out {folder.name}.safetensors")


def _print_failures(study: optuna.study.Study) -> None:
    for row in report.trials_data(study):
        if row["state"] == "fail" and row.get("reason") != "interrupted":
            print(f"  trial {row['trial']} failed: {row.get('reason', 'no reason stored')}")


def _best_table(study: optuna.study.Study, count: int = 10) -> Table:
    rows = sorted(
        (row for row in report.trials_data(study) if row["state"] == "complete"), key=lambda row: -row["value"]
    )
    names = list(rows[0]["scores"])
    table = Table("trial", "points", *names, title=f"the best {min(count, len(rows))} trials", title_justify="left")
    for row in rows[:count]:
        scores = [f"{row['scores'][name]:.3f}" for name in names]
        table.add_row(str(row["trial"]), f"{row['value']:.3f}", *scores)
    return table


def _print_final(console: Console, final: Final | None) -> None:
    if final and final.rows:
        console.print(closing_table(final))


def weights_table(weights: Mapping[str, Mapping[str, float]]) -> Table:
    """Block weights as a small table: IN, M and OUT side by side."""
    blocks = list(next(iter(weights.values())))
    left = [name for name in blocks if name.startswith("IN")]
    right = [name for name in blocks if name.startswith("OUT")]
    middle = [name for name in blocks if name not in (*left, *right)]
    table = Table(*["block", *weights] * 3, title="weights", title_justify="left")
    for row in range(max(len(left), len(middle), len(right))):
        cells = []
        for column in (left, middle, right):
            name = column[row] if row < len(column) else None
            cells.append(name or "")
            cells += [f"{values[name]:.3f}" if name else "" for values in weights.values()]
        table.add_row(*cells)
    return table
