"""``merge``: write one merge to a file, from a study, a recipe, or weights given by hand."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bayes_merger.cli.show import Parser, load
from bayes_merger.errors import CheckpointError, ConfigError, nearest
from bayes_merger.merging.blocks import Architecture, weights_from_string
from bayes_merger.merging.checkpoint import Checkpoint
from bayes_merger.merging.recipe import MergeRecipe, ModelRef
from bayes_merger.run.folder import find_study
from bayes_merger.run.parts import open_model
from bayes_merger.run.record import recipe_of, trial_of

MODELS = ("model_a", "model_b", "model_c")

DESCRIPTION = """\
Write one merge to a checkpoint file that other UIs load.

  bayes-merger merge NAME --out best.safetensors               the best merge of a study
  bayes-merger merge NAME --trial 17 --out t17.safetensors     another of its trials
  bayes-merger merge recipe.json --out best.safetensors        from a recipe file
  bayes-merger merge model_a=A.safetensors model_b=B.safetensors alpha=0.3 --out ab.safetensors
  bayes-merger merge ... method=add_difference model_c=C.safetensors alpha=0.5,0,0.1,...  --out abc.safetensors

A weight (alpha, beta) is one number for all blocks, or 26 of them: BASE, IN00 ... IN11, M00, OUT00 ... OUT11.
"""


def merge(arguments: Sequence[str]) -> None:
    """Write one merge.

    Raises:
        ConfigError: arguments that make no sense.
        CheckpointError: a model file that cannot be used or is not the one the recipe means.
    """
    parser = Parser(
        prog="bayes-merger merge",
        description=DESCRIPTION + _methods_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="+", metavar="NAME | recipe.json | key=value", help="what to merge")
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("--trial", type=int, help="a trial of the study instead of its best")
    parser.add_argument("--dtype", choices=("auto", "fp16", "fp32", "bf16"), help="dtype of the file")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file when it exists")
    parser.add_argument("--force", action="store_true", help="merge although a model file is not the recipe's")
    options = parser.parse_args(arguments)
    recipe, checkpoints = _recipe(options)
    out = Path(options.out).expanduser()
    if out.exists() and not options.overwrite and not any(out.samefile(c.path) for c in checkpoints.values()):
        raise ConfigError(f"--out: {out} exists; give another name or add --overwrite")
    _save(recipe, checkpoints, out, options.overwrite)


def _save(recipe: MergeRecipe, checkpoints: dict[str, Checkpoint], out: Path, overwrite: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from bayes_merger.merging.engine import save_merge

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"merging into {out.name}", total=None)
        save_merge(
            recipe,
            checkpoints,
            out,
            replace=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _methods_text() -> str:
    from bayes_merger.merging.method import METHODS, method_spec

    lines = ["", "Methods:"]
    for name in sorted(METHODS):
        spec = method_spec(name)
        models = ", ".join(f"({model})" if model in spec.optional else model for model in spec.models)
        options = [f"{option}={'|'.join(about.choices) or about.default}" for option, about in spec.options.items()]
        lines.append(f"  {name:<26} models {models}; {', '.join([*spec.weights, *options])}")
    return "\n".join(lines)


def _recipe(options: argparse.Namespace) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    pairs = [word for word in options.source if re.match(r"[a-z_]+=", word)]
    names = [word for word in options.source if word not in pairs]
    if len(names) > 1:
        raise ConfigError(f"merge takes one study or recipe, not {len(names)}: {', '.join(names)}")
    given = dict(pair.split("=", 1) for pair in pairs)
    if not names:
        if options.trial is not None:
            raise ConfigError("--trial: needs the study it belongs to, like  bayes-merger merge NAME --trial 17")
        return _recipe_by_hand(given, options.dtype)
    if names[0].endswith(".json"):
        recipe = _read_recipe(Path(names[0]))
    else:
        study = load(find_study(Path(options.runs), names[0]))
        recipe = recipe_of(study, trial_of(study, options.trial))
    unknown = [key for key in given if key not in MODELS]
    if unknown:
        raise ConfigError(
            f"{unknown[0]}: a recipe's own settings stay; only {', '.join(MODELS)} (moved files) can change"
        )
    if options.dtype:
        recipe = replace(recipe, dtype=options.dtype)
    return recipe, _open_recipe_models(recipe, given, options.force)


def _read_recipe(path: Path) -> MergeRecipe:
    try:
        return MergeRecipe.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"recipe {path}: no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"recipe {path}: is not a merge recipe ({error})") from error


def _open_recipe_models(recipe: MergeRecipe, given: dict[str, str], force: bool) -> dict[str, Checkpoint]:
    checkpoints = {}
    for name, model in recipe.models.items():
        checkpoint = open_model(name, given.get(f"model_{name}", model.path))
        if model.sha256 and checkpoint.sha256() != model.sha256 and not force:
            raise CheckpointError(
                f"model_{name}: {checkpoint.path} is not the recipe's file (SHA-256 {checkpoint.sha256()[:10]}, not "
                f"{model.sha256[:10]}); give the right one with  model_{name}=FILE  or add --force"
            )
        checkpoints[name] = checkpoint
    return checkpoints


def _recipe_by_hand(given: dict[str, str], dtype: str | None) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    from bayes_merger.merging.method import method_spec

    method = given.get("method", "weighted_sum")
    spec = method_spec(method)
    known = ["method", "vae", *(f"model_{name}" for name in spec.models), *spec.weights, *spec.options]
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown setting '{key}' of method '{method}'; {nearest(key, known)}")
    for name in spec.models:
        if name not in spec.optional and not given.get(f"model_{name}"):
            raise ConfigError(f"model_{name}: method '{method}' needs it; give  model_{name}=FILE")
    options = {name: option.read(name, given[name]) for name, option in spec.options.items() if name in given}
    spec = spec.bind((name for name in spec.models if given.get(f"model_{name}")), options)
    checkpoints = {name: open_model(name, given[f"model_{name}"]) for name in spec.models}
    architecture = checkpoints["a"].architecture
    weights = {name: _weight(name, given.get(name), spec.weights[name].default, architecture) for name in spec.weights}
    models = {name: ModelRef(str(model.path.resolve()), model.sha256()) for name, model in checkpoints.items()}
    recipe = MergeRecipe(
        method=method,
        models=models,
        weights=weights,
        architecture=architecture.name,
        dtype=dtype or "auto",
        vae=given.get("vae", "a"),
        options=options,
    )
    return recipe, checkpoints


def _weight(name: str, text: str | None, default: float, architecture: Architecture) -> dict[str, float]:
    if text is None:
        return dict.fromkeys(architecture.blocks, default)
    try:
        return weights_from_string(text, architecture)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
