"""A merge as a LoRA, and back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bayes_merger.errors import ConfigError
from bayes_merger.merging import open_checkpoint
from bayes_merger.merging.engine.merge import merge
from bayes_merger.merging.export.lora import Rank, read_rank, save_lora
from bayes_merger.merging.models.lora import LoraModel
from tests.merging.tiny_models import UNET, even, opened, recipe_of

MATRIX = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def test_at_full_rank_the_lora_on_a_is_the_merge(tmp_path: Path) -> None:
    models = opened(tmp_path, dtype=torch.float32)
    recipe = recipe_of(models, even("0.4"))
    out = tmp_path / "lora.safetensors"
    result = save_lora(recipe, models, out, read_rank("rank=full,rest=diff"))
    lora = LoraModel(models["a"], open_checkpoint(out))
    assert lora.unmatched == ()
    left = set(result.left_out)
    assert left == {"cond_stage_model.logit_scale"}
    assert max(result.layers.values()) < 1e-6
    assert 0.01 < result.error < 0.02  # all of it that one number's, which stands for thousands here
    for key, merged in merge(recipe, models):
        if merged.is_floating_point() and key not in left:
            torch.testing.assert_close(lora.tensor(key), merged, rtol=0, atol=1e-6, msg=key)


def test_a_tensor_that_the_merge_widens_is_refused_and_one_that_it_does_not_is_no_matter(tmp_path: Path) -> None:
    models = opened(tmp_path, dtype=torch.float32)
    first = UNET + "input_blocks.0.0.weight"
    from safetensors.torch import save_file

    narrow = load_file(models["a"].path)
    out, into, *kernel = narrow[first].shape
    wide = load_file(models["b"].path)
    wide[first] = torch.cat([wide[first], torch.ones(out, 9 - into, *kernel)], 1)
    save_file(wide, tmp_path / "wide.safetensors")
    other = open_checkpoint(tmp_path / "wide.safetensors")
    recipe = recipe_of({"a": models["a"], "b": other}, even("1"))
    with pytest.raises(
        ConfigError, match=r"--as-lora: '.*input_blocks\.0\.0\.weight' is \[\d+, 9, .*with more channels"
    ):
        save_lora(
            replace(recipe, channels="pad"), {"a": models["a"], "b": other}, tmp_path / "x.safetensors", Rank(count=2)
        )
    turned = {"a": other, "b": models["a"]}
    recipe = replace(recipe_of(turned, even("1")), channels="pad")
    save_lora(recipe, turned, tmp_path / "l.safetensors", read_rank("rank=full,rest=diff"))
    lora = LoraModel(other, open_checkpoint(tmp_path / "l.safetensors"))
    torch.testing.assert_close(lora.tensor(first), dict(merge(recipe, turned))[first], rtol=0, atol=1e-6)
    assert not (tmp_path / "x.safetensors").exists()


def test_what_a_rank_lacks_is_said(tmp_path: Path) -> None:
    models = opened(tmp_path, dtype=torch.float32)
    change = torch.zeros(6, 7)
    change[0, 0], change[1, 1], change[2, 2] = 3.0, 2.0, 1.0
    a = load_file(models["a"].path)
    from safetensors.torch import save_file

    save_file(a | {MATRIX: a[MATRIX] + change}, tmp_path / "b.safetensors")
    pair = {"a": models["a"], "b": open_checkpoint(tmp_path / "b.safetensors")}
    recipe = recipe_of(pair, even("1"))
    result = save_lora(recipe, pair, tmp_path / "two.safetensors", Rank(count=2))
    assert result.layers == {NAME: pytest.approx(math.sqrt(1 / 14), rel=1e-5)}
    assert result.error == pytest.approx(math.sqrt(1 / 14), rel=1e-5)
    assert result.ranks == {NAME: 2}
    with safe_open(tmp_path / "two.safetensors", "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == {f"{NAME}.{part}" for part in ("alpha", "lora_up.weight", "lora_down.weight")}
        assert float(file.get_tensor(f"{NAME}.alpha")) == 2
    said = {key: metadata[key] for key in metadata if key.startswith("ss_")}
    assert said == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "2",
        "ss_network_args": '{"conv_dim": "2", "conv_alpha": "2"}',
        "ss_output_name": "two",
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
    }
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert "bayes_merger.recipe" in metadata
    # 9 of 14 is the energy of rank 1, 13 of 14 that of rank 2
    for energy, rank in ((0.6, 1), (0.9, 2), (0.95, 3)):
        assert save_lora(recipe, pair, tmp_path / f"{rank}.safetensors", Rank(energy=energy)).ranks == {NAME: rank}
    first = (tmp_path / "two.safetensors").read_bytes()
    save_lora(recipe, pair, tmp_path / "two.safetensors", Rank(count=2), replace=True)
    assert (tmp_path / "two.safetensors").read_bytes() == first


@pytest.mark.parametrize("text", ["32", "rank=0", "rank=auto:2", "rank=auto:0", "rank=auto", "rank=3,rest=all", ""])
def test_a_rank_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="rank=32"):
        read_rank(text)


def test_an_empty_lora_is_refused(tmp_path: Path) -> None:
    models = opened(tmp_path)
    with pytest.raises(ConfigError, match="changes nothing"):
        save_lora(recipe_of(models, even("0")), models, tmp_path / "lora.safetensors", Rank(count=2))
    assert not (tmp_path / "lora.safetensors").exists()
