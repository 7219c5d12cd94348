"""``show``: the studies in a folder, or one of them."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, printable
from bayes_merger.paths import quoted
from bayes_merger.report import summary as report
from bayes_merger.report.convergence import convergence_of
from bayes_merger.report.importance import CAVEAT, importances
from bayes_merger.report.overview import Overview, glance, overview
from bayes_merger.report.sheet import as_csv, filtered, sorted_by
from bayes_merger.report.study_tables import (
    ago,
    overview_table,
    size_text,
    trials_table,
    weights_table,
)
from bayes_merger.report.svg import BARS, PLAIN_BARS, sparkline
from bayes_merger.report.tables import (
    best_lines,
    candidates_table,
    closing_table,
    front_table,
    verdict_line,
)
from bayes_merger.report.timing import beside, timing, timing_table, words_of
from bayes_merger.report.verdict import pictures_compared
from bayes_merger.run.attributes import CONFIG, RECIPE
from bayes_merger.run.control import WAITING, run_state
from bayes_merger.run.folder import RunFolder, find_study, load, studies
from bayes_merger.run.idle import about_idle, space_of
from bayes_merger.run.predicted import last_prediction
from bayes_merger.run.record import (
    chosen_trial,
    complete_trials,
    final_of,
    posterior_of,
    recipe_of,
    recipe_with,
    value_of,
)
from bayes_merger.run.turns import waiting
from bayes_merger.search.space.from_effect import about_effect
from bayes_merger.search.study.checked import reads_once
from bayes_merger.search.study.history import REASON, is_interrupted
from bayes_merger.search.study.loading import fingerprint_hash
from bayes_merger.search.surrogates.grid_gp import every

SHOWN = 10
"""Trials of a kind that are listed one by one."""

TIMED = 400
"""The time that a trial takes is told of at most so many; ``--timing`` has that of all."""


def show(arguments: Sequence[str]) -> None:
    """Print all studies, or one.

    Raises:
        ConfigError: no such study.
    """
    parser = Parser(prog="bayes-merger show", description="All studies; or one: its trials, the best, the weights.")
    parser.add_argument("name", nargs="?", help="the study, or how its name begins; - is the newest")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--storage", default="", help="the database that has the study, if its folder is not here")
    parser.add_argument("--trials", action="store_true", help="all trials as a table")
    parser.add_argument("--sort", metavar="COLUMN", help="its order: trial, points, mean, seconds, or a scorer's name")
    parser.add_argument("--filter", metavar="WORD", help="only trials with it in their state, phase or reason")
    parser.add_argument("--timing", action="store_true", help="where the time of a trial goes")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, for programs")
    form.add_argument("--csv", action="store_true", help="the trials with their weights, for a spreadsheet")
    options = parser.parse_args(arguments)
    if options.name is None:
        for option in ("timing", "trials", "sort", "filter", "csv"):
            if getattr(options, option):
                raise ConfigError(f"--{option}: of which study? give its name, like  bayes-merger show NAME --{option}")
        _show_all(Path(options.runs), options.json)
        return
    folder = find_study(Path(options.runs), options.name, options.storage)
    if options.timing:
        _show_timing(folder, options.json)
    elif options.csv or options.trials or options.sort or options.filter:
        _show_trials(folder, options)
    else:
        _show_one(load(folder), folder, options.json)


def _show_all(runs: Path, as_json: bool) -> None:
    waits = {folder: after for folder, after in waiting(runs) if not folder.exists()}
    found = [*(Overview(folder.name, WAITING) for folder in waits), *map(overview, studies(runs))]
    for one in found:
        if one.wrong:
            print(f"{printable(one.name)}: {one.wrong}", file=sys.stderr)
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
    elif not found:
        print(f"no studies in {runs}; start one with  bayes-merger run ...")
    else:
        now, console = datetime.now(), Console()
        whole = overview_table(found, now)
        narrow = console.measure(whole).maximum >= console.width
        _wide(overview_table(found, now, brief=True) if narrow else whole)
        for folder, after in waits.items():
            when = f"when {printable(after)} no longer draws" if after else "in a moment"
            print(f"{printable(folder.name)} begins {when}")


def _wide(table: Table) -> None:
    """Print a table as wide as it must be: what a person types is never cut."""
    console = Console()
    needed = console.measure(table).minimum
    Console(width=max(console.width, needed)).print(table)


def _show_trials(folder: RunFolder, options: Namespace) -> None:
    trials = filtered(report.trials_data(load(folder)), options.filter or "")
    if options.sort:
        trials = sorted_by(trials, options.sort)
    if options.csv:
        print(as_csv(trials), end="")
    elif options.json:
        print(json.dumps(trials, indent=2))
    elif trials:
        _wide(trials_table(trials))
    else:
        print("no such trial")


@reads_once
def _show_one(study: optuna.study.Study, folder: RunFolder, as_json: bool) -> None:
    data = report.summary(study)
    if as_json:
        data |= {"prediction": report.prediction_data(study), "trials_list": report.trials_data(study)}
        print(json.dumps(data, indent=2))
        return
    _print_state(folder, study, data)
    _print_unscored(study)
    if not data["best"]:
        print("no finished trial yet")
        return
    _print_course(study)
    console = Console(emoji=False)
    best = sorted(complete_trials(study), key=value_of, reverse=True)[:SHOWN]
    console.print(trials_table(report.trials_data(study, best), title=f"the best {len(best)} trials"))
    if "front" in data:
        console.print(front_table(data["front"], data["best"]["trial"]))
    _print_final(console, study)
    print()
    for line in best_lines(data):
        print(line)
    recipe = recipe_of(study, chosen_trial(study))
    console.print(weights_table(recipe.weights, data["idle"]))
    print(report.weights_text(recipe, folder.name).rstrip())
    _print_ways_on(folder, study)


def _print_state(folder: RunFolder, study: optuna.study.Study, data: Mapping[str, Any]) -> None:
    """What the study is, of what, and how far."""
    counts = data["trials"]
    of = f" of {counts['budget']}" if counts["budget"] is not None else ""
    more = "".join(
        f", {counts[key]} {words}" for key, words in (("pruned", "given up early"), ("failed", "failed")) if counts[key]
    )
    state = run_state(folder) or data["state"]
    print(f"{data['name']}: {state}, {counts['finished']}{of} trials{more}, {data['method']}, {data['optimiser']}")
    if data["final"]:
        print(f"  {verdict_line(data)}")
    if data["stopped"]:
        print(f"  the search ended early; {printable(data['stopped'], longest=400)}")
    if data["left_out"]:
        print(f"  {data['left_out']}")
    for name, model in data["models"].items():
        path, hash = printable(model["path"], longest=400), printable(model["sha256"][:10])
        print(f"  model {printable(name.upper())}  {path}  {hash}")
    for name, file in recipe_with(study, {}).activation_files if RECIPE in study.user_attrs else ():
        print(f"  {name}  {printable(file['path'], longest=400)}  {printable(file['sha256'][:10])}")
    space, config = space_of(study), study.user_attrs.get(CONFIG) or {}
    for line in filter(None, (about_idle(space), about_effect(config.get("space"), space.blocks))):
        print(f"  {printable(line, longest=400)}")
    last = glance(study).last
    when = f"last trial {ago(last, datetime.now())}, " if last else ""
    print(f"  {when}{size_text(folder.size)}, scores compare with fingerprint {fingerprint_hash(study)}")


def _print_course(study: optuna.study.Study) -> None:
    """How the search went, where its time goes, and what seems to matter, a line each."""
    course = convergence_of(study)
    values = [value for _, value in course.points]
    drawn = sparkline(values)
    if not _shows(drawn):
        drawn = drawn.translate(str.maketrans(BARS, PLAIN_BARS))
    print(f"  points  {drawn}  {min(values):.2f} to {max(values):.2f}")
    if course.parents:
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in course.parents.items()))
    if course.noise:
        print(f"  noise of one trial's points {course.noise:.3f}")
    trials = complete_trials(study)
    parts = timing(trials[every(len(trials), TIMED)])
    if whole := sum(parts.values()):
        shares = [f"{words_of(part)} {seconds / whole:.0%}" for part, seconds in parts.items()
                  if seconds >= whole / 20]  # fmt: skip
        print(f"  a trial takes {whole:.1f} s: {', '.join(shares)}")
    sure = [one for one in importances(trials, values) if one.beyond_luck]
    if sure:
        named = ", ".join(f"{one.name} {one.share:.0%}" for one in sure[:6])
        print(f"  what seems to matter: {named}\n    {CAVEAT}")


def _print_ways_on(folder: RunFolder, study: optuna.study.Study) -> None:
    """What to do with it: the file, the page, and the prediction, which takes longer to find than to show all else."""
    typed, name = folder.typed, quoted(folder.name)
    print(f"\nwrite it to a file:  bayes-merger merge {typed} --out {name}.safetensors")
    print(f"with pictures:       bayes-merger report {typed}")
    if posterior_of(study).fitted and len(study.directions) == 1 and not last_prediction(study):
        print("the merge of which the model expects the most, tried or not:  "
              f"bayes-merger merge {typed} --predicted --out {name}-predicted.safetensors")  # fmt: skip


def _show_timing(folder: RunFolder, as_json: bool) -> None:
    trials = complete_trials(load(folder))
    if as_json:
        print(json.dumps(timing(trials) | beside(trials), indent=2))
    elif table := timing_table(trials):
        Console().print(table)
    else:
        print(f"no trial of {folder.name} says where its time went; those of studies from now on do")


def _print_unscored(study: optuna.study.Study) -> None:
    for state, words in ((TrialState.FAIL, "failed"), (TrialState.PRUNED, "given up")):
        found = [one for one in study.get_trials(deepcopy=False, states=(state,)) if not is_interrupted(one)]
        for trial in found[:SHOWN]:
            reason = printable(trial.user_attrs.get(REASON) or "no reason stored", longest=400)
            print(f"  trial {trial.number} {words}: {reason}")
        if len(found) > SHOWN:
            print(f"  and {len(found) - SHOWN} more {words}: show --trials has them")


def _print_final(console: Console, study: optuna.study.Study) -> None:
    final = final_of(study)
    if final and final.rescored:
        console.print(candidates_table(final, posterior_of(study)))
    if final and final.rows:
        console.print(closing_table(final, pictures_compared(study, final)))


def _shows(text: str) -> bool:
    """Whether standard output has these letters: a pipe on Windows has those of an old code page alone."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
