"""Our members of the LoRA family beside LyCORIS's and PEFT's own; run with the extra ``peers`` installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bayes_merger.merging import open_checkpoint
from bayes_merger.merging.models.lora import LoraModel
from tests.merging.tiny_models import UNET, write_model

CONV = UNET + "input_blocks.1.0.in_layers.2.weight"
MATRIX = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
NAMES = {
    CONV: "lora_unet_down_blocks_0_resnets_0_conv1",
    MATRIX: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
}
SHAPES = [(16, 8), (8, 8), (8, 12, 3, 3), (16, 8, 1, 1)]


def module_of(shape: tuple[int, ...], generator: torch.Generator) -> nn.Linear | nn.Conv2d:
    out, into, *kernel = shape
    layer = nn.Conv2d(into, out, (kernel[0], kernel[1])) if kernel else nn.Linear(into, out)
    fill(layer, generator)
    return layer


def fill(module: nn.Module, generator: torch.Generator, size: float = 0.3) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def applied(folder: Path, weight: Tensor, tensors: Mapping[str, Tensor], bias: Tensor | None = None) -> LoraModel:
    key = MATRIX if weight.dim() == 2 else CONV
    change = {key: weight} | ({} if bias is None else {key.replace("weight", "bias"): bias})
    base = write_model(folder / "a.safetensors", 1, torch.float32, change=change)
    save_file(
        {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, folder / "l.safetensors"
    )
    return LoraModel(open_checkpoint(base), open_checkpoint(folder / "l.safetensors"))


LYCORIS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoCon": ("locon.LoConModule", {}),
    "LoCon, Tucker": ("locon.LoConModule", {"use_tucker": True}),
    "LoCon, rsLoRA": ("locon.LoConModule", {"rs_lora": True}),
    "DoRA by outputs": ("locon.LoConModule", {"weight_decompose": True, "wd_on_out": True}),
    "DoRA by inputs": ("locon.LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    "LoHa": ("loha.LohaModule", {}),
    "LoHa, Tucker": ("loha.LohaModule", {"use_tucker": True}),
    "LoHa, DoRA": ("loha.LohaModule", {"weight_decompose": True}),
    "LoKr": ("lokr.LokrModule", {}),
    "LoKr, whole": ("lokr.LokrModule", {"full_matrix": True}),
    "LoKr, both factors products": ("lokr.LokrModule", {"decompose_both": True, "factor": 4, "lora_dim": 1}),
    "LoKr, a product": ("lokr.LokrModule", {"lora_dim": 1}),
    "LoKr, Tucker": ("lokr.LokrModule", {"use_tucker": True, "lora_dim": 1}),
    "LoKr, DoRA": ("lokr.LokrModule", {"weight_decompose": True, "wd_on_out": False}),
    "GLoRA": ("glora.GLoRAModule", {}),
    "OFT": ("diag_oft.DiagOFTModule", {}),
    "OFT, limited": ("diag_oft.DiagOFTModule", {"constraint": 0.05}),
    "OFT, rescaled": ("diag_oft.DiagOFTModule", {"rescaled": True}),
    "BOFT": ("boft.ButterflyOFTModule", {}),
    "BOFT, limited and rescaled": ("boft.ButterflyOFTModule", {"constraint": 0.05, "rescaled": True}),
    "IA3 of outputs": ("ia3.IA3Module", {}),
    "IA3 of inputs": ("ia3.IA3Module", {"train_on_input": True}),
}


def merged(module: Any, weight: Tensor) -> Tensor:
    """As its forward pass has it; LoHa's and LoKr's get_merged_weight have the strength twice."""
    if not hasattr(module, "get_weight"):
        found: Tensor = module.get_merged_weight(1.0, weight.shape)[0]
        return found
    whole: Tensor = weight + module.get_weight(None).reshape(weight.shape)
    return module.apply_weight_decompose(whole) if module.wd else whole


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("algorithm", LYCORIS)
def test_lycoris_makes_the_same_matrix(tmp_path: Path, algorithm: str, shape: tuple[int, ...]) -> None:
    import importlib

    pytest.importorskip("lycoris")
    place, options = LYCORIS[algorithm]
    file, _, name = place.partition(".")
    generator = torch.Generator().manual_seed(3)
    layer = module_of(shape, generator)
    made: Any = getattr(importlib.import_module(f"lycoris.modules.{file}"), name)(
        "x", layer, 1.0, alpha=3.0, **{"lora_dim": 2, **options}
    )
    fill(made, generator)
    with torch.no_grad():
        if hasattr(made, "dora_scale"):
            made.dora_scale.abs_().add_(0.5)
        weight = layer.weight.detach().clone()
        wanted = merged(made, weight)
        tensors = made.custom_state_dict() or made.state_dict()
    stem = NAMES[MATRIX if len(shape) == 2 else CONV]
    lora = applied(tmp_path, weight, {f"{stem}.{key}": tensor for key, tensor in tensors.items() if key != "scalar"})
    torch.testing.assert_close(lora.tensor(lora.patches[0].layer.weight), wanted, rtol=1e-5, atol=1e-5)


def peft_configs(peft: Any) -> dict[str, Callable[..., Any]]:
    return {
        "LoRA": lambda **k: peft.LoraConfig(r=4, lora_alpha=6, **k),
        "rsLoRA": lambda **k: peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, **k),
        "LoRA with a bias": lambda **k: peft.LoraConfig(r=4, lora_alpha=6, lora_bias=True, **k),
        "patterns": lambda **k: peft.LoraConfig(
            r=2, lora_alpha=8, rank_pattern={"to_k": 3, "conv.*": 4}, alpha_pattern={"k": 100, "attn2.to_k|conv1": 5}, **k
        ),
        "DoRA": lambda **k: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, **k),
        "LoHa": lambda **k: peft.LoHaConfig(r=4, alpha=6, use_effective_conv2d=True, **k),
        "LoKr": lambda **k: peft.LoKrConfig(r=2, alpha=6, decompose_both=True, decompose_factor=4, **k),
        "LoKr, whole": lambda **k: peft.LoKrConfig(r=64, alpha=6, **k),
        "OFT": lambda **k: peft.OFTConfig(oft_block_size=4, **k),
        "OFT, exact": lambda **k: peft.OFTConfig(oft_block_size=4, use_cayley_neumann=False, **k),
        "OFT, three terms": lambda **k: peft.OFTConfig(oft_block_size=4, num_cayley_neumann_terms=3, **k),
        "OFT, one block": lambda **k: peft.OFTConfig(oft_block_size=4, block_share=True, **k),
        "BOFT": lambda **k: peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, **k),
        "IA3 of outputs": lambda **k: peft.IA3Config(feedforward_modules=[], **k),
        "IA3 of inputs": lambda **k: peft.IA3Config(feedforward_modules=["to_k", "conv1"], **k),
    }  # fmt: skip


class Attention(nn.Module):
    def __init__(self, layer: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.Module()])
        inner: Any = self.down_blocks[0]
        if isinstance(layer, nn.Linear):
            inner.attentions = nn.ModuleList([nn.Module()])
            inner.attentions[0].transformer_blocks = nn.ModuleList([nn.Module()])
            inner.attentions[0].transformer_blocks[0].attn2 = nn.Module()
            inner.attentions[0].transformer_blocks[0].attn2.to_k = layer
        else:
            inner.resnets = nn.ModuleList([nn.Module()])
            inner.resnets[0].conv1 = layer


PEFT = (
    "LoRA", "rsLoRA", "LoRA with a bias", "patterns", "DoRA", "LoHa", "LoKr", "LoKr, whole", "OFT", "OFT, exact",
    "OFT, three terms", "OFT, one block", "BOFT", "IA3 of outputs", "IA3 of inputs",
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("algorithm", PEFT)
def test_peft_merges_the_same_matrix(tmp_path: Path, algorithm: str, shape: tuple[int, ...]) -> None:
    peft = pytest.importorskip("peft")
    generator = torch.Generator().manual_seed(3)
    layer = module_of(shape, generator)
    key = MATRIX if len(shape) == 2 else CONV
    assert layer.bias is not None
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    config = peft_configs(peft)[algorithm](target_modules=["to_k", "conv1"])
    model: Any = peft.get_peft_model(Attention(layer, generator), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("lora_", "hada_", "lokr_", "oft_", "boft_", "ia3_")):
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
                if "magnitude" in name:
                    parameter.abs_().add_(0.5)
    model.save_pretrained(str(tmp_path))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    merged = model.merge_and_unload()
    merged_layer: Any = next(module for module in merged.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    base = write_model(
        tmp_path / "a.safetensors", 1, torch.float32, change={key: weight, key.replace("weight", "bias"): bias}
    )
    assert tensors
    lora = LoraModel(open_checkpoint(base), open_checkpoint(tmp_path / "adapter_model.safetensors"))
    torch.testing.assert_close(lora.tensor(key), merged_layer.weight.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        lora.tensor(key.replace("weight", "bias")).float(), merged_layer.bias.detach(), rtol=1e-5, atol=1e-5
    )
