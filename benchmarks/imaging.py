"""Where the time of a trial goes, and what drawing in batches and compiling bring: ratios, on the demo and the CPU.

    git worktree add /tmp/before 4a0c3b8               # the state that trials are compared with
    python benchmarks/imaging.py --before /tmp/before  # benchmarks/results/imaging.md; half an hour on busy cores
    python benchmarks/imaging.py --only batches        # one part of it, printed
    python benchmarks/imaging.py --gpu FOLDER          # full-size models of make_full_size.py, at most 8 minutes
    python benchmarks/imaging.py --gpu FOLDER --device cpu --quick  # the same code where there is no GPU

Every measurement is a process of its own with one thread; what is compared is measured in turns, and the least of the
seconds of the processor counts, so that other programs on the machine change little. Equal pictures: bytes of pixels.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "imaging.md"
ROUNDS = 3
DRAWN_OR_SCORED = ("draw", "embed", "decode", "score")


def memory() -> float:
    """MB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def demo(folder: Path, *settings: str) -> tuple[Any, Any, Any]:
    """The demo's settings and setup, and the evaluator that draws it."""
    from bayes_merger import compose
    from bayes_merger.run.evaluator import PipelineEvaluator
    from bayes_merger.run.folder import RunFolder
    from bayes_merger.run.progress import StopSignal
    from bayes_merger.setups import make_setup
    from bayes_merger.testing.progress import RecordingReporter

    plain = compose.compose_run(["experiment=demo", "generator.device=cpu", *settings])
    setup = make_setup(compose.validate(plain), plain, RunFolder(folder))
    notes = RecordingReporter()
    return plain, setup, PipelineEvaluator.load(setup, notes, StopSignal(notes))


def trial(setup: Any, evaluator: Any, number: int, folder: Path) -> tuple[float, Any]:
    """Seconds of the processor for one merge, drawn, saved and scored; and what it got."""
    from bayes_merger.run.evaluator import evaluate

    blocks = setup.architecture.blocks
    weights = {"alpha": {block: (7 * number + 3 * place) % 11 / 10 for place, block in enumerate(blocks)}}
    began = time.process_time()
    evaluator.load_weights(weights)
    found = evaluate(setup, evaluator, weights, folder / str(number))
    return time.process_time() - began, found


def measure_trials(folder: Path, count: int, *settings: str) -> dict[str, Any]:
    """Some trials after a first one, and their pictures; also runs in checkouts from before."""
    _, setup, evaluator = demo(folder / "study", *settings)
    same = tuple(dataclasses.replace(payload, sampler_name="Euler") for payload in setup.payloads)
    setup = dataclasses.replace(setup, payloads=same)  # its pictures have always been these
    began = time.perf_counter()
    done = [trial(setup, evaluator, 0, folder)]
    first = time.perf_counter() - began  # a compiler's processes are others
    done += [trial(setup, evaluator, number, folder) for number in range(1, count + 1)]
    pixels = b"".join(picture.image.tobytes() for _, found in done for picture in found.images)
    seconds = [round(seconds, 2) for seconds, _ in done[1:]]
    print(*seconds, file=sys.stderr)
    return {"seconds": min(seconds), "first": first, "pixels": b64encode(pixels).decode()}


def likeness(one: dict[str, Any], other: dict[str, Any]) -> str:
    """How two measurements' pictures differ."""
    pixels = [np.frombuffer(b64decode(each["pixels"]), np.uint8).astype(int) for each in (one, other)]
    apart = np.abs(pixels[0] - pixels[1])
    if not apart.any():
        return "equal pictures"
    return f"{np.count_nonzero(apart)} of {apart.size} values differ, by at most {apart.max()} of 255"


def measure_parts(folder: Path, count: int) -> dict[str, Any]:
    """A search: mean seconds of each part of a trial."""
    from bayes_merger.run import loop
    from bayes_merger.run.attributes import TIMES
    from bayes_merger.run.folder import RunFolder
    from bayes_merger.run.progress import StopSignal
    from bayes_merger.search.study.stopping import SECONDS
    from bayes_merger.testing.progress import RecordingReporter
    from bayes_merger.timing import BESIDE

    plain, setup, evaluator = demo(folder / "study", "init_points=2", f"n_iters={count}")
    place, notes = RunFolder(folder / "study"), RecordingReporter()
    place.path.mkdir()
    study = loop.open_study(setup, place, {}, setup.stored(plain))
    loop.search(setup, study, evaluator, place, notes, StopSignal(notes))
    kept = [one.user_attrs for one in study.get_trials()[1:]]  # the first one warms up
    parts = {part for one in kept for part in one[TIMES] if not part.startswith(BESIDE)}
    mean = {part: sum(one[TIMES].get(part, 0.0) for one in kept) / len(kept) for part in parts}
    return {"trial": sum(one[SECONDS] for one in kept) / len(kept), "parts": mean}


def measure_memory(folder: Path, count: int) -> dict[str, Any]:
    """Many short trials: the memory after a fifth of them, and at the end."""
    _, setup, evaluator = demo(folder / "study")
    few = tuple(dataclasses.replace(payload, steps=2) for payload in setup.payloads[:2])
    setup = dataclasses.replace(setup, payloads=few)
    early = 0.0
    for number in range(count):
        trial(setup, evaluator, number, folder)
        if number == count // 5:
            early = memory()
    return {"early": early, "late": memory()}


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "trials": measure_trials,
    "parts": measure_parts,
    "memory": measure_memory,
}


def measured(what: str, *arguments: object, package: Path = HERE.parent) -> dict[str, Any]:
    """A measurement in a process of its own, of the package that lies there."""
    command = [sys.executable, __file__, "--measure", what, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turns(rounds: int, *each: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Measurements in turns; of each the one with the least seconds."""
    done = [[one() for one in each] for _ in range(rounds)]
    return [min(column, key=lambda found: found["seconds"]) for column in zip(*done, strict=True)]


def outside(rounds: int, before: Path | None) -> Iterator[str]:
    """Everything in a trial except drawing and scoring."""
    found = measured("parts", 4 * rounds)
    rest = {part: seconds for part, seconds in found["parts"].items() if part not in DRAWN_OR_SCORED}
    rest["all else"] = found["trial"] - sum(found["parts"].values())
    total = sum(rest.values()) / found["trial"]
    shares = ", ".join(f"{part} {seconds / found['trial']:.2%}" for part, seconds in sorted(rest.items()))
    yield f"everything in a trial except drawing and scoring (goal: at most 3 %) | {total:.2%} of it: {shares}"


def batches(rounds: int, before: Path | None) -> Iterator[str]:
    """The demo's payloads together, and one picture at a time."""
    ways = {most: lambda most=most: measured("trials", 1, f"generator.max_batch={most}") for most in (1, 4, 16)}
    found = dict(zip(ways, in_turns(rounds, *ways.values()), strict=True))
    ratios = ", ".join(f"{found[1]['seconds'] / found[most]['seconds']:.2f} x with {most} at once" for most in ways)
    yield f"the demo's 16 pictures, a whole trial, against one picture at a time (goal: 2.5 x) | {ratios}"


def whole(rounds: int, before: Path | None) -> Iterator[str]:
    """A trial now and before."""
    if before is None:
        yield "a whole trial against the state before | not measured: give --before"
        return
    old, new = in_turns(
        rounds, lambda: measured("trials", 2, package=before), lambda: measured("trials", 2)
    )  # fmt: skip
    ratio = old["seconds"] / new["seconds"]
    yield f"a whole trial against the state before (goal: 1.2 x) | {ratio:.2f} x, {likeness(old, new)}"


def compiled(rounds: int, before: Path | None) -> Iterator[str]:
    """A trial of a compiled network."""
    eager, fast = in_turns(1, lambda: measured("trials", 3), lambda: measured("trials", 3, "generator.compile=true"))
    ratio = eager["seconds"] / fast["seconds"]
    yield (
        f"a whole trial with generator.compile=true | {ratio:.2f} x, {likeness(eager, fast)}; "
        f"the first trial takes {fast['first'] - fast['seconds']:.0f} s more"
    )


def growing(rounds: int, before: Path | None) -> Iterator[str]:
    """The memory over 50 trials."""
    found = measured("memory", 50)
    grown = found["late"] - found["early"]
    yield f"memory after 50 trials, against after 10 (goal: no growth) | {grown:+.1f} MB of {found['early']:.0f} MB"


PARTS: dict[str, Callable[[int, Path | None], Iterator[str]]] = {
    "outside": outside,
    "batches": batches,
    "whole": whole,
    "growing": growing,
    "compiled": compiled,
}

HEAD = """\
# Drawing

Written by `python benchmarks/imaging.py`: the demo, one thread of the CPU, ratios. What is compared was measured in
turns; the least seconds of the processor count. A whole trial is merging, drawing, saving and scoring 16 pictures.

| what | found |
|---|---|
"""

NEVER = """
Never run, for want of a GPU: `--gpu`, which is to tell seconds per picture, what larger batches, compiling and
channels_last bring, and what a trial takes beside its pictures, for SD1.5 at 512 and SDXL at 1024 pixels.
"""


def main() -> None:
    """Measure, and write down what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout that whole trials are compared with")
    parser.add_argument("--only", choices=sorted(PARTS), nargs="+", help="print these parts and write nothing")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--gpu", type=Path, help="a folder with a.safetensors and b.safetensors")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="with --gpu: few steps of small pictures")
    given = parser.parse_args()
    if given.measure:
        what, *arguments = given.measure
        count, *settings = arguments
        print(json.dumps(MEASURES[what](Path.cwd(), int(count), *settings)))
        return
    if given.gpu:
        from imaging_gpu import measure_folder

        measure_folder(given.gpu, given.device, quick=given.quick)
        return
    lines = []
    for name in given.only or PARTS:
        for line in PARTS[name](given.rounds, given.before):
            print(line, flush=True)
            lines.append(f"| {line} |\n")
        if not given.only:
            RESULTS.write_text(HEAD + "".join(lines) + NEVER, encoding="utf-8")


if __name__ == "__main__":
    main()
