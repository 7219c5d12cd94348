"""What the benchmarks do on full-size models and on a GPU, on tiny models and the CPU, so that it does not rot."""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging import load_pipeline
from bayes_merger.merging import merge
from tests.folders import make_modules, single_file
from tests.merging.tiny_models import even, opened, recipe_of

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
UNET = "model.diffusion_model."


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("engines")


@pytest.fixture
def full_size(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("make_full_size")


def test_full_size_files_have_the_tensors_of_official_ones(full_size: ModuleType) -> None:
    counts = {name: len(full_size.shapes(name)) for name in full_size.TREES}
    assert counts == {"sd1": 1131, "sd2": 1215, "sdxl": 2515}


def test_a_model_of_random_weights_is_finite_and_a_fine_tune_differs_by_a_tenth(full_size: ModuleType) -> None:
    key, shape = "model.diffusion_model.out.2.weight", (4, 320, 3, 3)
    base, tuned = (
        torch.cat(list(full_size.weights(key, shape, change, full_size.Noise(0, 1)))).float() for change in (0.0, 0.1)
    )
    assert base.shape == (4 * 320 * 9,)
    assert base.isfinite().all()
    assert float((tuned - base).std() / base.std()) == pytest.approx(0.1, rel=0.05)


def test_noise_goes_on_from_the_beginning_when_its_block_is_used_up(full_size: ModuleType) -> None:
    noise = full_size.Noise(0)
    first = torch.cat([row for (row,) in noise.take(full_size.BLOCK)])
    again = torch.cat([row for (row,) in noise.take(10)])
    assert first.numel() == full_size.BLOCK
    assert torch.equal(first[:10], again)


def test_a_candidate_on_the_device_is_the_merge(engines: ModuleType, tmp_path: Path) -> None:
    models = opened(tmp_path)
    engines.load_on("cpu", str(tmp_path))
    wall, _ = engines.candidate_on("cpu", 0.25)
    expected = dict(merge(recipe_of(models, even("0.25")), models))
    assert wall > 0
    assert {"BASE", "OUT11"} < {models["a"].architecture.place(key).block for key in engines.KEPT["live"]}
    assert all(torch.equal(out, expected[key]) for key, out in engines.KEPT["live"].items())


def test_sdxls_unet_is_merged_in_a_few_calls_on_the_device(engines: ModuleType, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        states = {part: network.state_dict() for part, network in make_modules("sdxl", seed).items()}
        tensors = {key: tensor.half().contiguous() for key, tensor in single_file(states).items()}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    size = engines.load_on("cpu", str(tmp_path), UNET)
    calls = engines.calls_of_candidate(0.3)
    live = engines.KEPT["live"]
    assert all(key.startswith(UNET) for key in live)
    assert size == sum(out.nbytes for out in live.values())
    assert set(calls) == {"aten.lerp.Scalar_out"}
    assert calls["aten.lerp.Scalar_out"] < len(live)
    assert engines.floor_on("cpu", size)[0] > 0


def test_a_candidate_asks_nothing_of_a_device_that_it_would_have_to_wait_for(
    engines: ModuleType, tmp_path: Path
) -> None:
    opened(tmp_path)
    engines.load_on("meta", str(tmp_path))  # where there are no numbers, reading one is an error
    assert set(engines.calls_of_candidate(0.3)) == {"aten.lerp.Scalar_out"}


def test_the_rows_of_a_trial_on_a_gpu_are_measured_on_any_device(
    monkeypatch: pytest.MonkeyPatch, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = import_module("imaging_gpu")
    (tmp_path / "b.safetensors").symlink_to(tiny_b)
    with open_checkpoint(tiny_a) as model:
        load = partial(load_pipeline, model, config=tiny_sd1_config, device="cpu")
        rows = list(module.of_trial(load, tmp_path, model, "cpu", True))
    assert [row.partition(" | ")[0].partition(",")[0] for row in rows] == [
        "a merge of everything",
        "the prompts",
        "writing a picture",
    ]
    assert all(re.search(r"\| \d+ ms", row) for row in rows)


@pytest.mark.gpu
def test_a_candidate_on_a_gpu_reads_nothing_but_what_lies_there(engines: ModuleType, tmp_path: Path) -> None:
    models = opened(tmp_path)
    size = engines.load_on("cuda", str(tmp_path))
    assert set(engines.calls_of_candidate(0.3)) == {"aten.lerp.Scalar_out"}
    assert min(*engines.candidate_on("cuda", 0.25), *engines.floor_on("cuda", size)) > 0
    expected = dict(merge(recipe_of(models, even("0.25")), models))
    for key, out in engines.KEPT["live"].items():
        torch.testing.assert_close(out.cpu(), expected[key], rtol=2e-3, atol=1e-6)


def test_two_ways_to_score_are_compared_in_turn_on_pictures_nobody_has_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    scoring = import_module("scoring")
    seen: list[tuple[int, bytes]] = []

    class Judge:
        def score(self, images: Any) -> list[float]:
            seen.extend((len(images), image.image.tobytes()) for image in images)
            return [0.0] * len(images)

    judge = Judge()
    found = scoring.compared("x", lambda images: scoring.through_png(judge, images), judge.score, "cpu", 2, 16, 3)
    assert (found.what, found.pictures) == ("x", 2)
    assert [size for size, _ in seen] == 3 * [1, 1, 2, 2]
    assert len({pixels for _, pixels in seen}) == 12
