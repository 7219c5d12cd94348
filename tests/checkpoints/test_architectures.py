from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bayes_merger.checkpoints.architectures import FLUX, SD2, SD3, SD3_LARGE, SDXL, divided, own_blocks
from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging import ARCHITECTURES, SD1, Place, identify, weights_from_string, weights_to_string
from tests.merging.tiny_models import SHAPES, UNET
from tests.real_keys import fact_shapes, facts, needs_facts

# Tensors per U-Net block of SDXL, counted in diffusers' own modules; 4 of out follow OUT08.
SDXL_TENSORS = {
    "IN00": 2, "IN01": 10, "IN02": 10, "IN03": 2, "IN04": 58, "IN05": 56, "IN06": 2, "IN07": 218, "IN08": 216,
    "M00": 226, "OUT00": 218, "OUT01": 218, "OUT02": 220, "OUT03": 58, "OUT04": 58, "OUT05": 60,
    "OUT06": 12, "OUT07": 12, "OUT08": 12 + 4,
}  # fmt: skip


@needs_facts
def test_every_key_of_sdxl_has_its_place() -> None:
    places = [SDXL.place(key) for key in facts("sdxl")]
    base = 4 + 4 + 196 + 390  # time_embed, label_emb, CLIP-L without its position ids, bigG
    assert Counter(place.block for place in places if place.role == "block") == {"BASE": base, **SDXL_TENSORS}
    assert Counter(place.role for place in places) == {
        "block": 1680 + 196 + 390, "vae": 248, "position_ids": 1, "schedule": 12, "marker": 4,
    }  # fmt: skip
    assert Counter(place.slot for place in places if place.slot) == {
        "TIME": 4, "LABEL": 4, "OUT": 4, "CLIP_L": 196, "CLIP_G": 390, "VAE": 248,
    }  # fmt: skip


@needs_facts
@pytest.mark.parametrize(
    ("name", "blocks", "base", "slots"),
    [
        ("sd3", {f"IN{i:02d}": 20 for i in range(23)} | {"IN23": 14 + 4}, 516 + 2 + 196 + 2 + 218 + 2 + 13,
         {"TIME": 4, "LABEL": 4, "EMBED": 5, "OUT": 4, "CLIP_L": 198, "CLIP_G": 518, "T5": 220, "VAE": 244}),
        ("flux", {f"D{i:02d}": 24 for i in range(19)} | {f"S{i:02d}": 8 for i in range(37)} | {"S37": 8 + 4},
         196 + 219 + 16, {"TIME": 8, "LABEL": 4, "EMBED": 4, "OUT": 4, "CLIP_L": 196, "T5": 219, "VAE": 244}),
    ],
)  # fmt: skip
def test_every_key_of_a_transformer_has_its_place(
    name: str, blocks: dict[str, int], base: int, slots: dict[str, int]
) -> None:
    shapes = fact_shapes(name)
    architecture = identify(shapes)
    assert architecture is ARCHITECTURES[name]
    places = [architecture.place(key) for key in shapes]
    assert "other" not in {place.role for place in places}
    assert Counter(place.block for place in places if place.role == "block") == blocks | {"BASE": base}
    assert Counter(place.slot for place in places if place.slot) == slots
    bare = {key.removeprefix(UNET): shape for key, shape in shapes.items() if key.startswith(UNET)}
    assert identify(bare) is architecture
    assert {key: architecture.place(key) for key in bare} == {key: architecture.place(UNET + key) for key in bare}


@needs_facts
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
def test_a_key_has_one_rule_unless_a_special_one_speaks_first(name: str) -> None:
    for key in facts(name):
        found = [rule for rule in ARCHITECTURES[name].rules if rule.find(key)]
        assert len(found) == 1 or found[0].role == "position_ids", key


@needs_facts
def test_sd2_has_the_names_of_sd1_and_other_shapes() -> None:
    shapes = {key: shape for key, shape in fact_shapes("sd1").items() if not key.startswith("cond_stage_model.")}
    wide = {
        key: (*s[:-1], 1024) if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) else s
        for key, s in shapes.items()
    }
    shapes |= wide | {"cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight": (3072, 1024)}
    assert identify(shapes) is SD2
    assert SD2.blocks == SD1.blocks
    assert SD2.place("cond_stage_model.model.ln_final.bias") == Place("block", "BASE", "TE")
    assert not SD2.prediction  # whether it predicts v is not in the file


def test_a_large_sd3_has_38_blocks() -> None:
    def shapes(count: int) -> dict[str, tuple[int, ...]]:
        blocks: dict[str, tuple[int, ...]] = {
            f"{UNET}joint_blocks.{i}.x_block.attn.qkv.weight": (3, 3) for i in range(count)
        }
        return blocks | {UNET + "t_embedder.mlp.0.bias": (3,)}

    assert identify(shapes(24)) is SD3
    assert identify(shapes(38)) is SD3_LARGE
    with pytest.raises(CheckpointError, match="parts missing \\(IN23\\)"):
        identify(shapes(23))
    with pytest.raises(CheckpointError, match="parts missing \\(IN30, IN31, IN32 and 5 more\\)"):
        identify(shapes(30))


def test_weight_strings_have_as_many_numbers_as_blocks() -> None:
    text = ",".join(str(i) for i in range(20))
    weights = weights_from_string(text, SDXL)
    assert (weights["BASE"], weights["IN00"], weights["IN08"], weights["M00"], weights["OUT08"]) == (0, 1, 9, 10, 19)
    assert weights_from_string(text.removeprefix("0,"), SDXL, base=0) == weights
    assert weights_to_string(weights, SDXL) == text
    assert len(weights_from_string("0.5", FLUX)) == 1 + 19 + 38
    with pytest.raises(ConfigError, match="27 numbers for sdxl; give 20 \\(BASE first\\), 19 and a base"):
        weights_from_string(",".join("0" * 27), SDXL)


def test_the_26_numbers_of_stable_diffusion_1_are_for_sdxl_as_supermerger_reads_them() -> None:
    # weighttoxl, after BASE: weight[:9] + weight[12:22]
    numbers = list(range(26))
    weights = weights_from_string(",".join(map(str, numbers)), SDXL)
    assert list(weights.values()) == [0, *numbers[1:10], *numbers[13:23]]
    assert weights_from_string(",".join(map(str, numbers[1:])), SDXL, base=0) == weights
    mine = divided(SDXL, (("ATTN", ("*.attn1.",)),))
    with pytest.raises(ConfigError, match="26 numbers for sdxl; give 2 "):
        weights_from_string(",".join(map(str, numbers)), mine)


@pytest.mark.parametrize("architecture", [SD1, SD2])
def test_17_numbers_are_lora_block_weights(architecture: Architecture) -> None:
    text = ",".join(str(number) for number in range(1, 18))
    weights = weights_from_string(text, architecture, of_lora=True)
    assert {block: number for block, number in weights.items() if number} == {
        "BASE": 1, "IN01": 2, "IN02": 3, "IN04": 4, "IN05": 5, "IN07": 6, "IN08": 7, "M00": 8, "OUT03": 9, "OUT04": 10,
        "OUT05": 11, "OUT06": 12, "OUT07": 13, "OUT08": 14, "OUT09": 15, "OUT10": 16, "OUT11": 17,
    }  # fmt: skip
    assert list(weights) == list(architecture.blocks)
    with pytest.raises(ConfigError, match="17 numbers"):
        weights_from_string(text, architecture)


def test_12_numbers_are_lora_block_weights_for_sdxl() -> None:
    text = ",".join(str(number) for number in range(1, 13))
    weights = weights_from_string(text, SDXL, of_lora=True)
    assert {block: number for block, number in weights.items() if number} == {
        "BASE": 1, "IN04": 2, "IN05": 3, "IN07": 4, "IN08": 5, "M00": 6,
        "OUT00": 7, "OUT01": 8, "OUT02": 9, "OUT03": 10, "OUT04": 11, "OUT05": 12,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="17 numbers"):
        weights_from_string(",".join("1" * 17), SDXL, of_lora=True)


def test_an_element_is_what_follows_the_block_s_name() -> None:
    for architecture, key, element in (
        (SD1, UNET + "input_blocks.11.0.in_layers.0.weight", "0.in_layers.0.weight"),
        (SD1, UNET + "time_embed.0.bias", "time_embed.0.bias"),
        (SD1, UNET + "out.2.bias", "out.2.bias"),
        (SDXL, "conditioner.embedders.1.model.ln_final.bias", "model.ln_final.bias"),
        (SD3, UNET + "joint_blocks.7.x_block.attn.qkv.weight", "x_block.attn.qkv.weight"),
        (FLUX, "img_in.bias", "img_in.bias"),
        (FLUX, "text_encoders.t5xxl.transformer.shared.weight", "t5xxl.transformer.shared.weight"),
    ):
        assert architecture.element(key) == element


OWN = {"attn": ["*.attn2.", "*.to_k."], "TE": "cond_stage_model.", "rest": [UNET]}


def test_a_table_of_one_s_own_divides_the_same_tensors_anew() -> None:
    own = own_blocks(OWN)
    mine = divided(SD1, own, SHAPES)
    assert mine.blocks == ("BASE", "ATTN", "TE", "REST")
    assert mine.slots == ("TIME", "OUT", "VAE")
    attention = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert mine.place(attention) == Place("block", "ATTN")
    assert mine.place(UNET + "out.2.weight") == Place("block", "REST", "OUT")
    assert mine.place("cond_stage_model.logit_scale") == Place("block", "TE")
    assert mine.place("first_stage_model.quant_conv.bias") == Place("vae", "BASE", "VAE")
    assert mine.place("betas") == Place("schedule")
    assert mine.element(attention) == "1.transformer_blocks.0.attn2.to_k.weight"
    assert own_blocks([list(pair) for pair in own]) == own
    assert weights_from_string("0,1,2,3", mine) == {"BASE": 0, "ATTN": 1, "TE": 2, "REST": 3}
    assert divided(SD1, ()) is SD1
    assert replace(mine, whole=None) != mine


@needs_facts
def test_a_table_of_one_s_own_leaves_no_key_of_a_real_model_without_a_place() -> None:
    shapes = fact_shapes("sdxl")
    mine = divided(
        SDXL, own_blocks({"ATTN": "*.attn", "CLIP": "conditioner.", "DEEP": UNET + "*.transformer_blocks.9."}), shapes
    )
    before = Counter(SDXL.place(key).role for key in shapes)
    assert Counter(mine.place(key).role for key in shapes) == before
    assert {mine.place(key).block for key in shapes} == {None, "BASE", "ATTN", "CLIP", "DEEP"}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "expected a table"),
        ("ATTN", "expected a table"),
        (["ATTN"], "'ATTN' is not a block with its keys"),
        ({"A B": ["x"]}, "'A B' is not a valid block name"),
        ({1: ["x"]}, "1 is not a valid block name"),
        ({"attn": ["x"], "ATTN": ["y"]}, "ATTN appears twice"),
        ({"ATTN": []}, "ATTN: \\[\\] is not a list"),
        ({"ATTN": [3]}, "is not a list"),
        ({"ATTN": ""}, "is not a list"),
        ({"ATTN": None}, "is not a list"),
        ({"ATTN": [UNET + "inptu_blocks."]}, "no tensor of model A starts with .*did you mean"),
        ({"ALL": [UNET], "ATTN": ["*.attn2."]}, "ATTN gets no tensor"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(table: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        divided(SD1, own_blocks(table), SHAPES)
    assert "\n" not in str(error.value)
