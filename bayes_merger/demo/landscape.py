"""How the demo's own scorers see merges of A and B: the check by which the specialists were chosen.

    python -m bayes_merger.demo.landscape [--random 24] [--pictures 16]

Prints the mean score of A, B, C, the even mix, one-block changes and random mixes, each with its standard error.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_merger.demo import clip_config, clip_weights, denoiser, head_path, networks
from bayes_merger.demo.arguments import whole
from bayes_merger.demo.denoiser import Denoiser
from bayes_merger.demo.judges import normalise

BLOCKS = ("BASE", *(f"IN{i:02d}" for i in range(12)), "M00", *(f"OUT{i:02d}" for i in range(12)))
PROMPTS = (
    "a large red ring on a blue background",
    "a large yellow cross on a purple background",
    "a large green triangle on a white background",
    "a large white diamond on a red background",
    "a large blue square on a yellow background",
    "a large purple disc on a green background",
    "a large black ring on a white background",
    "a large yellow triangle on a black background",
)


def block_of(name: str) -> str:
    """The merge block of a denoiser's tensor, named as in `Denoiser.parameters`; `out` follows OUT11, the rest BASE.

    >>> block_of("unet.down_blocks.1.resnets.0.conv1.weight")
    'IN04'
    """
    parts = name.split(".")
    if parts[0] == "text_encoder" or parts[1] == "time_embedding":
        return "BASE"
    if parts[1] == "conv_in":
        return "IN00"
    if parts[1] == "mid_block":
        return "M00"
    if parts[1] in ("conv_norm_out", "conv_out"):
        return "OUT11"
    level, kind, index = int(parts[2]), parts[3], int(parts[4])
    if parts[1] == "down_blocks":
        return f"IN{1 + 3 * level + (2 if kind == 'downsamplers' else index):02d}"
    return f"OUT{3 * level + (2 if kind == 'upsamplers' else index):02d}"


def mix(a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: Mapping[str, float]) -> dict[str, Tensor]:
    """`(1 - alpha) a + alpha b`, alpha by block."""
    return {name: torch.lerp(a[name].float(), b[name].float(), alpha[block_of(name)]) for name in a}


@dataclass
class Judge:
    """The demo's CLIP model and aesthetic head."""

    model: Any
    tokenize: Any
    head: Mapping[str, Tensor]

    @classmethod
    def shipped(cls) -> Judge:
        """As it lies in the package."""
        import open_clip
        from safetensors.torch import load_file

        open_clip.add_model_config(clip_config())
        name = clip_config().stem
        model = open_clip.create_model(name, pretrained=str(clip_weights()), precision="fp32").eval()
        return cls(model, open_clip.SimpleTokenizer(context_length=networks.CONTEXT), load_file(head_path()))

    @torch.no_grad()
    def __call__(self, images: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Cosine of picture and prompt, and the aesthetic grade: two tensors (n,)."""
        seen = F.normalize(self.model.encode_image(normalise(images)), dim=-1)
        read = F.normalize(self.model.encode_text(self.tokenize(list(texts))), dim=-1)
        return (seen * read).sum(-1), (seen @ self.head["weight"].float().T + self.head["bias"].float()).view(-1)


@dataclass
class Landscape:
    """Draws with one live model whose tensors are overwritten, and judges the pictures."""

    live: Denoiser
    vae: Any
    scale: float
    judge: Judge
    prompts: Sequence[str] = PROMPTS

    def score(self, state: Mapping[str, Tensor], *, pictures: int, seed: int) -> tuple[Tensor, Tensor]:
        """Cosines and grades of that many pictures, the prompts in turn."""
        texts = [self.prompts[index % len(self.prompts)] for index in range(pictures)]
        self.live.load(dict(state))
        images = denoiser.sample(self.live, self.vae, texts, scale=self.scale, seed=seed, device="cpu")
        return self.judge((images * 255).round() / 255, texts)


def report(label: str, scores: tuple[Tensor, Tensor]) -> str:
    """One line: mean and standard error of both scorers."""
    cosine, grade = scores
    root = len(cosine) ** 0.5
    return (
        f"{label:34s} clip {cosine.mean():.3f} ± {cosine.std() / root:.3f}   "
        f"aesthetic {grade.mean():.2f} ± {grade.std() / root:.2f}"
    )


def shipped() -> tuple[Landscape, dict[str, dict[str, Tensor]]]:
    """The embedded models, ready to be mixed and drawn from, and the states of `a`, `b` and `c`."""
    from diffusers import StableDiffusionPipeline

    from bayes_merger.demo import config_dir, model_path

    states, pipe = {}, None
    for name in ("c", "b", "a"):
        pipe = StableDiffusionPipeline.from_single_file(
            str(model_path(name)), config=str(config_dir()), local_files_only=True, torch_dtype=torch.float32
        )
        states[name] = Denoiser(pipe.unet, pipe.text_encoder).state()
    assert pipe is not None
    live = Denoiser(pipe.unet.eval(), pipe.text_encoder.eval())
    return Landscape(live, pipe.vae.eval(), float(pipe.vae.config.scaling_factor), Judge.shipped()), states


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=whole(1), default=16)
    parser.add_argument("--random", type=whole(1), default=24)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    land, states = shipped()
    a, b = states["a"], states["b"]
    even = dict.fromkeys(BLOCKS, 0.5)
    for label, state in {"A": a, "B": b, "C": states["c"], "even mix": mix(a, b, even)}.items():
        print(report(label, land.score(state, pictures=4 * options.pictures, seed=1)), flush=True)
    for block in BLOCKS:
        for value in (0.0, 1.0):
            scores = land.score(mix(a, b, {**even, block: value}), pictures=options.pictures, seed=1)
            print(report(f"even mix but {block} = {value:.0f}", scores), flush=True)
    rng = np.random.default_rng(0)
    means = []
    for index in range(options.random):
        alpha = dict(zip(BLOCKS, map(float, rng.random(len(BLOCKS))), strict=True))
        scores = land.score(mix(a, b, alpha), pictures=options.pictures, seed=2 + index)
        means.append(scores[0].mean().item())
    print(f"random mixes, clip: mean {np.mean(means):.3f}, spread {np.std(means):.3f}, best {max(means):.3f}")


if __name__ == "__main__":
    main()
