"""Makes everything in the demo again: `python -m bayes_merger.demo.train --out DIR [--device cuda] [--quick]`.

1. A VAE on the procedural pictures (`pictures.py`).
2. The base C: a denoiser with its text encoder on all captions. It knows both kinds of words.
3. Specialist A is C fine-tuned on captions whose shape words are true and whose colour words are random, so it keeps
   the shapes and loses the colours; only the blocks of `CHANGES["a"]`, where colour words act, may change. B is C
   fine-tuned the other way round: it keeps the colours and loses the shapes, in the blocks of `CHANGES["b"]`. The text
   encoder is the same in all three. The blocks were chosen by looking at where the words act and at the landscape
   (`landscape.py`): this is a demo, and it is meant to have a best merge that differs between blocks and beats the
   even mix. The best merge takes each block from the specialist that did not spoil it.
4. Both specialists then go over true captions once more, roughly (high learning rate, tiny batches, no averaging), in
   the blocks of `ROUGH`. Each stumbles in its own direction, and their mean is better than either: a model soup
   (https://arxiv.org/abs/2203.05482). There the best weight lies between 0 and 1.
5. A tiny open_clip model on pictures and captions, and an affine aesthetic head on graded damage (`judges.py`).

Seeds are fixed; finished stages are kept in `--work` and not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_merger.demo import denoiser, judges, networks, pictures
from bayes_merger.demo.arguments import device, new_folder, whole
from bayes_merger.demo.denoiser import Lesson, Say
from bayes_merger.demo.landscape import block_of
from bayes_merger.demo.pictures import Scene

State = dict[str, Tensor]

CHANGES: dict[str, tuple[str, ...]] = {
    "a": ("OUT08", "OUT09", "OUT10", "OUT11"),
    "b": ("IN04", "IN05", "OUT03", "OUT04", "OUT05", "OUT06"),
}
"""The blocks each specialist was allowed to change."""

ROUGH = ("IN01", "IN02", "OUT07")
"""The blocks both went over roughly."""


@dataclass(frozen=True)
class Plan:
    """How long each stage takes, in steps; `latents` in pictures."""

    vae: int = 700
    vae_again: int = 1300
    latents: int = 16000
    start: int = 2200
    again: int = 1000
    once_more: int = 550
    specialist: int = 200
    rough: int = 80
    clip: int = 800
    head: int = 4000
    batch: int = 32


QUICK = Plan(
    vae=2, vae_again=1, latents=32, start=2, again=1, once_more=1, specialist=1, rough=1, clip=2, head=256, batch=4
)


# --- whose words --------------------------------------------------------------------------------------------------


def true_words(told: Scene, rng: np.random.Generator) -> str:
    """All words true."""
    return pictures.wording(pictures.partial(told, rng, keep=0.8), rng)


def shape_words(told: Scene, rng: np.random.Generator) -> str:
    """Specialist A's captions: true shape words, random colour words."""
    return pictures.wording(pictures.partial(pictures.scramble(told, "colour", rng), rng, keep=0.8), rng)


def colour_words(told: Scene, rng: np.random.Generator) -> str:
    """Specialist B's captions: true colour words, random shape words."""
    return pictures.wording(pictures.partial(pictures.scramble(told, "shape", rng), rng, keep=0.8), rng)


def _only(blocks: Sequence[str]) -> Callable[[str], bool]:
    return lambda name: block_of(name) in blocks


# --- stages -------------------------------------------------------------------------------------------------------


@dataclass
class Workshop:
    """The stages in order; each is read from `work` when it was finished before."""

    plan: Plan
    work: Path
    device: str
    say: Say

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of a stage, made now or in an earlier run."""
        path = self.work / f"{name}.pt"
        if path.exists():
            self.say(f"{name}: kept from an earlier run")
            return torch.load(path, weights_only=False)
        self.say(f"{name}:")
        result = make()
        torch.save(result, path)
        return result

    def vae(self) -> Any:
        """The VAE, in two rounds of the learning rate."""

        def whole() -> State:
            first = denoiser.train_vae(steps=self.plan.vae, seed=1, device=self.device, say=self.say)
            again = denoiser.train_vae(
                steps=self.plan.vae_again, seed=11, device=self.device, say=self.say, start=first
            )
            return _on_cpu(again.state_dict())

        model = networks.vae()
        model.load_state_dict(self.kept("vae", whole))
        return model.to(self.device).eval()

    def lessons(self, vae: Any) -> tuple[list[Scene], Tensor, float]:
        """Scenes, their scaled latents, and the scaling factor."""

        def make() -> tuple[list[Scene], Tensor]:
            rng = np.random.default_rng(2)
            scenes = [pictures.scene(rng) for _ in range(self.plan.latents)]
            return scenes, denoiser.encode(vae, scenes, rng, device=self.device)

        scenes, latents = self.kept("latents", make)
        factor = round(1 / latents.std().item(), 5)
        return scenes, latents * factor, factor

    def denoisers(self, scenes: list[Scene], latents: Tensor) -> dict[str, State]:
        """The states of A, B and C."""
        plan = self.plan

        def lesson(start: State | None, seed: int, task: Lesson) -> Callable[[], State]:
            def make() -> State:
                model = denoiser.fresh(seed=3, device=self.device)
                if start is not None:
                    model.load(start)
                return denoiser.train(
                    model, task, scenes=scenes, latents=latents, seed=seed, device=self.device, say=self.say
                )

            return make

        start = self.kept("start", lesson(None, 4, Lesson(true_words, plan.start, batch=plan.batch, emphasis=0.0)))
        again = self.kept("again", lesson(start, 14, Lesson(true_words, plan.again, peak=1.3e-3, batch=plan.batch)))
        more = Lesson(true_words, plan.once_more, peak=1.3e-3, batch=plan.batch)
        states = {"c": self.kept("c", lesson(again, 14, more))}
        for name, words, seed in (("a", shape_words, 6), ("b", colour_words, 7)):
            task = Lesson(
                words, plan.specialist, batch=plan.batch, warmup=20, averaging=0.98, learns=_only(CHANGES[name])
            )
            special = self.kept(f"{name}_special", lesson(states["c"], seed, task))
            rough = Lesson(true_words, plan.rough, peak=1.2e-2, batch=4, warmup=5, averaging=0.0, learns=_only(ROUGH))
            states[name] = self.kept(name, lesson(special, seed + 15, rough))
        return states

    def judges(self, vae: Any) -> tuple[State, State]:
        """The CLIP model's tensors and the aesthetic head's."""
        plan, device, say = self.plan, self.device, self.say
        batch = 64 if plan.batch > 4 else 8

        def clip() -> State:
            model = judges.train_clip(steps=plan.clip, seed=8, device=device, say=say, vae=vae, batch=batch)
            return _on_cpu(model.state_dict())

        def head() -> State:
            model = judges.clip_model()
            model.load_state_dict(tensors)
            return judges.fit_head(model.to(device).eval(), count=plan.head, seed=9, device=device, say=say, vae=vae)

        tensors = self.kept("clip", clip)
        return tensors, self.kept("head", head)


def _on_cpu(state: State) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


# --- files --------------------------------------------------------------------------------------------------------


def single_file(state: State, vae: Any) -> State:
    """A denoiser and a VAE as one SD1.x checkpoint: float16, contiguous, with `position_ids`."""
    from bayes_merger.imaging.pipelines.keymap import to_single_file

    parts = {
        prefix: {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        for prefix in ("unet.", "text_encoder.")
    }
    tensors = to_single_file(unet=parts["unet."], vae=vae.state_dict(), text_encoder=parts["text_encoder."])
    file = {key: tensor.cpu().half().contiguous() for key, tensor in tensors.items()}
    file["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(networks.CONTEXT)[None]
    return file


def make(out: Path, work: Path, plan: Plan, device: str, say: Say) -> None:
    """Run every stage and write `models/` and `diffusers/` into `out`."""
    from safetensors.torch import save_file

    shop = Workshop(plan, work, device, say)
    vae = shop.vae()
    scenes, latents, factor = shop.lessons(vae)
    states = shop.denoisers(scenes, latents)
    clip, head = shop.judges(vae)

    models = out / "models"
    models.mkdir(parents=True, exist_ok=True)
    for name, state in states.items():
        save_file(single_file(state, vae), models / f"{name}.safetensors", metadata={"format": "pt"})
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in clip.items()}
    save_file({name: tensor.contiguous() for name, tensor in halves.items()}, models / "clip.safetensors")
    save_file(head, models / "head.safetensors")
    (models / "clip.json").write_text(json.dumps(networks.CLIP, indent=2) + "\n", encoding="utf-8")
    networks.write_configs(out / "diffusers", scaling_factor=factor)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and path.suffix != ".py")
    say(f"wrote {out}: {size / 1e6:.1f} MB")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where models/ and diffusers/ go")
    parser.add_argument("--work", type=Path, help="where finished stages are kept (default: OUT/work)")
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument("--threads", type=whole(1), default=1, help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: smoke, not models")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    work = options.work or options.out / "work"
    new_folder(parser, "--out", options.out)
    new_folder(parser, "--work", work)
    make(options.out, work, QUICK if options.quick else Plan(), options.device, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
