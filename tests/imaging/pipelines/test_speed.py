"""A compiled network is compiled once for all merges, and kernels of attention are those that were asked for."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.errors import ConfigError
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, resolve
from bayes_merger.imaging.pipelines.speed import check_speed, compile_network

RINGS = resolve([Payload("ring", "a red ring", steps=2, width=64, height=64, seed=7, batch_size=2)], 0)


def become(pipeline: LivePipeline, a: Path, b: Path, alpha: float) -> None:
    one, other = load_file(a), load_file(b)
    for key, live in pipeline.destinations().items():
        live.copy_(torch.lerp(one[key], other[key], alpha) if live.is_floating_point() else one[key])
    pipeline.text_encoder_changed()


def drawn(pipeline: LivePipeline) -> list[bytes]:
    return [image.image.tobytes() for image in pipeline.draw(RINGS)]


def furthest(one: list[bytes], other: list[bytes]) -> int:
    return max(abs(x - y) for a, b in zip(one, other, strict=True) for x, y in zip(a, b, strict=True))


@pytest.mark.slow  # half a minute: torch traces the whole network
def test_five_merges_are_drawn_by_one_compiled_graph(tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path) -> None:
    graphs: list[Any] = []

    def counting(graph: Any, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward  # type: ignore[no-any-return]

    plain, compiled = (load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu") for _ in range(2))
    compile_network(compiled.pipe.unet, counting)
    seen = set()
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        become(plain, tiny_a, tiny_b, alpha)
        become(compiled, tiny_a, tiny_b, alpha)
        found = drawn(compiled)
        assert furthest(found, drawn(plain)) <= 1
        seen.add(found[0])
    assert len(seen) == 5
    assert len(graphs) == 1


@pytest.mark.slow  # minutes: it is compiled for good
@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT TESTED: generator.compile needs a C++ compiler")
def test_what_a_search_would_draw_compiled_is_what_it_draws_otherwise(
    tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> None:
    plain = load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu")
    compiled = load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu", compiled=True)
    for alpha in (0.0, 0.5):
        become(plain, tiny_a, tiny_b, alpha)
        become(compiled, tiny_a, tiny_b, alpha)
        assert furthest(drawn(compiled), drawn(plain)) <= 2


def test_without_a_compiler_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    check_speed("auto", False, "cpu", "auto", "fp16")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CXX", "nowhere++")
    check_speed("auto", False, "cpu", "auto", "fp16")
    with pytest.raises(ConfigError, match=r"generator.compile: needs a C\+\+ compiler"):
        check_speed("auto", True, "cpu", "auto", "fp16")


@pytest.mark.parametrize(
    ("attention", "words"),
    [("flsh", "no 'flsh'; did you mean flash"), ("cudnn", "no 'cudnn' for float32 on cpu; use auto")],
)
def test_attention_that_is_not_there_is_refused(attention: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"generator.attention: {words}"):
        check_speed(attention, False, "cpu", "auto", "fp16")


def test_pictures_are_drawn_with_the_kernels_of_attention_that_were_asked_for(
    pipeline_a: LivePipeline, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    plain = load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu", attention="math")
    assert furthest(drawn(plain), drawn(pipeline_a)) <= 1
    gpus = LivePipeline(pipeline_a.architecture, pipeline_a.pipe, max_batch=4, attention="efficient")
    with pytest.raises(RuntimeError, match="No viable backend"):  # past the check at start-up
        gpus.draw(RINGS)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep what is freed")
def test_memory_that_is_freed_is_not_cleared_again() -> None:
    pytest.importorskip("resource")
    code = (  # in a process of its own: in one that has had two gigabytes the rest may be given back
        "import resource, torch\n"
        "from bayes_merger.imaging.pipelines.device import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(40):\n"
        "    torch.ones(10 << 20)\n"  # 10,240 pages; the first few widen the heap, however it is laid out
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 * 10_240
