from __future__ import annotations

from collections import Counter

import pytest

from bayes_merger.checkpoints.blocks import blocks_to_string
from bayes_merger.checkpoints.kinds import detect_kind
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging import SD1, Place, identify, weights_from_string, weights_to_string
from tests.merging.tiny_models import SHAPES, UNET
from tests.real_keys import fact_shapes, facts, needs_facts

# Tensors per block of Stable Diffusion 1.5; 4 of time_embed and 196 of the text encoder follow BASE, 4 of out OUT11.
TENSORS = {
    "BASE": 4 + 196,
    "IN00": 2, "IN01": 36, "IN02": 36, "IN03": 2, "IN04": 38, "IN05": 36, "IN06": 2, "IN07": 38, "IN08": 36,
    "IN09": 2, "IN10": 10, "IN11": 10, "M00": 46, "OUT00": 12, "OUT01": 12, "OUT02": 14, "OUT03": 38, "OUT04": 38,
    "OUT05": 40, "OUT06": 38, "OUT07": 38, "OUT08": 40, "OUT09": 38, "OUT10": 38, "OUT11": 38 + 4,
}  # fmt: skip


@needs_facts
def test_every_key_of_a_real_checkpoint_has_its_place() -> None:
    places = {key: SD1.place(key) for key in facts("sd1")}
    assert Counter(place.block for place in places.values() if place.role == "block") == TENSORS
    assert Counter(place.role for place in places.values()) == {
        "block": 686 + 196, "vae": 248, "position_ids": 1, "ema": 688, "schedule": 12,
    }  # fmt: skip


@needs_facts
def test_places_agree_with_an_independent_list_of_components() -> None:
    roles = {"diffuser": "block", "clip_l": "block", "vae": "vae", "ema": "ema", "scheduler": "schedule"}
    for key, about in facts("sd1").items():
        expected = "position_ids" if key.endswith("position_ids") else roles[str(about["component"])]
        assert SD1.place(key).role == expected, key


@needs_facts
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
def test_real_key_lists_are_told_apart(name: str) -> None:
    assert detect_kind(fact_shapes(name)).name == name


@pytest.mark.parametrize(
    ("key", "place"),
    [
        (UNET + "input_blocks.4.0.in_layers.0.weight", Place("block", "IN04")),
        (UNET + "input_blocks.11.0.in_layers.0.weight", Place("block", "IN11")),
        (UNET + "input_blocks.12.0.in_layers.0.weight", Place("other")),
        (UNET + "middle_block.1.proj_in.weight", Place("block", "M00")),
        (UNET + "output_blocks.8.2.conv.bias", Place("block", "OUT08")),
        (UNET + "time_embed.0.bias", Place("block", "BASE", "TIME")),
        (UNET + "out.0.bias", Place("block", "OUT11", "OUT")),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", Place("block", "BASE", "TE")),
        ("cond_stage_model.transformer.text_model.embeddings.position_ids", Place("position_ids")),
        ("cond_stage_model.logit_scale", Place("block", "BASE", "TE")),
        ("first_stage_model.quant_conv.bias", Place("vae", "BASE", "VAE")),
        ("model_ema.diffusion_modelinput_blocks00bias", Place("ema")),
        ("sqrt_recipm1_alphas_cumprod", Place("schedule")),
        ("posterior_mean_coef2", Place("schedule")),
        ("v_pred", Place("marker")),
        ("ztsnr", Place("marker")),
        ("embedding_manager.weights", Place("other")),
    ],
)
def test_a_key_has_one_place(key: str, place: Place) -> None:
    assert SD1.place(key) == place


def test_a_tiny_model_with_the_layout_of_sd1_is_sd1() -> None:
    assert identify(SHAPES) is SD1


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({**SHAPES, "conditioner.embedders.0.model.x": (1,)}, r"no conditioner\.embedders\.0\.model\.x"),
        (
            {UNET + "label_emb.0.0.bias": (8,), UNET + "out.2.bias": (4,), UNET + "input_blocks.0.0.bias": (8,)},
            "XL .* parts",
        ),
        ({UNET + "joint_blocks.0.x_block.attn.qkv.weight": (3, 3)}, "Diffusion 3"),
        ({UNET + "double_blocks.0.x": (1,), UNET + "single_blocks.0.x": (1,)}, "Flux"),
        ({"lora_unet_down_blocks_0.lora_down.weight": (4, 320)}, "a LoRA"),
        ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "ControlNet"),
        ({"first_stage_model.decoder.conv_in.weight": (5, 4, 3, 3)}, "VAE alone"),
        ({"decoder.up.0.block.0.conv1.weight": (5, 4, 3, 3)}, "VAE alone"),
        ({"down_blocks.0.resnets.0.conv1.weight": (5, 4, 3, 3)}, "diffusers folder"),
        ({"text_model.embeddings.token_embedding.weight": (9, 4)}, "text encoder alone"),
        ({"emb_params": (1, 768)}, "embedding"),
        ({UNET + "input_blocks.0.0.weight": (8, 4, 3, 3)}, "parts of its U-Net missing"),
        ({"model.0.weight": (64, 3, 3, 3)}, "upscaler"),
        ({"layer.weight": (3,)}, "a model this program does not know"),
    ],
)
def test_what_cannot_be_merged_is_named(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as error:
        identify(shapes)
    assert "\n" not in str(error.value)


def test_a_weight_string_has_26_numbers_or_25_and_a_base_or_one() -> None:
    numbers = [i / 25 for i in range(26)]
    text = ",".join(str(n) for n in numbers)
    weights = weights_from_string(text, SD1)
    assert list(weights) == list(SD1.blocks)
    assert (weights["BASE"], weights["IN00"], weights["M00"], weights["OUT11"]) == (0, 0.04, 0.52, 1)
    without_base = ", ".join(str(n) for n in numbers[1:])
    assert weights_from_string(without_base, SD1, base=0) == weights
    assert weights_from_string("0.25\n", SD1) == dict.fromkeys(SD1.blocks, 0.25)
    assert weights_from_string("0.25", SD1, base=1) == dict.fromkeys(SD1.blocks, 0.25) | {"BASE": 1}


def test_a_weight_string_is_written_ready_to_paste() -> None:
    weights = dict.fromkeys(SD1.blocks, 0.5) | {"BASE": 1 / 3, "IN00": 0, "OUT11": -1e-9, "M00": 1}
    text = weights_to_string(weights, SD1)
    assert text == "0.3333,0," + "0.5," * 11 + "1," + "0.5," * 11 + "0"
    assert weights_from_string(text, SD1) == weights | {"BASE": 0.3333, "OUT11": 0}


@pytest.mark.parametrize(
    ("text", "base", "words"),
    [
        ("0.1,0.2", None, "2 numbers for sd1; give 26"),
        ("0,3", None, "2 numbers for sd1; give 26 .+, or one for all; decimals have a point"),
        (",".join(["0"] * 25), None, "25 numbers"),
        (",".join(["0"] * 26), 0.5, "26 numbers and a base"),
        ("", None, "0 numbers"),
        ("0.5,x", None, "'x' is not a number"),
        ("nan", None, "not finite"),
        ("inf", None, "not finite"),
    ],
)
def test_a_wrong_weight_string_is_refused(text: str, base: float | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        weights_from_string(text, SD1, base=base)


def test_a_lacking_block_is_named_when_weights_are_written() -> None:
    with pytest.raises(ConfigError, match="no number for OUT11"):
        weights_to_string(dict.fromkeys(SD1.blocks[:-1], 0.5), SD1)


def test_blocks_are_found_under_their_other_names() -> None:
    assert [SD1.block(n) for n in ("in04", "base", "block_0", "block_12", "block_24", "te")] == [
        "IN04", "BASE", "IN00", "M00", "OUT11", "TE",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="'IN0' is not a block of sd1: did you mean IN"):
        SD1.block("IN0")
    with pytest.raises(ConfigError, match="'block_25' is not a block"):
        SD1.block("block_25")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), ""),
        (("IN03",), "IN03"),
        (("IN04", "IN03"), "IN03, IN04"),
        (("BASE", "IN00", "IN01", "IN02", "M00", "OUT00"), "BASE, IN00-IN02, M00, OUT00"),
        (("IN10", "IN11", "M00", "OUT00", "OUT01", "OUT02"), "IN10, IN11, M00, OUT00-OUT02"),
        (("face", "TE", "OUT11"), "OUT11, face, TE"),
    ],
)
def test_neighbours_are_listed_as_ranges(names: tuple[str, ...], text: str) -> None:
    assert blocks_to_string(names, SD1.blocks) == text


@pytest.mark.parametrize("form", ["{}", "[{}]", "({})", "MY_MIX\t{}", "MY MIX:{}", "weights={}", " {},\n"])
@pytest.mark.parametrize("between", [",", ", ", ";", " ", "\n"])
def test_weights_are_read_as_they_are_pasted(form: str, between: str) -> None:
    text = form.format(between.join(["0.25", *25 * ["0.5"]]))
    assert weights_from_string(text, SD1) == {block: 0.25 if block == "BASE" else 0.5 for block in SD1.blocks}
