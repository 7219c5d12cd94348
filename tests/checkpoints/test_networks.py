"""Public networks by the names of their tensors: each is merged whole, or named and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.architectures import CHROMA, FLUX, SD1, SD2, SD3, SD35_MEDIUM, SDXL, identify
from bayes_merger.checkpoints.kinds import detect_kind
from bayes_merger.checkpoints.networks import NETWORKS
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.cli import main
from bayes_merger.errors import CheckpointError
from tests.command_line import refused
from tests.folders import write_folder
from tests.merging.tiny_models import SHAPES, UNET, write_model
from tests.real_keys import fact_shapes, needs_facts

Shapes = dict[str, tuple[int, ...]]

# Names of published files; the second of two is that of diffusers.
SAMPLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "Stable Video Diffusion": (
        (
            "input_blocks.1.0.time_stack.in_layers.0.weight",
            "input_blocks.1.1.time_stack.0.attn1.to_q.weight",
            "label_emb.0.0.weight",
        ),
        ("down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q.weight", "conv_in.weight"),
    ),
    "SUPIR": (("project_modules.0.q.weight", "input_blocks.0.0.weight", "label_emb.0.0.weight"),),
    "a video model": (
        ("input_blocks.1.0.temopral_conv.conv1.0.weight", "input_blocks.1.1.proj_in.weight"),
        ("down_blocks.0.temporal_attentions.0.proj_in.weight", "conv_in.weight"),
    ),
    "Stable Zero123": (("cc_projection.weight", "input_blocks.0.0.weight", "input_blocks.1.1.proj_in.weight"),),
    "the Stable Diffusion x4 upscaler": (
        ("label_emb.weight", "input_blocks.0.0.weight", "input_blocks.1.0.in_layers.0.weight"),
        ("class_embedding.weight", "down_blocks.0.resnets.0.conv1.weight"),
    ),
    "GLIGEN": (
        ("position_net.linears.0.weight", "input_blocks.1.1.transformer_blocks.0.fuser.linear.weight"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.fuser.linear.weight",),
    ),
    "Kolors": (("encoder_hid_proj.weight", "down_blocks.0.resnets.0.conv1.weight", "add_embedding.linear_1.weight"),),
    "Kandinsky 2": (("encoder_hid_proj.image_embeds.weight", "down_blocks.0.resnets.0.conv1.weight"),),
    "DeepFloyd IF": (("encoder_hid_proj.weight", "add_embedding.pool.positional_embedding"),),
    "Stable Cascade": (
        ("clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight", "clf.1.weight"),
        ("effnet_mapper.0.weight", "down_blocks.1.0.channelwise.0.weight", "clip_mapper.weight"),
    ),
    "Hunyuan3D": (("latent_in.weight", "cond_in.weight", "double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"),),
    "HunyuanVideo 1.5": (("vision_in.proj.0.weight", "txt_in.input_embedder.weight", "byt5_in.fc1.weight"),),
    "HunyuanImage": (
        ("byt5_in.fc1.weight", "txt_in.individual_token_refiner.blocks.0.norm1.weight", "double_blocks.0.img_mod.linear.weight"),
        ("context_embedder_2.linear_1.weight", "context_embedder.token_refiner.norm.weight"),
    ),
    "HunyuanVideo": (
        ("txt_in.individual_token_refiner.blocks.0.norm1.weight", "double_blocks.0.img_attn_qkv.weight", "single_blocks.39.linear1.weight"),
        ("context_embedder.token_refiner.refiner_blocks.0.norm1.weight", "single_transformer_blocks.0.attn.to_q.weight"),
    ),
    "HunyuanDiT": (
        ("mlp_t5.0.weight", "text_embedding_padding", "blocks.0.attn1.Wqkv.weight"),
        ("text_embedding_padding", "time_extra_emb.extra_embedder.linear_1.weight"),
    ),
    "Flux.2": (
        ("double_stream_modulation_img.lin.weight", "double_blocks.0.img_attn.qkv.weight", "single_blocks.47.linear1.weight"),
        ("double_stream_modulation_img.linear.weight", "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight"),
    ),
    "Chroma Radiance": (
        ("nerf_blocks.0.norm.scale", "distilled_guidance_layer.norms.0.scale", "double_blocks.0.img_attn.qkv.weight"),
    ),
    "Chroma in diffusers form": (
        ("distilled_guidance_layer.in_proj.weight", "transformer_blocks.0.attn.to_q.weight"),
    ),
    "Ovis-Image": (("double_blocks.0.img_mlp.gate_proj.weight", "double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"),),
    "Flux Redux": (("redux_up.weight", "redux_down.weight"),),
    "AuraFlow": (
        ("double_layers.0.attn.w1q.weight", "single_layers.0.attn.w1q.weight", "cond_seq_linear.weight"),
        ("joint_transformer_blocks.0.attn.to_q.weight", "single_transformer_blocks.0.attn.to_q.weight"),
    ),
    "OmniGen": (
        ("llm.layers.0.self_attn.qkv_proj.weight", "input_x_embedder.proj.weight"),
        ("ref_image_refiner.0.attn.to_q.weight", "time_caption_embed.timestep_embedder.linear_1.weight"),
    ),
    "Boogu-Image": (("double_stream_layers.0.img_instruct_attn.processor.img_to_q.weight",),),
    "Z-Image": (
        ("cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight", "cap_pad_token"),
        ("all_x_embedder.2-1.weight", "noise_refiner.0.attention.to_q.weight"),
    ),
    "Lumina": (
        ("cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight", "layers.0.attention.qkv.weight"),
        ("time_caption_embed.timestep_embedder.linear_1.weight", "noise_refiner.0.attn.to_q.weight"),
    ),
    "Sana": (
        ("blocks.0.cross_attn.q_linear.weight", "blocks.0.mlp.inverted_conv.conv.weight", "attention_y_norm.weight"),
        ("caption_norm.weight", "time_embed.emb.timestep_embedder.linear_1.weight", "transformer_blocks.0.scale_shift_table"),
    ),
    "HiDream": (("double_stream_blocks.0.block.adaLN_modulation.1.bias", "caption_projection.0.linear.weight"),),
    "LTX-Video": (
        ("patchify_proj.weight", "adaln_single.emb.timestep_embedder.linear_1.bias"),
        ("time_embed.emb.timestep_embedder.linear_1.weight", "transformer_blocks.0.scale_shift_table", "proj_in.weight"),
    ),
    "PixArt": (
        ("t_block.1.weight", "blocks.0.attn.qkv.weight", "y_embedder.y_proj.fc1.weight"),
        ("adaln_single.emb.timestep_embedder.linear_1.weight", "pos_embed.proj.weight", "caption_projection.linear_1.weight"),
    ),
    "Qwen-Image": (("txt_norm.weight", "transformer_blocks.0.img_mod.1.weight", "img_in.weight", "txt_in.weight"),),
    "Wan": (
        ("head.modulation", "blocks.0.cross_attn.k.weight", "patch_embedding.weight", "text_embedding.0.weight"),
        ("condition_embedder.time_embedder.linear_1.weight", "blocks.0.attn1.to_q.weight"),
    ),
    "Cosmos": (
        ("blocks.block0.blocks.0.block.attn.to_q.0.weight", "x_embedder.proj.1.weight"),
        ("patch_embed.proj.weight", "time_embed.t_embedder.linear_1.weight"),
    ),
    "Mochi": (
        ("t5_yproj.weight", "blocks.0.attn.qkv_x.weight"),
        ("time_embed.pooler.to_q.weight", "transformer_blocks.0.attn1.to_q.weight"),
    ),
    "CogVideoX": (("patch_embed.text_proj.weight", "transformer_blocks.0.norm1.linear.weight"),),
    "CogView": (("time_condition_embed.timestep_embedder.linear_1.weight", "transformer_blocks.0.norm1.linear.weight"),),
    "Kandinsky 5": (("visual_transformer_blocks.0.cross_attention.key_norm.weight", "visual_embeddings.in_layer.weight"),),
    "Krea 2": (("txtfusion.projector.weight", "blocks.0.attn.wq.weight"),),
    "Ideogram 4": (("embed_image_indicator.weight", "layers.0.attention.qkv.weight"),),
    "Stable Audio": (("transformer.rotary_pos_emb.inv_freq", "to_cond_embed.0.weight"),),
    "ACE-Step": (("genre_embedder.weight", "lyric_encoder.embed.0.weight"),),
}  # fmt: skip


def test_every_network_of_the_table_has_its_sample() -> None:
    assert set(SAMPLES) == set(NETWORKS)


@pytest.mark.parametrize("title", NETWORKS)
@pytest.mark.parametrize("prefix", [UNET, "diffusion_model.", "model.", "net.", ""])
def test_a_public_network_is_named_and_refused(title: str, prefix: str) -> None:
    for sample in SAMPLES[title]:
        with pytest.raises(CheckpointError, match=rf"^this is {title}; only Stable Diffusion 1\.x, .* can be merged$"):
            identify({prefix + name: (2, 2) for name in sample})


def unet(levels: int, *, attends: tuple[int, ...], depth: dict[int, int] | None = None, conv: bool = False) -> Shapes:
    """A U-Net with three blocks per level; ``attends`` are the input blocks with transformers."""
    count = 3 * levels
    found: Shapes = {f"{UNET}time_embed.0.weight": (2, 2), f"{UNET}out.2.weight": (4, 2, 3, 3)}
    found |= {
        f"{UNET}{way}put_blocks.{i}.0.in_layers.2.weight": (2, 2, 3, 3) for way in ("in", "out") for i in range(count)
    }
    found |= {f"{UNET}input_blocks.0.0.weight": (2, 4, 3, 3), f"{UNET}middle_block.0.in_layers.2.weight": (2, 2, 3, 3)}
    for block in attends:
        found[f"{UNET}input_blocks.{block}.1.proj_in.weight"] = (2, 2, 1, 1) if conv else (2, 2)
        for number in range((depth or {}).get(block, 1)):
            found[f"{UNET}input_blocks.{block}.1.transformer_blocks.{number}.attn2.to_k.weight"] = (2, 16)
    return found  # fmt: skip


OPEN_CLIP = "transformer.resblocks.0.attn.in_proj_weight"
CLIP = "transformer.text_model.encoder.layers.0.mlp.fc1.weight"
SD2_UNET = unet(4, attends=(1, 2, 4, 5, 7, 8))
LABELS: Shapes = {f"{UNET}label_emb.0.0.weight": (2, 2)}
XL_TEXTS: Shapes = {f"conditioner.embedders.0.{CLIP}": (2, 2), f"conditioner.embedders.1.model.{OPEN_CLIP}": (6, 2)}
XL = {4: 2, 5: 2, 7: 10, 8: 10}


@pytest.mark.parametrize(
    ("shapes", "kind", "title"),
    [
        (SHAPES, "sd1", SD1.title),
        (unet(4, attends=(1, 2, 4), conv=True), "sd1", SD1.title),
        (SD2_UNET, "sd2", SD2.title),
        (SD2_UNET | {f"cond_stage_model.model.{OPEN_CLIP}": (6, 2)}, "sd2", SD2.title),
        (SD2_UNET | {f"conditioner.embedders.0.model.{OPEN_CLIP}": (6, 2)}, "sd2", SD2.title),  # SD-Turbo
        (SD2_UNET | LABELS | {"embedder.model.visual.proj": (2, 2), "noise_augmentor.betas": (2,)}, "sd2", SD2.title),
        (SD2_UNET | {"depth_model.model.pretrained.model.cls_token": (1, 1, 2)}, "sd2", SD2.title),
        (unet(3, attends=(4, 5, 7, 8), depth=XL) | LABELS | XL_TEXTS, "sdxl", SDXL.title),
        (unet(3, attends=(4, 5, 7, 8), depth=XL) | LABELS, "sdxl", SDXL.title),
        (unet(3, attends=(4, 5, 7, 8), depth={4: 2, 5: 2, 7: 4, 8: 4}) | LABELS | XL_TEXTS, "ssd-1b", "SSD-1B"),
        (unet(3, attends=(4, 5, 7, 8), depth={7: 2, 8: 2}) | LABELS | XL_TEXTS, "segmind-vega", "Segmind Vega"),
    ],
)  # fmt: skip
def test_u_nets_are_known_by_how_they_are_built(shapes: Shapes, kind: str, title: str) -> None:
    assert detect_kind(shapes).name == kind
    assert identify(shapes).title == title
    for prefix in ("diffusion_model.", "model.", "net.", ""):
        bare = {prefix + k.removeprefix(UNET) if k.startswith(UNET) else k: shape for k, shape in shapes.items()}
        assert identify(bare).title == title


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (unet(4, attends=(4, 5, 7, 8), depth={4: 4, 5: 4, 7: 4, 8: 4}) | LABELS, "XL refiner"),
        (unet(4, attends=(4,)) | {f"conditioner.embedders.0.model.{OPEN_CLIP}": (6, 2)}, "XL refiner"),
        (unet(2, attends=(2, 4)) | LABELS, "KOALA, a cut-down Stable Diffusion XL"),
        (unet(2, attends=(1, 2), conv=True), "parts of its U-Net missing.*cut-down"),
        (SHAPES | {f"{UNET}position.weight": (2, 2)}, rf"such a model has no {UNET}position\.weight"),
        (SHAPES | {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn3.to_k.weight": (2, 2)}, r"no .*attn3\.to_k"),
        (SHAPES | {"conditioner.embedders.2.encoder.weight": (2, 2)}, r"no conditioner\.embedders\.2"),
        (SHAPES | {f"{UNET}input_blocks.12.0.in_layers.2.weight": (2, 2)}, "U-Net missing"),
    ],
)
def test_what_only_resembles_a_known_u_net_is_refused(shapes: Shapes, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as error:
        identify(shapes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("fuse_module.mlp1.fc1.weight", "vision_model.embeddings.class_embedding"), "PhotoMaker"),
        (("id_adapter.latents", "id_adapter_attn_layers.0.to_k.weight"), "PuLID"),
        (("connector.resblocks.0.attn.in_proj_weight",), "ELLA"),
        (("adapter.body.0.resnets.0.block1.weight",), "a T2I-Adapter"),
        (("vision_model.encoder.layers.0.mlp.fc1.weight",), "a CLIP vision encoder"),
        (("model.layers.0.self_attn.q_proj.weight", "lm_head.weight"), "a language model"),
        (("768.0.linear.0.weight",), "a hypernetwork"),
        (("*",), "a textual inversion embedding"),
        (("transformer.resblocks.0.mlp.c_fc.weight", "text_projection"), "a text encoder alone"),
        (("taesd_decoder.1.weight",), r"a tiny VAE \(TAESD\)"),
        (("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight"), "a VAE alone"),
        (("lora_controlnet", "input_hint_block.0.weight", "input_blocks.1.1.proj_in.up"), "a ControlNet"),
        (("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight",), "a ControlNet"),
    ],
)
def test_what_stands_beside_a_model_is_named(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"^this is {words}; give a whole checkpoint in one file$"):
        identify(dict.fromkeys(names, (4, 4)))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("model_ema.diffusion_modelinput_blocks00weight", "first_stage_model.decoder.conv_in.weight"),
            "a checkpoint whose U-Net is there as averages over training only; give the file that has both",
        ),
        (("unet:0:up", "unet:0:down"), "a LoRA in the form of its first trainer, cloneofsimo's; convert it to kohya's"),
    ],
)
def test_what_is_close_to_a_model_is_named(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"^this is {words}$"):
        identify(dict.fromkeys(names, (4, 4)))


def test_a_flux_with_eight_double_blocks_is_whole() -> None:
    shapes = {f"double_blocks.{i}.img_attn.qkv.weight": (6, 2) for i in range(8)}
    shapes |= {f"single_blocks.{i}.linear1.weight": (6, 2) for i in range(38)}
    with pytest.raises(CheckpointError, match=r"^this is Flux lite or Flex\.1, a cut-down Flux; only Stable Diffusion"):
        identify(shapes)


def test_leftovers_outside_of_the_network_do_no_harm() -> None:
    left = ("embedding_manager.embedder.weight", "denoiser.sigmas", "cond_stage_model.logit_scale", "lr_scheduler")
    texts = ("cond_stage_model.transformer.text_projection.weight", "cond_stage_model.transformer.logit_scale")
    assert identify(SHAPES | dict.fromkeys((*left, *texts), (1,))) is SD1


def flux(double: int = 19, single: int = 38) -> Shapes:
    found: Shapes = {f"double_blocks.{i}.img_attn.qkv.weight": (6, 2) for i in range(double)}
    found |= {f"single_blocks.{i}.linear1.weight": (6, 2) for i in range(single)}
    return found | {"img_in.weight": (2, 64), "final_layer.linear.weight": (2, 2)}


def test_flux_and_its_variants_are_told_apart() -> None:
    assert identify(flux()) is FLUX
    for width in (384, 128):  # Fill; Control
        assert identify(flux() | {"img_in.weight": (2, width)}) is FLUX
    assert identify(flux() | {"distilled_guidance_layer.norms.0.scale": (2,)}) is CHROMA
    assert CHROMA.place("distilled_guidance_layer.in_proj.weight").slot == "TIME"
    assert CHROMA.place("double_blocks.3.img_attn.qkv.weight").block == "D03"
    with pytest.raises(CheckpointError, match=r"no double_blocks\.19\.img_attn\.qkv\.weight"):
        identify(flux(20))
    with pytest.raises(CheckpointError, match=r"no pulid_ca\.0\.norm1\.weight"):
        identify(flux() | {"pulid_ca.0.norm1.weight": (2,)})
    with pytest.raises(CheckpointError, match=r"no double_blocks\.0\.img_attn\.lora\.weight"):
        identify(flux() | {"double_blocks.0.img_attn.lora.weight": (2,)})
    with pytest.raises(CheckpointError, match=r"parts missing \(D05, .*cut-down"):
        identify(flux(5))


def test_sd3_medium_and_its_successor_are_told_apart() -> None:
    def joint(*extra: str) -> Shapes:
        names = (*(f"joint_blocks.{i}.x_block.attn.qkv.weight" for i in range(24)), "t_embedder.mlp.0.bias", *extra)
        return {UNET + name: (2, 2) for name in names}

    newer = joint(*(f"joint_blocks.{i}.x_block.attn2.qkv.weight" for i in range(13)))
    assert identify(joint()) is SD3
    assert identify(newer) is SD35_MEDIUM
    assert (SD35_MEDIUM.name, SD35_MEDIUM.modelspec) == ("sd3", "stable-diffusion-v3.5-medium")
    assert detect_kind(newer) != detect_kind(joint())


@needs_facts
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
def test_one_more_tensor_in_a_real_network_or_text_encoder_is_another_model(name: str) -> None:
    shapes = fact_shapes(name)
    assert identify(shapes).name == name
    for stranger in (f"{UNET}audio_proj.weight", "text_encoders.llama.layer.weight", f"{UNET}head.modulation"):
        with pytest.raises(CheckpointError, match=r"such a model has no|this is Wan"):
            identify(shapes | {stranger: (2, 2)})


def test_whichever_model_has_a_stranger_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("a.safetensors"), 1)
    write_model(Path("b.safetensors"), 2, change={f"{UNET}input_blocks.1.1.audio_attn.to_q.weight": torch.ones(2, 2)})
    for models in (("a", "b"), ("b", "a")):
        words = [f"model_{name}={file}.safetensors" for name, file in zip("ab", models, strict=True)]
        said = refused(capsys, "merge", *words, "alpha=0.5", "--out", "out.safetensors")
        assert "b.safetensors: this looks like a Stable Diffusion 1.x checkpoint, but such a model has no" in said
        assert "audio_attn.to_q.weight" in said


def chroma(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = flux() | {"distilled_guidance_layer.layers.0.in_layer.weight": (3, 2), "txt_in.bias": (2,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in names.items()}


def test_chroma_is_merged_with_chroma_and_not_with_flux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = chroma(1), chroma(2)
    save_file(a, "a.safetensors")
    save_file(b, "b.safetensors")
    save_file({name: t for name, t in b.items() if not name.startswith("distilled")}, "flux.safetensors")
    pair = ["merge", "model_a=a.safetensors", "alpha=0.25"]
    assert main([*pair, "model_b=b.safetensors", "--out", "out.safetensors"]) == 0
    with open_checkpoint("out.safetensors") as merged:
        assert merged.metadata["modelspec.architecture"] == "chroma"
        for name, tensor in a.items():
            assert torch.allclose(merged.tensor(name), 0.75 * tensor + 0.25 * b[name], atol=1e-6), name
    said = refused(capsys, *pair, "model_b=flux.safetensors", "--out", "no.safetensors")
    assert "A (a.safetensors) is a Chroma checkpoint; B (flux.safetensors) is a Flux checkpoint" in said
    said = refused(capsys, *pair, "model_b=b.safetensors", "--format", "diffusers", "--out", "folder")
    assert "no config is shipped for chroma" in said


def test_folders_of_other_networks_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "flux")
    save_file({name: torch.zeros(2) for name in SAMPLES["AuraFlow"][1]}, folder / "transformer" / "model.safetensors")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"f: \(FluxPipeline\) this is AuraFlow; only"):
        open_checkpoint(folder)
    (tmp_path / "cascade").mkdir()
    (tmp_path / "cascade" / "model_index.json").write_text('{"_class_name": "StableCascadeDecoderPipeline"}')
    with pytest.raises(
        CheckpointError, match=r"\(StableCascadeDecoderPipeline\) a diffusers folder without weights in unet or"
    ):
        open_checkpoint(tmp_path / "cascade")


def test_an_unclip_folder_is_read_as_a_stable_diffusion_2(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = write_folder(tmp_path / "f", "sd2")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"class_embedding.linear_1.weight": torch.ones(3, 2)}, file)
    with open_checkpoint(folder) as model:
        assert model.architecture.name == "sd2"
        assert model.tensor(f"{UNET}label_emb.0.0.weight").shape == (3, 2)


def test_unclip_is_merged_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shapes = SD2_UNET | LABELS | {f"cond_stage_model.model.{OPEN_CLIP}": (6, 2), "embedder.model.visual.proj": (2, 2)}
    models = {
        name: {key: torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for key, shape in shapes.items()}
        for seed, name in enumerate("ab")
    }
    for name, tensors in models.items():
        save_file(tensors, f"{name}.safetensors")
    assert (
        main(["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5", "--out", "out.safetensors"]) == 0
    )
    with open_checkpoint("out.safetensors") as merged:
        assert merged.shapes.keys() == shapes.keys()
        for key in shapes:
            assert torch.allclose(merged.tensor(key), (models["a"][key] + models["b"][key]) / 2, atol=1e-6), key
