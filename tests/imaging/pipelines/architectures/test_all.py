"""Every architecture on a tiny model of its true topology, against plain diffusers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_merger.checkpoints.activations.names import COUNT_OF, About
from bayes_merger.checkpoints.naming import Naming
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, resolve
from bayes_merger.imaging.activations import recorded
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


def test_activations_are_those_that_plain_hooks_on_plain_diffusers_see(family: Family) -> None:
    about = About("0" * 64, family.name, 100, ({"id": "x"},))  # a band for each step, so that all are looked at
    family.write(family.a)
    with recorded(family.pipeline, about, guided=family.guided) as found:
        family.pipeline.draw(family.payloads[:1])
    pipe = plain(family.a, family)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    naming = Naming.of({part: {n: tuple(t.shape) for n, t in m.state_dict().items()} for part, m in parts.items()})
    seen: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
    for part, module in parts.items():
        for name, layer in module.named_modules():
            if part != "vae" and isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                layer.register_forward_hook(keeper(seen.setdefault((part, f"{name}.weight"), [])))
    drawn_by(pipe, replace(family, payloads=family.payloads[:1]))

    measured = set()
    for (part, name), calls in seen.items():
        own = naming.counterpart(part, name)
        assert own is not None
        if own.transposed:  # a projection of the whole prompt
            continue
        measured.add(own.key)
        stack = own.stack or (name,)
        before = sum(len(parts[part].get_parameter(n)) for n in stack[: stack.index(name)])
        rows = slice(before, before + len(parts[part].get_parameter(name)))
        given, answers = ([places_of_channels(call[n]) for call in calls] for n in (0, 1))
        fed = torch.cat(given, 1).double()
        expected = {"in_sq": fed.square().mean(1), "in_abs": fed.abs().mean(1)}
        if family.guided and part in ("unet", "transformer"):
            expected["guided_in"] = torch.cat([responded(call) for call in given], 1).square().mean(1)
            response = torch.cat([responded(call) for call in answers], 1).square().mean(1)
            expected["guided_out"] = torch.cat(response.chunk(2)[::-1]) if own.swapped else response
        sums = found.sums[own.key]
        assert sums.keys() == expected.keys(), own.key
        for statistic, mean in expected.items():
            count = found.counts[own.key][COUNT_OF[statistic]].sum()
            ours = sums[statistic].sum(0)[rows if statistic == "guided_out" else slice(None)] / count
            assert torch.allclose(ours, mean, rtol=3e-5, atol=1e-12), (own.key, statistic)  # responses are small
    assert measured == found.sums.keys()


def keeper(calls: list[tuple[Tensor, Tensor]]) -> Any:
    """A hook that keeps what a layer is fed and answers."""
    return lambda _, given, answer: calls.append((given[0].clone(), answer.clone()))


def places_of_channels(numbers: Tensor) -> Tensor:
    """Channels first, and all their places behind; those of the first picture come first."""
    return numbers.movedim(1 if numbers.dim() == 4 else -1, 0).flatten(1)


def responded(places: Tensor) -> Tensor:
    """The conditional half less the unconditional one."""
    without, prompted = places.chunk(2, 1)
    return (prompted - without).double()
