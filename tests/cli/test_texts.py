"""A run of texts as people have them, to its end and on again; and a study of somebody else's."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.test_old_studies import put_study
from tests.user_folder import command

DRAWN = "a ${oc.env:HOME} \\${day}, \\(best\\), 'x'"
PROMPT = "${season=!{summer|winter}} " + DRAWN  # a variable of dynamic-prompts: its definition draws nothing
SMALL = ["scorers=[demo_aesthetic]", "generator.config=${demo:config}", "final.images=0", "final.rescore=0", "final.save=false",
         "init_points=1", "n_iters=0"]  # fmt: skip


def parameters(folder: Path, trial: int, payload: str) -> str:
    text = Image.open(folder / "runs" / "x" / "images" / f"{trial:04d}" / f"{payload}-0.png").info["parameters"]
    assert isinstance(text, str)
    return text


@pytest.mark.slow
def test_text_stays_what_it_is_from_the_run_to_the_pictures_of_a_resumed_study(tmp_path: Path) -> None:
    shared = {"steps": 2, "width": 64, "height": 64, "sampler_name": "k_euler_a", "sampler_index": "Euler", "eta": 0, "seed": 7,
              "override_settings": {"CLIP_stop_at_last_layers": 2}, "styles": [], "subseed": 3, "subseed_strength": 0}  # fmt: skip
    (tmp_path / "payloads").mkdir()
    for name in ("первый", "noob.v1"):
        (tmp_path / "payloads" / f"{name}.json").write_text(json.dumps({"payload": shared | {"prompt": "a ring"}}))
    models = ["model_a=${demo:a}", "model_b=${demo:b}", "payloads=[первый,noob.v1]"]
    result = command(tmp_path, "run", *SMALL, *models, f"payloads.noob.v1.prompt={PROMPT}", "name=x")
    assert result.returncode == 0, result.stderr
    result = command(tmp_path, "resume", "x", "n_iters=1")
    assert result.returncode == 0, result.stderr
    for trial in (0, 1):
        assert parameters(tmp_path, trial, "noob.v1") == (
            f"{DRAWN}\nSteps: 2, Sampler: Euler a, Schedule type: Uniform, CFG scale: 7.0, Seed: 7, Size: 64x64, "
            "Clip skip: 2, RNG: CPU"
        )
        assert parameters(tmp_path, trial, "первый").startswith("a ring\n")
    assert str(Path.home()) not in (tmp_path / "runs" / "x" / "config.json").read_text().replace(str(tmp_path), "")


@pytest.mark.parametrize("arguments", [["resume", "plain"], ["fork", "plain", "new", "n_iters=5"], ["worker", "plain"]])
def test_a_study_that_names_code_calls_nothing(arguments: list[str], tmp_path: Path) -> None:
    put_study("plain", tmp_path)
    database = sqlite3.connect(tmp_path / "runs" / "plain" / "study.db")
    with database:
        query = "SELECT study_user_attribute_id, value_json FROM study_user_attributes WHERE key = 'config'"
        (number, text) = database.execute(query).fetchone()
        settings: dict[str, Any] = json.loads(text)
        scorer = next(iter(settings["scorers"].values()))
        scorer["tower"] = {"_target_": "subprocess.run", "args": ["touch", "hacked"]}
        database.execute(
            "UPDATE study_user_attributes SET value_json = ? WHERE study_user_attribute_id = ?",
            (json.dumps(settings), number),
        )
    database.close()
    result = command(tmp_path, *arguments)
    assert result.returncode == 2, result.stderr
    assert "subprocess.run" in result.stderr
    assert "of yours" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("hacked"))
