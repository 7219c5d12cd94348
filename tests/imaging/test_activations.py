"""``imaging.activations``: sums over what a live pipeline's layers are fed and answer."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.checkpoints.activations.names import About
from bayes_merger.checkpoints.activations.sums import Activations
from bayes_merger.checkpoints.config_trees import read_tree
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.errors import ConfigError
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, resolve
from bayes_merger.imaging.activations import Recording, recorded
from bayes_merger.imaging.gradients import SeenCalls
from bayes_merger.imaging.layers import Layer, layers_in, layers_of
from tests.fake_device import fake_device

CONFIGS = Path(empty_networks.__code__.co_filename).parent / "configs"
WHOLE = [("sd15", 354, 19_886_336, 32e6), ("sdxl", 1058, 89_364_736, 150e6)]
ABOUT = About("0" * 64, "sd1", 2, ({"id": "x"},))
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
KEYS = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
PAYLOADS = resolve([Payload("ring", "a red ring", steps=2, width=64, height=64, cfg_scale=3, batch_size=2)], 0)


def test_sums_are_those_that_plain_hooks_see(pipeline_a: LivePipeline) -> None:
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {FIRST: [], KEYS: []}
    modules = {layer.key: layer.module for layer in layers_of(pipeline_a)}
    handles = [modules[key].register_forward_hook(adder(calls)) for key, calls in seen.items()]
    with recorded(pipeline_a, ABOUT, guided=True) as found:
        pipeline_a.draw(PAYLOADS)
    for handle in handles:
        handle.remove()
    for key, places in ((FIRST, (0, 2, 3)), (KEYS, (0, 1))):  # the second is fed the same words in every call
        sums = found.sums[key]
        assert len(seen[key]) == 2  # calls of the denoiser: one in each half of the timesteps, the noisy one first
        for band, (given, answer) in zip((1, 0), seen[key], strict=True):
            assert torch.allclose(sums["in_sq"][band], given.double().square().sum(places), rtol=1e-6)
            assert torch.allclose(sums["in_abs"][band], given.double().abs().sum(places), rtol=1e-6)
            response = (answer[2:] - answer[:2]).double().square().sum(places)
            assert torch.allclose(sums["guided_out"][band], response, rtol=1e-6)
    assert found.counts[FIRST]["n"].tolist() == [256.0, 256.0]  # 2 pictures, 2 halves, 8 x 8 places
    assert found.counts[FIRST]["guided_n"].tolist() == [128.0, 128.0]
    assert found.counts[KEYS]["guided_n"].tolist() == [2 * 77.0, 2 * 77.0]
    assert torch.equal(found.sums[FIRST]["guided_in"], torch.zeros(2, 4).double())  # both halves see the same latents
    assert float(found.sums[KEYS]["guided_in"].min()) > 0
    assert "guided_in" not in found.sums[TEXT]  # text encoders read prompts one after another
    assert found.sums[TEXT]["in_sq"].shape == (1, 8)
    assert found.counts[TEXT]["n"].tolist() == [4 * 77.0]
    assert set(found.by_run) == set(found.sums)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_in_half_precision_the_sums_are_in_full(tiny_a: Path, tiny_sd1_config: Path, dtype: str) -> None:
    pipeline = load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu", dtype=dtype)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    module = next(layer.module for layer in layers_of(pipeline) if layer.key == KEYS)
    handle = module.register_forward_hook(adder(seen))
    with recorded(pipeline, ABOUT, guided=True, gradients=1) as found:
        pipeline.draw(PAYLOADS)
        handle.remove()
    sums = found.sums[KEYS]
    for band, calls in zip((1, 0), seen, strict=True):
        given, answer = (numbers.double() for numbers in calls)
        assert torch.allclose(sums["in_sq"][band], given.square().sum((0, 1)), rtol=1e-6)
        assert torch.allclose(sums["in_abs"][band], given.abs().sum((0, 1)), rtol=1e-6)
        assert torch.allclose(sums["guided_out"][band], (answer[2:] - answer[:2]).square().sum((0, 1)), rtol=1e-6)
    assert float(sums["gradient_in"].sum()) > 0


@pytest.mark.parametrize("device", ["cuda:0", "mps:0"])
def test_on_a_gpu_they_are_those_of_the_cpu_and_no_layer_waits_for_them(
    tiny_a: Path, tiny_sd1_config: Path, pipeline_a: LivePipeline, device: str
) -> None:
    with recorded(pipeline_a, ABOUT, guided=True) as expected:
        pipeline_a.draw(PAYLOADS)
    with fake_device(device) as gpu:
        pipeline = load_pipeline(tiny_a, config=tiny_sd1_config, device=device, dtype="fp32")
        pipeline.draw(PAYLOADS)
        pipeline.text_encoder_changed()
        before = gpu.waits
        pipeline.draw(PAYLOADS)
        plain = gpu.waits - before
        with recorded(pipeline, ABOUT, guided=True) as found:
            before = gpu.waits
            pipeline.draw(PAYLOADS)
            assert gpu.waits - before == plain + 2  # each call of the denoiser is asked for its time
    assert found.sums.keys() == expected.sums.keys()
    for key, table in expected.sums.items():
        for statistic, sums in table.items():
            one = found.sums[key][statistic]
            assert (one.device.type, one.dtype) == ("cpu", torch.float64)
            assert torch.allclose(one, sums, rtol=1e-3, atol=1e-4 * float(sums.mean())), (key, statistic)


def adder(calls: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """A hook that keeps what a layer is fed and answers."""
    return lambda _, given, answer: calls.append((given[0].clone(), answer.clone()))


@pytest.mark.parametrize(
    ("module", "shape", "places"),
    [
        (torch.nn.Linear(64, 16), (4, 2048, 64), (0, 1)),
        (torch.nn.Conv2d(8, 16, 1), (4, 8, 128, 128), (0, 2, 3)),
    ],
)
def test_of_large_tensors_the_sums_are_those_of_all_parts(
    module: Any, shape: tuple[int, ...], places: tuple[int, ...]
) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))  # half a million numbers
    layer = Layer("x.weight", module, in_denoiser=True, begin=0, rows=16, swapped=False)
    found = Activations(ABOUT)
    with torch.no_grad():
        recording, answer = Recording(found, guided=True, time_unit=1000.0), module(given)
        recording.see_layer(layer, given, answer)
        recording.finish([layer])
    sums = {name: total[0] for name, total in found.sums["x.weight"].items()}
    exact = given.double()
    assert torch.allclose(sums["in_sq"], exact.square().sum(places), rtol=1e-6)
    assert torch.allclose(sums["in_abs"], exact.abs().sum(places), rtol=1e-6)
    assert torch.allclose(sums["guided_in"], (exact[2:] - exact[:2]).square().sum(places), rtol=1e-6)
    response = (answer[2:] - answer[:2]).double().square().sum(places)
    assert torch.allclose(sums["guided_out"], response, rtol=1e-6)
    assert found.counts["x.weight"]["n"].tolist() == [given.numel() / len(sums["in_sq"]), 0.0]


@pytest.mark.parametrize(("folder", "layers", "size", "most"), WHOLE)
def test_files_of_whole_models_are_small_and_no_more_than_thrice_that_is_held(
    folder: str, layers: int, size: int, most: float
) -> None:
    networks = empty_networks(read_tree(CONFIGS / folder))
    watched = layers_in(networks, "unet", [part for part in networks if part.startswith("text_encoder")])
    found, held = Activations(replace(ABOUT, bands=4)), []
    recording, before = Recording(found, guided=True, time_unit=1000.0), in_memory()
    for pictures in (1, 2, 3):  # batches of any size
        feed(recording, [layer for layer in watched if not layer.in_denoiser], 1)
        for time in (999, 700, 400, 100):
            recording.see_time(networks["unet"], (None, torch.tensor(time)), {})
            feed(recording, [layer for layer in watched if layer.in_denoiser], 2 * pictures)
        held.append(in_memory() - before)
    recording.finish(watched)
    assert len(watched) == layers
    assert sum(4 * tensor.numel() for own in found.sums.values() for tensor in own.values()) == size
    assert size + 2000 * len(found.sums) < most  # of their names, counts and runs
    assert max(held) == pytest.approx(held[0], rel=0.01)
    assert max(held) < 3 * size


def feed(recording: Recording, layers: list[Layer], batch: int) -> None:
    """Show layers at work on one place of each picture."""
    for layer in layers:
        weight: Any = layer.module.weight
        rows, width = weight.shape[:2]
        picture = (1, 1) if isinstance(layer.module, torch.nn.Conv2d) else ()
        recording.see_layer(layer, torch.zeros(batch, width, *picture), torch.zeros(batch, rows, *picture))


def in_memory() -> int:
    """Bytes of all tensors that are alive on the CPU."""
    gc.collect()
    alive = [found for found in gc.get_objects() if type(found) is torch.Tensor and found.device.type == "cpu"]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}.values())


def test_recording_changes_no_picture_and_leaves_no_hook(pipeline_a: LivePipeline) -> None:
    before = [image.image.tobytes() for image in pipeline_a.draw(PAYLOADS)]
    hooks = hooks_of(pipeline_a)
    with recorded(pipeline_a, ABOUT, guided=True):
        assert hooks_of(pipeline_a) > hooks
        assert [image.image.tobytes() for image in pipeline_a.draw(PAYLOADS)] == before
    assert hooks_of(pipeline_a) == hooks


def hooks_of(pipeline: LivePipeline) -> int:
    modules = [m for part in pipeline.architecture.model.modules.values() for m in part.modules()]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def test_without_guidance_there_is_no_response(pipeline_a: LivePipeline) -> None:
    plain = [replace(payload, cfg_scale=1.0) for payload in PAYLOADS]
    with recorded(pipeline_a, ABOUT, guided=False) as found:
        pipeline_a.draw(plain)
    assert set(found.sums[FIRST]) == {"in_sq", "in_abs"}
    assert found.counts[FIRST]["n"].tolist() == [128.0, 128.0]


def test_a_model_that_is_not_seen_at_work_is_refused(pipeline_a: LivePipeline) -> None:
    with pytest.raises(ConfigError, match="354 of 354 layers were not seen"), recorded(pipeline_a, ABOUT, guided=True):
        pass


def test_layers_that_are_hidden_in_a_compiled_part_are_named(own_pipeline: LivePipeline) -> None:
    own_pipeline.architecture.model.modules["unet"].time_embedding.compile(backend="eager")
    own_pipeline.draw(PAYLOADS)  # compiled without hooks
    said = r"2 of 354 layers were not seen at work, model\.diffusion_model\.time_embed\.0\.weight first; do not"
    with pytest.raises(ConfigError, match=said), recorded(own_pipeline, ABOUT, guided=True):
        own_pipeline.draw(PAYLOADS)


def test_of_text_encoders_each_picture_counts_however_many_are_in_a_batch(own_pipeline: LivePipeline) -> None:
    found = []
    for own_pipeline.max_batch in (2, 1):
        with recorded(own_pipeline, ABOUT, guided=True) as activations:
            own_pipeline.draw(PAYLOADS)
        assert activations.counts[TEXT]["n"].tolist() == [4 * 77.0]
        found.append(activations.sums[TEXT]["in_sq"])
    assert torch.allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "bands", "looked_at"),
    [
        (6, 2, [[3, 5], [0, 2]]),  # three steps in a band
        (8, 2, [[4, 6], [0, 2]]),
        (4, 2, [[2, 3], [0, 1]]),  # of two both are
        (4, 100, [[3], [2], [1], [0]]),
    ],
)
def test_of_three_steps_in_a_band_every_second_one_is_looked_at(
    pipeline_a: LivePipeline, steps: int, bands: int, looked_at: list[list[int]]
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    module = next(layer.module for layer in layers_of(pipeline_a) if layer.key == FIRST)
    handle = module.register_forward_hook(adder(seen))
    with recorded(pipeline_a, replace(ABOUT, bands=bands), guided=True) as found:
        pipeline_a.draw([replace(payload, steps=steps) for payload in PAYLOADS])
    handle.remove()
    squares = [given.double().square().sum((0, 2, 3)) for given, _ in seen]
    counts = found.counts[FIRST]["n"]
    sums = found.sums[FIRST]["in_sq"][counts > 0]
    assert len(seen) == steps
    assert counts[counts > 0].tolist() == [256.0 * len(calls) for calls in looked_at]
    for own, calls in zip(sums, looked_at, strict=True):
        assert torch.allclose(own, torch.stack([squares[call] for call in calls]).sum(0), rtol=1e-6)


def test_a_second_batch_is_looked_at_as_the_first(own_pipeline: LivePipeline) -> None:
    for steps, calls in ((1, 1), (3, 2)):
        drawn = [replace(payload, steps=steps) for payload in PAYLOADS]
        with recorded(own_pipeline, replace(ABOUT, bands=1), guided=True) as found:
            for _ in range(2):
                own_pipeline.draw(drawn)
        assert found.counts[FIRST]["n"].tolist() == [2 * calls * 256.0]


def test_gradients_are_those_of_random_probes(pipeline_a: LivePipeline) -> None:
    network = pipeline_a.architecture.model.modules["unet"]
    calls: list[tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]] = []
    handle = network.register_forward_pre_hook(lambda _, given, named: calls.append((given, named)), with_kwargs=True)
    pipeline_a.draw(PAYLOADS)
    handle.remove()
    with recorded(pipeline_a, ABOUT, guided=True, gradients=2) as found:
        pipeline_a.draw(PAYLOADS)
    weight: Any = next(layer.module.weight for layer in layers_of(pipeline_a) if layer.key == FIRST)
    weight.requires_grad_(True)
    for band, number in ((1, 0), (0, 1)):
        given, named = calls[number]
        with torch.enable_grad():
            answer = network(*given, **named)[0]
            probe = torch.randn(answer.shape, generator=torch.Generator().manual_seed(number))
            gradient = torch.autograd.grad((answer * probe).sum(), weight)[0]
        squares = gradient.double().square()
        assert torch.allclose(found.sums[FIRST]["gradient_out"][band], squares.mean((1, 2, 3)), rtol=1e-4)
        assert torch.allclose(found.sums[FIRST]["gradient_in"][band], squares.mean((0, 2, 3)), rtol=1e-4)
    weight.requires_grad_(False)
    assert found.counts[FIRST]["gradient_n"].tolist() == [1.0, 1.0]
    assert all(parameter.grad is None for parameter in network.parameters())


class Stacked(torch.nn.Module):
    """Answers by two layers that a checkpoint has as one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.v = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(3, 5, bias=False)

    def forward(self, given: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.cat([self.q(given), self.v(given).square()], -1),)


def test_gradients_of_what_is_stacked_in_one_tensor_are_those_of_all_its_rows() -> None:
    network, time = Stacked(), torch.tensor(900.0)
    layers = [Layer("x.weight", network.q, True, 0, 7, False), Layer("x.weight", network.v, True, 2, 7, False)]
    given = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    answer = network(given, time)[0]
    probe = torch.randn(answer.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.autograd.grad((answer * probe).sum(), [network.q.weight, network.v.weight])
    squares = torch.cat(rows).double().square()
    found, calls = Activations(ABOUT), SeenCalls(1)
    recording = Recording(found, guided=True, time_unit=1000.0)
    calls.see(network, (given, time), {})
    calls.probe(network, layers, recording.see_time, recording.see_gradient)
    recording.finish(layers)
    sums = found.sums["x.weight"]
    assert torch.allclose(sums["gradient_in"][1], squares.mean(0), rtol=1e-5)
    assert torch.allclose(sums["gradient_out"][1], squares.mean(1), rtol=1e-5)
    assert found.counts["x.weight"]["gradient_n"].tolist() == [0.0, 1.0]


def test_gradients_that_overflow_in_half_precision_are_refused_at_once() -> None:
    network, time = Stacked().half(), torch.tensor(900.0)
    with torch.no_grad():
        network.v.weight.fill_(0.5)
    layers = [Layer("x.weight", network.q, True, 0, 7, False), Layer("x.weight", network.v, True, 2, 7, False)]
    calls, recording = SeenCalls(1), Recording(Activations(ABOUT), guided=True, time_unit=1000.0)
    given = torch.full((200, 3), 100.0, dtype=torch.float16)
    assert network(given, time)[0].max().item() == 22496.0  # which fp16 holds
    calls.see(network, (given, time), {})
    calls.probe(network, layers, recording.see_time, recording.see_gradient)
    with pytest.raises(ConfigError, match=r"gradient_\w+ of x.weight is more than can be held; .*dtype=fp32"):
        recording.finish(layers)


def test_a_negative_prompt_that_is_not_drawn_is_not_measured(pipeline_a: LivePipeline) -> None:
    found = []
    for negative in ("", "a large blue cross"):
        payload = replace(PAYLOADS[0], cfg_scale=1.0, negative_prompts=(negative, negative))
        with recorded(pipeline_a, ABOUT, guided=False) as activations:
            pipeline_a.draw([payload])
        found.append(activations.sums[TEXT]["in_sq"])
        assert activations.counts[TEXT]["n"].tolist() == [2 * 77.0]
    assert torch.equal(found[0], found[1])
