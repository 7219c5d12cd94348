"""Measure what re-basin by weights costs at full size: seconds, CPU, peak memory.

    python benchmarks/rebasin.py [FOLDER]                                # Stable Diffusion 1.5 on one core
    python benchmarks/rebasin.py [FOLDER] --architecture sdxl --cores 2
    python benchmarks/rebasin.py [FOLDER] --self-test                    # only what a random order does to answers

B is a "fine-tune" of A's base whose neurons are all in a random order; what is measured is ``bayes-merger rebasin A B``
as a process of its own, verification and writing included. FOLDER keeps the checkpoints for the next time: 8.5 GB, of
SDXL 28 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.naming import VAE
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.imaging.pipelines.streamed import streamed_networks
from bayes_merger.imaging.responses import difference, responses
from bayes_merger.merging.rebasin.aligning import Pair, layout_of
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.spaces import Space


def scramble(model: Checkpoint, out: Path) -> int:
    """Write a model with the neurons of all spaces in a random order; returns how many moved."""
    pair = Pair.of(model, model, layout_of(model))
    order = Permutation.random(pair.spaces, torch.Generator().manual_seed(1))
    seen = pair.permuted(order)
    write_checkpoint(
        out, [TensorEntry(k, seen.shapes[k], seen.dtypes[k], partial(seen.tensor, k)) for k in seen.shapes]
    )
    return order.moved()


def answers_changed(file: Path) -> None:
    """Print by how much a random order changes what a model answers, and orders that change it.

    Those are across groups, across heads, and of the VAE, which has one head, queries in another order than keys.
    """
    with open_checkpoint(file) as model:
        pair = Pair.of(model, model, layout_of(model))
        groups = [space for space in pair.spaces if space.exchange and len(space.tracks) == 1]
        heads = [space for space in pair.spaces if len(space.tracks) == 2]
        before = {}
        for name, spaces, dtype in (
            ("legal, fp32", pair.spaces, torch.float32),
            ("across groups", [replace(space, cells=(space.size,), exchange=False) for space in groups], torch.float32),
            ("across heads", [replace(space, cells=(space.size,), exchange=False) for space in heads], torch.float32),
            ("queries apart", [queries_apart(space) for space in heads if space.name.startswith(VAE)], torch.float32),
            ("legal, fp64", pair.spaces, torch.float64),
        ):
            order = Permutation.random(spaces, torch.Generator().manual_seed(1))
            if dtype not in before:
                before = {dtype: responses(streamed_networks(pair.permuted(Permutation(())), dtype=dtype, vae=True))}
            after = responses(streamed_networks(pair.permuted(order), dtype=dtype, vae=True))
            changed = {part: f"{difference({part: before[dtype][part]}, after):.1e}" for part in after}
            print(f"{name}: {changed}", flush=True)


def queries_apart(space: Space) -> Space:
    """An attention of a VAE whose queries come into another order than its keys."""
    inside, outside = space.tracks
    queries = tuple(axis for axis in inside if ".q." in axis.key)
    return replace(space, tracks=(queries, tuple(axis for axis in inside if axis not in queries), outside))


def measure(name: str, arguments: list[str], cache: Path, cores: int) -> None:
    """Run a command as a process of its own and print what it took.

    Raises:
        SystemExit: it fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "BAYES_MERGER_CACHE": str(cache)}
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "bayes_merger", *arguments], env=environment)
    if hasattr(os, "sched_setaffinity"):  # libraries start threads of their own
        os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:cores])
    _, status, used = os.wait4(process.pid, 0)  # of this process alone
    if status:
        sys.exit(f"{name}: failed")
    seconds, cpu = time.monotonic() - begin, used.ru_utime + used.ru_stime
    print(f"{name}: {seconds:.0f} s, {cpu:.0f} s of CPU on {cores} cores, {used.ru_maxrss / 1e6:.2f} GB", flush=True)


def data_of(file: Path) -> str:
    """The SHA-256 of a file without its header."""
    with file.open("rb") as opened:
        opened.seek(8 + int.from_bytes(opened.read(8), "little"))
        return hashlib.file_digest(opened, "sha256").hexdigest()


def main() -> None:
    """Make the files, align them, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--architecture", choices=["sd1", "sd2", "sdxl"], default="sd1")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--self-test", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        a, b, lost, out = (folder / f"{name}.safetensors" for name in ("a", "b", "lost", "out"))
        if not b.exists():
            made = Path(__file__).with_name("make_full_size.py")
            words = [str(made), str(folder), "--architecture", given.architecture, "--models", "ab"]
            subprocess.run([sys.executable, *words], check=True)
        if given.self_test:
            return answers_changed(b)
        if not lost.exists():
            with open_checkpoint(b) as model:
                print(f"moved {scramble(model, lost):,}", flush=True)
        align = ["rebasin", str(a), str(lost), "--out", str(out), "--overwrite"]
        measure("first", align, folder / "cache", given.cores)
        measure("again, the order remembered", align, folder / "cache", given.cores)
        print("B's bytes:", data_of(out) == data_of(b))


if __name__ == "__main__":
    main()
