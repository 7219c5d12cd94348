"""What killed processes left is removed on resume; what any trial has is kept."""

from __future__ import annotations

from pathlib import Path

from bayes_merger.run.folder import RunFolder
from bayes_merger.run.sweep import sweep
from bayes_merger.search.study.queue import queue_again
from bayes_merger.search.study.transaction import transaction
from bayes_merger.search.study.workers import Worker
from tests.run.fake_run import make_setup, open_study


def test_pictures_of_interrupted_trials_and_half_written_files_are_swept(tmp_path: Path) -> None:
    setup, folder = make_setup(), RunFolder(tmp_path / "s")
    study = open_study(setup, folder)
    with Worker(study, setup.space) as worker:
        for _ in range(2):
            trial = worker.claim(9)
            assert trial is not None
            with transaction(study) as queue:
                queue_again(queue, [e for e in queue.entries() if e.number == trial.number], died=True)
        told = worker.claim(9)
        assert told is not None
        worker.tell(told, 5.0, {"images": ["images/0001/p-0.png"]})  # of the attempt that was given up too early
    left = ["images/0000/p-0.png", "images/0000/p-1.tmp", "best/.recipe.json.7.tmp", ".config.json.7.tmp"]
    kept = ["images/0001/p-0.png", "best/recipe.json", "config.json"]
    for name in (*left, *kept):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).touch()
    assert {path.relative_to(folder.path).as_posix() for path in sweep(folder, study)} == set(left)
    assert not any((folder.path / name).exists() for name in left)
    assert all((folder.path / name).exists() for name in kept)
    assert sweep(folder, study) == []


def test_a_picture_outside_the_folder_of_studies_is_nobody_s(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "s")
    for name in ("runs/s/images/a.png", "runs/other/a.png", "a.png", "runs/s/secret.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (folder.path / "link.png").symlink_to(tmp_path / "a.png")
    names = ["images/a.png", "../other/a.png", "../../a.png", str(tmp_path / "a.png"), "secret.txt", "link.png", "a\0"]
    assert folder.pictures(names) == [tmp_path / "runs/s/images/a.png", tmp_path / "runs/other/a.png"]
