"""``plan``: what a merge would do to every tensor, and who says so."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.cli import steps
from bayes_merger.cli.arguments import Parser, add_source
from bayes_merger.errors import ConfigError, printable
from bayes_merger.merges.resolve import recipe_and_models
from bayes_merger.merging.engine.idle import idle_by_default
from bayes_merger.merging.engine.merge import plan as plan_of
from bayes_merger.merging.engine.multi_step import StepModel, unfold
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.models.opening import open_model
from bayes_merger.merging.plan.costs import result_size, seconds, working_memory
from bayes_merger.merging.plan.explain import difference, fate, finish_of, grouped, notes_on, plan_data
from bayes_merger.merging.plan.routing import MergePlan
from bayes_merger.merging.recipe.postprocess import method_weights
from bayes_merger.merging.recipe.recipe import MergeRecipe, RecipeStep
from bayes_merger.merging.recipe.settings import SETTINGS
from bayes_merger.merging.recipe.step_file import beside
from bayes_merger.run.idle import idle_text
from bayes_merger.run.rebasin import planned_with_orders
from bayes_merger.run.recipes import about_space, named_recipe
from bayes_merger.run.spaces import usual_numbers

DESCRIPTION = """\
Say what a merge would do, without doing it: the headers of the files are read, and of what is in them only so much
as shows where the models are equal, so that a weight changes nothing, and which neurons rebasin= would move.

  bayes-merger plan NAME                           the best merge of a study, block by block
  bayes-merger plan recipe.json --keys             every tensor
  bayes-merger plan model_a=A.safetensors model_b=B.safetensors alpha=0.3 elements='OUT03-OUT05:attn2:0.5'
  bayes-merger plan NAME --diff other.json         where it differs from another recipe, on the same files

It takes what bayes-merger merge takes (bayes-merger merge --help), but for --out.
"""


COMPARED = 2**34
"""Bytes of files beyond which models are not compared: that would take minutes where they are equal."""

_SHOWN_BY_TENSOR = ("method", "elements", "compat", "blocks", "clip")  # or in a line of their own


def plan(arguments: Sequence[str]) -> None:
    """Print what a merge would do.

    Raises:
        ConfigError: arguments that make no sense.
        CheckpointError: a model file that cannot be used.
    """
    parser = Parser(
        prog="bayes-merger plan", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source(parser)
    parser.add_argument("--keys", action="store_true", help="every tensor, not only every block")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument("--diff", metavar="NAME | recipe.json", help="only what differs from this other merge")
    options = parser.parse_args(arguments)
    recipe, checkpoints = recipe_and_models(
        options.source,
        trial=options.trial,
        predicted=options.predicted,
        dtype=options.dtype,
        runs=options.runs,
        verify=False,
    )
    planned = planned_with_orders(recipe, checkpoints, steps.matching, verifying=False)
    unfolded = unfold(recipe, checkpoints)
    unfolded.set(recipe)
    idle, about_idle = (set[str](), "") if options.diff else _idle(recipe, checkpoints)
    if options.diff:
        other = named_recipe(options.diff, Path(options.runs))
        if recipe.steps or other.steps:
            raise ConfigError("--diff: recipes in several steps are not compared; look at each with  plan --keys")
        _print_difference(
            recipe, planned, other, _other_plan(other, checkpoints, Path(options.diff)), options.keys, options.json
        )
    elif options.json:
        own = _of_step(recipe.steps[-1], idle) if recipe.steps else idle
        data = plan_data(unfolded.last, planned, checkpoints, keys=options.keys, idle=own)
        earlier = [
            {"name": step.name, **_step_data(unfolded.steps[step.name], options.keys, _of_step(step, idle))}
            for step in recipe.steps[:-1]
        ]
        print(json.dumps(data | {"idle": sorted(idle)} | ({"steps": earlier} if earlier else {}), indent=2))
    else:
        own = idle
        for step in recipe.steps:
            print(f"step {step.name}: {step.method} of {', '.join(step.models.values())}")
            own = _of_step(step, idle)
            if step.name in unfolded.steps:
                _print_table(unfolded.steps[step.name].recipe, unfolded.steps[step.name].planned, options.keys, own)
        _print_plan(unfolded.last, planned, checkpoints, options.keys, own)
        studies = [about_space(word, Path(options.runs)) for word in options.source if "=" not in word]
        for line in filter(None, (about_idle, *studies)):
            print(f"note: {_visible(line)}")


def _idle(recipe: MergeRecipe, checkpoints: Mapping[str, Checkpoint]) -> tuple[set[str], str]:
    """The weights that change nothing, as in ``IN00.alpha``, and what is to be said of them."""
    size = sum(file.stat().st_size for checkpoint in checkpoints.values() for file in checkpoint.files)
    if size > COMPARED:
        return set(), f"files of {_size(size)} are not compared here; a run says which weights change nothing"
    began = time.perf_counter()
    idle = idle_by_default(recipe, checkpoints)
    took = time.perf_counter() - began
    architecture, rows = recipe.architecture_blocks, method_weights(recipe.weights).values()
    about = idle_text(idle, sum(map(len, rows)), (*architecture.blocks, *architecture.slots))
    return idle, f"{about}, compared in {took:.1f} s" if idle else ""


def _of_step(step: RecipeStep, idle: Collection[str]) -> set[str]:
    """Those of one step, by the names that its method gives them."""
    names = {step.weight(name): name for name in method_spec(step.method).weights}
    parts = [name.rpartition(".") for name in idle]
    return {f"{place}.{names[weight]}" for place, _, weight in parts if weight in names}


def _other_plan(other: MergeRecipe, checkpoints: Mapping[str, Checkpoint], source: Path) -> MergePlan:
    """The other recipe's plan, on our files as far as it has models of those names."""
    files: dict[str, Checkpoint] = {}
    for name, ref in sorted(other.models.items()):
        path = beside(ref.path, source.parent)
        files[name] = checkpoints.get(name) or open_model(name, path, None if name == "vae" else files.get("a"))
    return plan_of(other, files)


def _step_data(model: StepModel, keys: bool, idle: Collection[str]) -> dict[str, Any]:
    """A step before the last as data."""
    found = grouped(model.planned, model.recipe, idle)
    groups = [{**each.to_json(), "tensors": len(names)} for each, names in found.items()]
    data: dict[str, Any] = {"method": model.planned.method.name, "groups": groups}
    if keys:
        data["keys"] = {step.key: fate(step, model.recipe, idle).to_json() for step in model.planned.items}
    return data


def _print_plan(
    recipe: MergeRecipe,
    planned: MergePlan,
    checkpoints: Mapping[str, Checkpoint],
    keys: bool,
    idle: Collection[str],
) -> None:
    _print_table(recipe, planned, keys, idle)
    print(f"{planned.method.name} of {planned.architecture.title}, written in {planned.dtype}: "
          f"{len(planned.written)} tensors, {_size(result_size(planned))}; "
          f"about {_size(working_memory(planned))} of memory beside the files, "
          f"about {math.ceil(seconds(planned, checkpoints))} s on one core"
          + ("" if planned.method.cost.measured else " (unmeasured)"))  # fmt: skip
    for line in finish_of(recipe):
        print(f"  then {line}")
    for name, checkpoint in checkpoints.items():
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in Counter(checkpoint.stored.values()).most_common())
        print(f"  model {name.upper() if len(name) == 1 else name}  {_visible(str(checkpoint.path))}  {dtypes}")
    if not recipe.steps:
        numbers = usual_numbers(planned.architecture, tuple(planned.method.weights))
        print(f"  a run of these searches {numbers}, unless space= says otherwise")
    for note in notes_on(planned, checkpoints):
        print(f"note: {_visible(note)}")


def _print_table(recipe: MergeRecipe, planned: MergePlan, keys: bool, idle: Collection[str]) -> None:
    if keys:
        for step in planned.items:
            found = fate(step, recipe, idle)
            print(_visible(step.key), found.block or "-", found.text(), "; ".join(found.says), sep="  ")
    else:
        table = Table("block", "tensors", *planned.method.weights, "because of")
        for found, names in grouped(planned, recipe, idle).items():
            numbers = [f"{number:g}" for _, number in found.numbers] or [found.action] * len(planned.method.weights)
            table.add_row(found.block, str(len(names)), *numbers, escape("; ".join(found.says)))
        Console().print(table)


def _visible(text: str) -> str:
    """A name from a file one does not trust, fit for a terminal."""
    return printable(text, longest=2**20)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _print_difference(
    recipe: MergeRecipe, planned: MergePlan, other: MergeRecipe, other_planned: MergePlan, keys: bool, as_json: bool
) -> None:
    settings = {
        "method": (planned.method.name, other_planned.method.name),
        "models": (", ".join(planned.method.models), ", ".join(other_planned.method.models)),
        **{name: (getattr(recipe, name), getattr(other, name)) for name in SETTINGS if name not in _SHOWN_BY_TENSOR},
        "dtype": (planned.dtype, other_planned.dtype),
        "after the method": ("; ".join(finish_of(recipe)) or "nothing", "; ".join(finish_of(other)) or "nothing"),
    }
    if planned.architecture.name != other_planned.architecture.name:
        raise ConfigError(
            f"--diff: {planned.architecture.name} and {other_planned.architecture.name} have no key in common"
        )
    changed = {name: pair for name, pair in settings.items() if pair[0] != pair[1]}
    found = difference(recipe, planned, other, other_planned)
    if as_json:
        rows = {key: {side: f.to_json() if f else None for side, f in zip(("here", "there"), pair, strict=True)}
                for key, pair in found.items()}  # fmt: skip
        print(json.dumps({"settings": changed, "keys": rows}, indent=2))
        return
    for name, values in changed.items():
        print(f"{name}: {values[0]} here, {values[1]} there")
    if keys:
        for key, pair in found.items():
            print(_visible(key), *(f.text() if f else "not there" for f in pair), sep="  ")
    elif found:
        table = Table("block", "tensors", "here", "because of", "there", "because of")
        for (here, there), count in Counter(found.values()).items():
            block = next(side.block for side in (here, there) if side)
            cells = [
                text for f in (here, there) for text in ((f.text(), "; ".join(f.says)) if f else ("not there", ""))
            ]
            table.add_row(block, str(count), *map(escape, cells))
        Console().print(table)
    total = len({step.key for p in (planned, other_planned) for step in p.items})
    others = [name for name in ("method", "models", "options") if name in changed]
    print(f"{len(found)} of {total} tensors differ"
          + (f" in their weights, and all that are merged in {', '.join(others)}" if others else ""))  # fmt: skip
