"""What writing a merge takes with each method, beside what ``bayes-merger plan`` says of it beforehand.

    python benchmarks/make_full_size.py FOLDER
    python benchmarks/costs.py FOLDER [method ...]

One method after another, each in a process of its own with one thread; needs 2.1 GB of disk in FOLDER for the result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

LIMIT = 900  # seconds a method may take


def measure(folder: Path, method: str) -> dict[str, float | str]:
    """Seconds of the processor and bytes of own memory at most, beside what the plan says."""
    import torch

    from bayes_merger.checkpoints.opening import open_checkpoint
    from bayes_merger.merging.engine.merge import plan
    from bayes_merger.merging.export.single_file import save_merge
    from bayes_merger.merging.method import method_spec
    from bayes_merger.merging.plan.costs import seconds, working_memory
    from bayes_merger.merging.recipe.recipe import MergeRecipe

    torch.set_num_threads(1)
    spec = method_spec(method)
    models = {n: open_checkpoint(folder / f"{n}.safetensors") for n in spec.models if n not in spec.optional}
    blocks = models["a"].architecture.blocks
    defaults = {name: about.default for name, about in spec.weights.items()}
    weights = {name: dict.fromkeys(blocks, 0.5 if x in (0, 1) else x) for name, x in defaults.items()}
    recipe = MergeRecipe(method=spec.name, models={}, weights=weights, architecture=models["a"].architecture.name)
    planned = plan(recipe, models)
    for model in models.values():  # so that reading them is not counted as merging them
        model.sha256()
    before = highest = _own_memory()
    over = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.01):
            highest = max(highest, _own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.process_time()
    try:
        save_merge(recipe, models, folder / "costs.safetensors", replace=True)
    finally:
        over.set()
        watcher.join()
        (folder / "costs.safetensors").unlink(missing_ok=True)
    return {
        "method": spec.name,
        "seconds": time.process_time() - began,
        "said": seconds(planned, models),
        "memory": highest - before,
        "memory said": working_memory(planned),
    }


def _own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def main() -> None:
    """Print the table."""
    from bayes_merger.merging.method import METHODS

    folder, *methods = sys.argv[1:]
    if methods[:1] == ["--one"]:
        print(json.dumps(measure(Path(folder), methods[1])))
        return
    print(f"{'method':<26} {'CPU s':>8} {'said':>8} {'own MB':>8} {'said':>8}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for method in methods or list(METHODS):
        command = [sys.executable, __file__, folder, "--one", method]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"{method:<26} {type(error).__name__}")
            continue
        found = json.loads(done.stdout)
        memory = [found[name] / 1e6 for name in ("memory", "memory said")]
        print(
            f"{method:<26} {found['seconds']:8.1f} {found['said']:8.1f} {memory[0]:8.0f} {memory[1]:8.0f}", flush=True
        )


if __name__ == "__main__":
    main()
