"""What a study leaves to take home: fresh after each new best, with the pictures that prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from bayes_merger.config import FinalConfig
from bayes_merger.report.best import FreshBest, write_best
from bayes_merger.report.contents import contents_of
from bayes_merger.report.page import page
from bayes_merger.report.plots import convergence_figure, unet_figure
from bayes_merger.run.final import decide
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.progress import StopSignal, TrialReport
from bayes_merger.run.record import chosen_trial, recipe_of
from bayes_merger.testing.progress import RecordingReporter
from bayes_merger.testing.studies import make_study
from tests.run.fake_run import evaluator_of, make_setup, searched


def test_the_best_merge_beside_its_models(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", 12, drawn=12, size=64)
    write_best(load(folder), folder)
    assert {path.name for path in folder.best.iterdir()} >= {
        "compare.png", "convergence.png", "unet.png", "recipe.json", "weights.txt", "summary.json", "portrait-0.png"
    }  # fmt: skip
    with Image.open(folder.best / "compare.png") as picture:
        assert picture.width == 4 * (192 + 8) + 8


@pytest.mark.sampled(1)
@pytest.mark.parametrize("architecture", ["sdxl", "sd3", "flux"])
def test_without_pictures_there_is_no_comparison_and_all_else(tmp_path: Path, architecture: str) -> None:
    folder = make_study(tmp_path / "s", 8, architecture=architecture, idle=())
    write_best(load(folder), folder)
    assert not (folder.best / "compare.png").exists()
    assert (folder.best / "unet.png").is_file()


def contrast(letters: Any, ground: Any) -> float:
    """WCAG 2.2: 1 to 21, of which 4.5 is wanted."""

    def light(colour: Any) -> float:
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05

    one, other = light(letters), light(ground)
    return max(one, other) / min(one, other)


def test_every_letter_on_the_plots_can_be_read(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", 8, idle=("BASE.alpha", "IN00.alpha"))
    study = load(folder)
    recipe = recipe_of(study, chosen_trial(study))
    axes = unet_figure(recipe, "s", ("BASE.alpha", "IN00.alpha")).axes[0]
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    cells = {(round(x, 3), round(y, 3)): bar.get_facecolor() for bar in bars for x, y in [bar.get_center()]}
    names = [(text.get_text(), text.get_color(), cells[round(x, 3), round(y, 3)])
             for text in axes.texts for x, y in [text.get_position()]]  # fmt: skip
    assert {"BASE", "IN00"} <= {name for name, _, _ in names}
    assert len(names) == 26
    assert min(contrast(letters, ground) for _, letters, ground in names) >= 4.5
    lines = convergence_figure(study).axes[0].texts
    assert [text.get_text() for text in lines] == [" model A", " model B", " even mix"]
    assert min(contrast(text.get_color(), "white") for text in lines) >= 4.5


def report(number: int, improved: bool) -> TrialReport:
    return TrialReport(number, number + 1, 9, 5.0, 5.0, improved, {}, None, 1.0)


def test_it_is_written_after_a_new_best_and_at_most_once_a_minute() -> None:
    clock, written, told = [0.0], [], RecordingReporter()
    fresh = FreshBest(told, lambda: written.append(clock[0]), lambda: clock[0])
    for second, improved in ((0, True), (59, False), (60, False), (70, True), (119, False), (120, False), (200, False)):
        clock[0] = float(second)
        fresh.trial(report(second, improved))
    assert written == [60.0, 120.0]  # the bests of seconds 0 and 70 waited until the minute was over
    assert len(told.reports) == 7


def test_a_folder_that_cannot_be_written_does_not_end_a_run() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    told = RecordingReporter()
    clock = iter([0.0, 60.0, 60.0])
    FreshBest(told, fail, lambda: next(clock)).trial(report(1, True))
    assert told.lines == ["best/ could not be written anew: the disk is full; make room"]


def test_the_pictures_of_the_comparison_are_kept_and_shown(tmp_path: Path) -> None:
    setup, folder = make_setup(final=FinalConfig(rescore=2, images=2), n_iters=4), RunFolder(tmp_path / "s")
    study, notes = searched(setup, folder.path)
    found = decide(setup, study, evaluator_of(setup), notes, StopSignal(notes), folder)
    study.set_user_attr("final", found.to_json())
    kept = load(folder).user_attrs["final_images"]
    assert list(kept) == [row.name for row in found.rows] == ["best merge", "model A", "model B", "even mix"]
    assert all((folder.path / name).is_file() for names in kept.values() for name in names)
    assert len({name for names in kept.values() for name in names}) == 16  # four merges, two payloads, two pictures
    contents = contents_of(load(folder), folder)
    assert [list(row.shots) for row in contents.rows] == 3 * [["model A", "model B", "even mix", "best"]]
    assert contents.rows[0].shots["best"].path == (folder.path / kept["best merge"][0]).resolve()
    assert "a fresh seed" in page(contents)
    again = decide(setup, study, evaluator_of(setup, dies_after=0), notes, StopSignal(notes), folder)
    assert again == found  # nothing is drawn twice
    assert load(folder).user_attrs["final_images"] == kept


@pytest.mark.parametrize("odd", [7, [1], {"best merge": 7}, {"best merge": ["../../x.png", 3]}])
def test_a_list_of_pictures_that_no_run_has_written_is_none(tmp_path: Path, odd: object) -> None:
    import optuna

    folder = make_study(tmp_path / "runs" / "s", 6, drawn=6)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder.database}")
    study.set_user_attr("final_images", odd)
    rows = contents_of(load(folder), folder).rows
    assert rows[0].seed is not None  # those of the trials
