"""Who watches a study sees its pictures while they are drawn; for nobody nothing is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.live_preview import LivePreview, forget_preview, is_watched, previews, watch


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "s")
    folder.make()
    return folder


def picture(colour: str) -> DrawnImage:
    return DrawnImage("p", 0, 0, "", Image.new("RGB", (64, 64), colour))


def colours(folder: RunFolder) -> list[tuple[int, ...]]:
    """Of each of the four places of the preview; none where there is none."""
    for path in previews(folder):
        with Image.open(path) as image:
            side = image.width // 2
            places = [(x + side // 2, y + side // 2) for y in (0, side) for x in (0, side)]
            return [image.convert("RGB").getpixel(at) for at in places]  # type: ignore[misc]
    return []


def until(true: Callable[[], bool]) -> None:
    """Wait until the thread has come to it."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


def test_pictures_are_shown_one_by_one_as_they_are_finished(folder: RunFolder) -> None:
    given: list[int] = []
    with LivePreview(folder, pace=0.0) as preview:
        watch(folder)
        drawn = preview.following(3, lambda images: given.append(len(images)))
        drawn([picture("red")])
        until(lambda: colours(folder) == [RED, BLACK, BLACK, BLACK])
        drawn([picture("blue"), picture("red")])
        until(lambda: colours(folder) == [RED, BLUE, RED, BLACK])
        preview.following(4, None)([picture("blue")])
        until(lambda: colours(folder) == [BLUE, BLACK, BLACK, BLACK])
    assert given == [1, 2]
    assert previews(folder) == []


def test_what_is_half_done_is_sketched_once_a_picture_has_shown_how(folder: RunFolder) -> None:
    red = torch.zeros(1, 4, 8, 8)
    red[:, 0] = torch.linspace(-1, 1, 8)  # a flat latent would teach a colour and no map
    with LivePreview(folder, pace=0.0) as preview:
        watch(folder)
        assert preview.is_looking
        drawn = preview.following(4, None)
        preview.on_latents(red)
        preview.on_decoded(red, [Image.linear_gradient("L").rotate(90).resize((64, 64)).convert("RGB")])
        drawn([picture("red")])
        until(lambda: bool(previews(folder)))
        preview.on_latents(red)
        until(lambda: len(set(colours(folder))) > 2)
        seen = colours(folder)
    assert seen[0] == RED
    assert seen[1] not in (RED, BLACK)


def test_for_nobody_nothing_is_written_and_who_comes_later_sees_it_all_the_same(folder: RunFolder) -> None:
    with LivePreview(folder, pace=0.0) as preview:
        assert not preview.is_looking
        preview.following(1, None)([picture("red")])
        assert not is_watched(folder)
        assert [path.name for path in folder.path.iterdir()] == []
        watch(folder)
        until(lambda: bool(previews(folder)))


def test_who_watched_long_ago_or_will_some_day_does_not_watch(folder: RunFolder) -> None:
    for seconds in (-60, 60):
        watch(folder)
        assert is_watched(folder)
        os.utime(folder.path / ".watched", (time.time() + seconds,) * 2)
        assert not is_watched(folder)


def test_it_looks_once_in_a_while(folder: RunFolder) -> None:
    now = [100.0]
    preview = LivePreview(folder, pace=1.0, clock=lambda: now[0])
    watch(folder)
    looks = []
    for seconds in (0.0, 0.5, 0.4, 0.2, 0.1, 5.0):
        now[0] += seconds
        looks.append(preview.is_looking)
    assert looks == [True, False, False, True, False, True]


def test_a_folder_that_is_gone_ends_no_run(folder: RunFolder) -> None:
    with LivePreview(folder, pace=0.0) as preview:
        watch(folder)
        preview.following(1, None)([picture("red")])
        until(lambda: bool(previews(folder)))
        for path in folder.path.iterdir():
            path.unlink()
        folder.path.rmdir()
        watch(folder)
        preview.following(1, None)([picture("blue")])
    assert previews(folder) == []


def test_what_a_dead_worker_drew_is_forgotten_and_what_leads_elsewhere_is_not_shown(folder: RunFolder) -> None:
    Image.new("RGB", (8, 8)).save(folder.path / "drawing-17.png")
    (folder.path / "drawing-18.png").symlink_to("/etc/hostname")
    (folder.path / "drawing-19.png").mkdir()
    assert [path.name for path in previews(folder)] == ["drawing-17.png"]
    forget_preview(folder, 17)
    forget_preview(folder, 17)
    assert previews(folder) == []
    with folder.locked():
        assert not (folder.path / "drawing-18.png").is_symlink()
