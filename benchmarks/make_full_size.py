"""Write full-size checkpoints of random weights, for measuring: they load everywhere and draw only noise.

    python benchmarks/make_full_size.py FOLDER        # FOLDER/a.safetensors, b.safetensors, c.safetensors: 2.1 GB each
    python benchmarks/make_full_size.py FOLDER --architecture sdxl --models ab                            # 6.9 GB each

``a`` and ``b`` are "fine-tunes" of ``c``: each differs from it by a tenth of every tensor's own spread. The random
numbers are a block of four million, again and again. No model is ever in memory.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayes_merger.checkpoints.config_trees import read_tree
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.checkpoints.naming import Naming
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint

CONFIGS = Path(__file__).parents[1] / "bayes_merger" / "checkpoints" / "configs"
TREES = {"sd1": "sd15", "sd2": "sd2", "sdxl": "sdxl"}  # architecture -> its configs
EXTRAS: dict[str, dict[str, tuple[int, ...]]] = {
    "sd1": {"cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77)},
    "sd2": {"cond_stage_model.model.logit_scale": ()},
    "sdxl": {
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": (1, 77),
        "conditioner.embedders.1.model.logit_scale": (),
    },
}  # what official files hold and no diffusers module
BLOCK = 4_194_301  # random numbers; a prime, so that no two rows of a matrix are the same
PIECE = 2**20


def networks(architecture: str) -> dict[str, Any]:
    """The networks of a model by diffusers' names of the parts, on the meta device: names and shapes, no memory."""
    return empty_networks(read_tree(CONFIGS / TREES[architecture]))


def shapes(architecture: str = "sd1") -> dict[str, tuple[int, ...]]:
    """Key -> shape of an official single file, from the models' configurations."""
    parts = {
        part: {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for part, network in networks(architecture).items()
    }
    naming = Naming.of(parts)
    found: dict[str, tuple[int, ...]] = {}
    for part, tensors in parts.items():
        for name in tensors:
            counterpart = naming.counterpart(part, name)
            if counterpart is not None:
                stack = counterpart.stack or (name,)
                found[counterpart.key] = counterpart.shape([tensors[other] for other in stack])
    return found | EXTRAS[architecture]


class Noise:
    """Two endless rows of normal random numbers, side by side.

    Args:
        seeds: of the one and of the other.
    """

    def __init__(self, *seeds: int) -> None:
        self._blocks = [torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self._begin = 0

    def take(self, count: int) -> Iterator[list[Tensor]]:
        """The next so many numbers of each row, in pieces."""
        while count:
            size = min(count, PIECE, BLOCK - self._begin)
            yield [block[self._begin : self._begin + size] for block in self._blocks]
            self._begin = (self._begin + size) % BLOCK
            count -= size


def weights(key: str, shape: tuple[int, ...], change: float, noise: Noise) -> Iterator[Tensor]:
    """A tensor of a plausible size, in pieces: signals neither vanish nor overflow on their way through.

    Args:
        key: its name.
        shape: of it.
        change: share of its own spread by which it differs from the base model's.
        noise: the base model's random numbers, and this model's own.
    """
    spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.02
    middle = 1.0 if len(shape) == 1 and key.endswith("weight") else 0.0
    for base, own in noise.take(math.prod(shape)):
        yield ((base + change * own) * spread + middle).half()


def entry(key: str, shape: tuple[int, ...], change: float, noise: Noise) -> TensorEntry:
    """What is to be written of one tensor."""
    if key.endswith("position_ids"):
        return TensorEntry(key, shape, "I64", torch.arange(77).unsqueeze(0))
    if key.endswith("logit_scale"):
        return TensorEntry(key, shape, "F16", torch.tensor(math.log(100)).half())
    make: Callable[[], Iterator[Tensor]] = partial(weights, key, shape, change, noise)
    return TensorEntry(key, shape, "F16", make)


def write_model(file: Path, name: str, architecture: str = "sd1") -> None:
    """Write one model, `a`, `b` or `c`."""
    number = "cab".index(name)
    noise, change = Noise(0, number + 1), 0.1 if number else 0.0
    entries = [entry(key, shape, change, noise) for key, shape in shapes(architecture).items()]
    write_checkpoint(file, entries, {"format": "pt"})


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--architecture", choices=sorted(TREES), default="sd1")
    parser.add_argument("--models", default="cab", help="which of them, like ab; all of them if not said")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        file = given.folder / f"{name}.safetensors"
        write_model(file, name, given.architecture)
        print(file, flush=True)


if __name__ == "__main__":
    main()
