"""The grid of the newest trial, and what pictures say about themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bayes_merger.imaging.payload.infotext import read_infotext
from bayes_merger.imaging.payload.pictures import texts_of
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.pictures import add_texts, write_grid
from tests.run.fake_run import make_setup, searched


def drawn(size: tuple[int, int], *colours: str) -> list[DrawnImage]:
    return [DrawnImage("p", index, 0, "", Image.new("RGB", size, colour)) for index, colour in enumerate(colours)]


@pytest.mark.parametrize(
    ("count", "size", "sheet"),
    [(1, (64, 32), (64, 32)), (2, (64, 32), (128, 32)), (3, (64, 32), (128, 64)), (2, (1024, 2048), (512, 512)),
     (100, (512, 512), (4090, 4090))],
)  # fmt: skip
def test_a_grid_is_as_square_as_it_can_be_and_of_limited_size(
    tmp_path: Path, count: int, size: tuple[int, int], sheet: tuple[int, int]
) -> None:
    write_grid(tmp_path / "preview.png", drawn(size, *["red"] * count))
    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.size == sheet
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]


def test_the_first_picture_is_the_first_of_the_grid(tmp_path: Path) -> None:
    write_grid(tmp_path / "preview.png", drawn((8, 8), "red", "green", "blue"))
    with Image.open(tmp_path / "preview.png") as picture:
        found = [picture.convert("RGB").getpixel(at) for at in ((0, 0), (8, 0), (0, 8), (8, 8))]
    assert found == [(255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 0, 0)]


def test_texts_are_added_and_nothing_else_changes(tmp_path: Path) -> None:
    path, info = tmp_path / "x.png", PngInfo()
    info.add_text("parameters", "a ring\nSteps: 2, Sampler: Euler, Seed: 1")
    Image.effect_noise((32, 32), 50).convert("RGB").save(path, pnginfo=info)
    with Image.open(path) as before:
        pixels = before.tobytes()
    add_texts(path, {"Trial": "3", "Score": "7.3100", "Recipe": "é"})
    with Image.open(path) as after:
        at_first = dict(after.info)
        assert after.tobytes() == pixels
        assert at_first == after.info == {
            "parameters": "a ring\nSteps: 2, Sampler: Euler, Seed: 1", "Trial": "3", "Score": "7.3100", "Recipe": "é"
        }  # fmt: skip
    assert read_infotext(texts_of(path)["parameters"])["prompt"] == "a ring"


def test_a_trial_s_pictures_say_which_it_is_and_its_times_are_kept(tmp_path: Path) -> None:
    study, notes = searched(make_setup(init_points=3, n_iters=0, preview=True), tmp_path)
    recipes = set()
    for trial in study.get_trials():
        for name in trial.user_attrs["images"]:
            texts = texts_of(tmp_path / name)
            assert texts["Trial"] == str(trial.number)
            assert trial.values is not None
            assert float(texts["Score"]) == pytest.approx(trial.values[0], abs=1e-4)
            recipes.add((trial.number, texts["Recipe"]))
        assert {"choose", "merge", "draw", "save", "score"} <= set(trial.user_attrs["times"])
        assert sum(trial.user_attrs["times"].values()) <= trial.user_attrs["seconds"] + 0.01
    assert len(recipes) == len({digest for _, digest in recipes}) == 3
    assert [report.pictures for report in notes.reports] == [4, 4, 4]
    with Image.open(RunFolder(tmp_path).preview) as preview:
        assert preview.size == (16, 16)


def test_there_is_no_preview_unless_it_is_asked_for(tmp_path: Path) -> None:
    searched(make_setup(init_points=1, n_iters=0), tmp_path)
    assert not RunFolder(tmp_path).preview.exists()
