"""Studies and recipes that an earlier version made: they resume, show and merge; recipes to the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger import demo
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.merging.rebasin.aligning import Pair
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.spaces import Layout
from tests.user_folder import command

GOLDEN = Path(__file__).parent / "golden"
STUDIES = ("plain", "steps")
FOLDER_OF_THE_DEMO = "@DEMO@"
INTERRUPTED = 8
"""The trial that was running when the process was killed."""

STEPS = """\
models: {a: a.safetensors, b: b.safetensors, c: c.safetensors}
steps:
  - {name: mix,  method: weighted_sum,   a: a,   b: b, alpha: search}
  - {name: more, method: add_difference, a: mix, b: b, c: c, alpha: {default: 0.2, OUT03-OUT05: look}}
"""

# What an earlier version wrote, metadata and all.
BY_HAND = {
    "blocks, elements and adjustments": (
        ["model_a=a.safetensors", "model_b=b.safetensors", "alpha=GRAD_V", "base_alpha=0.3",
         "elements=OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5, OUT06:ff:0.2", "adjust=0,0,0,0,2,0,0,0"],
        "51dc6d7a52b279b3cb90d43bf9b48c28ad573b203daccc6774c492557e8589b5",
    ),
    "a difference, clipped, with B's VAE in fp32": (
        ["model_a=a.safetensors", "model_b=b.safetensors", "model_c=c.safetensors", "method=add_difference",
         "alpha=0.7", "IN00-IN03.alpha=0.2", "clip=soft", "vae=b", "--dtype", "fp32"],
        "757af4fe49646798275fde1dfb39803d414f2d86e11f2cab27c1ab19a16fdc10",
    ),
    "a method with options, in bf16": (
        ["model_a=a.safetensors", "model_b=b.safetensors", "model_c=c.safetensors", "method=ties", "alpha=0.8",
         "vote=count", "compat=supermerger", "--dtype", "bf16"],
        "18277006cb625e049f6a36c614147a13a9ec6521efe5af355abc383dd52e2ed2",
    ),
    "two steps": (
        ["steps.yaml", "look=0.6", "mix_alpha=0.4"],
        "e00226701abe9f528ee1a6d78c2cde7728ff78945878490244ff79160587c562",
    ),
}  # fmt: skip


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def expected(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text())
    return data


def put_study(name: str, folder: Path) -> None:
    """The study as it was found, in ``folder``, with the demo's files where they lie here."""
    place = folder / "runs" / name
    place.mkdir(parents=True)
    shutil.copyfile(GOLDEN / name / "study.db", place / "study.db")
    database = sqlite3.connect(place / "study.db")
    with database:
        database.execute(
            "UPDATE study_user_attributes SET value_json = replace(value_json, ?, ?)",
            (FOLDER_OF_THE_DEMO, str(demo.ROOM)),
        )
    database.close()


@pytest.fixture(scope="module", params=["steps", pytest.param("plain", marks=pytest.mark.slow)])
def resumed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a study that went on to its end, and the folder that it was called in."""
    folder = tmp_path_factory.mktemp(request.param)
    put_study(request.param, folder)
    result = command(folder, "resume", request.param, "final.images=0")
    assert result.returncode == 0, result.stderr
    return request.param, folder


def test_an_old_study_is_shown(tmp_path: Path) -> None:
    for name in STUDIES:
        put_study(name, tmp_path)
        result = command(tmp_path, "show", name)
        assert result.returncode == 0, result.stderr
        assert "8 of 12 trials" in result.stdout


def test_an_old_study_goes_on_with_the_trials_that_would_have_come(resumed: tuple[str, Path]) -> None:
    name, folder = resumed
    shown = json.loads(command(folder, "show", name, "--json").stdout)
    old = expected(name)
    assert [row["trial"] for row in shown["trials_list"]] == [row["trial"] for row in old["trials"]]
    first = INTERRUPTED + 1
    for row, before in zip(shown["trials_list"][:first], old["trials"][:first], strict=True):
        assert {key: row[key] for key in before} == before
    assert shown["trials_list"][first]["weights"] == old["trials"][first]["weights"]
    # From here on its pictures are A1111's, so the search learns from other scores.
    assert "DDIM: drawn as A1111 draws since bayes_merger 0.2.0" in (folder / "runs" / name / "log.txt").read_text()
    assert (folder / "runs" / name / "best.safetensors").is_file()


@pytest.mark.parametrize("name", STUDIES)
def test_an_old_recipe_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    text = (GOLDEN / name / "recipe.json").read_text().replace(FOLDER_OF_THE_DEMO, str(demo.ROOM))
    (tmp_path / "recipe.json").write_text(text)
    result = command(tmp_path, "merge", "recipe.json", "--out", "again.safetensors")
    assert result.returncode == 0, result.stderr
    assert sha256(tmp_path / "again.safetensors") == expected(name)["sha256"]


def test_a_recipe_of_before_vaes_were_put_in_order_gives_the_same_bytes(tmp_path: Path) -> None:
    write_backwards(tmp_path / "lost.safetensors")
    (tmp_path / "a.safetensors").symlink_to(demo.MODELS / "a.safetensors")
    shutil.copyfile(GOLDEN / "rebasin" / "recipe.json", tmp_path / "recipe.json")
    result = command(tmp_path, "merge", "recipe.json", "--out", "again.safetensors")
    assert result.returncode == 0, result.stderr
    assert "lost.safetensors: 11,500 of its 11,648 neurons (99%) change places" in result.stderr
    assert sha256(tmp_path / "again.safetensors") == "798c1845dac4ed96a880bebbb74df75a3d7d869ce5f31221b2bde91d804a8af2"


def write_backwards(path: Path) -> None:
    """The demo's B with its neurons backwards in each cell, but for its VAE's."""
    layout = Layout(8, {32: 1, 64: 2, 72: 2}, {24: 4})
    with open_checkpoint(demo.MODELS / "b.safetensors") as model:
        pair = Pair.of(model, model, layout)
        orders = {
            space.name: [torch.cat([cell.flip(0) for cell in torch.arange(space.size).split(space.cells)])]
            * len(space.tracks)
            for space in pair.spaces
        }
        seen = pair.permuted(Permutation(pair.spaces, orders))
        save_file({key: seen.tensor(key).contiguous() for key in seen.shapes}, path)


def test_a_study_of_before_vaes_were_put_in_order_goes_on(tmp_path: Path) -> None:
    put_study("rebasin", tmp_path)
    result = command(tmp_path, "resume", "rebasin", "n_iters=1")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(command(tmp_path, "show", "rebasin", "--json").stdout)["trials_list"]) == 3
    made = command(tmp_path, "merge", "rebasin", "--trial", "1", "--out", "b.safetensors")
    assert made.returncode == 0, made.stderr
    assert "its 11,648 neurons are in the order of those of a.safetensors already" in made.stderr


@pytest.mark.parametrize("what", BY_HAND)
def test_a_merge_by_hand_gives_the_same_bytes(what: str, tmp_path: Path) -> None:
    arguments, digest = BY_HAND[what]
    for model in ("a", "b", "c"):
        (tmp_path / f"{model}.safetensors").symlink_to(demo.MODELS / f"{model}.safetensors")
    (tmp_path / "steps.yaml").write_text(STEPS)
    result = command(tmp_path, "merge", *arguments, "--out", "merged.safetensors")
    assert result.returncode == 0, result.stderr
    assert sha256(tmp_path / "merged.safetensors") == digest
