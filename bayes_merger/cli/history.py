"""``history``: how the best merge became better, in words or as a picture that moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, counted, nearest, printable
from bayes_merger.paths import user_path
from bayes_merger.report.contents import Shot, Shots
from bayes_merger.report.convergence import anchors_of, convergence_of
from bayes_merger.report.tables import with_error
from bayes_merger.report.thumbnails import opened, write_image
from bayes_merger.run.attributes import PAYLOADS
from bayes_merger.run.folder import RunFolder, find_study, load
from bayes_merger.run.record import posterior_of, trial_of
from bayes_merger.search.study.checked import reads_once

SIDE = 512
"""Pixels of a moving picture."""


def history(arguments: Sequence[str]) -> None:
    """Print each new best, or write them as a moving picture.

    Raises:
        ConfigError: no such study or payload, or no pictures.
        StorageError: the picture cannot be written.
    """
    parser = Parser(
        prog="bayes-merger history",
        description="Each trial that was better than all before it; --blink shows them one after the other.",
    )
    parser.add_argument("name", help="the study; - is the newest")
    parser.add_argument("--blink", action="store_true", help="write a picture that moves: model A, then each new best")
    parser.add_argument("--payload", help="whose picture moves (default: the first)")
    parser.add_argument("--out", help="its file, .webp or .gif (default: history.webp in the study's folder)")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--storage", default="", help="the database that has the study, if its folder is not here")
    options = parser.parse_args(arguments)
    folder = find_study(Path(options.runs), options.name, options.storage)
    study = load(folder)
    if options.blink:
        path = user_path(options.out) if options.out else folder.path / "history.webp"
        frames = _frames(shots_of(study, folder, options.payload))
        write_image(frames[0], path, frames[1:])
        print(f"wrote {path}, {counted(len(frames), 'picture')}")
    else:
        _print(study)


@reads_once
def _print(study: optuna.study.Study) -> None:
    known, course = posterior_of(study), convergence_of(study)
    if not course.best:
        print("no finished trial yet")
        return
    means = {one.trial: with_error(one.mean, one.sd) for one in known.each if known.fitted}
    table = Table("trial", "points", "posterior mean", title="each new best", title_justify="left")
    for number, points in course.best:
        table.add_row(str(number), f"{points:.3f}", means.get(number, ""))
    Console().print(table)


@reads_once
def shots_of(study: optuna.study.Study, folder: RunFolder, payload: str | None = None) -> list[tuple[str, Shot]]:
    """Model A and each new best with the picture that is shown of it, those whose file is there.

    Raises:
        ConfigError: no such payload, or fewer than two pictures.
    """
    names = [one["name"] for one in study.user_attrs.get(PAYLOADS) or ()]
    if payload is not None and payload not in names:
        raise ConfigError(f"--payload: no payload '{payload}'; {nearest(payload, names)}")
    key = (payload or (names[0] if names else ""), 0)
    begin = anchors_of(study).get("model A")
    merges = [("model A", begin)] if begin else []
    merges += [(f"trial {number}", trial_of(study, number)) for number, _ in convergence_of(study).best
               if begin is None or number != begin.number]  # fmt: skip
    shots = Shots(study, folder)
    found = [(name, shot) for name, trial in merges if (shot := shots.of(trial).get(key)) and shot.path]
    if len(found) < 2:
        raise ConfigError(f"study '{folder.name}' has no two pictures of new bests: they were not kept, or are gone")
    return found


def _frames(shots: Sequence[tuple[str, Shot]]) -> list[Any]:
    """The pictures of one size, with their names and points below."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    font = ImageFont.load_default(18)
    frames = []
    for name, shot in shots:
        image = opened(shot.path, SIDE) if shot.path else None
        if image is None:
            continue
        image = ImageOps.contain(image, (SIDE, SIDE))
        frame = Image.new("RGB", (SIDE, SIDE + 30), "white")
        frame.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
        points = f"   {shot.points:.2f} points" if shot.points is not None else ""
        ImageDraw.Draw(frame).text((8, SIDE + 4), f"{printable(name)}{points}", fill="black", font=font)
        frames.append(frame)
    if len(frames) < 2:
        raise ConfigError("there are no two pictures that can be read")
    return frames
