"""What commands that draw say of models that do not have the same tensors, as ``merge`` and ``plan`` do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.user_folder import command, make_workplace

LACKING = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
SHORT = ["payloads.tiny.batch_size=1", "payloads.tiny.width=32", "payloads.tiny.height=32"]
COMMANDS = {
    "run": ["run", "init_points=2", "n_iters=0", "final.images=0", "final.save=false"],
    "xy": ["xy", "x=alpha=0,1", "--out", "grid"],
    "effect": ["effect", "--of", "elements:OUT11", "--most", "1", "--out", "looked"],
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path, tiny_a: Path, tiny_b: Path) -> Path:
    folder = make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)
    save_file({key: tensor for key, tensor in load_file(tiny_b).items() if key != LACKING}, folder / "b.safetensors")
    width = load_file(tiny_a)["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"].shape[0]
    factors = {f"{LAYER}.lora_up.weight": torch.ones(width, 1), f"{LAYER}.lora_down.weight": torch.ones(1, width)}
    save_file(factors | {"lora_unet_nobody.diff": torch.ones(2)}, folder / "lora.safetensors")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_tensor_that_b_lacks_is_said(name: str, workplace: Path, tiny_a: Path) -> None:
    first, *others = COMMANDS[name]
    models = ["experiment=tiny", f"model_a={tiny_a}", "model_b=b.safetensors"]
    result = command(workplace, first, *models, *SHORT, *others)
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count(f"note: kept from A, since another model lacks them: {LACKING}\n") == 1


def test_a_run_says_how_much_of_a_lora_fits(workplace: Path, tiny_a: Path) -> None:
    first, *others = COMMANDS["run"]
    models = ["experiment=tiny", f"model_a={tiny_a}", "model_b=lora.safetensors", "name=lora"]
    result = command(workplace, first, *models, *SHORT, *others)
    assert result.returncode == 0, result.stderr
    told = "1 layers fit model A (1 tensors), 1 do not and have no effect: lora_unet_nobody"
    assert f"note: lora.safetensors is a LoRA: {told}\n" in result.stdout + result.stderr
    assert told in (workplace / "runs" / "lora" / "log.txt").read_text(encoding="utf-8")
