"""Every matrix of every architecture, by every naming; from the key lists of real files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import torch

from bayes_merger.checkpoints.naming import Naming
from bayes_merger.merging.models.lora.layers import Layer, find_layer, layers_by_id
from bayes_merger.merging.models.lora.parameters import parameter_of
from tests.folders import FAMILIES, make_modules, single_file
from tests.real_keys import fact_shapes, needs_facts

UNET = "model.diffusion_model."
KOHYA, PEFT = ".lora_down.weight", ".lora_A.weight"

# Family -> part of diffusers -> by what a name may begin, in which the dots stay or become underscores, and the parameter.
_NETWORK = (
    ("lora_unet_", "_", KOHYA), ("lycoris_", "_", ".lokr_w1"), ("lora_transformer_", "_", KOHYA),
    ("oft_unet_", "_", ".oft_blocks"), ("unet.", ".", PEFT), ("unet.", ".", ".lora.down.weight"),
    ("transformer.", ".", PEFT), ("base_model.model.", ".", ".lora_A.default.weight"),
    ("unet.base_model.model.", ".", PEFT), ("base_model.model.transformer.", ".", PEFT), ("diffusion_model.", ".", PEFT),
    ("model.diffusion_model.", ".", KOHYA), ("", ".", ".lora_A"),
)  # fmt: skip
_TEXTS: dict[str, dict[str, tuple[str, ...]]] = {
    "sd1": {"text_encoder": ("te", "te1", "clip_l")},
    "sd2": {"text_encoder": ("te", "te1", "clip_h")},
    "sdxl": {"text_encoder": ("te1", "te", "clip_l"), "text_encoder_2": ("te2", "clip_g")},
    "sd3": {
        "text_encoder": ("te1", "te", "clip_l"), "text_encoder_2": ("te2", "clip_g"), "text_encoder_3": ("te3", "t5xxl"),
    },
    "flux": {"text_encoder": ("te1", "te", "clip_l"), "text_encoder_2": ("te2", "te3", "t5xxl")},
}  # fmt: skip
_TEXTS["sd35"] = _TEXTS["sd3"]


def names_in_files(part: str, name: str, family: str) -> Iterator[str]:
    """A layer of diffusers by every name that a trainer may give it, with the end of a key."""
    if part in ("unet", "transformer"):
        for start, dot, end in _NETWORK:
            yield start + name.replace(".", dot) + end
        return
    yield f"{part}.{name}{PEFT}"
    yield f"{part}.{name}.lora_linear_layer.down.weight"
    yield f"lycoris_{part}_{name.replace('.', '_')}.hada_w1_a"
    if part == "text_encoder":
        yield f"lora_{part}_1_{name.replace('.', '_')}{KOHYA}"
    for encoder in _TEXTS[family][part]:
        if encoder.startswith("te"):
            yield f"lora_{encoder}_{name.replace('.', '_')}{KOHYA}"
            yield f"lycoris_{encoder}_{name.replace('.', '_')}.hada_w1_a"
        else:
            yield f"text_encoders.{encoder}.transformer.{name}{KOHYA}"
            yield f"{encoder}.transformer.{name}{PEFT}"


def find(key: str, table: dict[str, Layer]) -> Layer | None:
    name, part = parameter_of(key)
    assert part
    return find_layer(name, table)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_that_diffusers_has_is_found_by_every_naming_where_its_numbers_are(family: str) -> None:
    parts = {part: dict(module.state_dict()) for part, module in make_modules(family, seed=2).items()}
    naming = Naming.of({part: {name: tuple(t.shape) for name, t in state.items()} for part, state in parts.items()})
    whole = single_file(parts)
    table = layers_by_id({key: tuple(tensor.shape) for key, tensor in whole.items()})
    count = 0
    for part, state in parts.items():
        if part == "vae":
            continue
        for tensor_name, tensor in state.items():
            name = tensor_name.removesuffix(".weight")
            if name == tensor_name or tensor.dim() < 2 or naming.counterpart(part, tensor_name) is None:
                continue
            for key in names_in_files(part, name, family):
                layer = find(key, table)
                assert layer, key
                assert torch.equal(layer.of(whole[layer.weight]).reshape(tensor.shape), tensor), key
                count += 1
    assert count > 400


@needs_facts
@pytest.mark.parametrize("architecture", ["sd1", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize(
    "naming",
    [
        lambda name: f"diffusion_model.{name}.lora_A.weight",
        lambda name: f"lora_unet_{name.replace('.', '_')}.lora_up.weight",
        lambda name: f"lycoris_{name.replace('.', '_')}.lokr_w2",
        lambda name: f"unet.{name}.lora_down.weight",
        lambda name: f"{name}.lora_B.weight",
        lambda name: f"diffusion_model.{name}.diff",
    ],
)
def test_every_tensor_of_a_network_is_found_by_the_checkpoint_s_own_name(
    naming: Callable[[str], str], architecture: str
) -> None:
    shapes = fact_shapes(architecture)
    table = layers_by_id(shapes)
    own = [key for key in shapes if key.startswith(UNET)]
    for key in own:
        layer = find(naming(key.removeprefix(UNET).removesuffix(".weight")), table)
        assert layer, key
        assert (layer.weight, layer.rows, layer.shape) == (key, None, shapes[key])
    assert len(own) > 400


@needs_facts
@pytest.mark.parametrize("architecture", ["sd1", "sdxl", "sd3", "flux"])
def test_every_matrix_of_a_text_encoder_is_a_layer(architecture: str) -> None:
    shapes = fact_shapes(architecture)
    texts = re.compile(r"cond_stage_model\.|conditioner\.|text_encoders\.")
    matrices = {key for key, shape in shapes.items() if texts.match(key) and len(shape) == 2 and "_ids" not in key}
    reached = {layer.weight for layer in layers_by_id(shapes).values()}
    assert matrices - reached == set()
    covered = dict.fromkeys(matrices, 0)
    for layer in set(layers_by_id(shapes).values()):
        if layer.weight in covered:
            covered[layer.weight] += layer.shape[0] if not layer.transposed else layer.shape[1]
    assert covered == {key: shapes[key][0] for key in matrices}


@needs_facts
def test_xlabs_names_are_flux_s_own_layers() -> None:
    table = layers_by_id(fact_shapes("flux"))
    for name, layer, rows in (
        ("double_blocks.18.processor.qkv_lora1", "double_blocks.18.img_attn.qkv", None),
        ("double_blocks.18.processor.proj_lora1", "double_blocks.18.img_attn.proj", None),
        ("double_blocks.0.processor.qkv_lora2", "double_blocks.0.txt_attn.qkv", None),
        ("double_blocks.0.processor.proj_lora2", "double_blocks.0.txt_attn.proj", None),
        ("single_blocks.37.processor.qkv_lora", "single_blocks.37.linear1", (0, 9216)),
        ("single_blocks.37.processor.proj_lora", "single_blocks.37.linear2", None),
    ):
        for start in ("", "diffusion_model.", "transformer."):
            found = find(f"{start}{name}.down.weight", table)
            assert found
            assert (found.weight, found.rows) == (f"{UNET}{layer}.weight", rows)


@needs_facts
def test_a_prefix_of_one_word_or_of_two() -> None:
    table = layers_by_id(fact_shapes("flux"))
    one = find_layer("lycoris_transformer_blocks_3_attn_to_k", table)
    assert one
    assert one == find_layer("lycoris_transformer_transformer_blocks_3_attn_to_k", table)
    assert one.rows == (3072, 6144)
    assert find_layer("lora_te1_mlp", table) is None
    assert find_layer("base_model.model." * 9 + "img_in", table) is None


def test_what_is_swapped_or_transposed_is_written_as_it_is_read() -> None:
    numbers = torch.arange(8.0).view(4, 2)
    for layer, own in (
        (Layer("x", "w", "b", (4, 2), swapped=True), [[4, 5], [6, 7], [0, 1], [2, 3]]),
        (Layer("x", "w", "b", (2, 4), transposed=True), [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (Layer("x", "w", "b", (2, 2), rows=(1, 3)), [[2, 3], [4, 5]]),
    ):
        assert layer.of(numbers).tolist() == own
        written = numbers.clone()
        layer.put(written, 10 * layer.of(numbers))
        assert torch.equal(layer.of(written), 10 * layer.of(numbers))
        assert int((written != numbers).sum()) == len(own) * len(own[0]) - any(0 in line for line in own)


@pytest.mark.parametrize(
    ("prefix", "beside", "name"),
    [
        ("conditioner.embedders.0.model.", (), "lora_te_text_model_encoder_layers_0_mlp_fc1"),
        ("conditioner.embedders.0.model.", ("conditioner.embedders.1.transformer.x.weight",),
         "lora_te2_text_model_encoder_layers_0_mlp_fc1"),
        ("conditioner.embedders.1.model.", (), "lora_te2_text_model_encoder_layers_0_mlp_fc1"),
    ],
    ids=["SD-Turbo", "a swapped pair", "the official pair"],
)  # fmt: skip
def test_a_text_encoder_is_found_wherever_a_file_has_it(prefix: str, beside: tuple[str, ...], name: str) -> None:
    key = f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"
    table = layers_by_id({key: (8, 4)} | dict.fromkeys(beside, (2, 2)))
    layer = find(name + KOHYA, table)
    assert layer is not None
    assert (layer.weight, layer.bias) == (key, key.removesuffix("weight") + "bias")


def test_chroma_s_guidance_has_diffusers_names() -> None:
    start = f"{UNET}distilled_guidance_layer.layers.4."
    table = layers_by_id({f"{start}{name}_layer.weight": (4, 4) for name in ("in", "out")})
    for theirs, own in (("linear_1", "in_layer"), ("linear_2", "out_layer"), ("in_layer", "in_layer")):
        layer = find(f"transformer.distilled_guidance_layer.layers.4.{theirs}.lora_A.weight", table)
        assert layer is not None
        assert layer.weight == f"{start}{own}.weight"
