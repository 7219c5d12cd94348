"""Runs whose pictures a web UI draws, from the command line, with real files and a real server."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.web_ui import ModelsFolder
from tests.merging.tiny_models import write_model
from tests.user_folder import command, make_workplace, start
from tests.web_ui import State, web_ui


@pytest.fixture
def server(tmp_path: Path) -> Iterator[State]:
    models = tmp_path / "Stable-diffusion"
    models.mkdir()
    (models / "someone-s.safetensors").write_bytes(b"a model of the user's own")
    with web_ui(models) as state:
        yield state


@pytest.fixture
def place(tmp_path: Path, server: State) -> Path:
    """A working folder whose own settings name the web UI; its models are a few tensors, which nobody here draws."""
    folder = make_workplace(tmp_path / "work", tmp_path)
    for seed, name in enumerate("ab"):
        write_model(folder / f"{name}.safetensors", seed)
    (folder / "payloads/both.yaml").write_text(
        "both: {prompt: a AND b, steps: 2, width: 64, height: 64, batch_size: 2}\n"
    )
    (folder / "conf/experiment/web.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /payloads: [both]\n  - override /scorers: [redness]\n  - override /generator: webui\n"
        "model_a: a.safetensors\nmodel_b: b.safetensors\ninit_points: 3\nn_iters: 2\n"
        f"generator: {{address: '{server.address}', models_folder: {server.folder}}}\n"
        "payloads: {both: {sampler_name: Restart}}\n"
        "final: {rescore: 1, images: 1, save: false}\n"
    )
    return folder


def trials(place: Path, name: str) -> list[tuple[dict[str, Any], float | None]]:
    return [
        (trial.params, trial.value)
        for trial in load(RunFolder(place / "runs" / name)).get_trials()
        if trial.user_attrs.get("reason") != "interrupted"
    ]


def left(server: State) -> list[str]:
    return sorted(path.name for path in server.folder.iterdir())


def test_a_run_is_drawn_there_and_leaves_nothing(place: Path, server: State) -> None:
    result = command(place, "run", "experiment=web", "name=there")
    assert result.returncode == 0, result.stderr
    assert left(server) == ["someone-s.safetensors"]
    assert len(server.asked) == 5 + 1 + 4  # trials, the best one again, the closing table
    titles, digests = zip(*set(server.models), strict=True)
    assert len(set(titles)) == len(titles), "no name is used for two merges"
    assert len(set(digests)) >= 5
    assert {asked["prompt"] for asked in server.asked} == {"a AND b"}
    with Image.open(place / "runs/there/images/0001/both-1.png") as picture:
        assert picture.info["parameters"].startswith("a AND b\nSteps: 2, Seed: ")
        assert "Model hash: " in picture.info["parameters"]
    study = load(RunFolder(place / "runs/there"))
    assert study.user_attrs["fingerprint"]["web_ui"] == {"emphasis": "Original", "randn_source": "GPU"}


@pytest.mark.slow
def test_so_many_pictures_of_each_prompt_are_asked_for(place: Path, server: State) -> None:
    few = ("experiment=web", "init_points=1", "n_iters=0", "final.images=0", "payloads.both.n_iter=2")
    for count, sizes in ((1, [1]), (5, [4, 1])):
        result = command(place, "run", *few, f"name=of-{count}", f"images_per_prompt={count}")
        assert result.returncode == 0, result.stderr
        assert [asked["batch_size"] for asked in server.asked] == sizes
        assert len(list((place / f"runs/of-{count}/images/0000").iterdir())) == count
        server.asked.clear()


@pytest.mark.slow
def test_the_file_that_is_drawn_is_the_merge_that_is_saved(place: Path, server: State) -> None:
    settings = ("experiment=web", "name=saved", "init_points=1", "n_iters=0", "final.images=0", "final.save=true")
    result = command(place, "run", *settings)
    assert result.returncode == 0, result.stderr
    digest = hashlib.sha256((place / "runs/saved/best.safetensors").read_bytes()).hexdigest()
    with Image.open(place / "runs/saved/images/0000/both-0.png") as picture:
        assert picture.info["parameters"].endswith(f"Model hash: {digest[:10]}")


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_trials_and_leaves_nothing(place: Path, server: State) -> None:
    assert command(place, "run", "experiment=web", "name=whole", "final.images=0", "n_iters=1").returncode == 0
    server.delay = 0.3
    process = start(place, "run", "experiment=web", "name=killed", "final.images=0", "n_iters=1")
    for line in process.stdout:
        if "  2/4  " in line:
            break
    while len(left(server)) < 3:  # a merge and its lock
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(left(server)) > 1
    server.delay = 0.0
    result = command(place, "resume", "killed")
    assert result.returncode == 0, result.stderr
    assert left(server) == ["someone-s.safetensors"]
    assert trials(place, "killed") == trials(place, "whole")


@pytest.mark.slow
def test_out_of_memory_there_fails_the_trial_and_not_the_run(place: Path, server: State) -> None:
    server.trouble = [(500, {"error": "OutOfMemoryError", "errors": "CUDA out of memory", "detail": ""}), None]
    result = command(place, "run", "experiment=web", "name=memory", "final.images=0", "n_iters=0")
    assert result.returncode == 0, result.stderr
    assert "the web UI cannot draw it: OutOfMemoryError: CUDA out of memory" in result.stdout
    assert left(server) == ["someone-s.safetensors"]


@pytest.mark.slow
def test_a_web_ui_that_breaks_ends_the_run_which_goes_on_later(place: Path, server: State) -> None:
    server.trouble = [None, (403, {"detail": "Forbidden"})]
    result = command(place, "run", "experiment=web", "name=broken", "final.images=0", "n_iters=0")
    assert result.returncode == 1
    assert "answers /sdapi/v1/txt2img with 403: Forbidden; when that is mended, go on with" in result.stderr
    assert left(server) == ["someone-s.safetensors"]
    assert command(place, "resume", "broken").returncode == 0
    assert [value is not None for _, value in trials(place, "broken")] == [True, True, True]


@pytest.mark.slow
def test_other_settings_there_do_not_compare(place: Path, server: State) -> None:
    assert command(place, "run", "experiment=web", "name=first", "n_iters=0", "final.images=0").returncode == 0
    server.options["emphasis"] = "No norm"
    result = command(place, "resume", "first", "n_iters=1")
    assert result.returncode == 2
    assert "web_ui.emphasis: 'Original' is now 'No norm'" in result.stderr


@pytest.mark.slow
def test_settings_that_older_studies_do_not_have_are_compared_where_both_do(place: Path, server: State) -> None:
    few = ("n_iters=0", "final.images=0")
    assert command(place, "run", "experiment=web", "name=older", *few).returncode == 0
    server.options["forge_try_reproduce"] = "None"
    assert command(place, "resume", "older", "n_iters=1").returncode == 0
    assert command(place, "run", "experiment=web", "name=newer", *few).returncode == 0
    server.options["forge_try_reproduce"] = "ComfyUI"
    result = command(place, "resume", "newer", "n_iters=1")
    assert result.returncode == 2
    assert "web_ui.forge_try_reproduce: 'None' is now 'ComfyUI'" in result.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["generator.address=http://127.0.0.1:9"], "generator.address: no web UI answers at http://127.0.0.1:9"),
        (["generator.models_folder=nowhere"], "generator.models_folder: there is no folder"),
        (["generator.device=cpu"], "generator.device: is the web UI's own business"),
        (["generator.timeout=0"], "generator.timeout: 0.0 is no time"),
        (["generator.program=comfy"], "generator.program: 'comfy' is not one of diffusers, webui"),
        (["payloads.both.sampler_name=Eular"], "payload both: sampler_name: the web UI has no 'Eular'"),
        (["workers=2"], "workers: one web UI draws for one at a time"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(place: Path, settings: list[str], said: str) -> None:
    result = command(place, "run", "experiment=web", "name=wrong", *settings)
    assert result.returncode == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (place / "runs").exists()


@pytest.mark.slow
def test_another_folder_than_the_web_ui_s(place: Path, server: State, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    settings = ("run", "experiment=web", f"generator.models_folder={other}")
    result = command(place, *settings, "name=empty")  # nothing lies there that could be known
    assert result.returncode == 1
    assert "does not list bayes-merger-" in result.stderr
    assert list(other.iterdir()) == []
    (other / "x.safetensors").write_bytes(b"")
    result = command(place, *settings, "name=full")
    assert result.returncode == 2
    assert "lists none of the models in" in result.stderr


@pytest.mark.slow
def test_a_study_names_no_address_or_folder_that_the_user_does_not(place: Path, server: State) -> None:
    assert command(place, "run", "experiment=web", "name=sent", "final.images=0", "n_iters=0").returncode == 0
    (place / "conf/experiment/web.yaml").unlink()
    asked = len(server.asked)
    result = command(place, "resume", "sent", "n_iters=1")
    assert result.returncode == 2
    assert "generator.address: " in result.stderr
    assert "is asked to draw, which a study may only name if a file of yours does" in result.stderr
    given = [f"generator.address={server.address}", f"generator.models_folder={server.folder}"]
    assert len(server.asked) == asked
    assert command(place, "resume", "sent", "n_iters=1", *given).returncode == 0


def test_a_folder_is_swept_of_what_killed_processes_have_left_and_of_nothing_else(tmp_path: Path) -> None:
    for name in ("bayes-merger-00.lock", "bayes-merger-00-0001.safetensors", ".bayes-merger-00-0002.safetensors.7.tmp",
                 "bayes-merger-of-mine.safetensors", "bayes-merger-11.lock", "bayes-merger-11-0001.safetensors"):  # fmt: skip
        (tmp_path / name).write_bytes(b"")
    with FileLock(tmp_path / "bayes-merger-11.lock"), ModelsFolder(tmp_path) as folder:
        first, second = folder.next(), folder.next()
        first.write_bytes(b"")
        second.write_bytes(b"")
        folder.clear(keep=second)
        names = {path.name for path in tmp_path.iterdir()} - {second.name, f"{second.name[:-17]}.lock"}
    kept = {"bayes-merger-of-mine.safetensors", "bayes-merger-11.lock", "bayes-merger-11-0001.safetensors"}
    assert names == kept
    assert {path.name for path in tmp_path.iterdir()} - {"bayes-merger-11.lock"} == kept - {"bayes-merger-11.lock"}
