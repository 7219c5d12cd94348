from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bayes_merger.checkpoints.tokenizer import build_tokenizer
from bayes_merger.errors import ConfigError, TrialFailed
from bayes_merger.imaging import DrawnImage, LivePipeline, Payload, load_pipeline, resolve
from bayes_merger.imaging.pipelines.schedulers import SAMPLERS, build_scheduler
from tests.fake_device import fake_device

CAT = Payload("cat", "a photo of a cat", negative_prompt="blurry", steps=3, width=64, height=64, seed=7, batch_size=2)
DOG = dataclasses.replace(CAT, name="dog", prompt="a dog, sunny day", seed=30, batch_size=1)


def pixels(images: list[DrawnImage]) -> dict[tuple[str, int], bytes]:
    return {(image.payload, image.index): image.image.tobytes() for image in images}


def plain_diffusers(path: Path, config: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_single_file(
        str(path), config=str(config), tokenizer=build_tokenizer(), local_files_only=True, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write(pipeline: LivePipeline, path: Path) -> None:
    from safetensors.torch import load_file

    source = load_file(path)
    for key, destination in pipeline.destinations().items():
        destination.copy_(source[key])
    pipeline.text_encoder_changed()


@pytest.mark.parametrize("name", ["Euler a", "DPM++ 2M SDE", "DDIM"])
def test_plain_diffusers_draws_the_very_same_pictures(
    name: str, pipeline_a: LivePipeline, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    payloads = resolve([dataclasses.replace(p, sampler_name=name) for p in (CAT, DOG)], 0)
    ours = pipeline_a.draw(payloads)
    pipe = plain_diffusers(tiny_a, tiny_sd1_config)
    pipe.scheduler = build_scheduler(name)
    theirs = pipe(
        prompt=["a photo of a cat", "a photo of a cat", "a dog, sunny day"],
        negative_prompt=["blurry"] * 3,
        width=64,
        height=64,
        num_inference_steps=3,
        guidance_scale=7.0,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (7, 8, 30)],
    ).images
    assert [image.image.tobytes() for image in ours] == [image.tobytes() for image in theirs]
    assert [(image.payload, image.index, image.seed) for image in ours] == [
        ("cat", 0, 7),
        ("cat", 1, 8),
        ("dog", 0, 30),
    ]


def test_after_a_swap_it_is_the_other_model_and_back_again(
    own_pipeline: LivePipeline, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> None:
    payloads = resolve([CAT, DOG], 0)
    drawn_a = pixels(own_pipeline.draw(payloads))
    write(own_pipeline, tiny_b)
    fresh_b = load_pipeline(tiny_b, config=tiny_sd1_config, device="cpu")
    expected = fresh_b.destinations()
    assert all(torch.equal(live, expected[key]) for key, live in own_pipeline.destinations().items())
    drawn_b = pixels(own_pipeline.draw(payloads))
    assert drawn_b == pixels(fresh_b.draw(payloads))
    assert drawn_b != drawn_a
    write(own_pipeline, tiny_a)
    assert pixels(own_pipeline.draw(payloads)) == drawn_a


def test_prompts_are_encoded_again_only_when_the_text_encoder_changed(own_pipeline: LivePipeline) -> None:
    payloads = resolve([CAT], 0)
    before = pixels(own_pipeline.draw(payloads))
    for key, destination in own_pipeline.destinations().items():
        if key.startswith("cond_stage_model."):
            destination.mul_(1.5)
    assert pixels(own_pipeline.draw(payloads)) == before
    own_pipeline.text_encoder_changed()
    assert pixels(own_pipeline.draw(payloads)) != before


def test_the_order_of_payloads_in_a_batch_does_not_matter(pipeline_a: LivePipeline) -> None:
    cat, dog = resolve([CAT, DOG], 0)
    assert pixels(pipeline_a.draw([cat, dog])) == pixels(pipeline_a.draw([dog, cat]))


def test_a_neighbour_with_a_long_prompt_is_drawn_in_a_batch_of_its_own(pipeline_a: LivePipeline) -> None:
    cat, long = resolve([CAT, dataclasses.replace(DOG, prompt="dog " * 90)], 0)
    assert pixels(pipeline_a.draw([cat, long])).items() >= pixels(pipeline_a.draw([cat])).items()


def test_a_negative_prompt_that_is_shorter_is_read_as_if_it_were_alone(pipeline_a: LivePipeline) -> None:
    architecture = pipeline_a.architecture
    assert architecture.chunks(["a", "a BREAK b"], ["c BREAK d BREAK e"]) == (2, 3)
    once = architecture.encode(["a cat"], clip_skip=1, length=1, negative=False)
    x, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    with torch.no_grad():
        alone, thrice, filled = (
            pipeline_a.pipe.unet(x, time, embeddings).sample
            for embeddings in (
                once.embeddings,
                once.repeated(3).embeddings,
                architecture.encode(["a cat"], clip_skip=1, length=3, negative=False).embeddings,
            )
        )
    assert torch.allclose(alone, thrice, atol=1e-5)
    assert not torch.allclose(alone, filled, atol=1e-3)


def test_batches_are_as_large_as_allowed_and_steps_are_counted(
    own_pipeline: LivePipeline, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    small = load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu", max_batch=2)
    seen: list[tuple[int, int]] = []
    payloads = resolve([dataclasses.replace(CAT, batch_size=3, sampler_name="Heun")], 0)
    images = small.draw(payloads, on_step=lambda done, total: seen.append((done, total)))
    assert len(images) == 3
    assert seen[0] == (0, 6)
    assert seen[-1] == (6, 6)
    assert seen == sorted(seen)
    alone = np.stack([np.asarray(image.image, dtype=float) for image in images])
    together = np.stack([np.asarray(image.image, dtype=float) for image in own_pipeline.draw(payloads)])
    assert np.abs(alone - together).max() <= 2  # other batches, other rounding


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        pytest.param(name, scheduler, marks=[] if scheduler in (schedules[0], schedules[-1]) else pytest.mark.slow)
        for name, schedules in ((name, list(sampler.schedules)) for name, sampler in SAMPLERS.items())
        for scheduler in schedules
    ],
)
def test_every_sampler_draws(name: str, scheduler: str, pipeline_a: LivePipeline) -> None:
    payload = dataclasses.replace(CAT, sampler_name=name, scheduler=scheduler, steps=2, batch_size=1)
    pipeline_a.check([payload])
    (image,) = pipeline_a.draw(resolve([payload], 0))
    assert image.image.size == (64, 64)


def test_width_and_height_are_not_mixed_up(pipeline_a: LivePipeline) -> None:
    (image,) = pipeline_a.draw(resolve([dataclasses.replace(DOG, width=128, height=72)], 0))
    assert image.image.size == (128, 72)


def test_weights_that_are_not_finite_fail_the_trial(own_pipeline: LivePipeline) -> None:
    destinations = own_pipeline.destinations()
    destinations["model.diffusion_model.out.2.bias"].fill_(float("nan"))
    with pytest.raises(TrialFailed, match=r"payload cat, picture 0 \(seed 7\): the latents are not finite"):
        own_pipeline.draw(resolve([CAT], 0))
    destinations["model.diffusion_model.out.2.bias"].zero_()
    destinations["first_stage_model.decoder.conv_out.bias"].fill_(float("nan"))
    with pytest.raises(TrialFailed, match="the VAE's output is not finite"):
        own_pipeline.draw(resolve([CAT], 0))


def test_a_black_picture_fails_the_trial(own_pipeline: LivePipeline) -> None:
    destinations = own_pipeline.destinations()
    destinations["first_stage_model.decoder.conv_out.weight"].zero_()
    destinations["first_stage_model.decoder.conv_out.bias"].fill_(-1)
    with pytest.raises(TrialFailed, match=r"payload dog, picture 0 \(seed 30\): one flat colour \(0, 0, 0\)"):
        own_pipeline.draw(resolve([DOG], 0))


def test_fused_projections_are_refused_since_writes_would_be_lost(own_pipeline: LivePipeline) -> None:
    own_pipeline.pipe.unet.fuse_qkv_projections()
    with pytest.raises(ConfigError, match="projections are fused"):
        own_pipeline.destinations()


def test_offloaded_parameters_are_refused_since_writes_would_be_lost(own_pipeline: LivePipeline) -> None:
    own_pipeline.pipe.unet.to("meta")
    with pytest.raises(ConfigError, match="is offloaded"):
        own_pipeline.destinations()


def test_what_would_fail_in_the_first_trial_is_found_at_start_up(pipeline_a: LivePipeline) -> None:
    with pytest.raises(ConfigError, match="payload cat: sampler_name: no sampler 'Foo'"):
        pipeline_a.check([dataclasses.replace(CAT, sampler_name="Foo")])
    with pytest.raises(ConfigError, match="clip_skip is 13, the text encoder has 12 layers"):
        pipeline_a.check([dataclasses.replace(CAT, clip_skip=13)])
    with pytest.raises(ConfigError, match="payload cat: not resolved"):
        pipeline_a.draw([CAT])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu9"}, "device: 'tpu9'"),
        ({"device": "cuda:99"}, "device: no cuda:99 on this machine"),
        ({"device": "cpu", "dtype": "int8"}, "dtype: 'int8' is not a dtype; use auto, fp32"),
        ({"max_batch": 0}, "max_batch: 0"),
        ({"prediction_type": "x0"}, "prediction_type: 'x0'"),
    ],
)
def test_settings_that_make_no_sense(
    settings: dict[str, Any], message: str, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_pipeline(tiny_a, **{"config": tiny_sd1_config, **settings})


@pytest.mark.gpu
def test_on_a_gpu_in_fp16_pictures_repeat_and_a_swap_is_a_fresh_load(
    tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> None:
    payloads = resolve([CAT, DOG], 0)
    pipeline = load_pipeline(tiny_a, config=tiny_sd1_config, device="cuda")
    assert pipeline.dtype == torch.float16
    first = pixels(pipeline.draw(payloads))
    write(pipeline, tiny_b)
    assert pixels(pipeline.draw(payloads)) == pixels(
        load_pipeline(tiny_b, config=tiny_sd1_config, device="cuda").draw(payloads)
    )
    write(pipeline, tiny_a)
    assert pixels(pipeline.draw(payloads)) == first


def test_a_batch_that_the_memory_does_not_hold_is_halved_and_nothing_is_lost(
    tiny_a: Path, tiny_sd1_config: Path
) -> None:
    pipeline = load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu", max_batch=5)
    payloads = resolve([dataclasses.replace(CAT, batch_size=5), dataclasses.replace(CAT, name="dog", batch_size=3)], 0)
    sizes = []

    def crowded(unet: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """A device that holds two pictures, with and without their prompt."""
        sizes.append(len(inputs[0]) // 2)
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipeline.pipe.unet.register_forward_pre_hook(crowded)
    first = pipeline.draw(payloads)
    assert sizes[:2] == [4, 2]
    assert pipeline.max_batch == 2
    assert [(image.payload, image.index) for image in first] == [
        *(("cat", n) for n in range(5)),
        *(("dog", n) for n in range(3)),
    ]
    sizes.clear()
    second = pipeline.draw(payloads)
    assert max(sizes) == 2
    assert pixels(first) == pixels(second)


@pytest.mark.parametrize("device", ["cuda:0", "mps:0"])
def test_a_gpu_draws_what_the_cpu_draws(tiny_a: Path, tiny_sd1_config: Path, device: str) -> None:
    on_cpu = load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu", dtype="fp16")
    payloads = [
        Payload(name, "a (red:1.2) ring", sampler_name=name, steps=2, width=64, height=64, cfg_scale=3)
        for name in ("Euler a", "DPM++ SDE", "UniPC")
    ]
    expected = on_cpu.draw(resolve(payloads, 0))
    with fake_device(device):
        pipeline = load_pipeline(tiny_a, config=tiny_sd1_config, device=device)
        found = pipeline.draw(resolve(payloads, 0))
    assert (pipeline.device, pipeline.dtype) == (torch.device(device), torch.float16)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(np.asarray(one.image, int) - np.asarray(other.image, int)).max() <= 2, one.payload


def test_samplers_do_not_wait_for_a_gpu_between_steps(tiny_a: Path, tiny_sd1_config: Path) -> None:
    waits = []
    with fake_device("cuda:0") as gpu:
        pipeline = load_pipeline(tiny_a, config=tiny_sd1_config, device="cuda:0")
        for steps in (2, 2, 4):  # prompts are read before the second
            payload = Payload("x", "a ring", sampler_name="DPM++ 2M", steps=steps, width=64, height=64, cfg_scale=3)
            before = gpu.waits
            pipeline.draw(resolve([payload], 0))
            waits.append(gpu.waits - before)
    assert waits[1] == waits[2] < 8  # times and noise go there; whether all is finite, and the picture, come back


def test_a_device_that_is_not_there_is_refused(tiny_a: Path) -> None:
    for name in ("cuda:99", "mps:99"):
        with pytest.raises(ConfigError, match=f"device: no {name} on this machine"):
            load_pipeline(tiny_a, device=name)
    for name in ("meta", "gpu"):
        with pytest.raises(ConfigError, match=f"device: '{name}' is not a device; use auto, cpu, cuda, cuda:1 or mps"):
            load_pipeline(tiny_a, device=name)
