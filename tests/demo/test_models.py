"""The shipped models: small, loadable by plain diffusers, and each knows its own half of the words."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bayes_merger import demo
from bayes_merger.demo import denoiser
from bayes_merger.demo.grid import by_blocks
from bayes_merger.demo.landscape import BLOCKS, Landscape, block_of, mix, shipped

SHAPE_WORDS = ("a large ring", "a large cross", "a large triangle", "a large square")
COLOUR_WORDS = (
    "a red shape on a blue background",
    "a yellow shape on a black background",
    "a green shape on a white background",
    "a white shape on a purple background",
)
BOTH = ("a large red ring on a blue background", "a large yellow cross on a purple background") * 2

States = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def studio() -> tuple[Landscape, States]:
    torch.set_num_threads(1)
    return shipped()


def cosine(studio: tuple[Landscape, States], state: dict[str, torch.Tensor], prompts: tuple[str, ...]) -> float:
    land, _ = studio
    land.live.load(state)
    images = denoiser.sample(land.live, land.vae, prompts, scale=land.scale, seed=3, device="cpu", steps=10)
    assert bool(images.isfinite().all())
    return land.judge(images, prompts)[0].mean().item()


def test_all_files_together_stay_below_forty_megabytes() -> None:
    size = sum(path.stat().st_size for path in demo.ROOM.rglob("*") if path.is_file())
    assert size <= 40e6


def test_every_path_is_there() -> None:
    assert all(path.exists() for path in demo.paths().values())


def test_every_block_of_the_unet_is_in_the_file() -> None:
    with safe_open(demo.model_path("a"), "pt") as file:
        keys = set(file.keys())
        width = file.get_slice("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight").get_shape()
    for side in ("input", "output"):
        for index in range(12):
            assert any(key.startswith(f"model.diffusion_model.{side}_blocks.{index}.") for key in keys)
    assert width[0] == 49408


def test_plain_diffusers_loads_and_draws_with_the_tokenizer_in_the_tree() -> None:
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_single_file(
        str(demo.model_path("a")), config=str(demo.config_dir()), local_files_only=True, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe.tokenizer) == 49408
    generator = torch.Generator("cpu").manual_seed(1)
    image = pipe("a large ring", num_inference_steps=2, guidance_scale=4, generator=generator, output_type="pt").images
    assert image.shape == (1, 3, 64, 64)
    assert bool(image.isfinite().all())


@pytest.mark.slow
def test_a_knows_the_shapes_and_b_does_not(studio: tuple[Landscape, States]) -> None:
    _, states = studio
    assert cosine(studio, states["a"], SHAPE_WORDS) > cosine(studio, states["b"], SHAPE_WORDS) + 0.1


@pytest.mark.slow
def test_b_knows_the_colours_and_a_does_not(studio: tuple[Landscape, States]) -> None:
    _, states = studio
    assert cosine(studio, states["b"], COLOUR_WORDS) > cosine(studio, states["a"], COLOUR_WORDS) + 0.1


@pytest.mark.slow
def test_a_mix_by_blocks_beats_both_and_the_even_mix(studio: tuple[Landscape, States]) -> None:
    _, states = studio
    a, b = states["a"], states["b"]
    best = cosine(studio, mix(a, b, by_blocks()), BOTH)
    for other in (a, b, mix(a, b, dict.fromkeys(BLOCKS, 0.5))):
        assert best > cosine(studio, other, BOTH) + 0.05


def test_the_head_prefers_clean_pictures(studio: tuple[Landscape, States]) -> None:
    import numpy as np

    from bayes_merger.demo import judges, pictures

    land, _ = studio
    rng = np.random.default_rng(1)
    scenes = [pictures.scene(rng) for _ in range(32)]
    clean = (denoiser.pixels(scenes, rng) + 1) / 2
    texts = [pictures.caption(told) for told in scenes]
    grades = [
        land.judge(judges.damaged(clean, torch.full((32,), level), np.random.default_rng(2)), texts)[1].mean().item()
        for level in (0.0, 0.5, 1.0)
    ]
    assert grades[0] > grades[1] + 1 > grades[2] + 2


def test_the_head_is_one_linear_layer() -> None:
    head = load_file(demo.head_path())
    assert {name: tuple(tensor.shape) for name, tensor in head.items()} == {"weight": (1, 64), "bias": (1,)}


def test_every_tensor_has_a_block(studio: tuple[Landscape, States]) -> None:
    _, states = studio
    assert {block_of(name) for name in states["a"]} == set(BLOCKS)
