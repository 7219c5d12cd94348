"""``merge``: write one merge to a file, from a study, a recipe, or weights given by hand."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from bayes_merger.cli.show import Parser, load
from bayes_merger.errors import CheckpointError, ConfigError, nearest
from bayes_merger.merging.architectures import OwnBlocks, divided, own_blocks
from bayes_merger.merging.blocks import Architecture, weights_from_string
from bayes_merger.merging.checkpoint import Checkpoint
from bayes_merger.merging.elements import named_ratios, parse_rules
from bayes_merger.merging.method import MethodSpec, method_spec
from bayes_merger.merging.recipe import MergeRecipe, ModelRef
from bayes_merger.run.folder import find_study
from bayes_merger.run.parts import open_each
from bayes_merger.run.record import recipe_of, trial_of
from bayes_merger.search.names import names_of

MODELS = ("model_a", "model_b", "model_c")

DESCRIPTION = """\
Write one merge to a checkpoint file that other UIs load.

  bayes-merger merge NAME --out best.safetensors               the best merge of a study
  bayes-merger merge NAME --trial 17 --out t17.safetensors     another of its trials
  bayes-merger merge recipe.json --out best.safetensors        from a recipe file
  bayes-merger merge model_a=A.safetensors model_b=B.safetensors alpha=0.3 --out ab.safetensors
  bayes-merger merge ... method=add_difference model_c=C.safetensors alpha=0.5,0,0.1,...  --out abc.safetensors

  bayes-merger merge ... alpha=0.3 IN00-IN05.alpha=0.1 TE.alpha=0 elements='OUT03-OUT05:attn2:0.5, OUT06:ff:0.2'

A weight (alpha, beta) is one number for all blocks, or one for each: 26 in Stable Diffusion 1 and 2 (BASE, IN00 ...
IN11, M00, OUT00 ... OUT11), 20 in XL, the first of which base_alpha= may give. NAME.alpha= sets a block, a run of
blocks or one of TIME, LABEL, OUT, TE, CLIP_L, CLIP_G, VAE by itself, and elements= some tensors of some blocks
(compat=supermerger matches as supermerger does). blocks=FILE.yaml divides the model anew: ATTN: ['*.attn1.', ...].
channels=pad merges an inpainting or pix2pix model with an ordinary one. vae=b takes B's VAE, vae=merge merges it.
bayes-merger plan takes the same and says what would happen.
"""

_SETTING = re.compile(r"[A-Za-z_][\w.\-]*=")


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
    add_source(parser)
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file when it exists")
    parser.add_argument("--force", action="store_true", help="merge although a model file is not the recipe's")
    options = parser.parse_args(arguments)
    recipe, checkpoints = recipe_and_models(options, verify=not options.force)
    out = Path(options.out).expanduser()
    if out.exists() and not options.overwrite and not any(out.samefile(c.path) for c in checkpoints.values()):
        raise ConfigError(f"--out: {out} exists; give another name or add --overwrite")
    _save(recipe, checkpoints, out, options.overwrite)


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which merge is meant."""
    parser.add_argument("source", nargs="+", metavar="NAME | recipe.json | key=value", help="what to merge")
    parser.add_argument("--trial", type=int, help="a trial of the study instead of its best")
    parser.add_argument("--dtype", choices=("auto", "fp16", "fp32", "bf16"), help="dtype of the file")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")


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
    from bayes_merger.merging.method import METHODS

    lines = ["", "Methods:"]
    for name in sorted(METHODS):
        spec = method_spec(name)
        models = ", ".join(f"({model})" if model in spec.optional else model for model in spec.models)
        options = [f"{option}={'|'.join(about.choices) or about.default}" for option, about in spec.options.items()]
        lines.append(f"  {name:<26} models {models}; {', '.join([*spec.weights, *options])}")
    return "\n".join(lines)


def recipe_and_models(
    options: argparse.Namespace, *, hashed: bool = True, verify: bool = True
) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    """The merge that the arguments of ``add_source`` mean, and its opened models.

    Args:
        options: the parsed arguments.
        hashed: whether a recipe made here holds the hashes of its files (a second per gigabyte).
        verify: whether a file must be the one that a recipe was made with.

    Raises:
        ConfigError: arguments that make no sense.
        CheckpointError: a model file that cannot be used or is not the one the recipe means.
    """
    pairs = [word for word in options.source if _SETTING.match(word)]
    names = [word for word in options.source if word not in pairs]
    if len(names) > 1:
        raise ConfigError(f"merge takes one study or recipe, not {len(names)}: {', '.join(names)}")
    given = dict(pair.split("=", 1) for pair in pairs)
    if not names:
        if options.trial is not None:
            raise ConfigError("--trial: needs the study it belongs to, like  bayes-merger merge NAME --trial 17")
        return _recipe_by_hand(given, options.dtype, hashed)
    recipe = named_recipe(names[0], Path(options.runs), options.trial)
    unknown = [key for key in given if key not in MODELS]
    if unknown:
        raise ConfigError(
            f"{unknown[0]}: a recipe's own settings stay; only {', '.join(MODELS)} (moved files) can change"
        )
    if options.dtype:
        recipe = replace(recipe, dtype=options.dtype)
    return recipe, _open_recipe_models(recipe, given, verify and hashed)


def named_recipe(name: str, runs: Path, trial: int | None = None) -> MergeRecipe:
    """The recipe in a file, or that of a study's trial (its best by default).

    Raises:
        ConfigError: there is none.
    """
    if name.endswith(".json"):
        return _read_recipe(Path(name))
    study = load(find_study(runs, name))
    return recipe_of(study, trial_of(study, trial))


def _read_recipe(path: Path) -> MergeRecipe:
    try:
        return MergeRecipe.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"recipe {path}: no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"recipe {path}: is not a merge recipe ({error})") from error


def _open_recipe_models(recipe: MergeRecipe, given: dict[str, str], verify: bool) -> dict[str, Checkpoint]:
    checkpoints = open_each({name: given.get(f"model_{name}", model.path) for name, model in recipe.models.items()})
    for name, model in recipe.models.items():
        checkpoint = checkpoints[name]
        if verify and model.sha256 and checkpoint.sha256() != model.sha256:
            raise CheckpointError(
                f"model_{name}: {checkpoint.path} is not the recipe's file (SHA-256 {checkpoint.sha256()[:10]}, not "
                f"{model.sha256[:10]}); give the right one with  model_{name}=FILE  or add --force"
            )
    return checkpoints


_BY_HAND = ("method", "vae", "elements", "compat", "blocks", "channels")


def _recipe_by_hand(
    given: Mapping[str, str], dtype: str | None, hashed: bool
) -> tuple[MergeRecipe, dict[str, Checkpoint]]:
    method = given.get("method", "weighted_sum")
    spec = method_spec(method)
    known = [*_BY_HAND, *(f"model_{name}" for name in spec.models), *spec.options]
    numbers = {key: text for key, text in given.items() if key not in known}
    for name in spec.models:
        if name not in spec.optional and not given.get(f"model_{name}"):
            for key in difflib.get_close_matches(f"model_{name}", numbers, n=1, cutoff=0.8):
                raise _unknown_setting(key, method, known)
            raise ConfigError(f"model_{name}: method '{method}' needs it; give  model_{name}=FILE")
    options = {name: option.read(name, given[name]) for name, option in spec.options.items() if name in given}
    bound = spec.bind((name for name in spec.models if given.get(f"model_{name}")), options)
    checkpoints = open_each({name: given[f"model_{name}"] for name in bound.models})
    own = _read_blocks(Path(given["blocks"])) if given.get("blocks") else ()
    whole = checkpoints["a"].architecture
    architecture = divided(whole, own, checkpoints["a"].shapes)
    elements = (given["elements"],) if given.get("elements") else ()
    ratios = named_ratios(parse_rules(elements, architecture, tuple(spec.weights)))
    recipe = MergeRecipe(
        method=method,
        models={
            name: ModelRef(str(model.path.resolve()), model.sha256() if hashed else "")
            for name, model in checkpoints.items()
        },
        weights=_weights(numbers, bound, architecture, ratios, known),
        architecture=architecture.name,
        dtype=dtype or "auto",
        vae=given.get("vae", "a"),
        options=options,
        elements=elements,
        compat=given.get("compat", ""),
        blocks=own,
        channels=given.get("channels", "equal"),
    )
    return recipe, checkpoints


def _unknown_setting(key: str, method: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(f"unknown setting '{key}' of method '{method}'; {nearest(key, known)}")


def _weights(
    given: Mapping[str, str],
    spec: MethodSpec,
    architecture: Architecture,
    ratios: Mapping[str, Sequence[str]],
    settings: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Block weights: the method's defaults, then a weight for all blocks, then the base's, then single blocks."""
    base = {key: text for key, text in given.items() if key.lower().startswith("base_")}
    weights = {
        name: _weight(name, given.get(name), base.get(f"base_{name}"), about.default, architecture)
        for name, about in spec.weights.items()
    }
    for ratio in ratios:
        if ratio not in given:
            raise ConfigError(f"{ratio}: a rule of elements= has it for its ratio; give it a number like  {ratio}=0.5")
    places = (*architecture.blocks, *architecture.slots)
    for key, text in given.items():
        if key in ratios:
            for weight in ratios[key]:
                weights[weight][key] = _number(key, text)
            continue
        if key in spec.weights:
            continue
        try:
            names = names_of(key, places, tuple(spec.weights))
        except ConfigError as error:
            if "." in key:
                raise
            raise _unknown_setting(key, spec.name, [*settings, *spec.weights, *ratios]) from error
        for name in names:
            block, _, weight = name.rpartition(".")
            weights[weight][block] = _number(key, text)
    return weights


def _weight(
    name: str, text: str | None, base: str | None, default: float, architecture: Architecture
) -> dict[str, float]:
    if text is None:
        return dict.fromkeys(architecture.blocks, default)
    try:
        count = len([part for part in re.split(r"[,\s]+", text) if part])
        first = None if base is None or count == len(architecture.blocks) else _number(f"base_{name}", base)
        return weights_from_string(text, architecture, base=first)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{key}: '{text}' is not a number") from None


def _read_blocks(path: Path) -> OwnBlocks:
    try:
        return own_blocks(yaml.safe_load(path.expanduser().read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"blocks: {path} cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ConfigError(f"blocks: {path} is not valid YAML ({reason})") from error
