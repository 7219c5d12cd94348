"""LoRAs as models: literal numbers for every member of the family, names of every trainer, and hostile files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.architectures import SD1
from bayes_merger.checkpoints.tokenizer import build_tokenizer
from bayes_merger.errors import CheckpointError
from bayes_merger.merging import MergeRecipe, ModelRef, merge, open_checkpoint, weights_from_string
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.models.lora import LoraModel
from bayes_merger.merging.models.lora.layers import find_layer, layers_by_id, layers_of
from tests.folders import make_modules, single_file
from tests.merging.tiny_models import TEXT, UNET, write_model
from tests.real_keys import fact_shapes, needs_facts

MATRIX = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"  # (6, 7), made (2, 2) here
CONV = UNET + "input_blocks.1.0.in_layers.2.weight"
BIAS = UNET + "input_blocks.1.0.in_layers.2.bias"
K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
C = "lora_unet_down_blocks_0_resnets_0_conv1"


def model(folder: Path, change: Mapping[str, torch.Tensor] | None = None) -> Path:
    base = {
        MATRIX: torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        CONV: torch.zeros(2, 2, 2, 2),
        BIAS: torch.tensor([1.0, -1.0]),
        TEXT: torch.zeros(2, 2),
    }
    return write_model(folder / "a.safetensors", 1, torch.float16, change=base | dict(change or {}))


def opened(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    change: Mapping[str, torch.Tensor] | None = None,
    metadata: dict[str, str] | None = None,
) -> LoraModel:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "lora.safetensors", metadata)
    return LoraModel(open_checkpoint(model(folder, change)), open_checkpoint(folder / "lora.safetensors"))


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([list(numbers)], dtype=torch.float32)


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor([[number] for number in numbers], dtype=torch.float32)


def test_up_times_down_is_scaled_by_alpha_over_rank_and_added(tmp_path: Path) -> None:
    tensors = {
        f"{K}.lora_up.weight": column(1, 2),
        f"{K}.lora_down.weight": row(10, 20),
        f"{K}.alpha": torch.tensor(0.5),
    }
    lora = opened(tmp_path, tensors)
    assert lora.tensor(MATRIX).tolist() == [[1 + 5, 2 + 10], [3 + 10, 4 + 20]]
    assert lora.tensor(MATRIX).dtype == torch.float32
    assert lora.changed == {MATRIX}
    assert torch.equal(lora.tensor(CONV), lora.base.tensor(CONV))
    assert lora.base.tensor(MATRIX).tolist() == [[1, 2], [3, 4]]
    assert lora.kind.name == "sd1"


@pytest.mark.parametrize(
    "names",
    [
        (f"{K}.lora_up.weight", f"{K}.lora_down.weight"),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k.lora_up.weight",
         "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k.lora_down.weight"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight",
         "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora.up.weight",
         "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora.down.weight"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.up.weight",
         "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight"),
        ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.default.weight",
         "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.default.weight"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_B.weight",
         "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_A.weight"),
        ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.pixel-art.weight",
         "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.pixel-art.weight"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k.lora_B.weight",
         "unet.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"),
        ("lora_unet__orig_mod_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight",
         "lora_unet_down_blocks_0_attentions_0__orig_mod_transformer_blocks_0_attn2_to_k.lora_down.weight"),
        (f"{MATRIX.removesuffix('.weight')}.lora_up.weight", f"{MATRIX.removesuffix('.weight')}.lora_down.weight"),
    ],
)  # fmt: skip
def test_every_trainer_s_names_are_understood(tmp_path: Path, names: tuple[str, str]) -> None:
    lora = opened(tmp_path, {names[0]: column(1, 2), names[1]: row(10, 20)})
    assert lora.tensor(MATRIX).tolist() == [[11, 22], [23, 44]]
    assert lora.unmatched == ()


@pytest.mark.parametrize(
    "name",
    ["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out",
     "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_out",
     "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"],
)  # fmt: skip
def test_the_number_of_the_last_layer_of_attention_may_be_left_out(tmp_path: Path, name: str) -> None:
    out = MATRIX.replace("to_k", "to_out.0")
    tensors = {f"{name}.lora_up.weight": column(1, 2), f"{name}.lora_down.weight": row(10, 20)}
    assert opened(tmp_path, tensors, {out: torch.zeros(2, 2)}).tensor(out).tolist() == [[10, 20], [20, 40]]


def test_a_text_encoder_s_own_name_in_the_checkpoint_is_understood(tmp_path: Path) -> None:
    name = TEXT.removesuffix(".weight")
    lora = opened(tmp_path, {f"{name}.lora_up.weight": column(1, 2), f"{name}.lora_down.weight": row(3, 4)})
    assert lora.tensor(TEXT).tolist() == [[3, 4], [6, 8]]


@pytest.mark.parametrize(
    ("pair", "alpha"),
    [
        ((".lora_B.weight", ".lora_A.weight"), ".alpha"),
        ((".lora_B.weight", ".lora_A.weight"), ".lora_A.alpha"),
        ((".lora.up.weight", ".lora.down.weight"), ".lora.alpha"),
        ((".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"), ".lora_linear_layer.alpha"),
        (("_lora.up.weight", "_lora.down.weight"), "_lora.alpha"),
    ],
)
@pytest.mark.parametrize("room", ["", "processor."])
def test_alpha_stands_where_the_factors_do(tmp_path: Path, pair: tuple[str, str], alpha: str, room: str) -> None:
    stem = f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.{room}to_k"
    tensors = {stem + pair[0]: column(1, 2), stem + pair[1]: row(10, 20), stem + alpha: torch.tensor(0.5)}
    lora = opened(tmp_path, tensors)
    assert lora.tensor(MATRIX).tolist() == [[1 + 5, 2 + 10], [3 + 10, 4 + 20]]
    assert lora.unmatched == ()


def test_a_scale_goes_before_alpha(tmp_path: Path) -> None:
    pair = {f"{K}.lora_up.weight": column(1, 2), f"{K}.lora_down.weight": row(10, 20)}
    said = {f"{K}.scale": torch.tensor([0.5]), f"{K}.alpha": torch.tensor(4.0)}
    assert opened(tmp_path, pair | said).tensor(MATRIX).tolist() == [[1 + 5, 2 + 10], [3 + 10, 4 + 20]]


def test_an_alpha_whose_factors_were_taken_out_does_nothing(tmp_path: Path) -> None:
    pair = {f"{K}.lora_up.weight": column(1, 2), f"{K}.lora_down.weight": row(10, 20)}
    lora = opened(tmp_path, pair | {f"{C}.alpha": torch.tensor(4.0)})
    assert lora.tensor(MATRIX).tolist() == [[11, 22], [23, 44]]
    assert lora.changed == {MATRIX}
    assert lora.unmatched == (f"{C}.alpha",)


def test_diffusers_says_alpha_in_the_metadata(tmp_path: Path) -> None:
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{stem}.lora_B.weight": column(1, 2), f"{stem}.lora_A.weight": row(10, 20)}
    said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "unet.r": 1})}
    assert opened(tmp_path, tensors, metadata=said).tensor(MATRIX).tolist() == [[21, 42], [43, 84]]
    said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "unet.alpha_pattern": {"attn2.to_k": 0}})}
    assert opened(tmp_path, tensors, metadata=said).tensor(MATRIX).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "stem",
    [
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "base_model.model.text_model.encoder.layers.0.mlp.fc1",
        "lycoris_text_model_encoder_layers_0_mlp_fc1",
    ],
)
def test_text_encoders_are_patched(tmp_path: Path, stem: str) -> None:
    ends = ("lora_up", "lora_down") if stem.startswith("lora_") else ("lora_B", "lora_A")
    lora = opened(tmp_path, {f"{stem}.{ends[0]}.weight": column(1, 2), f"{stem}.{ends[1]}.weight": row(3, 4)})
    assert lora.tensor(TEXT).tolist() == [[3, 4], [6, 8]]


def test_convolutions_are_patched_flat_and_with_a_middle_factor(tmp_path: Path) -> None:
    kernel = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    flat = {
        f"{C}.lora_up.weight": column(1, 10).view(2, 1, 1, 1),
        f"{C}.lora_down.weight": torch.stack([kernel, -kernel]).view(1, 2, 2, 2),
    }
    wanted = torch.stack([torch.stack([kernel, -kernel]), torch.stack([10 * kernel, -10 * kernel])])
    assert torch.equal(opened(tmp_path, flat).tensor(CONV), wanted)
    # Tucker: up [2, 1], middle [1, 2, 2, 2], down [2, 2]: out o, in i is up[o] * sum over s of mid[0, s] * down[s, i]
    tucker = {
        f"{C}.lora_up.weight": column(1, 10).view(2, 1, 1, 1),
        f"{C}.lora_mid.weight": torch.stack([kernel, torch.ones(2, 2)]).view(1, 2, 2, 2),
        f"{C}.lora_down.weight": torch.tensor([[1.0, 0.0], [0.0, 5.0]]).view(2, 2, 1, 1),
    }
    wanted = torch.stack([torch.stack([kernel, torch.full((2, 2), 5.0)])] * 2) * torch.tensor([1.0, 10]).view(
        2, 1, 1, 1
    )
    made = opened(tmp_path, tucker | {f"{C}.alpha": torch.tensor(2.0)})  # the rank is that of down, 2
    assert torch.equal(made.tensor(CONV), wanted)


def test_loha_multiplies_two_products(tmp_path: Path) -> None:
    tensors = {
        f"{K}.hada_w1_a": column(1, 2),
        f"{K}.hada_w1_b": row(3, 4),  # [[3, 4], [6, 8]]
        f"{K}.hada_w2_a": column(1, -1),
        f"{K}.hada_w2_b": row(1, 2),  # [[1, 2], [-1, -2]]
        f"{K}.alpha": torch.tensor(2.0),
    }
    assert opened(tmp_path, tensors).tensor(MATRIX).tolist() == [[1 + 6, 2 + 16], [3 - 12, 4 - 32]]
    core = torch.ones(1, 1, 2, 2)
    convolution = {
        f"{C}.hada_w1_a": row(1, 2),
        f"{C}.hada_w1_b": row(3, 4),
        f"{C}.hada_t1": core,
        f"{C}.hada_w2_a": row(1, -1),
        f"{C}.hada_w2_b": row(1, 2),
        f"{C}.hada_t2": 2 * core,
    }
    made = opened(tmp_path, convolution).tensor(CONV)
    assert made[:, :, 0, 0].tolist() == [[6, 16], [-12, -32]]
    assert torch.equal(made, made[:, :, :1, :1].expand(2, 2, 2, 2))


def test_lokr_is_a_kronecker_product(tmp_path: Path) -> None:
    whole = {f"{K}.lokr_w1": row(1, 2), f"{K}.lokr_w2": column(10, 100), f"{K}.alpha": torch.tensor(7.0)}
    assert opened(tmp_path, whole).tensor(MATRIX).tolist() == [[11, 22], [103, 204]]  # whole factors have no rank
    factored = {
        f"{K}.lokr_w1": row(1, 2),
        f"{K}.lokr_w2_a": column(10, 100),
        f"{K}.lokr_w2_b": row(1),
        f"{K}.alpha": torch.tensor(0.5),
    }
    assert opened(tmp_path, factored).tensor(MATRIX).tolist() == [[6, 12], [53, 104]]
    convolution = {
        f"{C}.lokr_w1": torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        f"{C}.lokr_w2": torch.arange(4.0).view(1, 1, 2, 2),
    }
    made = opened(tmp_path, convolution).tensor(CONV)
    assert made[0, 0].tolist() == [[0, 1], [2, 3]]
    assert made[1, 1].tolist() == [[0, 2], [4, 6]]
    assert made[0, 1].abs().max() == 0


def test_full_differences_change_matrices_biases_and_norms(tmp_path: Path) -> None:
    tensors = {f"{K}.diff": torch.ones(2, 2), f"{C}.diff_b": torch.tensor([0.5, 0.25])}
    lora = opened(tmp_path, tensors)
    assert lora.tensor(MATRIX).tolist() == [[2, 3], [4, 5]]
    assert lora.tensor(BIAS).tolist() == [1.5, -0.75]
    assert lora.changed == {MATRIX, BIAS}


def test_dora_keeps_the_length_it_was_trained_with(tmp_path: Path) -> None:
    tensors = {f"{K}.lora_up.weight": column(0, 0), f"{K}.lora_down.weight": row(1, 1)}
    change = {MATRIX: torch.tensor([[3.0, 4.0], [0.0, 2.0]])}
    lora = opened(tmp_path, tensors | {f"{K}.dora_scale": column(10, 1)}, change)
    assert lora.tensor(MATRIX).tolist() == [[6, 8], [0, 1]]
    lora = opened(tmp_path, tensors | {f"{K}.dora_scale": row(6, 4)}, {MATRIX: torch.tensor([[3.0, 0.0], [0.0, 2.0]])})
    assert lora.tensor(MATRIX).tolist() == [[6, 0], [0, 4]]


@pytest.mark.parametrize("name", ["dora_scale", "lora.dora_scale"])
@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        (
            column(10, 10).view(2, 1, 1, 1),
            [[6, 8], [10, 0]],
        ),  # by outputs: [3, 4] and [2, 0] by their lengths, times 10
        (row(13**0.5, 4).view(1, 2, 1, 1), [[3, 4], [2, 0]]),  # by inputs, whose lengths these are already
    ],
)
def test_dora_of_convolutions_is_by_the_axis_of_its_lengths(
    tmp_path: Path, name: str, lengths: torch.Tensor, wanted: list[list[float]]
) -> None:
    weight = torch.zeros(2, 2, 2, 2)
    weight[:, :, 0, 1] = torch.tensor([[3.0, 4.0], [2.0, 0.0]])
    tensors = {
        f"{C}.lora_up.weight": torch.zeros(2, 1, 1, 1),
        f"{C}.lora_down.weight": torch.ones(1, 2, 2, 2),
        f"{C}.{name}": lengths,
    }
    made = opened(tmp_path, tensors, {CONV: weight}).tensor(CONV)
    torch.testing.assert_close(made[:, :, 0, 1], torch.tensor(wanted, dtype=torch.float32))


@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 2, 1, 1)])
def test_peft_s_lengths_are_of_outputs_whatever_their_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stem = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{stem}.lora_B.weight": column(0, 0), f"{stem}.lora_A.weight": row(1, 1)}
    change = {MATRIX: torch.tensor([[3.0, 4.0], [0.0, 2.0]])}
    for name in ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"):
        lora = opened(tmp_path, tensors | {f"{stem}.{name}": torch.tensor([10.0, 1.0]).view(shape)}, change)
        assert lora.tensor(MATRIX).tolist() == [[6, 8], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_alpha_may_have_any_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        f"{K}.lora_up.weight": column(1, 2),
        f"{K}.lora_down.weight": row(10, 20),
        f"{K}.alpha": torch.tensor(2, dtype=dtype),
    }
    assert opened(tmp_path, tensors).tensor(MATRIX).tolist() == [[1 + 20, 2 + 40], [3 + 40, 4 + 80]]


def test_an_adapter_s_configuration_beside_it_says_its_strength(tmp_path: Path) -> None:
    stem = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{stem}.lora_B.weight": column(1, 2), f"{stem}.lora_A.weight": row(10, 20)}
    unsaid = opened(tmp_path, tensors)
    assert unsaid.tensor(MATRIX).tolist() == [[11, 22], [23, 44]]
    assert "does not say its alpha" in unsaid.notes[1]
    (tmp_path / "adapter_config.json").write_text("\ufeff" + json.dumps({"r": 1, "lora_alpha": 2}), encoding="utf-8")
    said = opened(tmp_path, tensors)
    assert said.tensor(MATRIX).tolist() == [[21, 42], [43, 84]]
    assert len(said.notes) == 1
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 1e400}')
    with pytest.raises(CheckpointError, match=r"adapter_config\.json beside it: lora_alpha is inf"):
        opened(tmp_path, tensors)


def test_a_bias_of_peft_s_factors_has_their_strength(tmp_path: Path) -> None:
    stem = "unet.down_blocks.0.resnets.0.conv1"
    tensors = {
        f"{stem}.lora_A.weight": torch.zeros(1, 2, 2, 2),
        f"{stem}.lora_B.weight": torch.zeros(2, 1, 1, 1),
        f"{stem}.lora_B.bias": torch.tensor([1.0, 2.0]),
    }
    lora = opened(tmp_path, tensors, metadata={"lora_alpha": "3"})
    assert lora.tensor(BIAS).tolist() == [1 + 3, -1 + 6]


def test_a_matrix_of_comfyui_takes_the_place_of_the_model_s(tmp_path: Path) -> None:
    stem = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    lora = opened(tmp_path, {f"{stem}.set_weight": torch.tensor([[5.0, 6.0], [7.0, 8.0]])})
    assert lora.tensor(MATRIX).tolist() == [[5, 6], [7, 8]]
    padded = {
        f"{stem}.lora_up.weight": column(1, 1),
        f"{stem}.lora_down.weight": row(1, 1, 1),
        f"{stem}.reshape_weight": torch.tensor([2, 3]),
    }
    with pytest.raises(CheckpointError, match=r"a layer of \[2, 3\], of more channels than model A's, and model A's"):
        opened(tmp_path, padded)


def test_rotations_turn_rows_in_lycoris_and_columns_in_peft(tmp_path: Path) -> None:
    quarter = torch.tensor([[0.0, 0.5], [-0.5, 0.0]])  # Q is twice that, and (1 + Q) / (1 - Q) a quarter turn
    lycoris = opened(tmp_path, {f"{K}.oft_blocks": quarter.view(1, 2, 2)})
    torch.testing.assert_close(lycoris.tensor(MATRIX), torch.tensor([[-3.0, -4.0], [1.0, 2.0]]))
    (tmp_path / "adapter_config.json").write_text('{"use_cayley_neumann": false}')
    stem = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    peft = opened(tmp_path, {f"{stem}.oft_R.weight": row(1)})
    torch.testing.assert_close(peft.tensor(MATRIX), torch.tensor([[-2.0, 1.0], [-4.0, 3.0]]))


def test_ia3_scales_inputs_or_outputs(tmp_path: Path) -> None:
    for on_input, wanted in ((1, [[2, 6], [6, 12]]), (0, [[2, 4], [9, 12]])):
        tensors = {f"{K}.weight": torch.tensor([1.0, 2.0]), f"{K}.on_input": torch.tensor(on_input)}
        assert opened(tmp_path, tensors).tensor(MATRIX).tolist() == wanted
    stem = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    assert opened(tmp_path, {f"{stem}.ia3_l": row(2, 3)}).tensor(MATRIX).tolist() == [[2, 6], [6, 12]]
    assert opened(tmp_path, {f"{stem}.ia3_l": column(2, 3)}).tensor(MATRIX).tolist() == [[2, 4], [9, 12]]
    convolution = {"base_model.model.down_blocks.0.resnets.0.conv1.ia3_l": torch.tensor([2.0, 3.0]).view(1, 2, 1, 1)}
    with pytest.raises(CheckpointError, match="says not whether it is for the inputs or outputs"):
        opened(tmp_path, convolution)
    (tmp_path / "adapter_config.json").write_text('{"feedforward_modules": []}')
    lora = opened(tmp_path, convolution, {CONV: torch.ones(2, 2, 2, 2)})
    assert lora.tensor(CONV)[:, 0, 0, 0].tolist() == [2, 3]
    assert lora.tensor(BIAS).tolist() == [2, -3]


def test_a_projection_that_lies_transposed_is_changed_transposed(tmp_path: Path) -> None:
    key = "cond_stage_model.model.text_projection"
    change = {key: torch.tensor([[1.0, 2.0], [3.0, 4.0]]), MATRIX: torch.zeros(6, 1024)}
    for stem, ends in (
        ("lora_te_text_projection", ("lora_up", "lora_down")),
        ("lora_te1_text_model_text_projection", ("lora_up", "lora_down")),
        ("text_encoder.text_projection", ("lora_B", "lora_A")),
        ("text_encoders.clip_h.transformer.text_projection", ("lora_B", "lora_A")),
    ):
        tensors = {f"{stem}.{ends[0]}.weight": column(1, 2), f"{stem}.{ends[1]}.weight": row(10, 100)}
        lora = opened(tmp_path, tensors, change)
        assert lora.tensor(key).tolist() == [[1 + 10, 2 + 20], [3 + 100, 4 + 200]], stem
    with pytest.raises(CheckpointError, match="none of its 1 layers"):  # under this name it would lie as it does here
        opened(tmp_path, {f"{key}.diff": torch.ones(2, 2)}, change)


def test_names_of_layers_are_shown_without_control_characters(tmp_path: Path) -> None:
    tensors = {f"{K}.diff": torch.ones(2, 2), "lora_unet_\u202eno\x1b[31m\nbody.diff": torch.ones(2)}
    note = opened(tmp_path, tensors).notes[0]
    assert note.endswith("1 do not and have no effect: lora_unet_?no?[31m?body")
    with pytest.raises(CheckpointError, match="none of its 1 layers") as error:
        opened(tmp_path, {"lora_unet_\u202eno\x1b[31mbody" * 99 + ".diff": torch.ones(2)})
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600
    with pytest.raises(CheckpointError, match="vera_lambda_b") as error:
        opened(tmp_path, {"lora_\x1b[31m.vera_lambda_b": torch.ones(2)})
    assert str(error.value).isprintable()


@needs_facts
@pytest.mark.parametrize(("name", "count"), [("sd1", 192 + 72), ("sdxl", 722 + 72 + 192)])
def test_the_layers_that_kohya_trains_are_found(name: str, count: int) -> None:
    layers = [
        layer
        for layer in layers_of(fact_shapes(name))
        if layer.name.startswith(("lora_te", "lora_unet")) and _trained(layer.name) and len(layer.shape) >= 2
    ]
    assert len(layers) == count
    table = layers_by_id(fact_shapes(name))
    if name == "sdxl":
        layer = table["te2_text_model_encoder_layers_3_self_attn_k_proj"]
        assert (layer.weight, layer.rows) == (
            "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight",
            (1280, 2560),
        )
        assert table["unet_down_blocks_2_attentions_1_proj_in"].weight == UNET + "input_blocks.8.1.proj_in.weight"
        assert table["unet_up_blocks_0_upsamplers_0_conv"].weight == UNET + "output_blocks.2.2.conv.weight"


def _trained(name: str) -> bool:
    """What sd-scripts' create_network takes by default: transformers, and attention and MLP of text encoders."""
    if name.startswith("lora_te"):
        return "_self_attn_" in name or "_mlp_fc" in name
    return ("_transformer_blocks_" in name or name.endswith(("_proj_in", "_proj_out"))) and "norm" not in name


def test_rows_of_a_fused_tensor_are_patched_alone(tmp_path: Path) -> None:
    key = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    stem = "lora_te_text_model_encoder_layers_0_self_attn_k_proj"
    lora = opened(
        tmp_path,
        {f"{stem}.lora_up.weight": column(1, 2), f"{stem}.lora_down.weight": row(1, 1)},
        {key: torch.zeros(6, 2), MATRIX: torch.zeros(6, 1024)},
    )
    assert lora.tensor(key).tolist() == [[0, 0], [0, 0], [1, 1], [2, 2], [0, 0], [0, 0]]


def test_a_lora_takes_part_in_a_merge_and_the_plan_tells_what_fits(tmp_path: Path) -> None:
    tensors = {
        f"{K}.lora_up.weight": column(1, 2),
        f"{K}.lora_down.weight": row(10, 20),
        "lora_unet_nobody_knows.lora_up.weight": column(1),
        "lora_unet_nobody_knows.lora_down.weight": row(1),
    }
    lora = opened(tmp_path, tensors)
    models = {"a": lora.base, "b": lora}
    weights = {"alpha": weights_from_string("0.5", SD1) | {"IN01": 0.25}}
    recipe = MergeRecipe(
        models={n: ModelRef(str(m.path), m.sha256()) for n, m in models.items()},
        weights=weights,
        architecture="sd1",
        dtype="fp32",
    )
    assert dict(merge(recipe, models))[MATRIX].tolist() == [[3.5, 7], [8, 14]]
    notes = plan(recipe, models).notes
    assert notes[0] == (
        "lora.safetensors is a LoRA: 1 layers fit model A (1 tensors), "
        "1 do not and have no effect: lora_unet_nobody_knows"
    )


BROKEN = {
    "another size": ({f"{K}.lora_up.weight": column(1, 2, 3), f"{K}.lora_down.weight": row(1, 1)}, r"\[3, 2\].*another kind"),
    "ranks disagree": ({f"{K}.lora_up.weight": torch.ones(2, 3), f"{K}.lora_down.weight": torch.ones(4, 2)}, "do not fit"),
    "rank nought": ({f"{K}.lora_up.weight": torch.ones(2, 0), f"{K}.lora_down.weight": torch.ones(0, 2)}, "do not fit"),
    "half a pair": ({f"{K}.lora_up.weight": column(1, 2)}, "lacks its down"),
    "half a LoHa": ({f"{K}.hada_w1_a": column(1, 2), f"{K}.hada_w1_b": row(1, 2)}, "lacks its hada_w2_a"),
    "whole numbers": ({f"{K}.diff": torch.ones(2, 2, dtype=torch.int64)}, "I64"),
    "alpha of many": ({f"{K}.lora_up.weight": column(1, 2), f"{K}.lora_down.weight": row(1, 1), f"{K}.alpha": row(1, 2)}, "one number"),
    "alpha alone": ({f"{K}.alpha": torch.tensor(1.0)}, "none of its 1 layers"),
    "a bias of another size": ({f"{C}.diff_b": torch.ones(5)}, r"\[5\]"),
    "twice": ({f"{K}.diff": torch.ones(2, 2), f"{K.replace('down_blocks_0_attentions_0', 'input_blocks_1_1')}.diff": torch.ones(2, 2)}, "two names|same parameter"),
    "a length for nothing": ({f"{K}.diff": torch.ones(2, 2), f"{K}.dora_scale": torch.tensor(1.0)}, "dora_scale' is"),
    "OFT of one axis": ({f"{K}.oft_blocks": torch.ones(2, 2)}, "oft_blocks"),
    "OFT of another size": ({f"{K}.oft_blocks": torch.ones(3, 2, 2)}, r"\[6, 2\].*another kind"),
    "OFT with DoRA": ({f"{K}.oft_blocks": torch.ones(1, 2, 2), f"{K}.dora_scale": column(1, 1)}, "DoRA of a rotation or an IA3"),
    "no butterfly": ({f"{K}.oft_blocks": torch.ones(99, 1, 2, 2)}, "form no butterfly"),
    "no level of a butterfly": ({f"{K}.oft_blocks": torch.ones(0, 1, 2, 2)}, "form no butterfly"),
    "no triangle": ({f"{K}.oft_R.weight": row(1, 2)}, "form no triangle"),
    "BOFT of several factors": ({f"{K}.boft_R": torch.ones(2, 1, 2, 2), f"{K}.boft_s": column(1, 1)}, "boft_R.*several"),
    "IA3 of another size": ({f"{K}.weight": torch.ones(5), f"{K}.on_input": torch.tensor(True)}, "on_input of an IA3"),
    "IA3 of two axes": ({f"{K}.weight": torch.ones(1, 2), f"{K}.on_input": torch.tensor(True)}, "on_input of an IA3"),
    "half an IA3": ({f"{K}.on_input": torch.tensor(True)}, "lacks its weight"),
    "half a GLoRA": ({f"{K}.a1.weight": torch.ones(2, 1)}, "lacks its a2 and b1 and b2"),
    "GLoRA of another size": ({f"{K}.{x}.weight": torch.ones(3, 1) if x[1] == "1" else torch.ones(1, 3) for x in ("a1", "a2", "b1", "b2")}, "do not fit"),
    "two adapters": ({f"{K}.diff": torch.ones(2, 2), f"{K}.lora_up.weight": column(1, 1), f"{K}.lora_down.weight": row(1, 1)}, "different adapters"),
    "old OFT": ({f"{K}.oft_diag": torch.ones(2, 2)}, "oft_diag are not supported"),
    "VeRA": ({f"{K}.vera_lambda_d": torch.ones(2)}, "vera_lambda_d are not supported"),
    "GLoRA of PEFT": ({"base_model.model.x.glora_A.default.Xd": torch.ones(2)}, "glora_A are not supported"),
    "a bias of factors": ({f"{K}.lora_A.bias": torch.ones(2)}, r"lora_A\.bias are not supported"),
    "a bias with factors": ({"diffusion_model.input_blocks.1.0.in_layers.2.bias.lora_up.weight": column(1, 2), "diffusion_model.input_blocks.1.0.in_layers.2.bias.lora_down.weight": row(1, 1)}, "no matrix"),
    "whole tensors only": ({f"{K}.weight": torch.ones(2, 2), f"{K}.bias": torch.ones(2)}, "none of its 2 layers"),
    "no dimension": ({f"{K}.lora_up.weight": torch.tensor(1.0), f"{K}.lora_down.weight": row(1, 1)}, "do not form a matrix"),
    "for another model": ({"lora_unet_nobody.lora_up.weight": column(1), "lora_unet_nobody.lora_down.weight": row(1)}, "none of its 1 layers"),
    "a middle that fits nothing": ({f"{C}.lora_up.weight": column(1, 1), f"{C}.lora_down.weight": row(1, 1), f"{C}.lora_mid.weight": torch.ones(3, 3, 2, 2)}, "do not fit"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_lora_that_does_not_fit_is_one_line(tmp_path: Path, case: str) -> None:
    tensors, words = BROKEN[case]
    with pytest.raises(CheckpointError, match=words) as error:
        opened(tmp_path, tensors)
    assert str(tmp_path / "lora.safetensors") in str(error.value)
    assert "\n" not in str(error.value)


def test_nan_in_a_lora_is_named_when_it_is_met(tmp_path: Path) -> None:
    lora = opened(tmp_path, {f"{K}.lora_up.weight": column(1, float("nan")), f"{K}.lora_down.weight": row(1, 1)})
    with pytest.raises(CheckpointError, match=r"lora_up\.weight' holds"):
        lora.scan()


@pytest.mark.slow
def test_a_lora_of_too_many_tensors_or_too_long_names_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it holds 50001 tensors"):
        opened(tmp_path, {f"lora_{number}.diff": torch.ones(0) for number in range(50_001)})
    long = {f"{K}.diff": torch.ones(2, 2), "lora_" + ".processor.a" * 50_000 + "_lora.up.weight": torch.ones(1)}
    assert opened(tmp_path, long).notes[0].endswith("...")


def test_a_lora_is_no_model_a(tmp_path: Path) -> None:
    lora = opened(tmp_path, {f"{K}.diff": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match="this is a LoRA; give the checkpoint that it is for as model A"):
        LoraModel(open_checkpoint(lora.path), open_checkpoint(lora.path))


@pytest.mark.parametrize("family", ["sd3", "sd35", "flux"])
def test_diffusers_fuses_the_same_numbers_into_a_transformer(family: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    modules = make_modules(family, seed=1)
    states = {part: dict(module.state_dict()) for part, module in modules.items()}
    start = "model.diffusion_model."
    whole = {key: t.detach().contiguous().clone() for key, t in single_file(states).items()}
    save_file(whole, tmp_path / "base.safetensors")
    bare = {key.removeprefix(start): tensor for key, tensor in whole.items() if key.startswith(start)}
    save_file(bare, tmp_path / "bare.safetensors")
    generator = torch.Generator().manual_seed(5)
    network, tensors = modules["transformer"], {}
    layers = [name for name, m in network.named_modules() if isinstance(m, torch.nn.Linear) and _stays(name)]
    for name in layers:
        out, into = network.get_submodule(name).weight.shape
        tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(out, 3, generator=generator)
        tensors[f"transformer.{name}.lora_A.weight"] = 0.1 * torch.randn(3, into, generator=generator)
    save_file(tensors, tmp_path / "lora.safetensors")
    lora = LoraModel(open_checkpoint(tmp_path / "base.safetensors"), open_checkpoint(tmp_path / "lora.safetensors"))
    assert lora.unmatched == ()
    assert len(lora.patches) == len(layers)
    network.load_lora_adapter(dict(tensors), prefix="transformer")
    network.fuse_lora(lora_scale=1.0)
    network.unload_lora()
    fused = single_file({part: dict(module.state_dict()) for part, module in modules.items()})
    for key, tensor in fused.items():
        torch.testing.assert_close(lora.tensor(key), tensor, rtol=1e-5, atol=1e-6, msg=partial("{}: {}".format, key))
    alone = LoraModel(open_checkpoint(tmp_path / "bare.safetensors"), open_checkpoint(tmp_path / "lora.safetensors"))
    assert {f"{start}{key}" for key in alone.changed} == lora.changed


def _stays(name: str) -> bool:
    """Whether a layer has its rows where the file has them."""
    return not name.startswith("norm_out") and not name.endswith("norm1_context.linear")


@pytest.mark.parametrize(
    ("name", "key", "rows"),
    [
        ("lora_unet_double_blocks_3_img_attn_qkv", "double_blocks.3.img_attn.qkv.weight", None),
        ("transformer.transformer_blocks.3.attn.to_k", "double_blocks.3.img_attn.qkv.weight", (8, 16)),
        ("lora_transformer_transformer_blocks_3_attn_add_v_proj", "double_blocks.3.txt_attn.qkv.weight", (16, 24)),
        ("transformer.single_transformer_blocks.7.proj_mlp", "single_blocks.7.linear1.weight", (24, 56)),
        ("transformer.single_transformer_blocks.7.proj_out", "single_blocks.7.linear2.weight", None),
        ("transformer.x_embedder", "img_in.weight", None),
        ("transformer.double_blocks.3.img_attn.qkv.1", "double_blocks.3.img_attn.qkv.weight", (8, 16)),
        ("transformer.single_blocks.7.linear1.0", "single_blocks.7.linear1.weight", (0, 8)),
        ("transformer.single_blocks.7.linear1.3", "single_blocks.7.linear1.weight", (24, 56)),
        ("transformer.img_in.proj", "img_in.weight", None),
        ("lora_transformer.single_transformer_blocks.7.proj_mlp", "single_blocks.7.linear1.weight", (24, 56)),
    ],
)
def test_layers_of_flux_by_hand(name: str, key: str, rows: tuple[int, int] | None) -> None:
    states = {part: dict(module.state_dict()) for part, module in make_modules("flux").items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in single_file(states).items()}
    layer = find_layer(name, layers_by_id(shapes))
    assert layer
    assert (layer.weight, layer.rows) == (f"model.diffusion_model.{key}", rows)
    assert len({found.weight for found in layers_of(shapes)}) == len(layers_of(shapes))
    clip = find_layer("lora_te1_text_model_encoder_layers_0_mlp_fc1", layers_by_id(shapes))
    assert clip
    assert clip.weight == "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    for name in ("lora_te3_", "lora_te2_", "lora_te_", "t5.", "t5xxl.transformer."):
        t5 = find_layer(f"{name}encoder.block.0.layer.0.SelfAttention.q", layers_by_id(shapes))
        assert t5
        assert t5.weight == "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"


def test_diffusers_fuses_the_same_numbers(tmp_path: Path, tiny_a: Path, tiny_sd1_config: Path) -> None:
    pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline

    generator = torch.Generator().manual_seed(5)
    base = open_checkpoint(tiny_a)
    layers = [layer for layer in layers_of(base.shapes) if _trained(layer.name) and len(layer.shape) >= 2]
    tensors: dict[str, torch.Tensor] = {}
    for layer in layers:
        out, into, *kernel = layer.shape
        tensors[f"{layer.name}.lora_up.weight"] = torch.randn(out, 3, *[1] * len(kernel), generator=generator)
        tensors[f"{layer.name}.lora_down.weight"] = 0.1 * torch.randn(3, into, *kernel, generator=generator)
        tensors[f"{layer.name}.alpha"] = torch.tensor(1.5)
    save_file(tensors, tmp_path / "kohya.safetensors")
    lora = LoraModel(base, open_checkpoint(tmp_path / "kohya.safetensors"))
    assert len(lora.patches) == len(layers)
    assert lora.unmatched == ()
    pipe = StableDiffusionPipeline.from_single_file(
        str(tiny_a),
        config=str(tiny_sd1_config),
        tokenizer=build_tokenizer(),
        local_files_only=True,
        safety_checker=None,
        torch_dtype=torch.float32,
    )
    pipe.load_lora_weights(str(tmp_path), weight_name="kohya.safetensors")
    pipe.fuse_lora(lora_scale=1.0)
    pipe.unload_lora_weights()
    from bayes_merger.imaging.pipelines.keymap import single_file_views

    for key, fused in single_file_views(pipe).items():
        torch.testing.assert_close(
            lora.tensor(key).float(), fused, rtol=1e-5, atol=1e-6, msg=partial("{}: {}".format, key)
        )
    assert len(lora.changed) == len(layers)
