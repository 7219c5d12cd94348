"""Tiny diffusers folders of every family that can be merged, with random weights; made in a second, never committed."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from bayes_merger.checkpoints.naming import Naming

_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (8, 16, 16),
    "norm_num_groups": 4,
    "layers_per_block": 2,
}
_UNET = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2, "sample_size": 8}
_XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (8, 16, 16),
    "transformer_layers_per_block": (1, 2, 3),
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "sample_size": 8,
    "cross_attention_dim": 24,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 16,
}
_VAE16 = {
    **_VAE,
    "latent_channels": 16,
    "shift_factor": 0.1,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_SD3 = {
    "sample_size": 8, "num_layers": 24, "attention_head_dim": 4, "num_attention_heads": 2,
    "caption_projection_dim": 8, "joint_attention_dim": 24, "pooled_projection_dim": 24,
    "pos_embed_max_size": 8, "in_channels": 16, "out_channels": 16,
}  # fmt: skip
_FLUX = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 4,
    "num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 8, "axes_dims_rope": (0, 2, 2),
}  # fmt: skip
_MARKS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as official settings have them
FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "sd35", "flux")
VARIANTS = ("sd35-large", "schnell")  # of the same names of tensors, but for their number


def _clip(width: int, layers: int, projection: bool = False, **changes: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {"hidden_size": width, "intermediate_size": 16, "num_attention_heads": 2, "projection_dim": width}
    config = CLIPTextConfig(
        **sizes, num_hidden_layers=layers, vocab_size=len(_clip_words()[0]), **{**_MARKS, **changes}
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=32, d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
        )
    )


def make_modules(family: str, seed: int = 0) -> dict[str, Any]:
    """The networks of a tiny model, by diffusers' names of the parts; every parameter is perturbed."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        makers: dict[str, Any] = {
            "sd1": lambda: {
                "unet": UNet2DConditionModel(cross_attention_dim=12, **_UNET),
                "vae": AutoencoderKL(**_VAE),
                "text_encoder": _clip(12, 2),
            },
            "sd2": lambda: {
                "unet": UNet2DConditionModel(cross_attention_dim=1024, use_linear_projection=True, **_UNET),
                "vae": AutoencoderKL(**_VAE),
                "text_encoder": _clip(1024, 2, hidden_act="gelu"),
            },
            "sdxl": lambda: {
                "unet": UNet2DConditionModel(**_XL),
                "vae": AutoencoderKL(**_VAE),
                "text_encoder": _clip(8, 2),
                "text_encoder_2": _clip(16, 3, projection=True, pad_token_id=1),
            },
            "sd3": lambda: {
                "transformer": SD3Transformer2DModel(**_SD3),
                "vae": AutoencoderKL(**_VAE16),
                "text_encoder": _clip(8, 2, projection=True),
                "text_encoder_2": _clip(16, 3, projection=True),
                "text_encoder_3": _t5(24),
            },
            "sd35": lambda: {
                "transformer": SD3Transformer2DModel(**_SD3, qk_norm="rms_norm", dual_attention_layers=(0, 1, 2)),
                "vae": AutoencoderKL(**_VAE16),
                "text_encoder": _clip(8, 2, projection=True),
                "text_encoder_2": _clip(16, 3, projection=True),
            },
            "flux": lambda: {
                "transformer": FluxTransformer2DModel(**_FLUX, guidance_embeds=family == "flux"),
                "vae": AutoencoderKL(**_VAE16),
                "text_encoder": _clip(8, 2),
                "text_encoder_2": _t5(8),
            },
        }
        makers |= {
            "sd35-large": lambda: {
                **makers["sd35"](),
                "transformer": SD3Transformer2DModel(**_SD3 | {"num_layers": 38}, qk_norm="rms_norm"),
            },
            "schnell": makers["flux"],
        }
        modules: dict[str, Any] = makers[family]()
        with torch.no_grad():
            for module in modules.values():
                for parameter in module.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
    return {part: module.eval() for part, module in modules.items()}


def single_file(states: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The states under the names of a single file, by the table and nothing else of ours."""
    naming = Naming.of({part: {n: tuple(t.shape) for n, t in state.items()} for part, state in states.items()})
    found: dict[str, torch.Tensor] = {}
    for part, state in states.items():
        for name, tensor in state.items():
            counterpart = naming.counterpart(part, name)
            if counterpart is None:
                continue
            stack = [state[other] for other in counterpart.stack or (name,)]
            made = torch.cat(stack) if counterpart.stack else tensor
            if counterpart.swapped:
                made = torch.cat(made.chunk(2)[::-1])
            if counterpart.transposed:
                made = made.t()
            shape = counterpart.shape([tuple(t.shape) for t in stack])
            found[counterpart.key] = made.reshape(shape)
    return found


@functools.cache
def _tensors(family: str, seed: int) -> dict[str, torch.Tensor]:
    """Of a single file: made once per process, since most tests begin with the same few models."""
    states = {part: dict(module.state_dict()) for part, module in make_modules(family, seed).items()}
    return single_file(states)


def write_file(
    path: Path,
    family: str,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    extra: dict[str, tuple[int, ...]] | None = None,
) -> Path:
    """The same model as ``write_folder`` writes, in one file; ``extra`` are tensors that folders have no place for."""
    from safetensors.torch import save_file

    tensors = {key: t.to(dtype).contiguous() for key, t in _tensors(family, seed).items()}
    tensors |= {key: torch.ones(shape, dtype=dtype) for key, shape in (extra or {}).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def write_folder(
    folder: Path, family: str, seed: int = 0, *, dtype: torch.dtype = torch.float32, **saving: Any
) -> Path:
    """A diffusers folder as ``save_pretrained`` writes it, with a scheduler's settings and an index.

    Args:
        folder: to write.
        family: one of ``FAMILIES`` or ``VARIANTS``.
        seed: of its weights.
        dtype: of all parts.
        saving: for ``save_pretrained``: ``variant``, ``max_shard_size``, ``safe_serialization``.
    """
    return shutil.copytree(_folder(family, seed, dtype, **saving).name, folder, dirs_exist_ok=True)


@functools.cache
def _folder(family: str, seed: int, dtype: torch.dtype, **saving: Any) -> tempfile.TemporaryDirectory[str]:
    """Made once per process, and gone with it."""
    from transformers.utils import logging

    made = tempfile.TemporaryDirectory()
    folder = Path(made.name)
    logging.disable_progress_bar()
    index: dict[str, Any] = {"_class_name": _PIPELINES[family], "scheduler": ["diffusers", _SCHEDULERS[family][0]]}
    for part, module in make_modules(family, seed).items():
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)
        module.save_pretrained(folder / part, **saving)
        library = "transformers" if part.startswith("text_encoder") else "diffusers"
        index[part] = [library, type(module).__name__]
    (folder / "scheduler").mkdir()
    settings = {"_class_name": _SCHEDULERS[family][0], **_SCHEDULERS[family][1]}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    (folder / "model_index.json").write_text(json.dumps(index))
    return made


_PIPELINES = {
    "sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline", "sd35": "StableDiffusion3Pipeline", "flux": "FluxPipeline",
    "sd35-large": "StableDiffusion3Pipeline", "schnell": "FluxPipeline",
}  # fmt: skip
_EULER = ("EulerDiscreteScheduler", {"prediction_type": "epsilon"})
_FLOW = ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd1": _EULER, "sd2": _EULER, "sdxl": _EULER, "sd3": _FLOW, "sd35": _FLOW, "flux": _FLOW,
    "sd35-large": _FLOW, "schnell": ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}),
}  # fmt: skip


def write_tokenizers(folder: Path, family: str) -> Path:
    """Add the tokenizers of a tiny model to its folder, which know letters and a few words."""
    from transformers import CLIPTokenizer, T5Tokenizer

    words, pairs = _clip_words()
    index = json.loads((folder / "model_index.json").read_text())
    for part in [name for name in index if name.startswith("text_encoder")]:
        name = part.replace("text_encoder", "tokenizer")
        pad = "!" if family == "sd2" or part == "text_encoder_2" else "<|endoftext|>"
        tokenizer = (
            T5Tokenizer(vocab=[(word, -float(number)) for number, word in enumerate(_T5_WORDS)], extra_ids=0)
            if index[part][1] == "T5EncoderModel"
            else CLIPTokenizer(vocab=words, merges=pairs, model_max_length=77, pad_token=pad)
        )
        tokenizer.save_pretrained(str(folder / name))
        index[name] = ["transformers", type(tokenizer).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


_T5_WORDS = [
    "<pad>",
    "</s>",
    "<unk>",
    "\u2581",
    "\u2581a",
    "\u2581red",
    "\u2581ring",
    "\u2581blue",
    *"abcdefghijklmnopqrstuvwx",
]


def _clip_words() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The letters of CLIP's vocabulary, one word of several, and its two marks."""
    letters = [chr(number) for number in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}, [("r", "e"), ("re", "d</w>")]
