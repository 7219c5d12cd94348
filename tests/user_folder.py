"""A folder as a user has it: two checkpoints, an own payload, an own scorer; and the command run in it."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from bayes_merger.cli import main
from tests.processes import Process, program

PAYLOAD = """\
tiny:
  prompt: a (red:1.2) ring
  steps: 2
  cfg_scale: 3
  width: 64
  height: 64
  sampler_name: Euler
  batch_size: 2
"""

# Red against blue: something that the weights of random models do change, and that needs no other model to see.
SCORER = '''\
"""How much redder than blue a picture is: 5 is neither."""

from pathlib import Path


class Redness:
    scale = (0.0, 10.0)

    def __init__(self, name="redness", importance=1.0):
        self.name, self.importance = name, importance

    def prepare(self, folder=None):
        pass

    def score(self, images):
        values = []
        for judged in images:
            red, _, blue = judged.image.resize((1, 1), 4).getpixel((0, 0))
            values.append(5 + (red - blue) / 25.5)
        return values
'''

SCORER_YAML = """\
redness:
  _target_: redness.Redness
"""


def make_workplace(folder: Path, config: Path) -> Path:
    """Fill ``folder``; its runs draw with the tiny models' configuration."""
    for name, text in (
        ("payloads/tiny.yaml", PAYLOAD),
        ("scorers/redness.py", SCORER),
        ("scorers/redness.yaml", SCORER_YAML),
        (
            "conf/experiment/tiny.yaml",
            "# @package _global_\n"
            "defaults:\n  - override /payloads: [tiny]\n  - override /scorers: [redness]\n"
            f"init_points: 4\nn_iters: 3\ngenerator:\n  config: {config}\n  device: cpu\n"
            "final:\n  rescore: 2\n  images: 2\n",
        ),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def start(folder: Path, *arguments: str) -> Process:
    """``bayes-merger ARGUMENTS`` in ``folder``, running."""
    return Process(program, *arguments, folder=folder)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``bayes-merger ARGUMENTS`` in ``folder``, to its end, in this process: what it imports is imported once."""
    out, err = io.StringIO(), io.StringIO()
    paths, stdin = list(sys.path), sys.stdin
    sys.stdin = io.StringIO()
    try:
        with one_thread(), contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    finally:
        sys.stdin = stdin
        sys.path[:] = paths
        _forget_modules_of(folder)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """As many threads as a command has here: the last bits of a picture depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _forget_modules_of(folder: Path) -> None:
    """Let the next command import its own scorers: another folder's may have the same names."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
