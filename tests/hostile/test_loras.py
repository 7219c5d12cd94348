"""LoRAs that somebody else made: any names, shapes, strengths and notes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from bayes_merger.merging.models.opening import open_model
from tests.hostile.fuzzing import LENGTHS, fuzzing, json_values, one_clear_line
from tests.merging.tiny_models import write_model

PREFIXES = ["lora_unet_", "lora_te_", "lycoris_", "diffusion_model.", "unet.", "base_model.model.", "transformer.", ""]
LAYERS = [
    "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k",
    "input_blocks_1_1_transformer_blocks_0_attn2_to_k",
    "text_model_encoder_layers_0_mlp_fc1",
    "middle_block_0_in_layers_2",
    "\u202eevil\x1b[2J",
]
PARTS = [
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "lora_A.weight", "lora_B.weight", "alpha", "dora_scale",
    "lora_magnitude_vector", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1",
    "lokr_w2", "lokr_w1_a", "lokr_w2_b", "lokr_t2", "diff", "diff_b", "oft_blocks", "oft_diag", "a1.weight",
    "a2.weight", "b1.weight", "b2.weight", "ia3_l", "rescale", "w_norm", "b_norm", "on_input", "set_weight",
]  # fmt: skip
SHAPES = [(), (1,), (6,), (7,), (6, 4), (4, 7), (4, 4), (2, 3), (6, 7), (0, 7), (6, 1, 1, 1), (4, 7, 1, 1), (11, 4)]
NUMBERS = [0.0, 1.0, -1.0, 1e-30, 6e4, float("nan"), float("inf"), 1e11]
NAMED = ["networkx.alpha", "lora_adapter_metadata", "ss_network_alpha", "lora_alpha", "ss_network_dim", "format"]


@pytest.mark.parametrize("examples", LENGTHS)
def test_any_lora_is_applied_or_refused(examples: int, tmp_path: Path) -> None:
    base = open_model("a", str(write_model(tmp_path / "a.safetensors", 1)))
    path = tmp_path / "lora.safetensors"
    tensor = st.builds(
        lambda shape, number, dtype: torch.full(shape, number).to(dtype),
        st.sampled_from(SHAPES),
        st.sampled_from(NUMBERS),
        st.sampled_from([torch.float16, torch.float32, torch.bfloat16, torch.int64, torch.int8, torch.bool]),
    )
    name = st.builds("{}{}.{}".format, st.sampled_from(PREFIXES), st.sampled_from(LAYERS), st.sampled_from(PARTS))

    @fuzzing(examples)
    @given(
        st.dictionaries(name, tensor, min_size=1, max_size=6),
        st.dictionaries(st.sampled_from(NAMED), json_values(4).map(str) | st.sampled_from(['{"r": 0}', "1" * 5000])),
    )
    def check(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        save_file(tensors, path, {key: text.encode("utf-8", "replace").decode() for key, text in metadata.items()})
        with one_clear_line(), open_model("b", str(path), base) as model:
            assert all(len(note) < 1000 for note in model.notes)
            for key, shape in model.shapes.items():
                assert tuple(model.tensor(key).shape) == shape

    check()
