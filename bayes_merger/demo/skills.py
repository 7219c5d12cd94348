"""Makes a second pair of demo models, whose differences are skills: `python -m bayes_merger.demo.skills --out DIR`.

The shipped A and B are what is left of C after each forgot one half of the words, so that their difference to C is
damage. Methods that read a difference to an ancestor as something learnt (`ties`, `salient_sum`, `most_salient`, ...)
want a pair that learnt something: here C knows no words at all any more, A has learnt the shape words from there and B
the colour words, in all blocks of the U-Net, so that all 26 weights matter. Text encoder and VAE are the same in all.

It takes some minutes on a CPU; seeds are fixed, and `--seed` makes another pair of the same skills.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bayes_merger import demo
from bayes_merger.atomic import write_atomically
from bayes_merger.demo import denoiser, pictures, train
from bayes_merger.demo.arguments import device, new_folder, whole
from bayes_merger.demo.denoiser import Denoiser, Lesson, Say
from bayes_merger.demo.pictures import Scene

README = """# Two models with different skills, and the one that both learnt from

C knows no words, A has learnt the shape words from there, B the colour words. They are tiny Stable Diffusion 1 models
that draw 64 x 64 pictures, for trying methods that compare with a common ancestor:

    bayes-merger run experiment=demo name=skills model_a=a.safetensors model_b=b.safetensors
    bayes-merger activations a.safetensors experiment=demo --out a.act.safetensors
    bayes-merger activations b.safetensors experiment=demo --out b.act.safetensors
    bayes-merger merge model_a=a.safetensors model_b=b.safetensors model_c=c.safetensors method=most_salient \\
        alpha=0.5 strength=1 saliency.centre=none saliency.a=a.act.safetensors saliency.b=b.act.safetensors \\
        --out ab.safetensors
    bayes-merger payload draw ab.safetensors experiment=demo

`python -m bayes_merger.demo.skills --out DIR` made them.
"""


@dataclass(frozen=True)
class Plan:
    """How long each stage takes, in steps; `scenes` in pictures."""

    scenes: int = 3000
    forget: int = 80
    learn: int = 160
    batch: int = 32


QUICK = Plan(scenes=32, forget=1, learn=1, batch=4)


def no_words(told: Scene, rng: np.random.Generator) -> str:
    """Captions from which nothing can be learnt."""
    return train.shape_words(pictures.scramble(told, "shape", rng), rng)


@dataclass
class School:
    """What all lessons share; pairs of other seeds have other scenes and other lessons."""

    plan: Plan
    seed: int
    scenes: list[Scene]
    latents: Tensor
    device: str
    say: Say

    def taught(self, start: train.State, words: denoiser.Words, steps: int, seed: int) -> train.State:
        """The model after a lesson, in which its U-Net learns."""

        def learns(name: str) -> bool:
            return name.startswith("unet.")

        lesson = Lesson(words, steps, batch=self.plan.batch, warmup=20, averaging=0.98, learns=learns)
        model = denoiser.fresh(seed=3, device=self.device).load(start)
        return denoiser.train(
            model,
            lesson,
            scenes=self.scenes,
            latents=self.latents,
            seed=seed + 100 * self.seed,
            device=self.device,
            say=self.say,
        )


def make(out: Path, plan: Plan, device: str, say: Say, seed: int = 0) -> None:
    """Write `a`, `b` and `c` as safetensors, and what they are, into a folder."""
    from safetensors.torch import save_file

    from bayes_merger.imaging import load_pipeline

    live = load_pipeline(demo.model_path("c"), config=demo.config_dir(), device="cpu").architecture.model.modules
    vae, rng = live["vae"].float().to(device), np.random.default_rng(2 + 100 * seed)
    scenes = [pictures.scene(rng) for _ in range(plan.scenes)]
    latents = denoiser.encode(vae, scenes, rng, device=device) * vae.config.scaling_factor
    school = School(plan, seed, scenes, latents, device, say)

    out.mkdir(parents=True, exist_ok=True)
    say("C forgets all words")
    states = {"c": school.taught(Denoiser(live["unet"], live["text_encoder"]).state(), no_words, plan.forget, 5)}
    for name, words, seed, what in (("a", train.shape_words, 6, "shape"), ("b", train.colour_words, 7, "colour")):
        say(f"{name.upper()} learns the {what} words")
        states[name] = school.taught(states["c"], words, plan.learn, seed)
    for name, state in states.items():
        save_file(train.single_file(state, vae), out / f"{name}.safetensors", metadata={"format": "pt"})
    write_atomically(out / "README.md", README)
    say(f"wrote {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder")
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument("--threads", type=whole(1), help="CPU threads (default: as many as there are cores)")
    parser.add_argument("--seed", type=whole(0), default=0, help="of the pair (default: 0)")
    parser.add_argument("--quick", action="store_true", help="a step of everything: smoke, not models")
    options = parser.parse_args(arguments)
    new_folder(parser, "--out", options.out, "README.md", *(f"{name}.safetensors" for name in "abc"))
    if options.threads:
        torch.set_num_threads(options.threads)
    plan = QUICK if options.quick else Plan()
    make(options.out, plan, options.device, lambda line: print(line, flush=True), options.seed)


if __name__ == "__main__":
    main()
