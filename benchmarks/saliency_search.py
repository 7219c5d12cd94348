"""Searches at equal budget on two models with different skills: with saliency, without, and with its channels shuffled.

    python benchmarks/saliency_search.py search --trials 30 --seeds 0 1 2
    python benchmarks/saliency_search.py report      # benchmarks/results/saliency_search.md

The pair starts from the demo's C, made to forget both halves of its words; A then learns the shape words, B the colour
words, in all blocks of the U-Net, so that all 26 weights matter. A seed decides the start design, the pictures' seeds
and the sampler; the arms share the design. `gates` has strength 1.5 in all blocks and searches the same weights as
`plain`; `shuffled` has the same saliency with the channels of every tensor in a random order, which tells nothing. What
is kept is judged by fresh pictures, on seeds that no trial has used, the same for all arms. All that was made is kept
in ``--cache``; a run goes on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import torch
from safetensors.torch import save_file
from search_demo import ROOT, Demo

from bayes_merger import compose, demo
from bayes_merger.checkpoints.activations.sums import Activations, merged
from bayes_merger.demo import denoiser, pictures, train
from bayes_merger.demo.denoiser import Denoiser, Lesson
from bayes_merger.demo.pictures import Scene
from bayes_merger.imaging import load_pipeline
from bayes_merger.run.activations import measure

RESULTS = Path(__file__).parent / "results" / "saliency_search.md"
REPORT = """# Searches with saliency and without

Written by `python benchmarks/saliency_search.py report`: points of the merges of the start design, which has the same
block weights in all searches; of what a search hands over by its posterior mean, on fresh pictures; and of what the
plain search hands over, with saliency added. Beside them stands how far they are above the same without saliency: of
each seed with the standard error over merges or pictures, then with that over the seeds.
"""
STRENGTH = 1.5
KINDS = {"plain": "", "gates": "act", "shuffled": "shuffled"}
"""Of searches, and what the files of their saliency are called."""
OPTIMISER = "structured"
FRESH = 16
LESSONS = {"a": (train.shape_words, 6), "b": (train.colour_words, 7)}
EXPERIMENT = ("experiment=demo",)


def no_words(told: Scene, rng: np.random.Generator) -> str:
    """Captions from which nothing can be learnt."""
    return train.shape_words(pictures.scramble(told, "shape", rng), rng)


def make_pair(folder: Path) -> None:
    """Train A and B as `a.safetensors` and `b.safetensors`, and measure them, unless that is done."""
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / f"{name}.safetensors").is_file() for name in LESSONS):
        train_pair(folder)
    for name in LESSONS:
        if not (out := folder / f"{name}.act.safetensors").is_file():
            settings = compose.compose_run([*EXPERIMENT, "seed=7919", f"model_a={folder / name}.safetensors"])
            measure(compose.validate(settings), out, print)
        if not (wrong := folder / f"{name}.shuffled.safetensors").is_file():
            shuffled(out).save(wrong)


def train_pair(folder: Path) -> None:
    """Teach two copies of the demo's C that has forgotten all words one half of them each."""
    live = load_pipeline(demo.model_path("c"), config=demo.config_dir(), device="cpu").architecture.model.modules
    vae, rng = live["vae"].float(), np.random.default_rng(2)
    scenes = [pictures.scene(rng) for _ in range(3000)]
    latents = denoiser.encode(vae, scenes, rng, device="cpu") * vae.config.scaling_factor
    knowing = Denoiser(live["unet"], live["text_encoder"]).state()

    def taught(start: train.State, words: denoiser.Words, steps: int, seed: int) -> train.State:
        lesson = Lesson(words, steps, warmup=20, averaging=0.98, learns=lambda name: name.startswith("unet."))
        model = denoiser.fresh(seed=3, device="cpu").load(start)
        return denoiser.train(
            model,
            lesson,
            scenes=scenes,
            latents=latents,
            seed=seed,
            device="cpu",
            say=lambda text: print(text, flush=True),
        )

    forgot = taught(knowing, no_words, 80, 5)
    for name, (words, seed) in LESSONS.items():
        state = train.single_file(taught(forgot, words, 160, seed), vae)
        save_file(state, folder / f"{name}.safetensors", metadata={"format": "pt"})


def shuffled(path: Path) -> Activations:
    """Activations with the channels of each tensor in a random order, the same for all models and statistics."""
    found = merged([path])
    for key, sums in found.sums.items():
        for side in ("in", "out"):
            for name in [name for name in sums if name.endswith(side)]:
                order = np.random.default_rng(list(f"{key} {side}".encode())).permutation(sums[name].shape[1])
                sums[name] = sums[name][:, torch.from_numpy(order)]
    return found


def arm(name: str, seed: int, cache: Path) -> Demo:
    """A search of one kind."""
    pair = cache / "pair"
    more = [f"model_{letter}={pair / letter}.safetensors" for letter in LESSONS]
    more += ["n_iters=80", "images_per_prompt=1"]
    if name != "plain":
        more += [f"saliency.{letter}={pair / letter}.{KINDS[name]}.safetensors" for letter in LESSONS]
        more.append(f"space.frozen.strength={STRENGTH}")
    return Demo(OPTIMISER, seed, cache / name, more, FRESH)


def search(seed: int, trials: int, cache: Path) -> None:
    """Search with all kinds, and judge what each hands over; that of the plain one with all kinds of saliency."""
    path = cache / "results" / f"{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    arms = {name: arm(name, seed, cache) for name in KINDS}
    studies = {name: own.study(trials) for name, own in arms.items()}
    first = [trial.params for trial in studies["plain"].trials if trial.user_attrs.get("phase") == "design"]
    found = {f"start design, {name}": [own.judged(row)["value"] for row in first] for name, own in arms.items()}
    path.write_text(json.dumps(found))
    kept = {name: own.kept(studies[name], trials)["posterior"] for name, own in arms.items()}
    for name, own in arms.items():
        found[f"search, {name}"] = own.points(own.judged(kept[name], "fresh"))
        found[f"the plain search's merge, {name}"] = own.points(own.judged(kept["plain"], "fresh"))
    path.write_text(json.dumps(found))
    print(seed, {name: round(float(np.mean(points)), 3) for name, points in found.items()}, flush=True)


def table(cache: Path) -> list[str]:
    """Mean points of each finished seed, and how far above those without saliency they are, picture by picture."""
    paths = sorted((cache / "results").glob("*.json"))
    results = {int(path.stem): found for path in paths if len(found := json.loads(path.read_text())) == 3 * len(KINDS)}
    lines = [
        f"| what | points of seeds {', '.join(map(str, results))} | above plain, by seed | over the seeds |",
        "| --- | --- | --- | --- |",
    ]
    for name in next(iter(results.values()), {}):
        plain = f"{name.partition(',')[0]}, plain"
        means = ", ".join(f"{np.mean(found[name]):.2f}" for found in results.values())
        above = [np.subtract(found[name], found[plain]) for found in results.values()]
        by_seed = ", ".join(_with_error(each) for each in above)
        lines.append(f"| {name} | {means} | {by_seed} | {_with_error([float(np.mean(each)) for each in above])} |")
    return lines


def _with_error(differences: Sequence[float] | np.ndarray) -> str:
    """Their mean, and its standard error where there are several."""
    text = f"{np.mean(differences):+.2f}"
    return text if len(differences) < 2 else f"{text} ± {np.std(differences, ddof=1) / np.sqrt(len(differences)):.2f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pair", "search", "report"))
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "saliency-search")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    if options.what != "report":
        make_pair(options.cache / "pair")
    if options.what == "search":
        for seed in options.seeds:
            search(seed, options.trials, options.cache)
    if options.what == "report":
        RESULTS.write_text("\n".join([REPORT, *table(options.cache), ""]))
        print(RESULTS.read_text())


if __name__ == "__main__":
    main()
