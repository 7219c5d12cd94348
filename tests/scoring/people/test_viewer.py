from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from bayes_merger.processes import end
from bayes_merger.scoring.people.viewer import Viewer, half_blocks
from tests.scoring.pictures import noise

PATH = Path("/pictures/my picture.png")


class Desk:
    """A terminal and a desktop that note what reaches them."""

    def __init__(self, missing: bool = False) -> None:
        self.lines: list[str] = []
        self.started: list[list[str]] = []
        self.missing = missing

    def start(self, command: list[str]) -> None:
        if self.missing:
            raise FileNotFoundError(2, "No such file or directory")
        self.started.append(command)

    def viewer(
        self,
        environ: Mapping[str, str],
        command: str | None = None,
        *,
        terminal: bool = True,
        platform: str = "linux",
    ) -> Viewer:
        return Viewer(
            command, tell=self.lines.append, environ=environ, is_terminal=terminal, start=self.start, platform=platform
        )


def test_the_configured_command_comes_first() -> None:
    desk = Desk()
    desk.viewer({"DISPLAY": ":0"}, "feh -F {}").show(PATH, noise(1))
    desk.viewer({"DISPLAY": ":0"}, "imv --full").show(PATH, noise(1))
    assert desk.started == [["feh", "-F", str(PATH)], ["imv", "--full", str(PATH)]]


@pytest.mark.parametrize(
    ("platform", "environ", "command"),
    [
        ("linux", {"DISPLAY": ":0"}, "xdg-open"),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, "xdg-open"),
        ("darwin", {}, "open"),
        ("win32", {}, "start"),
    ],
)
def test_a_desktop_opens_its_own_viewer(platform: str, environ: dict[str, str], command: str) -> None:
    desk = Desk()
    desk.viewer(environ, platform=platform).show(PATH, noise(1))
    assert desk.started == [[command, str(PATH)]]


@pytest.mark.parametrize("command", [None, "no-such-viewer {}"])
def test_a_missing_viewer_is_a_line_not_an_end(command: str | None) -> None:
    desk = Desk(missing=True)
    desk.viewer({"DISPLAY": ":0"}, command).show(PATH, noise(1))
    assert str(PATH) in desk.lines[0]
    assert "no viewer" in desk.lines[1]


def test_a_missing_program_is_a_line_not_an_end_for_real() -> None:
    lines: list[str] = []
    Viewer("no-such-viewer-anywhere {}", tell=lines.append, environ={}, is_terminal=False).show(PATH, noise(1))
    assert "no-such-viewer-anywhere: No such file" in lines[1]


def test_a_viewer_that_fails_or_stays_open_is_not_waited_for(tmp_path: Path) -> None:
    lines: list[str] = []
    script = tmp_path / "viewer.py"
    script.write_text(
        "import sys, time, pathlib\npathlib.Path(sys.argv[1]).with_suffix('.seen').touch()\ntime.sleep(60)\nsys.exit(3)"
    )
    viewer = Viewer(f"{sys.executable} {script} {{}}", tell=lines.append, environ={}, is_terminal=False)
    picture = tmp_path / "a.png"
    noise(1).save(picture)
    viewer.show(picture, noise(1))
    process = viewer._running
    assert process is not None
    assert process.poll() is None
    while not picture.with_suffix(".seen").exists():
        assert process.poll() is None
        time.sleep(0.02)
    assert picture.exists()
    viewer.show(picture, noise(1))  # an evening's pictures are one window, not as many
    assert process.poll() is not None
    assert viewer._running is not None
    end(viewer._running)


def test_a_terminal_without_a_display_gets_characters() -> None:
    desk = Desk()
    desk.viewer({"TERM": "xterm-256color", "COLORTERM": "truecolor", "SSH_CONNECTION": "x"}).show(PATH, noise(1))
    assert "\x1b[38;2;" in desk.lines[1]
    assert desk.started == []


def test_who_sees_a_sketch_is_told_once_where_the_whole_picture_is() -> None:
    desk = Desk()
    viewer = desk.viewer({"TERM": "xterm-256color"})
    viewer.show(PATH, noise(1))
    viewer.show(PATH, noise(2))
    assert [line for line in desk.lines if "rate NAME" in line] == [
        "  (a sketch: bayes-merger rate NAME  shows pictures whole, in a browser, over ssh too)"
    ]


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {}, {"TERM": "xterm", "NO_COLOR": ""}])
def test_a_terminal_that_wants_no_colours_gets_the_path_only(environ: dict[str, str]) -> None:
    desk = Desk()
    desk.viewer(environ).show(PATH, noise(1))
    assert desk.lines == [f"  {PATH}"]


def test_a_pipe_gets_the_path_only() -> None:
    desk = Desk()
    desk.viewer({"TERM": "xterm"}, terminal=False).show(PATH, noise(1))
    assert desk.lines == [f"  {PATH}"]


def test_half_blocks_hold_two_pixels_each() -> None:
    picture = Image.new("RGB", (2, 2), "red")
    picture.putpixel((0, 1), (0, 0, 255))
    assert half_blocks(picture, 80, 24) == ("\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[38;2;255;0;0;48;2;255;0;0m▀\x1b[0m")
    assert half_blocks(picture, 80, 24, truecolour=False).startswith("\x1b[38;5;196;48;5;21m▀")


@pytest.mark.parametrize("size", [(512, 512), (512, 768), (1000, 10), (1, 1)])
def test_half_blocks_fit_into_the_room(size: tuple[int, int]) -> None:
    drawn = re.sub("\x1b[^m]*m", "", half_blocks(noise(1, size), 60, 20)).split("\n")
    assert len(drawn) <= 20
    assert len({len(line) for line in drawn}) == 1
    assert len(drawn[0]) <= 60
