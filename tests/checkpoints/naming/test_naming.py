"""The table against diffusers' own converters, which go the other way."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from bayes_merger.checkpoints.naming import Counterpart, Naming
from bayes_merger.errors import CheckpointError
from tests.folders import FAMILIES, make_modules, single_file

TEXTS = {
    "sd1": {"text_encoder": "cond_stage_model.transformer."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sd3": {
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.clip_g.transformer.",
        "text_encoder_3": "text_encoders.t5xxl.transformer.",
    },
    "flux": {
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.t5xxl.transformer.",
    },
}


def oracle(family: str, file: dict[str, torch.Tensor], modules: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """What diffusers' ``from_single_file`` would fill the networks with."""
    from diffusers.loaders import single_file_utils as own

    found: dict[str, Any] = {}
    if family in ("sd1", "sd2", "sdxl"):
        found["unet"] = own.convert_ldm_unet_checkpoint(dict(file), modules["unet"].config)
    elif family == "flux":
        # Flux's width is a number in the converter's code; its code at our width is the oracle
        source = inspect.getsource(own.convert_flux_transformer_checkpoint_to_diffusers)
        assert source.count("inner_dim = 3072") == 1
        room: dict[str, Any] = {"torch": torch}
        exec(source.replace("inner_dim = 3072", "inner_dim = 8"), room)
        diffusion = {k: t for k, t in file.items() if k.startswith("model.diffusion_model.")}
        found["transformer"] = room["convert_flux_transformer_checkpoint_to_diffusers"](diffusion)
    else:
        diffusion = {k: t for k, t in file.items() if k.startswith("model.diffusion_model.")}
        found["transformer"] = own.convert_sd3_transformer_checkpoint_to_diffusers(diffusion)
    found["vae"] = own.convert_ldm_vae_checkpoint(dict(file), modules["vae"].config)
    for part, prefix in TEXTS[family.replace("35", "3")].items():
        if part not in modules:
            continue
        if prefix.endswith("model."):
            found[part] = own.convert_open_clip_checkpoint(modules[part], dict(file), prefix)
        else:
            found[part] = {k.removeprefix(prefix): t for k, t in file.items() if k.startswith(prefix)}
    return found


def plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what transformers' versions differ in, and T5's second copy."""
    return {n.removeprefix("text_model."): t for n, t in state.items() if n != "encoder.embed_tokens.weight"}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_reads_back_what_the_table_says(family: str) -> None:
    modules = make_modules(family, seed=1)
    states = {part: dict(module.state_dict()) for part, module in modules.items()}
    file = single_file(states)
    back = oracle(family, file, modules)
    for part, state in states.items():
        ours, theirs = plain(state), plain(back[part])
        assert theirs.keys() == ours.keys(), part
        assert all(torch.equal(theirs[name].reshape(t.shape), t) for name, t in ours.items()), part


@pytest.mark.parametrize(
    ("part", "name", "key"),
    [
        ("unet", "down_blocks.2.attentions.1.transformer_blocks.2.attn2.to_k.weight",
         "model.diffusion_model.input_blocks.8.1.transformer_blocks.2.attn2.to_k.weight"),
        ("unet", "up_blocks.0.upsamplers.0.conv.bias", "model.diffusion_model.output_blocks.2.2.conv.bias"),
        ("unet", "add_embedding.linear_2.weight", "model.diffusion_model.label_emb.0.2.weight"),
        ("vae", "decoder.up_blocks.0.resnets.2.conv_shortcut.weight", "first_stage_model.decoder.up.2.block.2.nin_shortcut.weight"),
        ("vae", "decoder.mid_block.attentions.0.query.weight", "first_stage_model.decoder.mid.attn_1.q.weight"),
        ("vae", "encoder.mid_block.attentions.0.proj_attn.bias", "first_stage_model.encoder.mid.attn_1.proj_out.bias"),
        ("text_encoder", "text_model.final_layer_norm.bias", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"),
        ("text_encoder_2", "text_model.final_layer_norm.bias", "conditioner.embedders.1.model.ln_final.bias"),
    ],
)  # fmt: skip
def test_names_by_hand(part: str, name: str, key: str) -> None:
    shapes = {p: {n: tuple(t.shape) for n, t in m.state_dict().items()} for p, m in make_modules("sdxl").items()}
    assert Naming.of(shapes).counterpart(part, name) == Counterpart(key)


def test_stacks_and_turns_by_hand() -> None:
    shapes = {p: {n: tuple(t.shape) for n, t in m.state_dict().items()} for p, m in make_modules("sdxl").items()}
    naming = Naming.of(shapes)
    query = naming.counterpart("text_encoder_2", "text_model.encoder.layers.2.self_attn.q_proj.weight")
    assert query is not None
    assert query.key == "conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight"
    assert [name.rpartition(".self_attn.")[2] for name in query.stack] == [f"{x}_proj.weight" for x in "qkv"]
    assert query.shape([(16, 16)] * 3) == (48, 16)
    projection = naming.counterpart("text_encoder_2", "text_projection.weight")
    assert projection == Counterpart("conditioner.embedders.1.model.text_projection", transposed=True)
    assert projection.shape([(5, 3)]) == (3, 5)
    attention = naming.counterpart("vae", "encoder.mid_block.attentions.0.to_q.weight")
    assert attention is not None
    assert attention.shape([(16, 16)]) == (16, 16, 1, 1)
    assert naming.counterpart("text_encoder", "text_model.embeddings.position_ids") is None


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "down_blocks.x.resnets.0.norm1.weight"),
        ("unet", "down_blocks.0.resnets"),
        ("unet", "down_blocks.0.resnets.0"),
        ("unet", "encoder_hid_proj.weight"),
        ("unet", ""),
        ("vae", "decoder.up_blocks.².resnets.0.norm1.weight"),
        ("text_encoder_2", "encoder.layers.0.unheard_of.weight"),
        ("safety_checker", "weight"),
    ],
)
def test_what_no_such_model_has_is_named(part: str, name: str) -> None:
    shapes = {p: {n: tuple(t.shape) for n, t in m.state_dict().items()} for p, m in make_modules("sdxl").items()}
    with pytest.raises(CheckpointError, match="has no name in single files of sdxl"):
        Naming.of(shapes).counterpart(part, name)


def test_t5s_embeddings_count_once() -> None:
    shapes = {p: {n: tuple(t.shape) for n, t in m.state_dict().items()} for p, m in make_modules("flux").items()}
    naming = Naming.of(shapes)
    key = "text_encoders.t5xxl.transformer.shared.weight"
    assert naming.counterpart("text_encoder_2", "shared.weight") == Counterpart(key)
    assert naming.counterpart("text_encoder_2", "encoder.embed_tokens.weight") is None
    del shapes["text_encoder_2"]["shared.weight"]
    assert Naming.of(shapes).counterpart("text_encoder_2", "encoder.embed_tokens.weight") == Counterpart(key)


def test_parts_of_nothing_known_are_refused() -> None:
    for parts in ({}, {"unet": {"down_blocks.weight": (3,)}}, {"transformer": {"blocks.0.attn.weight": (3,)}}):
        with pytest.raises(CheckpointError, match="no architecture that can be merged"):
            Naming.of(parts)
