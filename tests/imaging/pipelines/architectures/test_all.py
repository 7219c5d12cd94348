"""Every architecture on a tiny model of its true topology, against plain diffusers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.checkpoints.activations.names import About
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, resolve
from bayes_merger.imaging.activations import recorded
from bayes_merger.imaging.layers import layers_of
from bayes_merger.merging import LiveMerge, MergeRecipe, MergeSettings
from bayes_merger.merging.export.diffusers_folder import save_folder
from tests.folders import FAMILIES, write_file, write_folder, write_tokenizers

SIZES = {"sd1": 920, "sd2": 912, "sdxl": 1115, "sd3": 798, "sd35": 891, "flux": 1033}


@dataclass
class Family:
    """Models A and B as folders, and A loaded."""

    name: str
    a: Path
    b: Path
    pipeline: LivePipeline
    payloads: tuple[Payload, ...]

    @property
    def guided(self) -> bool:
        return self.name != "flux"

    def pixels(self, payloads: slice = slice(None)) -> list[bytes]:
        return [image.image.tobytes() for image in self.pipeline.draw(self.payloads[payloads])]

    def write(self, model: Path) -> None:
        """As a merge that is wholly one model does."""
        with open_checkpoint(model) as source:
            for key, destination in self.pipeline.destinations().items():
                destination.copy_(source.tensor(key))
        self.pipeline.text_encoder_changed()


pytestmark = pytest.mark.sampled(1)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    place = tmp_path_factory.mktemp(request.param)
    a, b = (
        write_tokenizers(write_folder(place / name, request.param, seed), request.param)
        for seed, name in enumerate("ab", 1)
    )
    guided = request.param != "flux"
    payload = Payload(
        "ring",
        "a red ring",
        negative_prompt="blue" if guided else "",
        steps=2,
        width=64,
        height=32,
        sampler_name="Euler",
        cfg_scale=3,
        seed=5,
        batch_size=2,
    )
    payloads = resolve([payload, replace(payload, name="plain", negative_prompt="", seed=9, batch_size=1)], 0)
    return Family(request.param, a, b, load_pipeline(a, config=a, device="cpu", max_batch=2), payloads)


def plain(folder: Path, family: Family) -> Any:
    """The folder as diffusers loads it, with our scheduler."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(
        str(folder),
        local_files_only=True,
        torch_dtype=torch.float32,
        **(
            {"safety_checker": None, "feature_extractor": None}
            if family.name in ("sd1", "sd2")
            else {"text_encoder_3": None, "tokenizer_3": None}
            if family.name == "sd35"
            else {}
        ),
    )
    pipe.scheduler = family.pipeline.architecture.scheduler(family.payloads[0])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_by(pipe: Any, family: Family) -> list[bytes]:
    """The payloads' pictures by diffusers alone."""
    found = []
    for payload in family.payloads:
        negative = {"negative_prompt": list(payload.negative_prompts)} if payload.negative_prompt else {}
        images = pipe(
            prompt=list(payload.prompts),
            **negative,
            width=payload.width,
            height=payload.height,
            num_inference_steps=payload.steps,
            guidance_scale=payload.cfg_scale,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in payload.seeds],
        ).images
        found += [image.tobytes() for image in images]
    return found


def test_every_tensor_of_the_file_is_live(family: Family) -> None:
    with open_checkpoint(family.a) as source:
        destinations = family.pipeline.destinations()
        assert destinations.keys() == set(source.keys())
        assert len(destinations) == SIZES[family.name]
        assert all(torch.equal(destinations[key], source.tensor(key)) for key in destinations)


def test_a_merge_draws_what_diffusers_draws_from_its_folder(family: Family, tmp_path: Path) -> None:
    with open_checkpoint(family.a) as a, open_checkpoint(family.b) as b:
        weights = {"alpha": {block: 0.1 + 0.02 * n for n, block in enumerate(a.architecture.blocks)}}
        settings = MergeSettings("weighted_sum", dtype="fp32", vae="merge")
        LiveMerge({"a": a, "b": b}, settings).apply(weights, family.pipeline.destinations())
        family.pipeline.text_encoder_changed()
        recipe = MergeRecipe(**vars(settings), models={}, weights=weights, architecture=a.architecture.name)
        save_folder(recipe, {"a": a, "b": b}, tmp_path / "merged")
    pipe = plain(tmp_path / "merged", family)
    assert family.pixels() == drawn_by(pipe, family)


def test_prompts_without_weights_are_embedded_as_by_diffusers(family: Family) -> None:
    pipe, texts = family.pipeline.pipe, ["a red ring", "blue"]
    ours = family.pipeline.architecture.encode(texts, clip_skip=1, length=1, negative=False)
    each = {f"prompt_{n}": texts for n in range(2, 1 + len(family.pipeline.architecture.encoders))}
    found = pipe.encode_prompt(
        prompt=texts,
        **each,
        device="cpu",
        num_images_per_prompt=1,
        **({"do_classifier_free_guidance": False} if family.guided else {}),
    )
    assert torch.equal(ours.embeddings, found[0])
    if ours.pooled is not None:
        assert torch.equal(ours.pooled, found[2] if family.guided else found[1])


def test_a_swap_to_b_and_back_leaves_no_trace(family: Family) -> None:
    family.write(family.a)
    one = slice(1, None)
    first = family.pixels(one)
    family.write(family.b)
    assert family.pixels(one) != first
    family.write(family.a)
    assert family.pixels(one) == first


@pytest.mark.slow
def test_a_single_file_is_the_same_model(family: Family, tmp_path: Path) -> None:
    file = write_file(tmp_path / "a.safetensors", family.name, 1)
    pipeline = load_pipeline(file, config=family.a, device="cpu", max_batch=2)
    family.write(family.a)
    assert replace(family, pipeline=pipeline).pixels() == family.pixels()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_in_half_precision_it_draws_too(family: Family, dtype: str) -> None:
    pipeline = load_pipeline(family.a, config=family.a, device="cpu", dtype=dtype, max_batch=2)
    assert len(pipeline.draw(family.payloads[:1])) == 2
    kept = {
        tensor.dtype
        for key, tensor in pipeline.destinations().items()
        if key.startswith(("first_stage_model.", "vae."))
    }
    assert kept == {torch.float32 if (family.name, dtype) == ("sdxl", "fp16") else pipeline.dtype}


def test_activations_are_named_and_as_wide_as_the_weights_of_the_file(family: Family) -> None:
    about = About("0" * 64, family.name, 2, ({"id": "x"},))
    with recorded(family.pipeline, about, guided=family.guided) as found:
        family.pipeline.draw(family.payloads)
    with open_checkpoint(family.a) as model:
        shapes = model.shapes
    layers = layers_of(family.pipeline)
    network = {layer.key for layer in layers if layer.in_denoiser}
    assert set(found.sums) == {layer.key for layer in layers}  # all are seen at work, text encoders too
    assert set(found.sums) <= set(shapes)
    for key, sums in found.sums.items():
        assert sums["in_sq"].shape[1] == shapes[key][1], key
        if family.guided and key in network:
            assert sums["guided_out"].shape == (2, shapes[key][0]), key
            assert found.counts[key]["guided_n"].sum() > 0
