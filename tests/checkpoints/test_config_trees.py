from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils as theirs

from bayes_merger.checkpoints.config_trees import clip_pads, read_tree, settings_of
from bayes_merger.checkpoints.tokenizer import PAD, PAD_OPEN_CLIP
from bayes_merger.errors import CheckpointError, ConfigError
from tests.real_keys import fact_shapes, needs_facts

Shapes = dict[str, tuple[int, ...]]

UNET = "model.diffusion_model."
FIRST = UNET + "input_blocks.0.0.weight"
CONFIGS = Path(__file__).resolve().parents[2] / "bayes_merger" / "checkpoints" / "configs"


def meta(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def build(settings: Mapping[str, Any], part: str) -> Any:
    """A model on the meta device: shapes, no memory."""
    library, name = settings["model_index.json"][part]
    config = settings[f"{part}/config.json"]
    with torch.device("meta"):
        if library == "diffusers":
            return getattr(diffusers, name).from_config(config)
        maker = getattr(transformers, name)
        return maker._from_config(maker.config_class(**config))


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """Position ids are no weights, and some versions of transformers say text_model. before everything."""
    return {
        key.removeprefix("text_model."): tuple(tensor.shape)
        for key, tensor in tensors.items()
        if not key.endswith("position_ids") and key != "encoder.embed_tokens.weight"  # of T5, the shared ones again
    }


def markless(name: str) -> Shapes:
    """A real key list, without the markers that some models carry."""
    return {key: shape for key, shape in fact_shapes(name).items() if key[:4] not in ("v_pr", "ztsn", "edm_")}


def below(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in meta(shapes).items() if key.startswith(prefix)}


def sd2() -> Shapes:
    """SD1's U-Net with a wider text and linear projections, and OpenCLIP's ViT-H as its text encoder."""
    found: Shapes = {}
    for key, shape in markless("sd1").items():
        if key.startswith(UNET) and key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            found[key] = (shape[0], 1024)
        elif key.startswith(UNET) and key.endswith((".proj_in.weight", ".proj_out.weight")):
            found[key] = shape[:2]
        elif not key.startswith("cond_stage_model."):
            found[key] = shape
    for key, shape in markless("sdxl").items():  # bigG, 32 layers of 1280: ViT-H has 24 of 1024, of which 23 are used
        place, _, name = key.partition("conditioner.embedders.1.model.")
        if not place and name and not name.startswith(tuple(f"transformer.resblocks.{i}." for i in range(24, 32))):
            found["cond_stage_model.model." + name] = tuple(
                side * 4 // 5 if side % 1280 == 0 else side for side in shape
            )
    return found


def sd35(count: int, width: int, side: int, doubled: int) -> Shapes:
    """SD3 medium's key list at another width, with norms of queries and keys and a second attention in some blocks."""
    found: Shapes = {}
    original = markless("sd3")
    for key, shape in original.items():
        name = key.removeprefix(UNET)
        if not key.startswith(UNET):
            found[key] = shape
        elif not name.startswith("joint_blocks."):
            found[key] = tuple(length // 1536 * width if length % 1536 == 0 else length for length in shape)
    for number in range(count):
        like = 23 if number == count - 1 else 0
        start = f"{UNET}joint_blocks.{like}."
        for key, shape in original.items():
            if key.startswith(start):
                wide = tuple(length // 1536 * width for length in shape)
                found[f"{UNET}joint_blocks.{number}.{key.removeprefix(start)}"] = wide
        block = f"{UNET}joint_blocks.{number}."
        norms = ["x_block.attn", "context_block.attn"] + ["x_block.attn2"] * (number < doubled)
        found |= {f"{block}{place}.ln_{which}.weight": (64,) for place in norms for which in "qk"}
        if number < doubled:
            found |= {
                block + "x_block.attn2.qkv.weight": (3 * width, width),
                block + "x_block.attn2.qkv.bias": (3 * width,),
                block + "x_block.attn2.proj.weight": (width, width),
                block + "x_block.attn2.proj.bias": (width,),
                block + "x_block.adaLN_modulation.1.weight": (9 * width, width),
                block + "x_block.adaLN_modulation.1.bias": (9 * width,),
            }
    return found | {UNET + "pos_embed": (1, side * side, width)}


MODELS: dict[str, tuple[str, Callable[[], Shapes]]] = {
    "sd1": ("sd1", lambda: markless("sd1")),
    "sd2": ("sd2", sd2),
    "sdxl": ("sdxl", lambda: markless("sdxl")),
    "sd3": ("sd3", lambda: markless("sd3")),
    "sd3.5-medium": ("sd3", lambda: sd35(24, 1536, 384, 13)),
    "sd3.5-large": ("sd3-large", lambda: sd35(38, 2432, 192, 0)),
    "flux": ("flux", lambda: markless("flux")),
}


def converted(part: str, model: Any, shapes: Shapes) -> Shapes:
    """What diffusers' own converters make of a part of a single file."""
    if part == "unet":
        return shapes_of(theirs.convert_ldm_unet_checkpoint(meta(shapes), dict(model.config)))
    if part == "vae":
        prefix = "vae." if any(key.startswith("vae.") for key in shapes) else "first_stage_model."
        return shapes_of(theirs.convert_ldm_vae_checkpoint(below(shapes, prefix), dict(model.config)))
    if part == "transformer":
        flux = UNET + "img_in.weight" in shapes
        convert = (
            theirs.convert_flux_transformer_checkpoint_to_diffusers
            if flux
            else theirs.convert_sd3_transformer_checkpoint_to_diffusers
        )
        return shapes_of(convert(below(shapes, UNET)))
    starts = [
        "cond_stage_model.model.", "conditioner.embedders.1.model.",
        "cond_stage_model.transformer.", "conditioner.embedders.0.transformer.",
        "text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer.", "text_encoders.t5xxl.transformer.",
    ]  # fmt: skip
    there = [start for start in starts if any(key.startswith(start) for key in shapes)]
    wanted = {"T5EncoderModel": 2}.get(type(model).__name__, 0 if model.config.hidden_size == 768 else 1)
    kinds = {
        0: ("cond_stage_model.transformer.", ".0.transformer.", ".clip_l."),
        1: (".model.", ".clip_g."),
        2: (".t5",),
    }
    (start,) = [start for start in there if any(kind in start for kind in kinds[wanted])]
    if start.endswith(".model."):
        return shapes_of(theirs.convert_open_clip_checkpoint(model, meta(shapes), start))
    return shapes_of(below(shapes, start))


# Of the official repositories. What SD3's positions take (kept, but not learnt) is counted in.
COUNTS = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
    "sd3": {"transformer": 2_028_328_000 + 192 * 192 * 1536, "vae": 83_819_683, "text_encoder": 123_650_304,
            "text_encoder_2": 694_659_840, "text_encoder_3": 4_762_310_656},
    "sd3.5-medium": {"transformer": 2_243_171_520 + 384 * 384 * 1536},
    "sd3.5-large": {"transformer": 16_292_561_536 // 2},  # bytes that its index says it takes, two per number
    "flux": {"transformer": 11_901_408_320, "vae": 83_819_683, "text_encoder": 123_060_480,
             "text_encoder_2": 4_762_310_656},
}  # fmt: skip


@needs_facts
@pytest.mark.parametrize("name", MODELS)
def test_the_parts_of_a_tree_are_those_that_diffusers_makes_of_a_single_file(name: str) -> None:
    architecture, shapes = MODELS[name][0], MODELS[name][1]()
    settings = settings_of(architecture, shapes, {})
    parts = [file.split("/")[0] for file in settings if file.endswith("/config.json")]
    if name.startswith("sd3.5"):
        parts = ["transformer"]  # the others are SD3 medium's
    counts = {}
    for part in parts:
        model = build(settings, part)
        state = shapes_of(model.state_dict())
        made = converted(part, model, shapes)
        if (name, part) == ("sd2", "text_encoder"):  # the last layer is in the file, for nothing
            made = {key: shape for key, shape in made.items() if ".layers.23." not in key and "projection" not in key}
        assert made == state, part
        counts[part] = sum(prod(shape) for shape in state.values())
    assert counts == COUNTS[name]


@needs_facts
@pytest.mark.parametrize(
    ("name", "tree"),
    [("sdxl", "sdxl"), ("sd2", "sd2"), ("sd3", "sd3"), ("sd3.5-medium", "sd35-medium"), ("sd3.5-large", "sd35-large"),
     ("flux", "flux")],
)  # fmt: skip
def test_an_official_model_gets_the_official_tree(name: str, tree: str) -> None:
    assert settings_of(MODELS[name][0], MODELS[name][1](), {}) == read_tree(CONFIGS / tree)


def arguments(pipeline: str) -> tuple[set[str], set[str]]:
    """The models that a pipeline cannot be without, and all that it can be built from."""
    found = getattr(diffusers, pipeline)
    modules, options = found._get_signature_keys(found)
    return set(modules) - set(found._optional_components), {*modules, *options}


@pytest.mark.parametrize("tree", sorted(folder.name for folder in CONFIGS.iterdir()))
def test_a_tree_names_all_that_its_pipeline_is_built_from(tree: str) -> None:
    settings = read_tree(CONFIGS / tree)
    index = settings["model_index.json"]
    needed, known = arguments(index["_class_name"])
    assert needed <= set(index)
    assert {name for name in index if not name.startswith("_")} <= known
    parts = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    assert {file.split("/")[0] for file in settings} == {
        "model_index.json", *(part for part in parts if not part.startswith("tokenizer"))
    }  # fmt: skip
    scheduler = getattr(diffusers, index["scheduler"][1])
    assert scheduler.__name__ == settings["scheduler/scheduler_config.json"]["_class_name"]
    made = scheduler.from_config(settings["scheduler/scheduler_config.json"])
    assert made.config.num_train_timesteps == 1000


UNETS: dict[str, Shapes] = {
    "sd1": {FIRST: (320, 4, 3, 3), "cond_stage_model.x": (1,), "first_stage_model.x": (1,)},
    "sd2": {FIRST: (320, 4, 3, 3), "cond_stage_model.model.x": (1,), "first_stage_model.x": (1,)},
    "sdxl": {
        FIRST: (320, 4, 3, 3), "conditioner.embedders.0.x": (1,), "conditioner.embedders.1.x": (1,),
        "first_stage_model.x": (1,),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "channels", "pipeline"),
    [
        ("sd1", 4, "StableDiffusionPipeline"),
        ("sd1", 9, "StableDiffusionInpaintPipeline"),
        ("sd1", 8, "StableDiffusionInstructPix2PixPipeline"),
        ("sd2", 9, "StableDiffusionInpaintPipeline"),
        ("sdxl", 4, "StableDiffusionXLPipeline"),
        ("sdxl", 9, "StableDiffusionXLInpaintPipeline"),
        ("sdxl", 8, "StableDiffusionXLInstructPix2PixPipeline"),
    ],
)
def test_the_channels_that_a_unet_reads_choose_its_pipeline(architecture: str, channels: int, pipeline: str) -> None:
    settings = settings_of(architecture, UNETS[architecture] | {FIRST: (320, channels, 3, 3)}, {})
    assert settings["unet/config.json"]["in_channels"] == channels
    assert settings["model_index.json"]["_class_name"] == pipeline
    needed, known = arguments(pipeline)
    assert needed <= set(settings["model_index.json"])
    assert {name for name in settings["model_index.json"] if not name.startswith("_")} <= known


def test_a_model_of_five_channels_is_refused_with_a_way_out() -> None:
    with pytest.raises(CheckpointError, match="reads 5 channels; give --config FOLDER"):
        settings_of("sd2", UNETS["sd2"] | {FIRST: (320, 5, 3, 3)}, {})


V: Shapes = {"v_pred": (0,)}
ZERO: Shapes = {"v_pred": (0,), "ztsnr": (0,)}


@pytest.mark.parametrize(
    ("architecture", "marks", "metadata", "prediction"),
    [
        ("sd1", {}, {}, "epsilon"),
        ("sd1", {}, {"modelspec.prediction_type": "v"}, "v_prediction"),
        ("sdxl", {}, {}, "epsilon"),
        ("sdxl", V, {"modelspec.prediction_type": "epsilon"}, "v_prediction"),
        ("sdxl", {}, {"modelspec.prediction_type": "v"}, "v_prediction"),
        ("sdxl", {}, {"modelspec.predict_key": "v"}, "v_prediction"),
        ("sd2", {}, {}, "v_prediction"),
        ("sd2", {}, {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ("sd2", {FIRST: (320, 9, 3, 3)}, {}, "epsilon"),
    ],
)
def test_marks_are_believed_before_metadata_and_metadata_before_the_official_model(
    architecture: str, marks: Shapes, metadata: dict[str, str], prediction: str
) -> None:
    settings = settings_of(architecture, UNETS[architecture] | marks, metadata)
    scheduler = settings["scheduler/scheduler_config.json"]
    assert scheduler["prediction_type"] == prediction
    assert "rescale_betas_zero_snr" not in scheduler
    if architecture == "sd2":
        assert settings["unet/config.json"]["sample_size"] == (96 if prediction == "v_prediction" else 64)


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_a_model_trained_to_zero_snr_is_drawn_down_to_it(architecture: str) -> None:
    config = settings_of(architecture, UNETS[architecture] | ZERO, {})["scheduler/scheduler_config.json"]
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    assert scheduler.alphas_cumprod[-1] < 1e-6
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


def test_a_model_of_edm_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"edm_vpred\.sigma_max marks an EDM model"):
        settings_of("sdxl", UNETS["sdxl"] | {"edm_vpred.sigma_max": (), "v_pred": (0,)}, {})


def flux(*more: str, channels: int = 64, prefix: str = "") -> Shapes:
    keys = ["double_blocks.0.x", "double_blocks.1.x", "single_blocks.0.x", *more]
    return {prefix + key: (1,) for key in keys} | {prefix + "img_in.weight": (3072, channels)}


@pytest.mark.parametrize("prefix", ["", UNET, "diffusion_model."])
def test_flux_without_guidance_is_schnell(prefix: str) -> None:
    dev = settings_of("flux", flux("guidance_in.in_layer.bias", prefix=prefix), {})
    assert dev["transformer/config.json"]["guidance_embeds"] is True
    assert dev["scheduler/scheduler_config.json"]["shift"] == 3.0
    assert dev["scheduler/scheduler_config.json"]["use_dynamic_shifting"] is True
    schnell = settings_of("flux", flux(prefix=prefix), {})
    transformer = schnell["transformer/config.json"]
    assert (transformer["guidance_embeds"], transformer["num_layers"], transformer["num_single_layers"]) == (
        False,
        2,
        1,
    )
    assert schnell["scheduler/scheduler_config.json"]["shift"] == 1.0
    assert schnell["scheduler/scheduler_config.json"]["use_dynamic_shifting"] is False


@pytest.mark.parametrize(("channels", "pipeline"), [(384, "FluxFillPipeline"), (128, "FluxControlPipeline")])
def test_a_flux_that_reads_more_than_it_draws(channels: int, pipeline: str) -> None:
    settings = settings_of("flux", flux("guidance_in.in_layer.bias", channels=channels), {})
    transformer = settings["transformer/config.json"]
    assert settings["model_index.json"]["_class_name"] == getattr(diffusers, pipeline).__name__
    assert (transformer["in_channels"], transformer["out_channels"]) == (channels, 64)


def test_parts_that_are_not_there_are_null_with_their_tokenizers() -> None:
    settings = settings_of("flux", flux() | {"text_encoders.clip_l.x": (1,)}, {})
    index = settings["model_index.json"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert [index[part] for part in ("text_encoder_2", "tokenizer_2", "vae")] == [[None, None]] * 3
    assert set(settings) == {
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "transformer/config.json",
    }  # fmt: skip
    assert clip_pads(settings) == {"tokenizer": PAD}
    json.dumps(settings)


@pytest.mark.parametrize(
    ("tree", "pads"),
    [
        ("sd15", {"tokenizer": PAD}),
        ("sd2", {"tokenizer": PAD_OPEN_CLIP}),
        ("sdxl", {"tokenizer": PAD, "tokenizer_2": PAD_OPEN_CLIP}),
        ("sd35-medium", {"tokenizer": PAD, "tokenizer_2": PAD_OPEN_CLIP}),
        ("flux", {"tokenizer": PAD}),
    ],
)
def test_the_text_encoders_of_openclip_are_filled_up_with_zeros(tree: str, pads: dict[str, str]) -> None:
    assert clip_pads(read_tree(CONFIGS / tree)) == pads


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ConfigError, match=r"model_index\.json: is not JSON"):
        read_tree(tmp_path)
