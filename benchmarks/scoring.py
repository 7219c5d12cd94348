"""What judging costs: several heads on one tower, and a batch of pictures beside one by one through PNG files.

Written for ViT-L/14 with random weights of its real shape; nothing is fetched. The figures are ratios of times that
were measured in turn: CPU seconds on a CPU, where others may be working, too, and wall seconds on a GPU::

    python benchmarks/scoring.py                    # writes benchmarks/results/scoring.md
    python benchmarks/scoring.py --device cuda
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from bayes_merger.scoring import AestheticScorer, ClipTower, ImageToScore

Judge = Callable[[list[ImageToScore]], object]
RESULTS = Path(__file__).parent / "results" / "scoring.md"


def random_tower(model: str, folder: Path) -> Path:
    """A file with the tensors of open_clip's architecture, random."""
    import open_clip

    config = open_clip.get_model_config(model)
    with torch.device("meta"):
        empty = open_clip.CLIP(**config)
    torch.manual_seed(0)
    scale = 0.02
    tensors = {key: torch.randn(value.shape) * scale for key, value in empty.state_dict().items()}
    save_file(tensors, folder / "tower.safetensors")
    return folder / "tower.safetensors"


def random_head(width: int, seed: int, folder: Path) -> Path:
    """A linear head."""
    torch.manual_seed(seed)
    path = folder / f"head{seed}.safetensors"
    save_file({"weight": torch.randn(1, width), "bias": torch.zeros(1)}, path)
    return path


RANDOM = np.random.default_rng(0)


def pictures(count: int, size: int) -> list[ImageToScore]:
    """Pictures of random pixels, others each time."""
    drawn = RANDOM.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [ImageToScore("bench", n, n, "a cat", Image.fromarray(pixels), None, "") for n, pixels in enumerate(drawn)]


def through_png(scorer: AestheticScorer, images: Sequence[ImageToScore]) -> None:
    """One by one, each written as a PNG and read again, as programs do that pass files on."""
    for image in images:
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            image.image.save(file.name)
            with Image.open(file.name) as read:
                scorer.score([replace(image, image=read.convert("RGB"))])


def seconds(work: Callable[[], object], device: str) -> float:
    """How long it takes; a scorer's result is on the CPU, so a GPU is done when it returns."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin = clock()
    work()
    return clock() - begin


class Comparison(NamedTuple):
    """Median seconds of two ways to score pictures, and the median ratio of the first to the second."""

    what: str
    pictures: int
    first: float
    second: float
    ratio: float


def compared(what: str, one: Judge, other: Judge, device: str, count: int, size: int, repeats: int) -> Comparison:
    """Both in turn, each time with pictures that nobody has seen."""
    times = []
    for _ in range(repeats):
        first, second = pictures(count, size), pictures(count, size)
        times.append((seconds(partial(one, first), device), seconds(partial(other, second), device)))
    medians = (statistics.median(a for a, _ in times), statistics.median(b for _, b in times))
    return Comparison(what, count, *medians, statistics.median(a / b for a, b in times))


def measure(model: str, device: str, count: int, size: int, repeats: int, heads: int = 5) -> list[Comparison]:
    """All comparisons."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, width = random_tower(model, folder), ClipTower(model).width
        scorers = [
            AestheticScorer(f"head{n}", random_head(width, n, folder), ClipTower(model, weights, device=device))
            for n in range(heads)
        ]
        alone = scorers[0]
        for scorer in scorers:
            scorer.score(pictures(1, size))  # loads

        def all_of_them(images: list[ImageToScore]) -> None:
            for scorer in scorers:
                scorer.score(images)

        title = f"{heads} heads on one tower / one head"
        few = max(count // 4, 1)
        batch = compared(title, all_of_them, alone.score, device, few, size, 2 * repeats)
        singly = partial(through_png, alone)
        title = f"one by one through PNG files / a batch of {count}"
        return [batch, compared(title, singly, alone.score, device, count, size, repeats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-L-14-quickgelu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    where = torch.cuda.get_device_name() if given.device != "cpu" else f"CPU, {torch.get_num_threads()} threads"
    found = measure(given.model, given.device, given.pictures, given.size, given.repeats)
    rows = [
        f"| {one.what} | {one.pictures} | {one.first:.2f} s | {one.second:.2f} s | {one.ratio:.3f} |" for one in found
    ]
    text = "\n".join(
        [
            f"## {given.model}, {where}",
            "",
            f"Pictures of {given.size} x {given.size}, medians of {given.repeats} pairs (heads: {2 * given.repeats}); "
            f"{'CPU' if given.device == 'cpu' else 'wall'} seconds, load average {os.getloadavg()[0]:.1f}.",
            "",
            "| comparison | pictures | first | second | ratio |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    head = "# What judging costs\n\nWritten by `python benchmarks/scoring.py`; random weights of the real shape.\n\n"
    before = RESULTS.read_text() if RESULTS.exists() else head
    RESULTS.write_text(before + text)


if __name__ == "__main__":
    main()
