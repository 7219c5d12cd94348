"""The settings of a diffusers folder: the config tree of an architecture, fitted to one model.

The trees in ``configs/`` are those of the official repositories: Stable Diffusion v1-5, 2-1, XL base 1.0, 3 medium, 3.5
medium, 3.5 large and FLUX.1-dev. Where the shapes of a model differ, the settings are changed here: its pipeline, the
input channels, the number of its blocks, the parts that it lacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.naming import INDEX, NETWORK, PARTS
from bayes_merger.checkpoints.prediction import EPSILON, ZERO_SNR, V, edm_mark, predicted, predicted_by
from bayes_merger.checkpoints.tokenizer import PAD, PAD_OPEN_CLIP
from bayes_merger.documents import read_document
from bayes_merger.errors import CheckpointError, ConfigError

Shapes = Mapping[str, tuple[int, ...]]
Settings = dict[str, Any]
"""Relative file name (``unet/config.json``) to plain JSON data."""

_CONFIGS = Path(__file__).parent / "configs"
SCHEDULER = "scheduler/scheduler_config.json"
"""What a model predicts, and the schedule of its noise."""

_TREES = {"sd1": "sd15", "sd2": "sd2", "sdxl": "sdxl", "sd3": "sd3", "sd3-large": "sd35-large", "flux": "flux"}
_COMPONENTS = ("unet", "transformer", "vae", "text_encoder", "tokenizer", "scheduler")  # as their names begin
_UNET, _TRANSFORMER = "unet/config.json", "transformer/config.json"
_PREFIX = re.compile(NETWORK)

_SD = {"text_encoder": ("cond_stage_model.", "conditioner.embedders.0.")}
_XL = {"text_encoder": ("conditioner.embedders.0.",), "text_encoder_2": ("conditioner.embedders.1.",)}
_SD3 = {
    "text_encoder": ("text_encoders.clip_l.",),
    "text_encoder_2": ("text_encoders.clip_g.",),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
_FLUX = {"text_encoder": ("text_encoders.clip_l.",), "text_encoder_2": ("text_encoders.t5xxl.",)}
_STARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    name: encoders | {"vae": ("first_stage_model.", "vae.")}
    for name, encoders in (
        ("sd1", _SD),
        ("sd2", _SD),
        ("sdxl", _XL),
        ("sd3", _SD3),
        ("sd3-large", _SD3),
        ("flux", _FLUX),
    )
}  # architecture -> part -> how its keys start in a single file

# Channels that the first layer reads -> the pipeline that gives it as many.
_SD_PIPELINES = {
    4: "StableDiffusionPipeline",
    8: "StableDiffusionInstructPix2PixPipeline",
    9: "StableDiffusionInpaintPipeline",
}
_XL_PIPELINES = {
    4: "StableDiffusionXLPipeline",
    8: "StableDiffusionXLInstructPix2PixPipeline",
    9: "StableDiffusionXLInpaintPipeline",
}
_FLUX_PIPELINES = {64: "FluxPipeline", 128: "FluxControlPipeline", 384: "FluxFillPipeline"}


def read_tree(folder: Path) -> Settings:
    """All JSON files below a folder, by their names relative to it.

    Raises:
        ConfigError: one of them is not JSON.
    """
    found = {}
    for file in sorted(folder.rglob("*.json")):
        try:
            found[file.relative_to(folder).as_posix()] = read_document(file)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
    return found


def read_settings(tree: Path, architecture: str, lacking: Collection[str] = ()) -> Settings:
    """The JSON files of a user's folder, as far as a model of this kind needs them.

    Args:
        tree: a diffusers folder, or its settings alone.
        architecture: its name; its pipeline and scheduler are those of the shipped tree where ``tree`` says nothing.
        lacking: parts that the model does not have, whose settings need not be there.

    Raises:
        ConfigError: a file is missing or not JSON.
    """
    shipped = _CONFIGS / _TREES[architecture]
    if not (tree / INDEX).is_file():
        index = _read(shipped / INDEX)
    else:
        index = {n: v for n, v in read_inside(tree, INDEX).items() if isinstance(v, str | bool | int | float | list)}
    for name, value in index.items():
        if not isinstance(value, list) and not name.startswith(_COMPONENTS):
            continue
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(x, str | None) for x in value)):
            raise ConfigError(f"{tree / INDEX}: {name} is not a library and a class in it; download it again")
        if not name.startswith(_COMPONENTS):
            index[name] = [None, None]
    parts = [part for part in PARTS if index.get(part, [None])[0] is not None and part not in lacking]
    return {
        INDEX: index | ({"requires_safety_checker": False} if "safety_checker" in index else {}),
        SCHEDULER: _read(shipped / SCHEDULER) if not (tree / SCHEDULER).exists() else read_inside(tree, SCHEDULER),
        **{f"{part}/config.json": read_inside(tree, f"{part}/config.json") for part in parts},
    }


def read_inside(tree: Path, name: str) -> Settings:
    """A JSON file of a user's folder.

    Raises:
        ConfigError: it is missing, not a table in JSON, or a link out of the folder.
    """
    check_inside(tree, tree / name)
    return _read(tree / name)


def check_inside(tree: Path, file: Path) -> None:
    """Refuse a link to a file outside the folder, because what is written from it gets shared.

    Raises:
        ConfigError: it leads out of the folder, and not into the cache of downloads that the folder is part of.
    """
    target, own = (Path(os.path.realpath(path)) for path in (file, tree))
    if not (target.is_relative_to(own) or target.is_relative_to(own.parent.parent / "blobs")):
        raise ConfigError(f"{file}: a link to {target}, outside the folder; put a copy there if it belongs")


def _read(file: Path) -> Settings:
    if not file.exists():
        raise ConfigError(f"{file}: no such file, which every diffusers folder has; give a complete one")
    try:
        data = read_document(file)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected a table of settings")
    return data


def settings_for(tree: Path | None, architecture: str, shapes: Shapes, metadata: Mapping[str, str]) -> Settings:
    """The JSON files of a diffusers folder, without its tokenizers, for a model; without the parts that it lacks.

    Args:
        tree: a diffusers folder to read them from; without one they are ``settings_of`` official models.
        architecture: its name.
        shapes: key to shape, of all tensors of the single file, markers included.
        metadata: of the single file.

    Raises:
        ConfigError: as ``read_settings``.
        CheckpointError: as ``settings_of``.
    """
    if tree is None:
        return settings_of(architecture, shapes, metadata)
    lacking = absent_parts(architecture, shapes)
    return marked(without(read_settings(tree, architecture, lacking), lacking), shapes, metadata)


def settings_of(architecture: str, shapes: Shapes, metadata: Mapping[str, str]) -> Settings:
    """The JSON files of a diffusers folder, without its tokenizers, for a model of official size.

    Parts that the model lacks are ``[null, null]`` in ``model_index.json``, with their tokenizers; diffusers then
    wants them as arguments of ``from_pretrained``. What a Stable Diffusion 2 predicts is not in its shapes: when
    neither a marker nor the metadata say it, it is velocity, as official 2.1 does and ``from_single_file`` assumes
    (2.0-base and 2.1-base, for 512 pixels, predict noise). Flux without guidance is taken for schnell.

    Args:
        architecture: its name, like ``sdxl``.
        shapes: key to shape, of all tensors of the single file, markers (``v_pred``, ``ztsnr``) included.
        metadata: of the single file; ``modelspec.prediction_type`` is read.

    Raises:
        CheckpointError: the model needs a pipeline or scheduler that the shipped trees do not describe.
    """
    if architecture not in _FITTINGS:
        raise CheckpointError(f"no config is shipped for {architecture}; write a single file, --out NAME.safetensors")
    model = {_PREFIX.sub("", key): shape for key, shape in shapes.items()}
    tree, changes = _FITTINGS[architecture](model, metadata)
    settings = {name: data | changes.get(name, {}) for name, data in read_tree(_CONFIGS / tree).items()}
    return without(settings, absent_parts(architecture, shapes))


def absent_parts(architecture: str, shapes: Shapes) -> list[str]:
    """The parts of which a model, by the keys of its single file, has no tensor."""
    return [part for part, starts in _STARTS[architecture].items() if not _has(shapes, *starts)]


def marked(settings: Settings, shapes: Shapes, metadata: Mapping[str, str]) -> Settings:
    """The settings with what a model's markers and metadata say that it predicts, if they do.

    Raises:
        CheckpointError: the model needs a scheduler that no settings here describe.
    """
    said = predicted(shapes, metadata)
    if not said or (edm_mark(shapes) and said == predicted_by(settings[SCHEDULER])):
        return settings
    return settings | {SCHEDULER: settings[SCHEDULER] | _prediction(shapes, metadata, "")}


def clip_pads(settings: Settings) -> dict[str, str]:
    """The folder of each CLIP tokenizer, like ``tokenizer_2``, to the token that fills its prompts up.

    OpenCLIP's models, known by their plain GELU, were trained with zeros after the end of a prompt, OpenAI's with the
    end repeated.
    """
    pads = {}
    for name, value in settings[INDEX].items():
        encoder = settings.get(f"{name.replace('tokenizer', 'text_encoder')}/config.json")
        if name.startswith("tokenizer") and value[1] == "CLIPTokenizer" and encoder is not None:
            pads[name] = PAD_OPEN_CLIP if encoder.get("hidden_act") == "gelu" else PAD
    return pads


def _fit_sd1(model: Shapes, metadata: Mapping[str, str]) -> tuple[str, Settings]:
    return "sd15", _unet_changes(model, metadata, _SD_PIPELINES, "epsilon")


def _fit_sd2(model: Shapes, metadata: Mapping[str, str]) -> tuple[str, Settings]:
    # stable-diffusion-2-inpainting was made from 2.0-base
    changes = _unet_changes(model, metadata, _SD_PIPELINES, "v_prediction" if _channels(model) == 4 else "epsilon")
    if changes[SCHEDULER]["prediction_type"] == "epsilon":
        changes[_UNET]["sample_size"] = 64
    return "sd2", changes


def _fit_sdxl(model: Shapes, metadata: Mapping[str, str]) -> tuple[str, Settings]:
    return "sdxl", _unet_changes(model, metadata, _XL_PIPELINES, "epsilon")


def _unet_changes(
    model: Shapes, metadata: Mapping[str, str], pipelines: Mapping[int, str], prediction: str
) -> Settings:
    channels = _channels(model)
    return {
        INDEX: {"_class_name": _pipeline(channels, pipelines)},
        _UNET: {"in_channels": channels},
        SCHEDULER: _prediction(model, metadata, prediction),
    }


def _channels(model: Shapes) -> int:
    return model["input_blocks.0.0.weight"][1]


def _pipeline(channels: int, pipelines: Mapping[int, str]) -> str:
    if channels not in pipelines:
        raise CheckpointError(f"no shipped config fits a model that reads {channels} channels; give --config FOLDER, "
                              "the diffusers config tree of this model")  # fmt: skip
    return pipelines[channels]


def _prediction(model: Shapes, metadata: Mapping[str, str], default: str) -> Settings:
    """Scheduler settings."""
    if odd := edm_mark(model):
        raise CheckpointError(f"the key {odd} marks an EDM model, for which no config is shipped; "
                              "give --config FOLDER, the diffusers config tree of this model")  # fmt: skip
    said = {V: "v_prediction", EPSILON: "epsilon"}.get(predicted(model, metadata), default)
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if ZERO_SNR in model else {}
    return {"prediction_type": said} | zero_snr


def _fit_sd3(model: Shapes, metadata: Mapping[str, str]) -> tuple[str, Settings]:
    changes = _sd3_changes(model)
    return ("sd35-medium" if "dual_attention_layers" in changes else "sd3"), {_TRANSFORMER: changes}


def _fit_sd3_large(model: Shapes, metadata: Mapping[str, str]) -> tuple[str, Settings]:
    return "sd35-large", {_TRANSFORMER: _sd3_changes(model)}


def _sd3_changes(model: Shapes) -> Settings:
    changes: Settings = {"num_layers": len(_numbers(model, r"joint_blocks\.(\d+)\."))}
    if "pos_embed" in model:
        changes["pos_embed_max_size"] = isqrt(model["pos_embed"][1])  # a square of positions, one after the other
    if "joint_blocks.0.x_block.attn.ln_q.weight" in model:
        changes["qk_norm"] = "rms_norm"
    if doubled := _numbers(model, r"joint_blocks\.(\d+)\.x_block\.attn2\."):
        changes["dual_attention_layers"] = doubled
    return changes


def _fit_flux(model: Shapes, metadata: Mapping[str, str]) -> tuple[str, Settings]:
    channels = model["img_in.weight"][1]
    guided = _has(model, "guidance_in.")
    transformer = {
        "guidance_embeds": guided,
        "in_channels": channels,
        "num_layers": len(_numbers(model, r"double_blocks\.(\d+)\.")),
        "num_single_layers": len(_numbers(model, r"single_blocks\.(\d+)\.")),
    }
    return "flux", {
        INDEX: {"_class_name": _pipeline(channels, _FLUX_PIPELINES)},
        _TRANSFORMER: transformer | ({} if channels == 64 else {"out_channels": 64}),
        SCHEDULER: {} if guided else {"shift": 1.0, "use_dynamic_shifting": False},
    }


_FITTINGS = {
    "sd1": _fit_sd1,
    "sd2": _fit_sd2,
    "sdxl": _fit_sdxl,
    "sd3": _fit_sd3,
    "sd3-large": _fit_sd3_large,
    "flux": _fit_flux,
}


def _has(shapes: Shapes, *starts: str) -> bool:
    return any(key.startswith(starts) for key in shapes)


def _numbers(model: Shapes, pattern: str) -> list[int]:
    return sorted({int(found[1]) for key in model if (found := re.match(pattern, key))})


def without(settings: Settings, parts: Collection[str]) -> Settings:
    """The settings of a folder that lacks some parts."""
    gone = {*parts, *(part.replace("text_encoder", "tokenizer") for part in parts)}
    index = {name: [None, None] if name in gone else value for name, value in settings[INDEX].items()}
    kept = {name: data for name, data in settings.items() if name.split("/")[0] not in parts}
    return kept | {INDEX: index}
