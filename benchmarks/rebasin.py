"""Measure what re-basin costs at full size: Stable Diffusion 1.5, by weights, on two cores: seconds, CPU, peak memory.

    python benchmarks/rebasin.py [FOLDER]

B is a "fine-tune" of A's base whose neurons are all in a random order; what is measured is ``bayes-merger rebasin A B``
as a process of its own, verification and writing included. FOLDER keeps the checkpoints (6.4 GB) for the next time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.config_trees import settings_of
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.checkpoints.naming import canonical_keys
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted
from bayes_merger.merging.rebasin.spaces import Layout
from bayes_merger.merging.rebasin.topology import spaces_of

CORES = 2


def scramble(model: Checkpoint, out: Path) -> int:
    """Write a model with the neurons of all spaces in a random order; returns how many moved."""
    names = {canonical: key for key, canonical in canonical_keys(model.shapes.keys()).items()}
    shapes = {key: model.shapes[own] for key, own in names.items()}
    networks = empty_networks(settings_of(model.architecture.name, shapes, model.metadata))
    order = Permutation.random(spaces_of(shapes, Layout.of(networks)), torch.Generator().manual_seed(1))
    seen = Permuted(model, order, {key: names[key] for key in order.keys})
    write_checkpoint(
        out, [TensorEntry(k, seen.shapes[k], seen.dtypes[k], partial(seen.tensor, k)) for k in seen.shapes]
    )
    return order.moved()


def measure(name: str, arguments: list[str], cache: Path) -> None:
    """Run a command as a process of its own and print what it took.

    Raises:
        SystemExit: it fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES), "BAYES_MERGER_CACHE": str(cache)}
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "bayes_merger", *arguments], env=environment)
    _, status, used = os.wait4(process.pid, 0)  # of this process alone
    if status:
        sys.exit(f"{name}: failed")
    seconds, cpu = time.monotonic() - begin, used.ru_utime + used.ru_stime
    print(f"{name}: {seconds:.0f} s, {cpu:.0f} s of CPU on {CORES} threads, {used.ru_maxrss / 1e6:.2f} GB", flush=True)


def main() -> None:
    """Make the files, align them, print what it took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        a, b, lost, out = (folder / f"{name}.safetensors" for name in ("a", "b", "lost", "out"))
        if not lost.exists():
            made = Path(__file__).with_name("make_full_size.py")
            subprocess.run([sys.executable, str(made), str(folder), "--models", "ab"], check=True)
            with open_checkpoint(b) as model:
                print(f"moved {scramble(model, lost):,}", flush=True)
        align = ["rebasin", str(a), str(lost), "--out", str(out), "--overwrite"]
        measure("first", align, folder / "cache")
        measure("again, the order remembered", align, folder / "cache")
        with open_checkpoint(b) as model, open_checkpoint(out) as found:
            print("wrong tensors:", sum(not torch.equal(model.tensor(k), found.tensor(k)) for k in model.shapes))


if __name__ == "__main__":
    main()
