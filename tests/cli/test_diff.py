"""``diff``: tables, JSON, words and a picture; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bayes_merger import demo
from tests.merging.tiny_models import FIRST, UNET, write_model
from tests.user_folder import command

MODELS = [str(demo.model_path(name)) for name in ("a", "b", "c")]


def test_the_demo_pair_and_its_base(tmp_path: Path) -> None:
    result = command(tmp_path, "diff", *MODELS, "--json", "--png", "heat.png")
    assert (result.returncode, result.stderr) == (0, "wrote heat.png\n")
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["models"]["a"]["dtypes"] == {"F16": 958, "I64": 1}
    assert found["blocks"]["M00"]["a-b"]["identical"] == 1.0
    assert found["blocks"]["IN04"]["c-a"]["identical"] == 1.0
    assert found["blocks"]["OUT07"]["a-b"]["relative"] == pytest.approx(0.8363, abs=1e-3)
    assert found["all"]["a-b"]["cosine"] == pytest.approx(0.99214, abs=1e-4)
    assert found["blocks"]["M00"]["agreement"]["c"] is None
    assert found["relations"][-1] == (
        "A and B are fine-tunes of C, or one of them is its ancestor: the cosine between the ways to A and to B is 0.12"
    )
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.format == "PNG"


def test_tables_and_words_of_models_that_are_no_relatives(tmp_path: Path) -> None:
    for name, seed, change in (("a", 1, {}), ("b", 2, {f"{UNET}out.2.weight": None, FIRST: torch.ones(8, 9, 3, 3)})):
        write_model(tmp_path / f"{name}.safetensors", seed, change=change)
    result = command(tmp_path, "diff", "a.safetensors", "b.safetensors")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.startswith("B: b.safetensors: a checkpoint with parts of its U-Net missing, ") for line in lines)
    assert sum("IN01" in line for line in lines) == 1
    assert any(line.startswith("B is no fine-tune of A: cosine of their matrices ") for line in lines)
    assert f"1 tensor not in B: {UNET}out.2.weight" in lines
    assert f"1 tensor of different shapes: {FIRST}" in lines


def test_a_model_and_itself(tmp_path: Path) -> None:
    result = command(tmp_path, "diff", MODELS[0], MODELS[0], MODELS[2])
    assert "B and A have the same matrices, number by number" in result.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one"], "diff: takes two or three models, not 1; give  A B  or  A B C"),
        ([*MODELS, MODELS[0]], "diff: takes two or three models, not 4; give  A B  or  A B C"),
        ([MODELS[0], "no.safetensors"], "model_b: no.safetensors: there is no such file"),
        ([*MODELS[:2], "--png", "heat.jpg"], "--png: heat.jpg is not a PNG; end the name in .png"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    result = command(tmp_path, "diff", *words)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert said.removeprefix("model_b: ") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_scaled_fp8_is_called_what_the_file_has(tmp_path: Path) -> None:
    key = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    scaled = {key: torch.ones(6, 7).to(torch.float8_e4m3fn), key.replace(".weight", ".weight_scale"): torch.ones(())}
    for name, change in (("a", {}), ("b", scaled)):
        write_model(tmp_path / f"{name}.safetensors", 1, change=change)
    found = json.loads(command(tmp_path, "diff", "a.safetensors", "b.safetensors", "--json").stdout)
    counts = [found["models"][name]["dtypes"] for name in "ab"]
    assert counts[1] == counts[0] | {"F16": counts[0]["F16"] - 1, "F8_E4M3": 1}
