"""What the merging benchmark measures, one engine per process: ours, sd-meh, sd-mecha, and the limit of the memory.

Every function returns CPU seconds (user and system, all threads) of one piece of work. Engines keep what they need
between calls in this module, so each of them gets a process of its own and they can take turns.
"""

from __future__ import annotations

import ctypes
import gc
import io
import logging
import math
import os
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.merging import Checkpoint

BLOCKS = 26
KEPT: dict[str, Any] = {}

STREAM = r"""
#include <emmintrin.h>
#include <stddef.h>
/* Reads a and b, writes out past the caches: what a merge has to move, and nothing else. */
void stream(const __m128i *a, const __m128i *b, __m128i *out, size_t count) {
    for (size_t i = 0; i < count; i += 4)
        for (size_t j = i; j < i + 4; j++)
            _mm_stream_si128(out + j, _mm_xor_si128(_mm_load_si128(a + j), _mm_load_si128(b + j)));
    _mm_sfence();
}
"""


def one_thread() -> None:
    """Called first in every process."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of ``work``, its result thrown away afterwards."""
    begin = time.process_time()
    result = work()
    seconds = time.process_time() - begin
    del result
    return seconds


def resident(field: str = "RssAnon") -> int:
    """Bytes of memory of this process: ``RssAnon`` its own, ``VmRSS`` with the file pages that it maps."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars."""
    with redirect_stderr(io.StringIO()):
        yield


# --- ours ---------------------------------------------------------------------------------------------------------


def destinations(device: str = "cpu") -> dict[str, Any]:
    """Views on the fp16 parameters of diffusers modules, as a run merges into them."""
    import torch
    from make_full_size import networks

    from bayes_merger.imaging.pipelines.keymap import single_file_views
    from bayes_merger.imaging.pipelines.layout import LiveMemory

    modules = KEPT["modules"] = networks("sd1")
    memory = LiveMemory(modules, device, lambda part, name: torch.float16)
    return single_file_views(modules, memory.copies)


def weights_of(alphas: dict[str, float] | float, blocks: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """A number per block (SD1's, if not said) for weighted_sum's weight: those given, or one for all."""
    from bayes_merger.merging import SD1

    return {"alpha": {b: alphas if isinstance(alphas, float) else alphas[b] for b in blocks or SD1.blocks}}


def load_live(folder: str, memory: int | None = None, device: str = "cpu") -> None:
    """Open A and B and make the live model; the first candidate, which copies the models into memory, is done."""
    from bayes_merger.merging import LiveMerge, MergeSettings, open_checkpoint

    models = {name: open_checkpoint(Path(folder) / f"{name}.safetensors") for name in "ab"}
    KEPT["merging"] = LiveMerge(models, MergeSettings("weighted_sum"), memory=memory)
    KEPT["live"] = destinations(device)
    live_candidate(0.5)


def live_candidate(alphas: dict[str, float] | float) -> float:
    """One candidate into the live model."""
    weights = weights_of(alphas)
    return cpu_seconds(lambda: KEPT["merging"].apply(weights, KEPT["live"]))


def live_growth(candidates: int) -> int:
    """Bytes by which this process is larger after that many candidates."""
    live_candidate(0.5)
    gc.collect()
    before = resident()
    for number in range(candidates):
        live_candidate(number / candidates)
    return resident() - before


def share_rounded(folder: str, alpha: float) -> tuple[float, int]:
    """Share of the weights in the live model that are the fp16 number nearest to the exact merge, and their count."""
    import numpy as np

    from bayes_merger.merging import open_checkpoint

    live_candidate(alpha)
    a, b = (open_checkpoint(Path(folder) / f"{name}.safetensors") for name in "ab")
    right = total = 0
    for key, out in KEPT["live"].items():
        if key.startswith("first_stage_model."):
            continue  # A's own
        for x, y, merged in zip(
            *(t.reshape(-1).split(2**20) for t in (a.tensor(key), b.tensor(key), out)), strict=True
        ):
            exact = (1 - alpha) * x.double().numpy() + alpha * y.double().numpy()
            # numpy rounds once; torch's way from fp64 to fp16 leads through fp32 and rounds twice
            right += int((exact.astype(np.float16) == merged.numpy()).sum())
            total += merged.numel()
    return right / total, total


def block_bytes(folder: str) -> dict[str, float]:
    """Each block's share of the bytes that are merged."""
    from bayes_merger.merging import SD1, open_checkpoint

    sizes: Counter[str] = Counter()
    with open_checkpoint(Path(folder) / "a.safetensors") as checkpoint:
        for key in KEPT["live"]:
            place = SD1.place(key)
            if place.role == "block" and place.block:
                count = 1
                for side in checkpoint.shapes[key]:
                    count *= side
                sizes[place.block] += count
    return {block: size / sizes.total() for block, size in sizes.items()}


def live_bytes() -> int:
    """Bytes of the live model that are merged; the VAE is A's own and stays."""
    return sum(out.nbytes for key, out in KEPT["live"].items() if not key.startswith("first_stage_model."))


def make_floor(size: int) -> str:
    """Three buffers and what moves this many bytes through them, in eight rounds; returns how."""
    import torch

    size = size // 8 // 64 * 64
    buffers = [torch.full((size,), fill, dtype=torch.uint8) for fill in (1, 2, 0)]
    KEPT["buffers"] = [buffer.view(torch.int64) for buffer in buffers]
    compiler = shutil.which("cc")
    if compiler is None:
        return "torch.bitwise_xor(out=)"
    with tempfile.TemporaryDirectory() as temporary:
        source, library = Path(temporary) / "stream.c", Path(temporary) / "stream.so"
        source.write_text(STREAM)
        done = subprocess.run([compiler, "-O3", "-msse2", "-shared", "-fPIC", source, "-o", library], check=False)
        if done.returncode:
            return "torch.bitwise_xor(out=)"
        KEPT["stream"] = ctypes.CDLL(str(library)).stream
    return "C, streaming stores"


def floor() -> float:
    """Read two models, write one, compute nothing."""
    import torch

    a, b, out = KEPT["buffers"]
    if "stream" in KEPT:
        pointers = [ctypes.c_void_p(buffer.data_ptr()) for buffer in (a, b, out)]
        return cpu_seconds(lambda: [KEPT["stream"](*pointers, ctypes.c_size_t(a.nbytes // 16)) for _ in range(8)])
    return cpu_seconds(lambda: [torch.bitwise_xor(a, b, out=out) for _ in range(8)])


def save(folder: str, out: str) -> tuple[float, int, int]:
    """Merge file to file: CPU seconds, and bytes of own and of all memory beyond what was there before."""
    import torch  # noqa: F401 - it is what the memory is measured beyond

    from bayes_merger.merging import SD1, MergeRecipe, ModelRef, open_checkpoint, save_merge

    peaks, done = [0, 0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peaks[0], peaks[1] = max(peaks[0], resident()), max(peaks[1], resident("VmRSS"))

    before = KEPT.setdefault("before", (resident(), resident("VmRSS")))
    if "files" not in KEPT:
        KEPT["files"] = {name: open_checkpoint(Path(folder) / f"{name}.safetensors") for name in "ab"}
    models = KEPT["files"]
    known = {name: ModelRef(str(c.path), c.sha256()) for name, c in models.items()}  # once; not part of either copy
    recipe = MergeRecipe(models=known, weights=weights_of(0.3), architecture=SD1.name)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seconds = cpu_seconds(lambda: save_merge(recipe, models, out, replace=True))
    finally:
        done.set()
        watcher.join()
    return seconds, max(peaks[0] - before[0], 0), max(peaks[1] - before[1], 0)


def copy(source: str, out: str) -> float:
    """Copy a file through a buffer of 1 MiB as a merge is written: beside its place, forced to disk, renamed."""

    def work() -> None:
        beside = Path(f"{out}.tmp")
        with Path(source).open("rb", buffering=0) as reader, beside.open("wb", buffering=0) as writer:
            buffer = bytearray(2**20)
            while count := reader.readinto(buffer):
                writer.write(memoryview(buffer)[:count])
            os.fsync(writer.fileno())
        beside.replace(out)

    return cpu_seconds(work)


# --- peers --------------------------------------------------------------------------------------------------------


def meh_candidate(folder: str, alpha: float) -> float:
    """sd-meh 0.9.5: the merged model as a dictionary."""
    from sd_meh.merge import merge_models

    files = {f"model_{name}": str(Path(folder) / f"{name}.safetensors") for name in "ab"}
    with quiet():
        seconds = cpu_seconds(
            lambda: merge_models(files, {"alpha": [alpha] * 25}, {"alpha": alpha}, "weighted_sum", precision=16)
        )
    gc.collect()
    return seconds


def mecha_candidate(folder: str, alpha: float) -> float:
    """sd-mecha 1.1.8 with its defaults, one thread: the merged model as a dictionary."""
    import sd_mecha

    a, b = (sd_mecha.model(Path(folder) / f"{name}.safetensors", config="sd1-ldm") for name in "ab")
    with quiet():
        seconds = cpu_seconds(lambda: sd_mecha.merge(sd_mecha.weighted_sum(a, b, alpha=alpha), threads=1))
    gc.collect()
    return seconds


def subset(folder: str, blocks: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The tensors of some blocks of a, b and c, in memory."""
    from bayes_merger.merging import SD1, open_checkpoint

    tensors: dict[str, dict[str, Any]] = KEPT.setdefault(f"subset {folder} {blocks}", {})
    if not tensors:
        for model in "abc":
            with open_checkpoint(Path(folder) / f"{model}.safetensors") as opened:
                keys = [key for key in opened.shapes if SD1.place(key).block in blocks]
                tensors[model] = {key: opened.tensor(key).clone() for key in keys}
    return tensors


def mecha_method(folder: str, blocks: tuple[str, ...], method: str, alpha: float) -> float:
    """One of sd-mecha's methods on some blocks that are in memory already."""
    import sd_mecha
    from sd_mecha.extensions.builtin.merge_methods import svd, ties
    from sd_mecha.extensions.builtin.merge_methods.linear import add_difference  # its public one raises on these

    tensors = subset(folder, blocks)
    a, b, c = (sd_mecha.model(tensors[name], config="sd1-ldm") for name in "abc")
    deltas = [sd_mecha.subtract(model, c) for model in (a, b)]
    recipes: dict[str, Callable[[], Any]] = {
        "slerp": lambda: sd_mecha.slerp(a, b, alpha=alpha),
        "ties": lambda: add_difference(c, sd_mecha.ties_sum(*deltas, k=0.2, vote_sgn=True), alpha=alpha),
        "train_difference": lambda: add_difference(
            a, deltas[1], alpha=sd_mecha.train_difference_mask(a, b, c, alpha=alpha)
        ),
        "dropout": lambda: add_difference(c, ties.dropout(*deltas, probability=0.5, seed=0), alpha=alpha),
        "model_stock": lambda: sd_mecha.n_model_stock(c, a, b),
        "rotate": lambda: svd.rotate(a, b, alignment=1.0, alpha=alpha),
    }
    recipe = recipes[method]()
    with quiet():
        if method == "rotate":
            # what it remembers for a key goes with the node: the new node is given the last one's
            store = KEPT.setdefault("mecha rotations", defaultdict(dict))
            return cpu_seconds(lambda: sd_mecha.merge(recipe, threads=1, cache={recipe: store}))
        return cpu_seconds(lambda: sd_mecha.merge(recipe, threads=1))


def our_method(folder: str, blocks: tuple[str, ...], method: str, alpha: float, fresh: bool) -> float:
    """One of our methods on the same tensors, into memory that exists; with or without what was kept of the last."""
    import torch

    from bayes_merger.merging import method_spec
    from bayes_merger.merging.engine.combine import Scratch, combine
    from bayes_merger.merging.engine.memory import PreparedCache

    tensors = subset(folder, blocks)
    out = KEPT.setdefault(f"out {blocks}", {key: torch.empty_like(tensor) for key, tensor in tensors["a"].items()})
    spec = method_spec(method)
    spec = spec.bind(name for name in spec.models if name not in spec.optional)
    weights = {name: about.default for name, about in spec.weights.items()} | {"alpha": alpha}
    scratch = KEPT.setdefault("scratch", Scratch())
    if fresh:
        KEPT[f"work {method}"] = PreparedCache(2**33)
    work = KEPT[f"work {method}"]
    sign = tuple(weights[name] for name in spec.prepared_by)

    def candidate() -> None:
        for key, target in out.items():
            sources = [tensors[name][key] for name in spec.models]
            keep = partial(work.get, key, sign)
            combine(spec, sources, weights, target, torch.float16, scratch, key, keep)

    return cpu_seconds(candidate)


# --- on a device --------------------------------------------------------------------------------------------------


def side_by_side(model: Checkpoint, device: str, start: str = "") -> dict[str, Tensor]:
    """Tensors for all that is merged of a model, laid out as a run lays out the parameters that it merges into.

    Args:
        model: whose tensors they are like.
        device: where they are.
        start: of the keys that are wanted.
    """
    import torch

    place = model.architecture.place
    keys = sorted(key for key in model.shapes if place(key).role == "block" and key.startswith(start))
    sizes = [math.prod(model.shapes[key]) for key in keys]
    rooms = [-(-size // 32) * 32 for size in sizes]  # each begins at a cache line, as in imaging/layout.py
    parts = torch.zeros(sum(rooms), dtype=torch.float16, device=device).split(rooms)
    return {k: part[:n].view(model.shapes[k]) for k, n, part in zip(keys, sizes, parts, strict=True)}


def load_on(device: str, folder: str, start: str = "") -> int:
    """Open A and B and make the live tensors; the first candidate, which copies the models to the device, is done.

    Returns:
        Bytes of the live tensors.
    """
    from bayes_merger.merging import LiveMerge, MergeSettings, open_checkpoint

    models = {name: open_checkpoint(Path(folder) / f"{name}.safetensors") for name in "ab"}
    KEPT["merging"] = LiveMerge(models, MergeSettings("weighted_sum"), memory=2**36)
    KEPT["live"] = side_by_side(models["a"], device, start)
    KEPT["blocks"] = models["a"].architecture.blocks
    candidate_on(device, 0.5)
    return sum(out.nbytes for out in KEPT["live"].values())


def candidate_on(device: str, alpha: float) -> tuple[float, float]:
    """One candidate, every block of it changed; as ``milliseconds``."""
    weights = weights_of(alpha, KEPT["blocks"])
    return milliseconds(device, lambda: KEPT["merging"].apply(weights, KEPT["live"]))


def calls_of_candidate(alpha: float) -> dict[str, int]:
    """What a candidate asks of the device: operation to how often; views, which cost it nothing, are left out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: Counter[str] = Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[str(func)] += not func.is_view
            return func(*args, **(kwargs or {}))

    counting: Any = Counting  # its base class has no types
    with counting():
        KEPT["merging"].apply(weights_of(alpha, KEPT["blocks"]), KEPT["live"])
    return dict(+counts)


def floor_on(device: str, size: int) -> tuple[float, float]:
    """Reading two models of so many bytes and writing one; as ``milliseconds``."""
    import torch

    if KEPT.get("floor of") != (device, size):
        KEPT["buffers"] = [torch.zeros(size // 8, dtype=torch.int64, device=device) for _ in range(3)]
        KEPT["floor of"] = (device, size)
    a, b, out = KEPT["buffers"]
    return milliseconds(device, lambda: torch.bitwise_xor(a, b, out=out))


def milliseconds(device: str, work: Callable[[], Any]) -> tuple[float, float]:
    """From the call to the last number written, by the clock; and by the device's own events, where it has them."""
    import torch

    if not device.startswith("cuda"):
        begin = time.perf_counter()
        work()
        wall = 1000 * (time.perf_counter() - begin)
        return wall, wall
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin = time.perf_counter()
    first.record()
    work()
    last.record()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begin), first.elapsed_time(last)
