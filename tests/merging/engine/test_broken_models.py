"""NaN and infinity in a model are found by every method, also where the result would not show them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bayes_merger.cli import main
from bayes_merger.merging import METHODS, method_spec
from tests.command_line import refused
from tests.merging.tiny_models import UNET, tensors_of, write_model

KEY = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def broken(path: Path, seed: int, value: float) -> None:
    tensor = tensors_of(seed)[KEY]
    tensor[2, 3] = value
    write_model(path, seed, change={KEY: tensor})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc", start=1):
        write_model(tmp_path / f"{name}.safetensors", seed)
    return tmp_path


def settings(method: str) -> dict[str, str]:
    spec = method_spec(method)
    models = [name for name in "abc" if name in spec.models or spec.many]
    return {f"model_{name}": f"{name}.safetensors" for name in models}


@pytest.mark.sampled(12)
@pytest.mark.parametrize(("method", "name"), [(method, name) for method in sorted(METHODS) for name in "abc"])
def test_every_method_names_the_model_and_the_tensor(
    method: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(method)
    if f"model_{name}" not in given:
        pytest.skip("takes no such model")
    for value, word in ((float("nan"), "NaN"), (float("-inf"), "infinity")):
        broken(folder / "broken.safetensors", 4, value)
        words = [f"{key}={path}" for key, path in (given | {f"model_{name}": "broken.safetensors"}).items()]
        said = refused(capsys, "merge", f"method={method}", *words, "--out", "out.safetensors")
        assert f"model broken.safetensors holds {word} in '{KEY}'; it is broken, use another" in said
        assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    "more", [("--as-lora", "rank=2"), ("dtype=fp8_e4m3fn",), ("dtype=fp8_e5m2",), ("clip=hard",), ("vae=merge",)]
)
def test_whatever_is_written(more: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value, word in ((float("nan"), "NaN"), (float("inf"), "infinity")):
        broken(folder / "b.safetensors", 2, value)
        words = ("merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5", *more)
        said = refused(capsys, *words, "--out", "out.safetensors")
        assert f"model b.safetensors holds {word} in '{KEY}'" in said
        assert not Path("out.safetensors").exists()


def test_in_several_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(folder / "b.safetensors", 2, float("nan"))
    steps = "  - {name: one, a: a, b: b, alpha: 0.5}\n  - {name: two, a: one, b: c, alpha: 0.5}\n"
    models = "models: {a: a.safetensors, b: b.safetensors, c: c.safetensors}\n"
    Path("steps.yaml").write_text(f"{models}steps:\n{steps}")
    said = refused(capsys, "merge", "steps.yaml", "--out", "out.safetensors")
    assert f"model b.safetensors holds NaN in '{KEY}'" in said


def test_what_is_not_read_may_be_broken(folder: Path) -> None:
    decoder = "first_stage_model.decoder.conv_in.weight"
    write_model(folder / "b.safetensors", 2, change={decoder: torch.full((5, 4, 3, 3), float("nan"))})
    for method in ("weighted_sum", "top_k_tensor_sum", "rotate"):
        words = [f"method={method}", "model_a=a.safetensors", "model_b=b.safetensors"]
        assert main(["merge", *words, "--out", f"{method}.safetensors"]) == 0
