"""Measure the merge engine against what memory allows and against other programs, on full-size SD1.5 models.

    python benchmarks/make_full_size.py FOLDER
    pip install -e .[peers]
    python benchmarks/merging.py FOLDER                  # all of it, about half an hour
    python benchmarks/merging.py FOLDER --only candidate,file

    python benchmarks/make_full_size.py XL --architecture sdxl --models ab
    python benchmarks/merging.py FOLDER --xl XL          # with SDXL: needs 28 GB of disk, and 21 GB of a GPU's memory
    python benchmarks/merging.py FOLDER --only gpu --device cpu               # the same code where there is no GPU

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
import tempfile
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
import programs  # noqa: E402
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


def gpu(folder: str, rounds: int, xl: str = "", device: str = "cuda") -> Iterator[Row]:
    """A candidate on a GPU, the models there too: of all that is merged, which the goals are for, and the U-Net."""
    import torch

    where = torch.cuda.get_device_name() if torch.cuda.is_available() and device == "cuda" else f"the {device}"
    for title, models, most in (("SD1.5", folder, 2.5), ("SDXL", xl, 8.0)):
        if device == "cuda" and not torch.cuda.is_available():
            yield Row(f"{title} candidate on a GPU", "not run: no GPU", f"<= {most} ms")
        elif not models:
            yield Row(f"{title} candidate on {where}", "not run: --xl names no folder", f"<= {most} ms")
        else:
            yield from on_device(f"{title} candidate on {where}", models, rounds, device, most)
            yield from on_device(f"{title}'s U-Net alone", models, rounds, device, start="model.diffusion_model.")


def on_device(title: str, folder: str, rounds: int, device: str, most: float = 0, start: str = "") -> Iterator[Row]:
    """The floor, the candidate by the clock and by the device's events, and how many calls it is."""
    with started(2) as (limit, live):
        size = live(engines.load_on, device, folder, start)
        limit(engines.floor_on, device, size)
        floors, walls, events = [], [], []
        for number in range(4 * max(rounds, 5)):
            floors.append(limit(engines.floor_on, device, size)[1])
            wall, busy = live(engines.candidate_on, device, 0.1 + 0.001 * number)
            walls.append(wall)
            events.append(busy)
        calls = live(engines.calls_of_candidate, 0.7)
    goal, met = (f"<= {most} ms", statistics.median(walls) <= most) if most and device == "cuda" else ("", None)
    yield Row(f"{title}, from the call to the last number ({size / 1e9:.2f} GB)", f"{spread(walls)} ms", goal, met)
    yield Row("- by the device's events", f"{spread(events)} ms")
    yield Row("- reading and writing as much there", f"{spread(floors)} ms; {ratio(events, floors):.2f} x")
    yield Row("- calls", ", ".join(f"{count} x {name}" for name, count in sorted(calls.items())))


def commands(folder: str, rounds: int, xl: str = "") -> Iterator[Row]:
    """The program as a user starts it, on SDXL models: wall time, CPU time and memory of the whole process."""
    if not xl:
        yield Row("SDXL from the command line", "not run: --xl names no folder")
        return
    a, b = f"model_a={xl}/a.safetensors", f"model_b={xl}/b.safetensors"
    plans = [programs.command("plan", a, b, "alpha=0.3") for _ in range(rounds)]
    yield Row("SDXL: plan", wall_and_cpu(plans), "<= 1 s of CPU", cpu_of(plans) <= 1)
    alone = [programs.process("import torch") for _ in range(3)]
    networks = [programs.process(programs.NETWORKS) for _ in range(3)]
    yield Row("import torch; with diffusers' networks", f"{wall_and_cpu(alone)}; {wall_and_cpu(networks)}")
    with tempfile.TemporaryDirectory(dir=xl) as place:
        parts = f"{place}/ab"
        for title, before, out, models in (
            ("a file", alone, f"{place}/ab.safetensors", (a, b)),
            ("a diffusers folder", networks, parts, (a, b)),
            ("a file, of that folder and B", alone, f"{place}/again.safetensors", (f"model_a={parts}", b)),
        ):
            runs = [programs.merge_command(*models, out=out) for _ in range(rounds)]
            if out != parts:
                Path(out).unlink()
            own = memory_of(runs) - memory_of(before)
            yield Row(f"SDXL: merge into {title}", wall_and_cpu(runs))
            what = "torch" if before is alone else "torch and diffusers' networks"
            yield Row(f"- its memory beyond {what}", f"{own:.0f} MB", "<= 150 MB", own <= 150)


def cpu_of(runs: list[programs.Finished]) -> float:
    """Median of their CPU seconds."""
    return statistics.median(run.cpu for run in runs)


def memory_of(runs: list[programs.Finished]) -> float:
    """Median of their peaks, megabytes."""
    return statistics.median(run.megabytes for run in runs)


def wall_and_cpu(runs: list[programs.Finished]) -> str:
    """Medians of all that is known of some runs."""
    wall = statistics.median(run.wall for run in runs)
    return f"{wall:.1f} s wall, {cpu_of(runs):.2f} s CPU, peak {memory_of(runs):.0f} MB"


SECTIONS: dict[str, Callable[..., Iterable[Row]]] = {
    "candidate": candidate, "blocks": blocks, "methods": methods, "rotate": rotate, "file": file,
    "commands": commands, "gpu": gpu,
}  # fmt: skip


def main() -> None:
    """Run the sections and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a, b and c.safetensors of make_full_size.py")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--no-peers", action="store_true", help="measure ours and the limits only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--xl", type=Path, help="with a and b.safetensors of make_full_size.py --architecture sdxl")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what stands for the GPU")
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
    xl = str(given.xl or "")
    own = {"gpu": {"xl": xl, "device": given.device}, "commands": {"xl": xl}}
    for name in given.only.split(","):
        for row in SECTIONS[name](str(given.folder), given.rounds, **own.get(name, {})):
            met = "" if row.met is None else "met" if row.met else "**missed**"
            lines.append(f"| {row.what} | {row.figure} | {row.goal} | {met} |")
            print(lines[-1], flush=True)
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
