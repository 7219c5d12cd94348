"""``merge``: write one merge to a file, from a study, a recipe, or weights given by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.cli import steps
from bayes_merger.cli.arguments import Parser, add_source
from bayes_merger.errors import ConfigError, printable
from bayes_merger.merges.resolve import recipe_and_models
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.plan.explain import notes_on
from bayes_merger.merging.plan.routing import listed
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.merging.recipe.settings import VAE_FILE
from bayes_merger.merging.saliency.settings import STRENGTH, WINNER
from bayes_merger.paths import user_path
from bayes_merger.run.rebasin import planned_with_orders

DESCRIPTION = """\
Write one merge to a checkpoint file that other UIs load, or to a diffusers folder. Models are .safetensors or .ckpt
files or diffusers folders, LoRAs among them.

  bayes-merger merge NAME --out best.safetensors               the best merge of a study
  bayes-merger merge NAME --trial 17 --out t17.safetensors     another of its trials
  bayes-merger merge NAME --predicted --out top.safetensors    the merge of which its model expects most, never drawn
  bayes-merger merge recipe.json --out best.safetensors        from a recipe file, or from a merged model's own recipe
  bayes-merger merge steps.yaml look=0.4 --out mix.safetensors             a recipe in several steps, below
  bayes-merger merge model_a=A.safetensors model_b=B.safetensors alpha=0.3 --out ab.safetensors
  bayes-merger merge ... method=add_difference model_c=C.safetensors alpha=0.5,0,0.1,...  --out abc.safetensors
  bayes-merger merge ... method=n_average model_c=C.safetensors model_d=D.safetensors --out abcd.safetensors
  bayes-merger merge model_a=A.safetensors model_b=lora.safetensors alpha=0.8 --out with_lora.safetensors
  bayes-merger merge ... --as-lora rank=32 --out lora.safetensors          what the merge changes in A, as a LoRA

  bayes-merger merge ... alpha=0.3 IN00-IN05.alpha=0.1 TE.alpha=0 elements='OUT03-OUT05:attn2:0.5, OUT06:ff:0.2'

A weight (alpha, beta) is one number for all blocks, or one for each: 26 in Stable Diffusion 1 and 2 (BASE, IN00 ...
IN11, M00, OUT00 ... OUT11), 20 in XL, the first of which base_alpha= may give; or a preset of supermerger's (alpha=
GRAD_V, WRAP12, SMOOTHSTEP, ...), whose base is 0 unless base_alpha= says otherwise. NAME.alpha= sets a block, a run of
blocks or one of TIME, LABEL, OUT, TE, CLIP_L, CLIP_G, VAE by itself, and elements= some tensors of some blocks
(compat=supermerger matches as supermerger does). blocks=FILE.yaml divides the model anew: ATTN: ['*.attn1.', ...].
channels=pad merges an inpainting or pix2pix model with an ordinary one. vae=b takes B's VAE, vae=merge merges it,
vae=FILE.safetensors bakes in that one. clip=hard or soft keeps every number between A's and B's, and
adjust=IN,OUT,OUT2,CONT,BRI,COL1,COL2,COL3 are supermerger's. dtype= is fp16, bf16, fp32, fp8_e4m3fn or fp8_e5m2 (fp8
for the U-Net's matrices, fp16 for the rest). Files come pruned, without what no UI loads: the schedule, and averages
over training (ema=keep merges and keeps them). A name that does not end in .safetensors or .sft becomes a
diffusers folder, with the settings of model A where that is one, else of --config FOLDER or of the official model.
A LoRA (LoCon, LoHa, LoKr, GLoRA, OFT, BOFT, IA3, DoRA, full difference) as any model but A is model A with it
applied, so alpha is its strength; 17 numbers (SDXL: 12) are LoRA block weights. Its own alpha is read from its
tensors, its header or adapter_config.json beside it.
saliency.a=A.act.safetensors saliency.b=B.act.safetensors move alpha inside tensors towards the model that matters more
there, by as much as strength= says, or all the way: strength=winner; alpha=act:FILE multiplies a weight number by
number (activations --help).
"model_b={rebasin: B.safetensors, to: a}" takes B with its neurons in the order of A's (rebasin --help).
Models in brackets below may be left out; a list that ends in dots goes on, with model_e=, model_f= up to model_z=.
bayes-merger plan takes the same and says what would happen.

A recipe in several steps, nothing rounded between them; a name in the place of a number is given on the command line,
or searched in a run:

  models: {a: A.safetensors, b: B.safetensors, c: C.safetensors, style: style_lora.safetensors}
  steps:
    - {name: mix,    method: weighted_sum,   a: a,   b: b, alpha: 0.4}
    - {name: detail, method: add_difference, a: mix, b: b, c: c, alpha: {default: 1.0, OUT03-OUT05: 0.3}}
    - {name: final,  method: weighted_sum,   a: detail, b: style, alpha: look}
"""


_SUFFIX = ".safetensors"
_OTHER_FORMATS = (".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")


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
    parser.add_argument("--out", required=True, help="a file, .safetensors or .sft; else a diffusers folder")
    parser.add_argument("--format", choices=("safetensors", "diffusers"), help="what to write, whatever the name")
    parser.add_argument("--config", help="a diffusers config tree, for a diffusers folder of a model of unusual size")
    parser.add_argument("--as-lora", metavar="rank=32", help="write a LoRA: rank=32, rank=full or rank=auto:0.95")
    parser.add_argument("--overwrite", action="store_true", help="replace the file when it exists")
    parser.add_argument("--force", action="store_true", help="merge although a model file is not the recipe's")
    parser.add_argument("-q", "--quiet", action="store_true", help="no notes on what is not merged, left out, unusual")
    options = parser.parse_args(arguments)
    if options.as_lora is not None:
        from bayes_merger.merging.export.lora import read_rank

        read_rank(options.as_lora)
    recipe, checkpoints = recipe_and_models(
        options.source,
        trial=options.trial,
        predicted=options.predicted,
        dtype=options.dtype,
        runs=options.runs,
        verify=not options.force,
    )
    out = user_path(options.out)
    folder = _is_folder(out, options.format)
    if options.as_lora is not None and folder:
        raise ConfigError(f"--out: a LoRA is one file; write  --out {out.name}.safetensors")
    if out.exists() and not options.overwrite and not any(out.samefile(c.path) for c in checkpoints.values()):
        raise ConfigError(f"--out: {out} exists; give another name or add --overwrite")
    planned = planned_with_orders(recipe, checkpoints, steps.matching)
    if not options.quiet:
        for note in notes_on(planned, checkpoints):
            print(f"note: {printable(note, longest=400)}", file=sys.stderr)
    if options.as_lora is not None:
        _save_lora(recipe, checkpoints, out, options.as_lora, options.overwrite)
    elif folder:
        _save_folder(recipe, checkpoints, out, options.config, options.overwrite)
    else:
        _save(recipe, checkpoints, out, options.overwrite)


def _is_folder(out: Path, form: str | None) -> bool:
    """Whether a diffusers folder is to be written.

    Raises:
        ConfigError: a name by which other programs would read the file as what it is not.
    """
    suffix = out.suffix.lower()
    if suffix in _OTHER_FORMATS:
        raise ConfigError(f"--out: merges are not written as {suffix} files; write  --out {out.with_suffix(_SUFFIX)}")
    if form is None and suffix not in (_SUFFIX, ".sft") and suffix:
        print(f"note: {out.name} does not end in {_SUFFIX}, so it becomes a diffusers folder", file=sys.stderr)
    return (form or ("safetensors" if suffix in (_SUFFIX, ".sft") else "diffusers")) == "diffusers"


@contextmanager
def _progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that vanishes at the end; nothing where standard error is not a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _save(recipe: MergeRecipe, checkpoints: Mapping[str, Checkpoint], out: Path, overwrite: bool) -> None:
    from bayes_merger.merging.export.single_file import save_merge

    with _progress(f"merging into {out.name}") as progress:
        save_merge(recipe, checkpoints, out, replace=overwrite, progress=progress)
    print(
        f"wrote {printable(str(out))} ({out.stat().st_size / 1e6:.1f} MB): {printable(_in_words(recipe), longest=300)}"
    )


def _in_words(recipe: MergeRecipe) -> str:
    """``weighted_sum of A and B, alpha 0.5``: a weight that differs between blocks is told by its ends."""
    models = [Path(model.path).stem for name, model in recipe.models.items() if name != VAE_FILE]
    ends = {name: (min(row.values()), max(row.values())) for name, row in recipe.weights.items() if row}
    told = [f"{name} {low:g}" + (f" to {high:g}" if high > low else "") for name, (low, high) in ends.items()]
    told += [f"{STRENGTH} {WINNER}"] if recipe.saliency.get("takes") == WINNER else []
    return f"{recipe.method} of {' and '.join(models)}, {', '.join(told)}"


def _save_folder(
    recipe: MergeRecipe, checkpoints: Mapping[str, Checkpoint], out: Path, config: str | None, overwrite: bool
) -> None:
    from bayes_merger.merging.export.diffusers_folder import save_folder

    tree = user_path(config) if config else None
    with _progress(f"merging into {out.name}") as progress:
        written = save_folder(recipe, checkpoints, out, config=tree, replace=overwrite, progress=progress)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"wrote {printable(str(out))}/ ({size / 1e6:.1f} MB), a diffusers folder")
    if written.left_out:
        print(f"  left out, since its parts have no place for them: {listed(written.left_out)}")
    if written.lacking:
        given = ", ".join(f"{name}=..." for name in written.lacking)
        print(f"  the merge has no such parts, so give them (or None) to from_pretrained: {given}")


def _save_lora(
    recipe: MergeRecipe, checkpoints: Mapping[str, Checkpoint], out: Path, rank: str, overwrite: bool
) -> None:
    from bayes_merger.merging.export.lora import read_rank, save_lora

    with _progress(f"extracting {out.name}") as progress:
        found = save_lora(recipe, checkpoints, out, read_rank(rank), replace=overwrite, progress=progress)
    ranks = sorted(set(found.ranks.values()))
    span = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no factors"
    print(f"wrote {printable(str(out))} ({out.stat().st_size / 1e6:.1f} MB): {len(found.ranks)} layers, {span}")
    print(f"relative error {found.error:.2%} of what the merge changes in all")
    for name, error in list(found.layers.items())[:3]:
        print(f"  {error:.2%} in {name}")
    if found.left_out:
        some = ", ".join(found.left_out[:2]) + (" ..." if len(found.left_out) > 2 else "")
        print(f"  {len(found.left_out)} tensors that factors cannot hold are left out (,rest=diff adds them): {some}")


def _methods_text() -> str:
    from bayes_merger.merging.method import METHODS

    lines = ["", "Methods:"]
    for name in sorted(METHODS):
        spec = method_spec(name)
        models = ", ".join(f"({model})" if model in spec.optional else model for model in spec.models)
        models += ", (d), ..." if spec.many else ""
        options = [f"{option}={'|'.join(about.choices) or about.default}" for option, about in spec.options.items()]
        lines.append(f"  {name:<26} models {models}; {', '.join([*spec.weights, *options])}")
    return "\n".join(lines)
