"""What it costs to look at a study: CPU of ``show`` and ``report``, of forty trials and of thousands.

    python benchmarks/looking.py [TRIALS]

Every command is a process of its own, as a person starts it; the least of three runs counts. Beside it stands what
Python and Optuna alone take, which no command can go below.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bayes_merger.testing.studies import make_study

PICTURES = 40
RUNS = 3
FLOOR = ["-c", "import optuna.study"]


def cpu(arguments: Sequence[str], folder: Path) -> float:
    """The least CPU of a few runs of Python with these arguments, in seconds."""
    found = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main(trials: int) -> None:
    """Print the table."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as what is installed is
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        floor = cpu(FLOOR, folder)
        print(f"Python and Optuna alone: {floor:.2f} s of CPU")
        print("| command | " + " | ".join(f"{count} trials" for count in (PICTURES, trials)) + " |")
        print("| --- | ---: | ---: |")
        for count in (PICTURES, trials):
            make_study(folder / str(count) / "s", count, drawn=min(count, 2 * PICTURES), size=512)
        for command in (["show"], ["show", "s"], ["show", "s", "--csv"], ["report", "s"]):
            words = ["-m", "bayes_merger", *command]
            cells = [cpu([*words, "--runs", str(folder / str(count))], folder) / floor for count in (PICTURES, trials)]
            print(f"| {' '.join(command)} | " + " | ".join(f"{cell:.1f} x" for cell in cells) + " |")
        size = (folder / str(PICTURES) / "s" / "report.html").stat().st_size
        print(f"the page with {PICTURES} pictures of 512 pixels: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
