"""The client of ComfyUI, against a server that speaks its API."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed
from bayes_merger.imaging import Payload, resolve
from bayes_merger.imaging.comfyui import ComfyUI
from bayes_merger.imaging.payload.passed_on import Request
from bayes_merger.imaging.payload.workflow import PLAIN, Workflow, payload_for_comfyui
from tests.comfyui import State, comfyui

FIELDS = {"prompt": "a ring", "sampler_name": "Euler", "steps": 3, "width": 64, "height": 64, "seed": 7}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[State]:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with comfyui(tmp_path) as state:
        yield state


def client(server: State, timeout: float = 20.0, workflow: Any = PLAIN) -> ComfyUI:
    return ComfyUI(server.address, timeout, Workflow(workflow), pauses=())


def payload(**fields: Any) -> Payload:
    return resolve([payload_for_comfyui("p", {**FIELDS, **fields})], 0)[0]


def request(**fields: Any) -> Request:
    return Request(payload(**fields), (0,))


def test_a_picture_comes_back_and_nothing_of_ours_stays_there(server: State) -> None:
    (one,) = client(server).draw(request(), "model.safetensors", "model.safetensors")
    (again,) = client(server).draw(request(), "model.safetensors", "model.safetensors")
    (other,) = client(server).draw(request(seed=8), "model.safetensors", "model.safetensors")
    assert one.image.size == (64, 64)
    assert one.image.tobytes() == again.image.tobytes() != other.image.tobytes()
    assert one.parameters == ""
    assert (server.queue, server.history) == ({}, {})
    assert [graph["sampler"]["inputs"]["seed"] for graph in server.asked] == [7, 7, 8]


@pytest.mark.parametrize("combo", [False, True])
def test_models_and_samplers_are_those_that_it_lists(server: State, combo: bool) -> None:
    server.combo = combo
    assert client(server).check([payload()]) == {"workflow": Workflow().digest}
    with pytest.raises(ConfigError, match=r"^payload p: sampler_name: ComfyUI has no 'lms'; .*euler"):
        client(server).check([payload(sampler_name="LMS")])
    with pytest.raises(ConfigError, match=r"^payload p: scheduler: ComfyUI has no 'beta'"):
        client(server).check([payload(scheduler="Beta")])
    with pytest.raises(ConfigError, match=r"^payload p: prompt: BREAK"):
        client(server).check([payload(prompt="a BREAK b")])
    assert client(server).files() == {"model.safetensors": "model.safetensors"}
    with pytest.raises(BayesMergerError, match=r"^generator.models_folder: .* does not list new.safetensors"):
        client(server).title_of("new.safetensors")
    (server.folder / "new.safetensors").write_bytes(b"other")
    assert client(server).title_of("new.safetensors") == "new.safetensors"


def test_another_loader_lists_its_own_models(server: State) -> None:
    loader = {"model": {"class_type": "UNETLoader", "inputs": {"unet_name": "", "weight_dtype": "default"}}}
    one = client(server, workflow={**PLAIN, **loader})
    assert one.files() == {"model.safetensors": "model.safetensors"}
    assert one.draw(request(), "model.safetensors", "model.safetensors")
    assert server.asked[0]["model"]["inputs"]["unet_name"] == "model.safetensors"


def error(**told: Any) -> list[Any]:
    return [["execution_start", {}], ["execution_error", told]]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            error(node_type="KSampler", exception_type="torch.OutOfMemoryError", exception_message="CUDA\nfull"),
            "KSampler: torch.OutOfMemoryError: CUDA",
        ),
        ([["execution_interrupted", {}]], "it was interrupted"),
        ([["execution_error", None], 3], "no reason given"),
        (error(exception_message="\x1b[31m" + "y" * 5000), r"\?\[31my"),
    ],
)
def test_what_goes_wrong_there_is_told_in_a_line(server: State, messages: list[Any], said: str) -> None:
    server.fails = [messages]
    with pytest.raises(TrialFailed, match=f"^payload p, seed 7: ComfyUI cannot draw it: {said}") as caught:
        client(server).draw(request(), "model.safetensors", "model.safetensors")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert server.history == {}


def test_a_flat_picture_fails_and_a_refused_graph_says_why(server: State) -> None:
    server.flat = True
    with pytest.raises(TrialFailed, match="one flat colour"):
        client(server).draw(request(), "model.safetensors", "model.safetensors")
    with pytest.raises(
        BayesMergerError,
        match=r"not take its workflow: .*CheckpointLoaderSimple: Value not in list \(ckpt_name: 'gone'",
    ):
        client(server).draw(request(), "gone", "gone")


def test_what_is_lost_when_it_is_started_again_is_asked_for_anew(server: State) -> None:
    server.forgets = 1
    assert client(server).draw(request(), "model.safetensors", "model.safetensors")
    assert len(server.asked) == 2
    server.forgets = 3
    with pytest.raises(BayesMergerError, match="has lost it 3 times"):
        client(server).draw(request(), "model.safetensors", "model.safetensors")


def test_one_that_takes_too_long_is_left_and_draws_nothing_for_nobody(server: State) -> None:
    server.delay = 3600.0
    with pytest.raises(BayesMergerError, match=r"has not drawn it in 0.2 s.*generator.timeout="):
        client(server, timeout=0.2).draw(request(), "model.safetensors", "model.safetensors")
    assert server.queue == {}
    assert len(server.interrupted) == 1


def test_others_who_are_before_us_take_as_long_as_they_take_and_are_not_interrupted(server: State) -> None:
    told: list[str] = []
    server.others = ["theirs"] * 6
    one = ComfyUI(server.address, 0.3, Workflow(), pauses=(), waiting=told.append)
    assert one.draw(request(), "model.safetensors", "model.safetensors")
    assert told == [f"ComfyUI at {server.address} has other work to do first: 4 in its queue"]
    assert server.interrupted == []


def test_what_a_workflow_is_made_of_is_asked_for_before_anything_is_drawn(server: State) -> None:
    def with_node(kind: str, **inputs: Any) -> ComfyUI:
        return client(server, workflow={**PLAIN, "more": {"class_type": kind, "inputs": inputs}})

    assert with_node("LoraLoader", lora_name="style.safetensors", strength_model=1.0).check([payload()])
    with pytest.raises(
        ConfigError, match=r"^generator.workflow: ComfyUI at .* has no node 'My/Node \(x\)'; install it"
    ):
        with_node("My/Node (x)").check([])
    said = (
        r"^generator.workflow: .* has no lora_name 'stile.safetensors' for node more \(LoraLoader\); did you mean style"
    )
    with pytest.raises(ConfigError, match=said):
        with_node("LoraLoader", lora_name="stile.safetensors").check([])
    assert server.asked == []


@pytest.mark.parametrize(
    ("done", "said"),
    [
        ({}, r"has made no picture \(no 'outputs'\)$"),
        ({"outputs": []}, "has made no picture"),
        ({"outputs": {"picture": {"images": []}}}, "has made no pictures where one is asked for"),
        ({"outputs": {"picture": {"images": ["x"]}}}, "has made no picture"),
        (
            {"outputs": {"picture": {"images": [{}, {}]}}},
            "has made 2 pictures .*; give a generator.workflow that makes one",
        ),
    ],
)
def test_a_history_without_one_picture(server: State, done: Any, said: str) -> None:
    server.history = {"00000000-0000-0000-0000-000000000001": done}
    server.forgets = 1
    with pytest.raises(BayesMergerError, match=f"^payload p, seed 7: ComfyUI {said}"):
        client(server).draw(request(), "model.safetensors", "model.safetensors")


def test_nobody_there_or_somebody_else(server: State) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=rf"^generator.address: no ComfyUI answers at {nobody}.* start it, or give"
        ):
            ComfyUI(nobody, 5.0, Workflow(), pauses=()).check([])
    other = ComfyUI(f"{server.address}/elsewhere", 5.0, Workflow(), pauses=())
    with pytest.raises(ConfigError, match=r"has no /object_info/KSampler; is that ComfyUI\?"):
        other.check([])
    server.history = json.loads('{"KSampler": 1}')
    with pytest.raises(ConfigError, match="is no address"):
        ComfyUI("file:///x", 5.0, Workflow())
