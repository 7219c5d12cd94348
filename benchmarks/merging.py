"""Measure the merge engine against what memory allows and against other programs, on full-size SD1.5 models.

    python benchmarks/make_full_size.py FOLDER
    pip install -e .[peers]
    python benchmarks/merging.py FOLDER                  # all of it, about half an hour
    python benchmarks/merging.py FOLDER --only candidate,file

One thread each; the engines take turns and the figures are medians of CPU seconds, so that other work on the machine
matters little. Needs 10 GB of memory. The table is printed and written to ``benchmarks/results/merging.md``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"  # read by the processes that are started below

import engines  # noqa: E402
from engines import BLOCKS  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "merging.md"
METHODS = ("slerp", "ties", "train_difference", "dropout", "model_stock")
METHOD_BLOCKS = ("OUT08",)  # 23.5 million of 1066 million numbers: sd-mecha needs minutes for the whole
ROTATE_BLOCKS = ("IN01",)


class Row(NamedTuple):
    """One line of the table."""

    what: str
    figure: str
    goal: str = ""
    met: bool | None = None


class Engine:
    """A process of its own, in which the functions of ``engines`` run one after another."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), engines.one_thread)

    def __call__(self, function: Callable[..., Any], *given: Any) -> Any:
        """Run it there."""
        return self._pool.submit(function, *given).result()

    def close(self) -> None:
        """End the process and give its memory back."""
        self._pool.shutdown()


@contextmanager
def started(count: int) -> Iterator[list[Engine]]:
    """That many processes."""
    running = [Engine() for _ in range(count)]
    try:
        yield running
    finally:
        for engine in running:
            engine.close()


def spread(numbers: list[float]) -> str:
    """Median (smallest - largest)."""
    return f"{statistics.median(numbers):.3f} ({min(numbers):.3f}-{max(numbers):.3f})"


def ratio(a: list[float], b: list[float]) -> float:
    """Ratio of the medians."""
    return statistics.median(a) / statistics.median(b)


def has(package: str) -> bool:
    """Whether a peer is installed and wanted."""
    return "--no-peers" not in sys.argv and find_spec(package) is not None


def candidate(folder: str, rounds: int) -> list[Row]:
    """A candidate of the whole model, all 26 blocks changed."""
    with started(4) as (limit, live, meh, mecha):
        live(engines.load_live, folder, 2**33)
        how = limit(engines.make_floor, live(engines.live_bytes))
        times: dict[str, list[float]] = {"floor": [], "ours": [], "sd-meh": [], "sd-mecha": []}
        for number in range(rounds):
            alpha = 0.1 + 0.8 * number / rounds
            for _ in range(3):
                times["floor"].append(limit(engines.floor))
                times["ours"].append(live(engines.live_candidate, alpha))
                alpha += 0.01
            if has("sd_meh"):
                times["sd-meh"].append(meh(engines.meh_candidate, folder, alpha))
            if has("sd_mecha"):
                times["sd-mecha"].append(mecha(engines.mecha_candidate, folder, alpha))
        # No short decimal: at 0.3 one exact result in 160 lies in the middle between two fp16 numbers.
        share, total = live(engines.share_rounded, folder, 0.28371093217)
        growth = live(engines.live_growth, 100)
    of_floor = ratio(times["ours"], times["floor"])
    rows = [
        Row(f"floor: read, read, write ({how})", f"{spread(times['floor'])} s"),
        Row("weighted_sum candidate into the live model", f"{spread(times['ours'])} s"),
        Row("- against the floor", f"{of_floor:.2f} x", "<= 1.5 x", of_floor <= 1.5),
    ]
    for peer, package, goal in (("sd-meh", "sd_meh", 10), ("sd-mecha", "sd_mecha", 50)):
        if not has(package):
            rows.append(Row(f"- {peer}", "not run", f">= {goal} x"))
            continue
        faster = ratio(times[peer], times["ours"])
        rows.append(Row(f"{peer} {version(peer)}, the same merge", f"{spread(times[peer])} s"))
        rows.append(Row(f"- faster than {peer}", f"{faster:.0f} x", f">= {goal} x", faster >= goal))
    rows.append(
        Row(f"correctly rounded, of {total / 1e6:.0f} M weights", f"{share:.5%}", ">= 99.99 %", share >= 0.9999)
    )
    rows.append(Row("growth over 100 candidates", f"{growth / 1e6:.1f} MB", "none (< 5 MB)", growth < 5e6))
    return rows


def blocks(folder: str, rounds: int) -> list[Row]:
    """Only some blocks changed."""
    with started(1) as (live,):
        live(engines.load_live, folder, 2**33)
        shares: dict[str, float] = live(engines.block_bytes, folder)
        chance, alphas = random.Random(0), dict.fromkeys(shares, 0.5)
        rows = []
        whole: list[float] = []
        times: dict[int, list[tuple[float, float]]] = {count: [] for count in (1, 2, 4, 8, 13)}
        for number in range(2 * rounds):
            alphas = {block: 0.2 + 0.01 * number + 0.001 * place for place, block in enumerate(alphas)}
            whole.append(live(engines.live_candidate, alphas))
            for count, found in times.items():
                chosen = chance.sample(sorted(shares), count)
                alphas = {block: a + 0.0005 * (block in chosen) for block, a in alphas.items()}
                found.append((live(engines.live_candidate, alphas), sum(shares[block] for block in chosen)))
        nothing = statistics.median(live(engines.live_candidate, alphas) for _ in range(5))
    full = statistics.median(whole)
    rows.append(Row(f"all {BLOCKS} blocks; none", f"{full:.3f} s; {1000 * nothing:.1f} ms"))
    for count, found in times.items():
        share = statistics.mean(s for _, s in found)
        beyond = statistics.median(seconds / (s * full) for seconds, s in found)
        beyond_call = statistics.median((seconds - nothing) / (s * full) for seconds, s in found)
        rows.append(
            Row(
                f"{count} of {BLOCKS} blocks changed ({share:.1%} of the bytes)",
                f"{beyond:.2f} x their share ({beyond_call:.2f} x without the {1000 * nothing:.1f} ms of a call)",
                "<= 1.3 x",
                beyond <= 1.3,
            )
        )
    return rows


def methods(folder: str, rounds: int) -> Iterator[Row]:
    """Methods beside sd-mecha's, on two blocks that both have in memory."""
    for method in METHODS:
        with started(2) as (ours, mecha):
            first: list[float] = []
            later: list[float] = []
            theirs: list[float] = []
            for number in range(rounds):
                alpha = 0.3 + 0.05 * number
                first.append(ours(engines.our_method, folder, METHOD_BLOCKS, method, alpha, True))
                later.append(ours(engines.our_method, folder, METHOD_BLOCKS, method, alpha + 0.01, False))
                if has("sd_mecha"):
                    theirs.append(mecha(engines.mecha_method, folder, METHOD_BLOCKS, method, alpha))
        where = "+".join(METHOD_BLOCKS)
        yield Row(f"{method} on {where}, first candidate", f"{spread(first)} s")
        yield Row(f"{method} on {where}, next candidate", f"{spread(later)} s")
        if theirs:
            faster = ratio(theirs, first)
            yield Row(f"sd-mecha's {method} on {where}", f"{spread(theirs)} s")
            text = f"{faster:.1f} x (next candidate {ratio(theirs, later):.0f} x)"
            yield Row(f"- faster than sd-mecha's {method}", text, ">= 5 x", faster >= 5)
        else:
            yield Row(f"- faster than sd-mecha's {method}", "not run", ">= 5 x")


def rotate(folder: str, rounds: int) -> list[Row]:
    """The rotation's first candidate and those that follow, on one block."""
    with started(2) as (ours, mecha):
        first = ours(engines.our_method, folder, ROTATE_BLOCKS, "rotate", 0.3, True)
        later = [ours(engines.our_method, folder, ROTATE_BLOCKS, "rotate", 0.31, False) for _ in range(rounds)]
        where = "+".join(ROTATE_BLOCKS)
        rows = [
            Row(f"rotate on {where}, first candidate", f"{first:.3f} s"),
            Row(f"rotate on {where}, second candidate", f"{spread(later)} s"),
        ]
        if not has("sd_mecha"):
            return [*rows, Row("- sd-mecha's cached rotate", "not run", ">= 1 x")]
        theirs_first = mecha(engines.mecha_method, folder, ROTATE_BLOCKS, "rotate", 0.3)
        theirs = [mecha(engines.mecha_method, folder, ROTATE_BLOCKS, "rotate", 0.31) for _ in range(rounds)]
    faster = ratio(theirs, later)
    return [
        *rows,
        Row(f"sd-mecha's rotate on {where}, first; second candidate", f"{theirs_first:.3f}; {spread(theirs)} s"),
        Row("- second candidate, faster than sd-mecha's", f"{faster:.1f} x", ">= 1 x", faster >= 1),
    ]


def file(folder: str, rounds: int) -> list[Row]:
    """File to file, beside a copy of one file."""
    source, out = str(Path(folder) / "a.safetensors"), str(Path(folder) / ".benchmark.safetensors")
    copies, saves, own, mapped = [], [], [], []
    try:
        # Both in processes that run already: pages that lie free for seconds go back to a virtual machine's host, and
        # whoever writes next pays for them.
        with started(2) as (copier, ours):
            ours(engines.save, folder, out)
            copier(engines.copy, source, out)
            for _ in range(2 * rounds):
                seconds, anonymous, everything = ours(engines.save, folder, out)
                copies.append(copier(engines.copy, source, out))
                saves.append(seconds)
                own.append(float(anonymous) / 1e6)
                mapped.append(float(everything) / 1e6)
    finally:
        Path(out).unlink(missing_ok=True)
    slower, memory = ratio(saves, copies), statistics.median(mapped)
    return [
        Row("copy of one file, 1 MiB at a time", f"{spread(copies)} s"),
        Row("merge of two files into a file, hashes known", f"{spread(saves)} s"),
        Row("- against the copy", f"{slower:.2f} x", "<= 2 x", slower <= 2),
        Row("- its own memory", f"{statistics.median(own):.0f} MB", "<= 150 MB", statistics.median(own) <= 150),
        Row("- with mapped file pages", f"{memory:.0f} MB", "<= 150 MB", memory <= 150),
    ]


def gpu(folder: str, rounds: int) -> list[Row]:
    """A candidate on a GPU, where there is one."""
    import torch

    if not torch.cuda.is_available():
        return [
            Row("SD1.5 candidate on a GPU", "not run: no GPU", "<= 2.5 ms"),
            Row("SDXL candidate on a GPU", "not run: no GPU", "<= 8 ms"),
        ]
    with started(2) as (limit, live):
        live(engines.load_live, folder, 2**34, "cuda")
        floors, ours = [], []
        for number in range(10 * rounds):
            floors.append(limit(engines.gpu_floor, folder))
            ours.append(live(engines.gpu_candidate, 0.01 * number))
    median = statistics.median(ours)
    return [
        Row("floor on the GPU", f"{spread(floors)} ms"),
        Row(f"SD1.5 candidate on {torch.cuda.get_device_name()}", f"{spread(ours)} ms", "<= 2.5 ms", median <= 2.5),
        Row("SDXL candidate on a GPU", "not run: needs full-size SDXL files", "<= 8 ms"),
    ]


SECTIONS: dict[str, Callable[[str, int], Iterable[Row]]] = {
    "candidate": candidate, "blocks": blocks, "methods": methods, "rotate": rotate, "file": file, "gpu": gpu,
}  # fmt: skip


def main() -> None:
    """Run the sections and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a, b and c.safetensors of make_full_size.py")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--no-peers", action="store_true", help="measure ours and the limits only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    lines = [
        "# Merging, measured",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {version('torch')};"
        f" one thread, CPU seconds, median of {given.rounds} or more (smallest-largest), engines taking turns.",
        "",
        "| what | figure | goal | |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name in given.only.split(","):
        for row in SECTIONS[name](str(given.folder), given.rounds):
            met = "" if row.met is None else "met" if row.met else "**missed**"
            lines.append(f"| {row.what} | {row.figure} | {row.goal} | {met} |")
            print(lines[-1], flush=True)
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
