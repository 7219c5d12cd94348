"""The public networks that are not merged here, and the names of tensors by which each is known.

They are named so that a refusal says what a file is. The names are those of the published files, of ComfyUI's
(https://github.com/Comfy-Org/ComfyUI, ``comfy/model_detection.py``) and of diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cached_property

from bayes_merger.checkpoints.naming import NETWORK

Shapes = Mapping[str, tuple[int, ...]]

_PREFIX = re.compile(NETWORK)
_DEEPEST = 6  # parts of a name that a sign may have


class TensorNames:
    """The names of a model's tensors, without the network's prefix, to be asked how they begin.

    ``"double_blocks.0" in names``: whether a name begins with these parts; ``"*time_stack" in names``: whether one has
    that part anywhere; ``"joint_blocks + y_embedder" in names``: both.

    Attributes:
        shapes: name to shape, as in the file.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self._starts: set[str] = set()
        self._parts: set[str] = set()
        for key in self.bare:
            start = ""
            parts = key.split(".")
            for part in parts[:_DEEPEST]:
                start = f"{start}.{part}" if start else part
                self._starts.add(start)
            self._parts.update(parts)

    @cached_property
    def bare(self) -> Shapes:
        """Name to shape, without the network's prefix."""
        return {_PREFIX.sub("", key, count=1): shape for key, shape in self.shapes.items()}

    def __contains__(self, sign: str) -> bool:
        """Whether the names have a sign."""
        return all(n[1:] in self._parts if n[0] == "*" else n in self._starts for n in sign.split(" + "))

    def has_any(self, signs: Collection[str]) -> bool:
        """Whether the names have one of several signs."""
        return any(sign in self for sign in signs)

    def starts_with(self, *starts: str) -> bool:
        """Whether a name, as in the file, begins like this."""
        return any(key.startswith(starts) for key in self.shapes)

    def numbers_after(self, start: str) -> set[int]:
        """The numbers that follow some parts."""
        depth = start.count(".") + 1
        found = (name.split(".") for name in self._starts if name.startswith(f"{start}."))
        return {int(parts[depth]) for parts in found if parts[depth].isdecimal()}


# The first that fits counts: those that have all of another's names stand before it.
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "Stable Video Diffusion": (
        "*time_stack", "*time_mixer", "*temporal_transformer_blocks", "conditioner.embedders.0.open_clip",
    ),
    "Stable Zero123": ("cc_projection",),
    "SUPIR": ("project_modules",),
    "a video model": ("*temopral_conv", "*fps_embedding", "*temporal_attentions"),
    "the Stable Diffusion x4 upscaler": (
        "label_emb.weight", "low_scale_model", "class_embedding.weight + down_blocks.0.resnets",
    ),
    "GLIGEN": ("position_net", "*fuser"),
    "DeepFloyd IF": ("encoder_proj", "encoder_pooling", "add_embedding.pool"),
    "Kandinsky 2": ("encoder_hid_proj.image_embeds", "add_embedding.image_norm"),
    "Kolors": ("encoder_hid_proj.weight",),
    "Stable Cascade": ("*channelwise", "clip_txt_mapper", "clip_mapper", "effnet_mapper"),
    "Hunyuan3D": ("latent_in + cond_in", "double_blocks + latent_in", "blocks.0.attn1.k_norm + x_embedder"),
    "HunyuanVideo 1.5": ("vision_in + txt_in", "cond_type_embedding + txt_in"),
    "HunyuanImage": ("byt5_in", "context_embedder_2"),
    "HunyuanVideo": (
        "txt_in.individual_token_refiner", "txt_in.input_embedder", "double_blocks.0.img_attn_qkv",
        "context_embedder.token_refiner",
    ),
    "HunyuanDiT": ("mlp_t5", "text_embedding_padding", "time_extra_emb", "pooler + extra_embedder"),
    "Flux.2": ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"),
    "Chroma Radiance": ("nerf_blocks", "nerf_image_embedder", "img_in_patch"),
    "Chroma in diffusers form": ("distilled_guidance_layer + transformer_blocks",),
    "Ovis-Image": ("double_blocks.0.img_mlp.gate_proj", "context_embedder_norm"),
    "Flux Redux": ("redux_up", "redux_down"),
    "AuraFlow": ("*double_layers", "cond_seq_linear", "joint_transformer_blocks"),
    "OmniGen": ("input_x_embedder", "ref_image_refiner", "llm.layers.0.self_attn.qkv_proj"),
    "Boogu-Image": ("double_stream_layers",),
    "Z-Image": ("cap_pad_token", "x_pad_token", "all_x_embedder"),
    "Lumina": (
        "cap_embedder", "time_caption_embed + noise_refiner", "layers.0.attention_y_norm", "layers.0.adaLN_modulation",
    ),
    "Sana": ("attention_y_norm", "blocks.0.mlp.inverted_conv", "transformer_blocks.0.ff.conv_inverted", "caption_norm"),
    "HiDream": ("double_stream_blocks", "caption_projection.0.linear", "t_embedder1"),
    "LTX-Video": (
        "patchify_proj", "vae.per_channel_statistics", "time_embed.emb + transformer_blocks.0.scale_shift_table",
    ),
    "PixArt": (
        "t_block", "ar_embedder", "csize_embedder", "adaln_single", "y_embedder.y_embedding",
        "y_embedder.y_proj",
    ),
    "Qwen-Image": (
        "txt_norm", "transformer_blocks.0.img_mod", "txt_in.text_norm", "transformer_blocks.0.txt_mod",
    ),
    "Wan": (
        "head.modulation", "time_projection", "vace_blocks", "condition_embedder", "patch_embedding + text_embedding",
    ),
    "Cosmos": (
        "blocks.block0", "extra_pos_embedder", "x_embedder.proj.1", "blocks.0.adaln_modulation_self_attn",
        "llm_adapter", "patch_embed.proj + time_embed.t_embedder",
    ),
    "Mochi": ("t5_yproj", "t5_y_embedder", "blocks.0.attn.qkv_x", "time_embed.pooler"),
    "CogVideoX": ("patch_embed.text_proj", "patch_embed.text_projection", "transformer_blocks.0.norm1.norm"),
    "CogView": ("patch_embed.text_proj + time_condition_embed", "time_condition_embed"),
    "Kandinsky 5": ("visual_transformer_blocks", "visual_embeddings"),
    "Krea 2": ("txtfusion",),
    "Ideogram 4": ("embed_image_indicator",),
    "Stable Audio": ("transformer.rotary_pos_emb", "pretransform"),
    "ACE-Step": ("genre_embedder", "lyric_encoder", "encoder.lyric_encoder"),
}  # fmt: skip
"""Title to the signs of a network, any of which names it."""


def network_of(names: TensorNames) -> str:
    """The title of a public network that is not merged here; empty if it is none of them."""
    return next((title for title, signs in NETWORKS.items() if names.has_any(signs)), "")
