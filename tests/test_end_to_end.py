"""The whole thing, as a user has it: from two checkpoints to a better merge, with real files and real processes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from bayes_merger.checkpoints.tokenizer import build_tokenizer
from bayes_merger.run.folder import RunFolder
from tests.user_folder import command, make_workplace, start


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path) -> Path:
    return make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)


@pytest.fixture(scope="module")
def finished(workplace: Path, tiny_a: Path, tiny_b: Path) -> Path:
    """The folder of a study that ran to its end."""
    result = command(workplace, "run", "experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}", "name=whole")
    assert result.returncode == 0, result.stderr
    assert "even mix" in result.stdout
    assert "watch it in a browser:  bayes-merger serve    the best so far: runs/whole/best\n" in result.stdout
    assert "pictures and plots in runs/whole/best; on one page:  bayes-merger report whole\n" in result.stdout
    return workplace / "runs" / "whole"


def shown(workplace: Path, name: str) -> dict[str, Any]:
    result = command(workplace, "show", name, "--json")
    assert result.returncode == 0, result.stderr
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def test_a_run_leaves_all_that_the_user_takes_home(workplace: Path, finished: Path) -> None:
    for name in (
        "best.safetensors",
        "best.preview.png",
        "best/recipe.json",
        "best/weights.txt",
        "best/summary.json",
        "best/convergence.png",
        "best/unet.png",
        "best/tiny-0.png",
        "best/tiny-1.png",
        "study.db",
        "log.txt",
        "images/0000/tiny-0.png",
    ):
        assert (finished / name).stat().st_size > 0, name
    data = shown(workplace, "whole")
    assert data["state"] == "done"
    assert data["trials"] == {"finished": 7, "failed": 0, "pruned": 0, "budget": 7}
    assert [row["name"] for row in data["final"]["rows"]] == ["best merge", "model A", "model B", "even mix"]
    first = data["trials_list"][:3]
    assert [set(row["weights"]["alpha"].values()) for row in first] == [{0.0}, {1.0}, {0.5}]
    weights = (finished / "best" / "weights.txt").read_text().splitlines()[1].split(",")
    assert len(weights) == 26
    log = (finished / "log.txt").read_text()
    assert "  versions  bayes_merger " in log
    assert "  model A  " in log
    assert log.count("SHA-256") == 2
    assert '  settings  {"model_a": ' in log
    assert "  a trial takes " in log
    with Image.open(finished / "best.preview.png") as preview:
        assert preview.text["Study"] == "whole"  # type: ignore[attr-defined]
        assert preview.text["Trial"] == str(data["best"]["trial"])  # type: ignore[attr-defined]
    assert float(weights[0]) == pytest.approx(data["best"]["weights"]["alpha"]["BASE"], abs=1e-4)


def test_plain_diffusers_draws_the_best_trial_s_very_pictures_from_the_saved_file(
    finished: Path, workplace: Path, tiny_sd1_config: Path
) -> None:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_single_file(
        str(finished / "best.safetensors"),
        config=str(tiny_sd1_config),
        local_files_only=True,
        torch_dtype=torch.float32,
        tokenizer=build_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
    )
    pipe.scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace", steps_offset=1
    )
    pipe.set_progress_bar_config(disable=True)
    best = shown(workplace, "whole")["best"]
    paths = [finished / name for name in best["images"]]
    seeds = [int(Image.open(path).info["parameters"].rpartition("Seed: ")[2].split(",")[0]) for path in paths]

    from bayes_merger.imaging.prompts.embedding import PromptEncoder

    encoder = PromptEncoder(pipe.tokenizer, pipe.text_encoder)
    drawn = pipe(
        prompt_embeds=encoder.encode(["a (red:1.2) ring"] * 2, clip_skip=1, length=1),
        negative_prompt_embeds=encoder.encode([""] * 2, clip_skip=1, length=1),
        num_inference_steps=2,
        guidance_scale=3,
        width=64,
        height=64,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    ).images
    for path, image in zip(paths, drawn, strict=True):
        difference = ImageChops.difference(Image.open(path).convert("RGB"), image)
        assert max(difference.tobytes()) <= 1, path  # diffusers' own Euler rounds elsewhere


def test_a_killed_run_loses_no_trial_and_goes_on_as_if_nothing_had_been(
    workplace: Path, finished: Path, tiny_a: Path, tiny_b: Path
) -> None:
    process = start(workplace, "run", "experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}", "name=killed")
    for line in process.stdout:  # killed in the middle of the sixth trial or so, wherever it just is
        if "  5/7  " in line:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = [row for row in shown(workplace, "killed")["trials_list"] if row["state"] == "complete"]
    assert len(before) >= 5

    result = command(workplace, "resume", "killed")
    assert result.returncode == 0, result.stderr
    after = [row for row in shown(workplace, "killed")["trials_list"] if row["state"] == "complete"]
    whole = [row for row in shown(workplace, "whole")["trials_list"] if row["state"] == "complete"]
    assert after[: len(before)] == before
    assert [(row["weights"], row["value"]) for row in after] == [(row["weights"], row["value"]) for row in whole]


def test_ctrl_c_stops_after_the_trial_and_says_how_to_go_on(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    process = start(workplace, "run", "experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}", "name=stopped")
    for line in process.stdout:
        if "  1/7  " in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "bayes-merger resume stopped" in errors
    assert (workplace / "runs" / "stopped" / "best" / "recipe.json").is_file()


@pytest.mark.slow
def test_more_trials_are_added_on_resume(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    arguments = ("run", "experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}", "name=more", "final.images=0")
    assert command(workplace, *arguments, "init_points=2", "n_iters=0").returncode == 0
    result = command(workplace, "resume", "more", "n_iters=2", "final.images=0")
    assert result.returncode == 0, result.stderr
    assert shown(workplace, "more")["trials"] == {"finished": 4, "failed": 0, "pruned": 0, "budget": 4}
    assert "was not compared with its models" in result.stdout.splitlines()[-1]
    result = command(workplace, "resume", "more", "final.images=2", "final.rescore=1")  # a final round after all
    assert result.returncode == 0, result.stderr
    data = shown(workplace, "more")
    assert (data["final"]["images"], data["trials"]["finished"]) == (2, 4)
    assert f"the best merge is {data['verdict']['text']}" == result.stdout.splitlines()[-1]
    assert data["verdict"]["standard_errors"] is None


@pytest.mark.slow
def test_a_budget_of_pictures_is_kept_and_raised(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    arguments = ("run", "experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}", "name=pictures", "final.images=0")
    result = command(workplace, *arguments, "images_budget=5")
    assert result.returncode == 0, result.stderr
    assert "images_budget: 5 pictures for 5 trials; a trial has 1, 1 of each prompt" in result.stdout
    result = command(workplace, "resume", "pictures", "images_budget=6")
    assert result.returncode == 0, result.stderr
    data = shown(workplace, "pictures")
    assert data["trials"] == {"finished": 6, "failed": 0, "pruned": 0, "budget": 6}
    assert {len(row["images"]) for row in data["trials_list"]} == {1}


def test_resume_refuses_a_changed_model(workplace: Path, finished: Path, tiny_a: Path) -> None:
    result = command(workplace, "resume", "whole", f"model_b={tiny_a}", "n_iters=9")
    assert result.returncode == 2
    assert "models.b" in result.stderr
    assert result.stderr.count("\n") == 1


def test_merge_writes_the_same_file_from_study_recipe_and_hand(
    workplace: Path, finished: Path, tiny_a: Path, tiny_b: Path
) -> None:
    best = (finished / "best.safetensors").read_bytes()
    assert command(workplace, "merge", "whole", "--out", "one.safetensors").returncode == 0
    assert (workplace / "one.safetensors").read_bytes() == best
    recipe = finished / "best" / "recipe.json"
    assert command(workplace, "merge", str(recipe), "--out", "two.safetensors").returncode == 0
    assert (workplace / "two.safetensors").read_bytes() == best
    weights = json.loads(recipe.read_text())["weights"]["alpha"]
    alpha = ",".join(repr(number) for number in weights.values())
    result = command(
        workplace, "merge", f"model_a={tiny_a}", f"model_b={tiny_b}", f"alpha={alpha}", "--out", "3.safetensors"
    )
    assert result.returncode == 0, result.stderr
    assert (workplace / "3.safetensors").read_bytes() == best


def test_a_study_is_taken_by_one_process_only(workplace: Path, finished: Path) -> None:
    with RunFolder(finished).locked():  # as a process holds it while it runs
        result = command(workplace, "resume", "whole", "final.images=4")
        more = command(workplace, "resume", "whole", "n_iters=4")  # is for the one that runs
    assert result.returncode == 2
    assert "another bayes-merger" in result.stderr
    assert more.stdout == "study whole goes on, to 8 trials in all\n"


def test_a_rater_who_is_not_there_pauses_the_run(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    models = (f"model_a={tiny_a}", f"model_b={tiny_b}")
    settings = ("name=rated", "scorers=[manual]", "scoring.page=false")
    result = command(workplace, "run", "experiment=tiny", *models, *settings)
    assert result.returncode == 3  # standard input is at its end
    assert "bayes-merger resume rated" in result.stderr
    log = (workplace / "runs" / "rated" / "log.txt").read_text()
    assert "  ended early: nobody is there to rate; every rating so far is kept\n" in log
    assert shown(workplace, "rated")["trials"]["finished"] == 0


@pytest.mark.slow
def test_names_with_blanks_brackets_and_equals_signs_work(
    workplace: Path, tiny_a: Path, tiny_b: Path, tmp_path: Path
) -> None:
    odd_a, odd_b = tmp_path / "My Model (v1) [abc].safetensors", tmp_path / "it's a=b.safetensors"
    odd_a.write_bytes(tiny_a.read_bytes())
    odd_b.write_bytes(tiny_b.read_bytes())
    result = command(
        workplace, "run", "experiment=tiny", f"model_a={odd_a}", f"model_b={odd_b}", "init_points=1", "n_iters=0"
    )
    assert result.returncode == 0, result.stderr
    assert (workplace / "runs" / "My-Model-v1-abc-it-s-a-b" / "best.safetensors").is_file()
