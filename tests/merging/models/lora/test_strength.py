"""Alpha over rank from every place that says it, PEFT's patterns, and what a hostile file says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import CheckpointError
from bayes_merger.merging.models.lora.strength import Strengths

UNET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v"
BARE = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_v"


def strengths(folder: Path, header: dict[str, Any] | None = None, beside: object = None, **plain: str) -> Strengths:
    metadata = dict(plain)
    if header is not None:
        metadata["lora_adapter_metadata"] = json.dumps(header)
    if beside is not None:
        (folder / "adapter_config.json").write_text(beside if isinstance(beside, str) else json.dumps(beside))
    return Strengths(folder / "adapter_model.safetensors", metadata)


@pytest.mark.parametrize(
    ("name", "header", "beside", "plain", "wanted"),
    [
        (UNET, {"unet.lora_alpha": 8, "unet.r": 4}, None, {}, 2),
        (UNET, {"unet.lora_alpha": 8, "unet.use_rslora": True}, None, {}, 4),
        (UNET, {"unet.lora_alpha": None}, None, {}, None),
        (UNET, {"text_encoder.lora_alpha": 8}, None, {}, None),
        (UNET, {"lora_alpha": 8}, None, {}, 2),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", {"text_encoder_2.lora_alpha": 1}, None, {}, 0.25),
        (BARE, None, {"peft_type": "LORA", "r": 4, "lora_alpha": 16}, {}, 4),
        (BARE, None, {"peft_type": "LOHA", "r": 4, "alpha": 6}, {}, 1.5),
        (BARE, None, {"lora_alpha": 16, "use_rslora": True}, {}, 8),
        (KOHYA, None, {"lora_alpha": 16}, {}, None),  # another file's configuration
        (BARE, None, {"lora_alpha": 16}, {"network_alpha": "2"}, 0.5),  # the file itself counts more
        (UNET, {"unet.lora_alpha": 8}, None, {"lora_alpha": "2"}, 2),
        (KOHYA, None, None, {"ss_network_alpha": "2.0"}, 0.5),
        (UNET, None, None, {"lora_alpha": "2"}, 0.5),
        (UNET, None, None, {"alpha": "1e0"}, 0.25),
        (UNET, None, None, {"ss_network_alpha": "None"}, None),
        (UNET, None, None, {}, None),
    ],
)
def test_the_first_place_that_says_an_alpha_counts(
    tmp_path: Path, name: str, header: Any, beside: Any, plain: dict[str, str], wanted: float | None
) -> None:
    said = strengths(tmp_path, header, beside, **plain)
    assert said.of(name, None, 4) == wanted
    assert said.of(name, 1.0, 4) == 0.25


def test_without_a_rank_the_configuration_s_counts_and_else_the_strength_is_1(tmp_path: Path) -> None:
    assert strengths(tmp_path, {"unet.alpha": 6, "unet.r": 4}).of(UNET, None, 0) == 1.5
    assert strengths(tmp_path, ss_network_alpha="6").of(KOHYA, None, 0) == 1
    assert strengths(tmp_path).of(KOHYA, 7.0, 0) == 1


PATTERNS = [
    {"v": 2},
    {"to_v": 2},
    {"to_k": 3, "to_v": 2},
    {"attn1.to_v": 2, "to_v": 3},
    {"ttn1.to_v": 2},
    {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v": 2},
    {"^to_v": 2},
    {"^down_blocks.*to_v": 2},
    {r"transformer_blocks\.\d+\.attn1\.to_v": 2},
    {"attn1": 2},
    {"attn1.*": 2},
    {"to_[qv]": 2},
    {"to_(q|v)": 2},
    {"attn2.to_v": 2},
    {"to.v": 2},
    {"q|to_v": 2},
    {"v|q": 2},
    {"": 2},
]


@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_patterns_are_matched_as_peft_does(tmp_path: Path, patterns: dict[str, float]) -> None:
    get_pattern_key = pytest.importorskip("peft.utils.other").get_pattern_key
    own = UNET.removeprefix("unet.")
    alpha = patterns.get(get_pattern_key(patterns.keys(), own), 8)
    said = strengths(tmp_path, {"unet.lora_alpha": 8, "unet.alpha_pattern": patterns, "unet.r": 4})
    assert said.of(UNET, None, 4) == alpha / 4
    rank = patterns.get(get_pattern_key(patterns.keys(), own), 4)
    said = strengths(tmp_path, {"unet.lora_alpha": 8, "unet.rank_pattern": patterns, "unet.r": 4})
    assert said.of(UNET, None, 0) == 8 / rank


def test_a_pattern_is_a_whole_part_of_the_name_at_its_end(tmp_path: Path) -> None:
    def alpha(pattern: str) -> float | None:
        return strengths(tmp_path, {"unet.lora_alpha": 8, "unet.alpha_pattern": {pattern: 4}}).of(UNET, None, 4)

    assert [alpha(pattern) for pattern in ("to_v", "attn1.to_v", "to_.", "v", "_v", "attn1", "attn1.to_")] == [
        1, 1, 1, 2, 2, 2, 2,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('{"unet.lora_alpha": NaN}', "lora_alpha is nan"),
        ('{"unet.lora_alpha": 1e400}', "lora_alpha is inf"),
        ('{"unet.lora_alpha": 1e11}', "lora_alpha is 100000000000.0"),
        ('{"unet.lora_alpha": 1' + "0" * 400 + "}", "a number of many digits"),
        ('{"unet.lora_alpha": 1' + "0" * 5000 + "}", "no JSON object"),
        ('{"unet.lora_alpha": -1' + "0" * 400 + "}", "no strength"),
        ('{"unet.lora_alpha": "8"}', "lora_alpha is '8'"),
        ('{"unet.lora_alpha": true}', "lora_alpha is True"),
        ('{"unet.lora_alpha": [8]}', "no strength"),
        ('{"unet.lora_alpha": 1e8}', "an alpha of 1e\\+08 for a rank of 4"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": [1]}', "no table of patterns"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"(": 1}}', "no regular expression"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"(a+)+": 1}}', "too much to match"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"a?a?a?a?": 1}}', "too much to match"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"' + "a" * 400 + '": 1}}', "too much to match"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_v": "x"}}', "alpha_pattern is 'x'"),
        ("[" * 100_000, "no JSON object"),
        ("null", "no JSON object"),
        ("{", "no JSON object"),
    ],
    ids=lambda text: text[:40],
)
def test_an_alpha_that_is_none_is_one_line(tmp_path: Path, header: str, words: str) -> None:
    for said in (
        Strengths(tmp_path / "x.safetensors", {"lora_adapter_metadata": header}),
        strengths(tmp_path, beside=header.replace("unet.", "")),
    ):
        with pytest.raises(CheckpointError, match=words) as error:
            said.of(UNET, None, 4)
        assert len(str(error.value)) < 300
        assert str(error.value).isprintable()


@pytest.mark.parametrize("alpha", [math.nan, math.inf, 1e11, -9e18])
def test_an_alpha_out_of_all_proportion_is_one_line(tmp_path: Path, alpha: float) -> None:
    with pytest.raises(CheckpointError, match="an alpha of"):
        strengths(tmp_path).of(KOHYA, alpha, 4)


def test_a_large_alpha_of_what_has_no_rank_says_nothing(tmp_path: Path) -> None:
    assert strengths(tmp_path).of(KOHYA, 1e10, 0) == 1  # LyCORIS writes such for whole factors of LoKr


def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json beside it cannot be read"):
        strengths(tmp_path).of(BARE, None, 4)
    file.write_text(" " * 2**21)
    with pytest.raises(CheckpointError, match=r"more than 1048576 bytes"):
        strengths(tmp_path).of(BARE, None, 4)
    file.unlink()
    file.mkdir()
    assert strengths(tmp_path).of(BARE, None, 4) is None
