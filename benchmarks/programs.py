"""The program as a user starts it: a process from its start to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

PEAK = """
import sys
from pathlib import Path
{work}
lines = Path("/proc/self/status").read_text().splitlines()
print("peak", next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""
NETWORKS = (
    "import torch; from diffusers import AutoencoderKL, UNet2DConditionModel; "
    "from transformers import CLIPTextModel, CLIPTextModelWithProjection"
)


class Finished(NamedTuple):
    """One process from its start to its end; memory is the peak before it ends, file pages included."""

    wall: float
    cpu: float
    megabytes: float


def process(work: str, *arguments: str) -> Finished:
    """A process of its own that does this and ends."""
    before, begin = os.times(), time.perf_counter()
    given = [sys.executable, "-c", PEAK.format(work=work), *arguments]
    done = subprocess.run(given, stdout=subprocess.PIPE, text=True, check=True)
    wall, after = time.perf_counter() - begin, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Finished(wall, cpu, int(done.stdout.split()[-1]) * 1024 / 1e6)


def command(*arguments: str) -> Finished:
    """``bayes-merger`` with these arguments."""
    return process("from bayes_merger.cli import main; assert main(sys.argv[1:]) == 0", *arguments)


def merge_command(*models: str, out: str) -> Finished:
    """``bayes-merger merge`` of two models into a file or folder, which is removed first where it is there."""
    if Path(out).is_dir():
        shutil.rmtree(out)
    Path(out).unlink(missing_ok=True)
    return command("merge", *models, "alpha=0.3", "--out", out)
