from __future__ import annotations

import hashlib
import math

import pytest
import torch

from bayes_merger.checkpoints.config_trees import read_tree
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.errors import CheckpointError
from bayes_merger.imaging.pipelines.keymap import (
    LiveViews,
    homes,
    modules_of,
    single_file_views,
    state_of,
    to_single_file,
)
from bayes_merger.imaging.pipelines.pipeline import LivePipeline
from tests.checkpoint_files import SD15, tiny_modules


def shapes_of_sd15() -> dict[str, tuple[int, ...]]:
    states = {part: module.state_dict() for part, module in empty_networks(read_tree(SD15)).items()}
    return {key: tuple(tensor.shape) for key, tensor in to_single_file(**states).items()}


def test_sd15_has_its_1130_keys() -> None:
    shapes = shapes_of_sd15()
    assert len(shapes) == 1130
    assert shapes["model.diffusion_model.input_blocks.3.0.op.weight"] == (320, 320, 3, 3)
    assert shapes["model.diffusion_model.output_blocks.2.1.conv.bias"] == (1280,)
    assert shapes["model.diffusion_model.output_blocks.5.2.conv.bias"] == (1280,)
    assert shapes["first_stage_model.decoder.mid.attn_1.proj_out.weight"] == (512, 512, 1, 1)
    assert shapes["first_stage_model.decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert shapes["cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight"] == (3072, 768)


def test_diffusers_own_converter_is_our_inverse() -> None:
    from diffusers.loaders import single_file_utils as oracle

    modules = tiny_modules(seed=3)
    states = {part: module.state_dict() for part, module in modules.items()}
    file = to_single_file(**states)
    back = {
        "unet": oracle.convert_ldm_unet_checkpoint(dict(file), modules["unet"].config),
        "vae": oracle.convert_ldm_vae_checkpoint(dict(file), modules["vae"].config),
        "text_encoder": {
            key.removeprefix("text_model."): tensor for key, tensor in oracle.convert_ldm_clip_checkpoint(file).items()
        },
    }
    for part, state in states.items():
        assert back[part].keys() == state.keys()
        assert all(torch.equal(back[part][name], tensor) for name, tensor in state.items())


def test_a_vae_of_three_levels_and_a_text_encoder_of_two_layers_have_names_too() -> None:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = tiny_modules_on_meta()
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 24),
            norm_num_groups=8,
            layers_per_block=2,
        )
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2)
        )
    file = to_single_file(unet=unet.state_dict(), vae=vae.state_dict(), text_encoder=text.state_dict())
    assert file["first_stage_model.decoder.up.2.block.0.conv1.weight"].shape == (24, 24, 3, 3)
    assert "first_stage_model.decoder.up.3.block.0.conv1.weight" not in file
    assert "cond_stage_model.transformer.text_model.encoder.layers.1.layer_norm1.bias" in file


def tiny_modules_on_meta() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    unet: torch.nn.Module = UNet2DConditionModel(
        block_out_channels=(8, 16, 24, 24), norm_num_groups=8, cross_attention_dim=8, attention_head_dim=2
    )
    return unet


def test_every_view_writes_through_to_the_live_parameter(own_pipeline: LivePipeline) -> None:
    before = {
        (part, name): parameter.data_ptr()
        for part in ("unet", "vae", "text_encoder")
        for name, parameter in getattr(own_pipeline.pipe, part).named_parameters()
    }
    views = single_file_views(own_pipeline.pipe)
    assert len(views) == len(before) == 1130
    for number, view in enumerate(views.values()):
        view.fill_(number)
    written = []
    for part in ("unet", "vae", "text_encoder"):
        for name, parameter in getattr(own_pipeline.pipe, part).named_parameters():
            assert parameter.data_ptr() == before[part, name]
            assert parameter.min() == parameter.max()
            written.append(int(parameter.flatten()[0]))
    assert sorted(written) == list(range(1130))


def test_modules_of_no_architecture_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no architecture that can be merged"):
        to_single_file(unet={}, vae={}, text_encoder={})


def test_names_and_shapes_are_those_of_the_public_model() -> None:
    # of the 1130 tensors of v1-5-pruned-emaonly that are not buffers, one per line: `key (shape)`
    lines = [f"{key} {shape}" for key, shape in sorted(shapes_of_sd15().items())]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "21503364ca61d806acb658b579a19b5a1c418f8496f5647379e151adfab3c318"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("tree", "keys", "numbers", "stacked", "swapped"),
    [
        ("sd15", 1130, 1_066_235_307, 0, 0),
        ("sd2", 1214, 1_289_952_427, 46, 0),
        ("sdxl", 2513, 3_468_837_867, 64, 0),
        ("sd3", 1668, 7_749_391_587, 96, 4),
        ("sd35-medium", 1842, 8_134_104_419, 122, 4),
        ("sd35-large", 2100, 13_810_721_251, 152, 4),
        ("flux", 1439, 16_870_599_139, 152, 2),
    ],
)
def test_models_of_official_size_have_a_place_for_every_tensor(
    tree: str, keys: int, numbers: int, stacked: int, swapped: int
) -> None:
    modules = empty_networks(read_tree(SD15.parent / tree))
    found = homes({part: state_of(module) for part, module in modules.items()})
    assert len(found) == keys
    assert sum(math.prod(home.shape) for home in found.values()) == numbers
    assert sum(bool(home.counterpart.stack) for home in found.values()) == stacked
    assert sum(home.counterpart.swapped for home in found.values()) == swapped


def test_views_are_kept_until_a_module_changes(own_pipeline: LivePipeline) -> None:
    views = LiveViews(modules_of(own_pipeline.pipe), {})
    key = "model.diffusion_model.out.2.bias"
    first = views.now()
    assert views.now() is first
    first[key].fill_(2.0)
    assert own_pipeline.pipe.unet.conv_out.bias.detach().eq(2.0).all()
    own_pipeline.pipe.unet.conv_out.bias.data = own_pipeline.pipe.unet.conv_out.bias.detach().clone()  # it has moved
    moved = views.now()
    assert moved is not first
    moved[key].fill_(3.0)
    assert own_pipeline.pipe.unet.conv_out.bias.detach().eq(3.0).all()
    own_pipeline.pipe.unet.half()
    assert views.now()[key].dtype == torch.float16
