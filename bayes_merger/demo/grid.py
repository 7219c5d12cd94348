"""A picture of pictures: what C, A, B, the even mix and the block-wise mix make of the same prompts and seeds.

python -m bayes_merger.demo.grid docs/demo-grid.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bayes_merger.demo import denoiser
from bayes_merger.demo.landscape import BLOCKS, PROMPTS, Landscape, mix, shipped
from bayes_merger.demo.train import CHANGES, ROUGH

State = Mapping[str, Tensor]
ASKED = ("a large ring", "a large cross", "a red shape on a blue background", "a yellow shape on a black background")
SEEDS = (1, 2)
MARGIN, HEAD, GAP = 270, 24, 4


def by_blocks() -> dict[str, float]:
    """The mix one would guess from how the two were trained: B where A was changed, both in `ROUGH`, A elsewhere."""
    return {block: 0.5 if block in ROUGH else float(block in CHANGES["a"]) for block in BLOCKS}


def columns(states: Mapping[str, State]) -> dict[str, State]:
    """What is compared, left to right."""
    a, b = states["a"], states["b"]
    return {
        "C, the base": states["c"],
        "A: shapes": a,
        "B: colours": b,
        "even mix": mix(a, b, dict.fromkeys(BLOCKS, 0.5)),
        "block by block": mix(a, b, by_blocks()),
    }


def grid(land: Landscape, states: Mapping[str, State], prompts: Sequence[str]) -> Image.Image:
    """Rows are prompts, columns the models, two seeds each."""
    shown = columns(states)
    wide = 64 * len(SEEDS) + 4 * GAP
    sheet = Image.new("RGB", (MARGIN + wide * len(shown), HEAD + (64 + GAP) * len(prompts)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(prompts):
        pen.text((6, HEAD + (64 + GAP) * row + 26), prompt, fill="black")
    for column, (label, state) in enumerate(shown.items()):
        left = MARGIN + wide * column
        pen.text((left, 6), label, fill="black")
        land.live.load(dict(state))
        for place, seed in enumerate(SEEDS):
            images = denoiser.sample(land.live, land.vae, prompts, scale=land.scale, seed=seed, device="cpu")
            for row, image in enumerate((images * 255).round().byte().permute(0, 2, 3, 1).numpy()):
                sheet.paste(Image.fromarray(image), (left + (64 + GAP) * place, HEAD + (64 + GAP) * row))
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    if options.out.suffix != ".png" or not options.out.parent.is_dir():
        parser.error(f"out: {str(options.out)!r} is no PNG in a folder that is there; give one")
    torch.set_num_threads(1)
    land, states = shipped()
    sheet = grid(land, states, (*PROMPTS, *ASKED))
    sheet.quantize(256).save(options.out, optimize=True)  # a quarter of the size


if __name__ == "__main__":
    main()
