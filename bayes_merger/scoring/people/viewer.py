"""Shows a picture to the person at the terminal; if that fails, the path is still printed and the run continues."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.processes import APART, end

if TYPE_CHECKING:
    from PIL.Image import Image

WIDEST = 100  # columns of a picture drawn with characters


class Viewer:
    """Shows pictures by the first available way: the configured command, the system's viewer, half-block characters.

    Args:
        command: like `feh -F {}`; without `{}` the path is put at the end. None for the system's viewer.
        tell: prints a line.
        environ: environment variables.
        is_terminal: whether `tell` writes to a terminal.
        start: starts a command and returns at once; raises OSError if it does not exist.
        platform: as `sys.platform`.
    """

    def __init__(
        self,
        command: str | None = None,
        *,
        tell: Callable[[str], None] = print,
        environ: Mapping[str, str] = os.environ,
        is_terminal: bool | None = None,
        start: Callable[[list[str]], None] | None = None,
        platform: str = sys.platform,
    ) -> None:
        self._command = command
        self._tell = tell
        self._environ = environ
        self._is_terminal = sys.stdout is not None and sys.stdout.isatty() if is_terminal is None else is_terminal
        self._platform = platform
        self._start = start or self._start_detached
        self._running: subprocess.Popen[bytes] | None = None
        self._hinted = False

    def show(self, path: Path, image: Image) -> None:
        """Shows `image`, the file at `path`, and prints the path; the file stays, since viewers read late."""
        self._tell(f"  {path}")
        if self._command:
            self._open(_filled(self._command, path))
        elif has_display(self._platform, self._environ):
            self._open([*_system_opener(self._platform), str(path)])
        elif self._is_terminal and self._environ.get("TERM", "dumb") != "dumb" and "NO_COLOR" not in self._environ:
            self._tell(half_blocks(image, *self._room(), truecolour=self._truecolour()))
            if not self._hinted:
                self._tell("  (a sketch: bayes-merger rate NAME  shows pictures whole, in a browser, over ssh too)")
                self._hinted = True

    def _open(self, command: list[str]) -> None:
        try:
            self._start(command)
        except OSError as error:
            why = error.strerror or str(error)
            self._tell(f"  (no viewer: {command[0]}: {why}; set viewer= to a command, or open the file yourself)")

    def _start_detached(self, command: list[str]) -> None:
        if self._running and self._running.poll() is None:
            end(self._running)  # an evening's pictures would be as many windows
        if self._platform == "win32" and command[0] == "start":
            getattr(os, "startfile")(command[-1])  # noqa: B009  known to type checkers on Windows only
            return
        # A separate session: Ctrl-C at the prompt must not close the picture, nor its output reach the terminal.
        quiet = subprocess.DEVNULL
        self._running = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, **APART)

    def _truecolour(self) -> bool:
        return self._environ.get("COLORTERM", "") in ("truecolor", "24bit")

    def _room(self) -> tuple[int, int]:
        size = shutil.get_terminal_size()
        return min(size.columns, WIDEST), max(size.lines - 6, 8)  # room for path, prompt and a message


def has_display(platform: str, environment: Mapping[str, str]) -> bool:
    """Whether windows can be opened where this process runs."""
    if platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in environment
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def half_blocks(image: Image, columns: int, lines: int, *, truecolour: bool = True) -> str:
    """`image` as lines of `▀`, two pixels a character: enough to see a broken picture, not to judge a good one.

    Args:
        image: any size and mode.
        columns: most characters in a line.
        lines: most lines.
        truecolour: 24-bit colours; else the 256 that nearly every terminal has.
    """
    scale = min(columns / image.width, 2 * lines / image.height, 1.0)
    width, height = max(round(image.width * scale), 1), max(round(image.height * scale / 2), 1)
    small = image.convert("RGB").resize((width, 2 * height))
    pixels = small.tobytes()
    colour = _truecolour_code if truecolour else _cube_code
    drawn = []
    for top in range(0, 2 * height, 2):
        row = []
        for x in range(width):
            upper, lower = (3 * ((top + below) * width + x) for below in (0, 1))
            row.append(f"\x1b[38;{colour(pixels[upper : upper + 3])};48;{colour(pixels[lower : lower + 3])}m▀")
        drawn.append("".join(row) + "\x1b[0m")
    return "\n".join(drawn)


def _truecolour_code(rgb: bytes) -> str:
    return f"2;{rgb[0]};{rgb[1]};{rgb[2]}"


def _cube_code(rgb: bytes) -> str:
    red, green, blue = (round(value * 5 / 255) for value in rgb)
    return f"5;{16 + 36 * red + 6 * green + blue}"


def _filled(command: str, path: Path) -> list[str]:
    parts = shlex.split(command, posix=os.name != "nt")
    if any("{}" in part for part in parts):
        return [part.replace("{}", str(path)) for part in parts]
    return [*parts, str(path)]


def _system_opener(platform: str) -> list[str]:
    return {"darwin": ["open"], "win32": ["start"]}.get(platform, ["xdg-open"])
