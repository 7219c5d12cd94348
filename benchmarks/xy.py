"""A pinpoint grid against a file for each of its merges: CPU and memory, on the demo models.

    python benchmarks/xy.py [BLOCKS]

The grid is a part of one of 26 blocks by five alphas, each block alone, one picture a cell. Beside it the same merges
are each written to a file, loaded by plain diffusers and drawn with the same prompt, sampler and seed: the files by
the command ``merge``, as a person makes them, or at the least that they can cost, all in one process. Each way is a
process of its own; its CPU counts from when everything is imported (the command's as a whole), and the grid's with its
pipeline, its sheets and its page. Memory is that of the whole process; a short run stands beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from bayes_merger.demo import model_path

WORDS = ["experiment=demo", "payloads=demo", "payloads.demo_ring.batch_size=1"]
ALPHAS = 5


def axes(blocks: int) -> list[tuple[str, str]]:
    """The part of the grid."""
    from bayes_merger.checkpoints.architectures import SD1

    names = SD1.blocks[:: -(-len(SD1.blocks) // blocks)]
    return [("x", f"pinpoint_blocks={','.join(names)}"), ("y", f"alpha=0-1 [{ALPHAS}]"), ("z", "payload=demo_ring")]


def grid(blocks: int, folder: Path) -> None:
    """Draw it as ``bayes-merger xy`` does, and say what it took."""
    from bayes_merger import compose
    from bayes_merger.merges.cells import Cells
    from bayes_merger.report.grid_page import write_page
    from bayes_merger.report.grid_sheet import write_sheets
    from bayes_merger.run.xy.axes import read_axes
    from bayes_merger.run.xy.drawing import draw_grid

    import_all()
    config = compose.validate(compose.compose_run(WORDS))
    start = time.process_time()
    cells = Cells(config, {})
    found = cells.grid(read_axes(axes(blocks)))
    pictures = draw_grid(found, config, folder / "pictures", lambda done, total: None)
    drawn = time.process_time() - start
    write_sheets(found, pictures, folder)
    write_page(found, pictures, folder / "grid.html")
    print(len(found.cells), drawn, time.process_time() - start - drawn)


def separate(blocks: int, folder: Path) -> None:
    """Write, load and draw each of its merges, and say what it took."""
    import torch
    from diffusers import StableDiffusionPipeline

    from bayes_merger import compose
    from bayes_merger.imaging.pipelines.schedulers import build_scheduler
    from bayes_merger.merges.cells import Cells
    from bayes_merger.merging.export.single_file import save_merge
    from bayes_merger.run.xy.axes import read_axes

    import_all()
    config = compose.validate(compose.compose_run(WORDS))
    cells = Cells(config, {}).grid(read_axes(axes(blocks))).cells
    start = time.process_time()
    for cell in cells.values():
        path, payload = folder / "merge.safetensors", cell.payloads[0]
        save_merge(cell.merge.recipe, cell.merge.checkpoints, path, replace=True)
        pipe = StableDiffusionPipeline.from_single_file(
            str(path), config=config.generator.config, local_files_only=True, torch_dtype=torch.float32
        )
        pipe.scheduler = build_scheduler(payload.sampler_name)
        pipe.set_progress_bar_config(disable=True)
        pipe(
            payload.prompts[0], negative_prompt="", num_inference_steps=payload.steps, guidance_scale=payload.cfg_scale,
            width=64, height=64, generator=torch.Generator("cpu").manual_seed(payload.seeds[0]),
        ).images[0].save(folder / "picture.png")  # fmt: skip
    print(len(cells), time.process_time() - start, 0)


def import_all() -> None:
    """What both ways need, before the clock starts."""
    for name in ("torch", "matplotlib", "bayes_merger.imaging.pipelines.building", "bayes_merger.run.xy.drawing"):
        import_module(name)
    getattr(import_module("diffusers"), "StableDiffusionPipeline")  # noqa: B009 - imported when it is named


def measured(words: list[str]) -> tuple[list[float], float, float]:
    """What a process prints, its peak memory in MB, and its CPU in seconds."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, words
    numbers = lines[-1].split() if words[0] == __file__ else []
    return [float(number) for number in numbers], usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def main(blocks: int) -> None:
    """Print the table."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as place:
        (count, drawn, written), memory, _ = measured([__file__, "grid", str(blocks), place])
        (_, files, _), _, _ = measured([__file__, "separate", str(blocks), place])
        models = [f"model_{name}={model_path(name)}" for name in ("a", "b")]
        commands = [
            measured(["-m", "bayes_merger", "merge", *models, "alpha=0", f"OUT05.alpha=0.{number}", "--out",
                      f"{place}/{number}.safetensors"])[2] for number in (1, 2, 3)
        ]  # fmt: skip
        few = ["init_points=2", "n_iters=1", "final.images=0", "final.save=false", f"runs={place}"]
        _, run_memory, _ = measured(["-m", "bayes_merger", "run", *WORDS, *few])
    whole, command = drawn + written, min(commands)
    print(f"{count:g} cells of {blocks} blocks by {ALPHAS} alphas, CPU")
    print(f"grid: {drawn:.1f} s, and {written:.1f} s for its sheet and page")
    print(f"each merge a file, in one process: {files:.1f} s, {files / whole:.1f} x as much")
    print(f"each by the command, {command:.1f} s more: {(files + count * command) / whole:.1f} x as much")
    print(f"peak memory: grid {memory:.0f} MB, run {run_memory:.0f} MB")


if __name__ == "__main__":
    ways = {"grid": grid, "separate": separate}
    if len(sys.argv) > 3:
        ways[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
