"""``recipe``: what a merged file says of how it was made."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.cli.arguments import Parser, add_which
from bayes_merger.errors import ConfigError, printable
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.recipe.postprocess import ADJUST, ADJUSTMENTS
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.settings import OF_A_STEP
from bayes_merger.merging.recipe.steps import alone
from bayes_merger.paths import user_path
from bayes_merger.run.recipes import EMBEDDED, is_model, named_recipe

DESCRIPTION = """\
Show how a merge was made: the recipe inside a merged model or an extracted LoRA, a recipe file, or a study's best.

  bayes-merger recipe merged.safetensors
  bayes-merger recipe merged.safetensors --json > recipe.json
  bayes-merger merge merged.safetensors model_a=A.safetensors model_b=B.safetensors --out again.safetensors

Files of other programs show what AUTOMATIC1111's field sd_merge_recipe says.
"""


def recipe(arguments: Sequence[str]) -> None:
    """Print a recipe.

    Raises:
        ConfigError: it does not exist.
        CheckpointError: the file cannot be read.
    """
    parser = Parser(
        prog="bayes-merger recipe", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="FILE | NAME", help="a merged model, a recipe file or a study")
    add_which(parser)
    parser.add_argument("--json", action="store_true", help="as JSON; for this program's recipes the recipe itself")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    options = parser.parse_args(arguments)
    foreign = _foreign(user_path(options.source)) if is_model(options.source) else None
    if foreign is not None:
        _print_foreign(options.source, foreign, options.json)
        return
    found = named_recipe(options.source, Path(options.runs), options.trial, predicted=options.predicted)
    print(json.dumps(found.to_json(), indent=2) if options.json else recipe_text(found))


def _foreign(path: Path) -> dict[str, Any] | None:
    """What another program has written into a file that has no recipe of ours."""
    with open_checkpoint(path) as checkpoint:
        metadata = checkpoint.metadata
    if EMBEDDED in metadata or "sd_merge_recipe" not in metadata:
        return None
    try:
        return {key: json.loads(metadata[key]) for key in ("sd_merge_recipe", "sd_merge_models") if key in metadata}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: its sd_merge_recipe is not JSON ({error})") from error


def _print_foreign(name: str, found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{name}: not made by this program; it says of itself")
    foreign = found["sd_merge_recipe"]
    models = found.get("sd_merge_models", {})
    for key, value in foreign.items() if isinstance(foreign, dict) else [("recipe", foreign)]:
        known = models.get(value) if isinstance(models, dict) and isinstance(value, str) else None
        shown = f"{known['name']} ({value[:10]})" if isinstance(known, dict) and "name" in known else value
        print(f"  {_printable(key)}: {_printable(shown)}")


def recipe_text(found: MergeRecipe) -> str:
    """A recipe for people: what was merged, how, and every number; weights in the order of the blocks."""
    lines = [f"{found.architecture_blocks.title}, written in {found.dtype or 'auto'}"]
    for name, model in found.models.items():
        sha = f"  SHA-256 {model.sha256[:10]}" if model.sha256 else ""
        lines.append(f"  {name}: {_printable(model.path)}{sha}")
    for step in found.steps:
        lines += _step_text(alone(found, step), f"{step.name}: ", [f"{r}={n}" for r, n in step.models.items()])
    if not found.steps:
        lines += _step_text(found, "", [])
    whole = {name: value for name, value in found.changed().items() if name not in (*OF_A_STEP, "dtype", "rebasin")}
    lines += [f"{name}: {_printable(value)}" for name, value in whole.items()]
    for name, alike in found.rebasin.items():
        lines.append(f"rebasin: {_printable(name)} in the order of {_printable(alike['to'])}, by {alike['by']}")
    lines += [f"note: {_printable(found.note)}"] if found.note else []
    return "\n".join(lines)


def _step_text(found: MergeRecipe, name: str, models: Sequence[str]) -> list[str]:
    options = [f"{key}={value}" for key, value in found.options.items()]
    vae = [] if found.vae == "a" else [f"vae={found.vae}"]
    lines = [" ".join([f"{name}{method_spec(found.method).name}", *models, *options, *vae])]
    known = found.architecture_blocks.blocks
    for weight, blocks in found.weights.items():
        if weight == ADJUST:
            lines.append(f"  adjust={','.join(f'{blocks.get(x, 0):g}' for x in ADJUSTMENTS)}")
            continue
        inner = [blocks[block] for block in known if block in blocks]
        alike = len(set(inner)) == 1
        lines.append(f"  {weight}={inner[0]:g}" if alike else f"  {weight}={','.join(f'{x:g}' for x in inner)}")
        lines += [f"  {block}.{weight}={x:g}" for block, x in blocks.items() if block not in known]
    lines += [f"  elements: {_printable(text)}" for text in found.elements]
    lines += [
        f"  {name}: {_printable(file['path'])}" + (f"  SHA-256 {file['sha256'][:10]}" if file["sha256"] else "")
        for name, file in replace(found, steps=()).activation_files
    ]
    said = [f"saliency.{key}={value}" for key, value in found.saliency.items() if isinstance(value, str)]
    lines += [f"  {' '.join(said)}"] if said else []
    return lines


def _printable(value: object) -> str:
    """A text from a file one does not trust, fit for a terminal."""
    return printable(str(value), longest=2**20)
