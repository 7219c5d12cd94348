"""Runs whose pictures ComfyUI draws, from the command line, with real files and a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from bayes_merger.imaging.payload.workflow import PLAIN
from bayes_merger.run.folder import RunFolder, load
from tests.comfyui import State, comfyui
from tests.merging.tiny_models import write_model
from tests.user_folder import command, make_workplace


@pytest.fixture
def server(tmp_path: Path) -> Iterator[State]:
    models = tmp_path / "checkpoints"
    models.mkdir()
    (models / "someone-s.safetensors").write_bytes(b"a model of the user's own")
    with comfyui(models) as state:
        yield state


@pytest.fixture
def place(tmp_path: Path, server: State) -> Path:
    """A working folder whose own settings name ComfyUI; its models are a few tensors, which nobody here draws."""
    folder = make_workplace(tmp_path / "work", tmp_path)
    for seed, name in enumerate("ab"):
        write_model(folder / f"{name}.safetensors", seed)
    (folder / "payloads/both.yaml").write_text(
        "both: {prompt: (a:1.2), steps: 2, width: 64, height: 64, batch_size: 2}\n"
    )
    (folder / "conf/experiment/comfy.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /payloads: [both]\n  - override /scorers: [redness]\n  - override /generator: comfyui\n"
        "model_a: a.safetensors\nmodel_b: b.safetensors\ninit_points: 3\nn_iters: 1\n"
        f"generator: {{address: '{server.address}', models_folder: {server.folder}}}\n"
        "payloads: {both: {sampler_name: DPM++ SDE}}\n"
        "final: {rescore: 1, images: 1, save: false}\n"
    )
    (folder / "own.json").write_text(
        json.dumps({**PLAIN, "note": {"class_type": "CR Note", "inputs": {"text": "mine"}}})
    )
    return folder


def test_a_run_is_drawn_there_and_leaves_nothing(place: Path, server: State) -> None:
    result = command(place, "run", "experiment=comfy", "name=there")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in server.folder.iterdir()] == ["someone-s.safetensors"]
    titles = list(dict.fromkeys(title for title, _ in server.models))
    assert len(titles) == len(set(server.models)), "no name is used for two merges"
    assert (server.queue, server.history) == ({}, {})
    sampler = server.asked[0]["sampler"]["inputs"]
    assert (sampler["sampler_name"], sampler["scheduler"], sampler["steps"]) == ("dpmpp_sde", "karras", 2)
    seeds = [graph["sampler"]["inputs"]["seed"] for graph in server.asked[:4]]
    assert seeds == [seeds[0], seeds[0] + 1] * 2
    with Image.open(place / "runs/there/images/0001/both-1.png") as picture:
        assert picture.info["parameters"].startswith("(a:1.2)\nSteps: 2, Sampler: DPM++ SDE, ")
    assert all(trial.value is not None for trial in load(RunFolder(place / "runs/there")).get_trials())


@pytest.mark.slow
def test_another_workflow_does_not_compare(place: Path, server: State) -> None:
    few = ("n_iters=0", "final.images=0")
    assert command(place, "run", "experiment=comfy", "name=own", "generator.workflow=own.json", *few).returncode == 0
    assert server.asked[0]["note"]["inputs"] == {"text": "mine"}
    (place / "own.json").write_text(json.dumps(PLAIN))
    assert "which a study may only name if a file of yours does" in command(place, "resume", "own", "n_iters=1").stderr
    result = command(place, "resume", "own", "n_iters=1", "generator.workflow=own.json")
    assert result.returncode == 2
    assert "web_ui.workflow: " in result.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["generator.address=http://127.0.0.1:9"], "generator.address: no ComfyUI answers at http://127.0.0.1:9"),
        (["generator.models_folder=nowhere"], "generator.models_folder: there is no folder"),
        (["generator.workflow=gone.json"], "generator.workflow: "),
        (["payloads.both.sampler_name=Restart"], "payload both: sampler_name: ComfyUI has no 'Restart'"),
        (["payloads.both.prompt='a BREAK b'"], "payload both: prompt: BREAK is a word like others to ComfyUI"),
        (["generator=webui", "generator.models_folder=.", "generator.workflow=own.json"],
         "generator.workflow: is for ComfyUI; leave it out, or give  generator=comfyui"),
        (["generator.device=cpu"], "generator.device: is the web UI's own business"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_anything_is_written(place: Path, settings: list[str], said: str) -> None:
    result = command(place, "run", "experiment=comfy", "name=wrong", *settings)
    assert result.returncode == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (place / "runs").exists()
