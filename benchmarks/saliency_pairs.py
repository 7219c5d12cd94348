"""Merges without a search on pairs of different skills, trained with other seeds.

    python benchmarks/saliency_pairs.py --cache FOLDER     # benchmarks/results/saliency_pairs.md

What one pair says is what its training happened to make. Each pair is made, measured, merged and judged as the first
of `saliency_merges.py` is; the standard errors here are over pairs.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from pathlib import Path

import numpy as np
import torch
from saliency_merges import ALONE, BEST, EVEN, MOST, WON, Skills, with_error

RESULTS = Path(__file__).parent / "results" / "saliency_pairs.md"
REPORT = """# Merges without a search on five pairs of different skills

Written by `python benchmarks/saliency_pairs.py`: five pairs that differ in the seeds they were trained with; points of
128 fresh pictures each, differences paired by prompt and seed, their standard errors over the pairs. The activations
are those of eight pictures.
"""
SEEDS = range(5)
SINGLE = "C, the ancestor", "A", "B", EVEN, BEST, WON, ALONE, MOST
COMPARED = (
    (BEST, EVEN),
    (WON, EVEN),
    (WON, BEST),
    (WON, MOST),
    (MOST, EVEN),
    (MOST, ALONE),
    (MOST, BEST),
    (ALONE, EVEN),
    ("`salient_sum` with the response", "`salient_sum` by the difference alone"),
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs, same = [], []
    for seed in SEEDS:
        folder = options.cache / f"pair-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        skills = Skills(folder, seed)
        pairs.append(skills.merges())
        same.append(skills.same_winners())
        print({name: round(float(points.mean()), 2) for name, points in pairs[-1].items()}, flush=True)
    rows = [(name, [pair[name].mean() for pair in pairs]) for name in SINGLE]
    rows += [(f"{one}, above {other}", [(pair[one] - pair[other]).mean() for pair in pairs]) for one, other in COMPARED]
    heads = " | ".join(f"pair {seed}" for seed in SEEDS)
    lines = [REPORT, f"| | {heads} | all |", "| --- |" + " --- |" * (len(SEEDS) + 1)]
    for name, points in rows:
        lines.append(f"| {name} | " + " | ".join(f"{x:.2f}" for x in points) + f" | {with_error(np.array(points))} |")
    shares = " | ".join(f"{share:.1%}" for share in (*same, np.mean(same)))
    lines.append(f"| weights in which `most_salient` takes the same model by 8 pictures as by 32 | {shares} |")
    RESULTS.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
