"""``scorers``: who can judge, whether their weights are here, fetching those, and a first try."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_merger import compose
from bayes_merger.cli.arguments import Parser
from bayes_merger.config import data_root
from bayes_merger.errors import ConfigError, nearest, one_line, printable
from bayes_merger.paths import user_path
from bayes_merger.scoring.download import file_name
from bayes_merger.scoring.scorer import ImageToScore, Scorer, check_scorer
from bayes_merger.scoring.scores import score_images
from bayes_merger.scoring.weights import WeightFile

HELP = """\
bayes-merger scorers [--json | --markdown]
    who can judge pictures, and whether the weights are on this machine
bayes-merger scorers fetch NAME ...
    fetch their weights: once, checked against the SHA-256 where it is known, resumed where a download was cut off
bayes-merger scorers check NAME ... [--picture FILE] [--prompt TEXT] [scorers.NAME.tower.weights=FILE] ...
    load them, score a picture, and say how long it took
"""

MODELS = ("model_a=none", "model_b=none")  # settings of a run; nobody opens them here

WORTH_A_LINE = 10**8  # bytes: a smaller download is there before anyone wonders


def scorers(arguments: Sequence[str]) -> None:
    """List scorers, fetch their weights, or try them.

    Raises:
        ConfigError: an unknown name, or weights that cannot be had or used.
    """
    verbs: dict[str, Callable[[Sequence[str]], None]] = {"fetch": _fetch, "check": _check}
    if arguments and arguments[0] in ("-h", "--help"):
        print(HELP, end="")
    elif arguments and arguments[0] in verbs:
        verbs[arguments[0]](arguments[1:])
    elif arguments and not arguments[0].startswith("-"):
        raise ConfigError(f"scorers: no '{printable(arguments[0])}'; {nearest(arguments[0], verbs)}")
    else:
        _list(arguments)


@dataclass(frozen=True)
class Entry:
    """A scorer that can be chosen.

    Attributes:
        name: it is chosen by.
        about: what the head of its file says, by the word before the colon; the first line is its `text`.
        files: the weights it needs.
        trouble: why it cannot be built.
    """

    name: str
    about: dict[str, str]
    files: tuple[WeightFile, ...] = ()
    trouble: str = ""

    @property
    def state(self) -> str:
        """`here`, `missing`, `broken`, or nothing where no weights are needed."""
        if self.trouble:
            return "broken"
        if not self.files:
            return ""
        return "here" if all(file.is_here for file in self.files) else "missing"


def entries() -> list[Entry]:
    """All scorers that can be chosen, built but not loaded."""
    names = compose.choices("scorers")
    found: dict[str, Any] = {}
    trouble: dict[str, str] = {}
    try:
        found = _settings(names)
    except ConfigError:  # one of the user's own spoils them all; which one, only each alone can tell
        own = [name for name in names if Path("scorers", f"{name}.yaml").is_file()]
        for group in ([name for name in names if name not in own], *([name] for name in own)):
            try:
                found |= _settings(group)
            except ConfigError as error:
                trouble |= dict.fromkeys(group, str(error))
    for name in names:
        try:
            found[name] = _built(name, found[name]) if name in found else None
        except ConfigError as error:
            trouble[name] = str(error)
    return [Entry(name, _about(name), _files(found.get(name)), trouble.get(name, "")) for name in names]


def _settings(names: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    settings: dict[str, Any] = compose.compose_run([f"scorers=[{','.join(names)}]", *MODELS, *overrides])["scorers"]
    return settings


def _built(name: str, settings: Any) -> Scorer:
    if not isinstance(settings, dict):
        raise ConfigError(f"scorers.{name}: needs a mapping with a _target_, not {settings!r}")
    return check_scorer(f"scorers.{name}", compose.build(f"scorers.{name}", {"name": name, **settings}))


def _files(scorer: Any) -> tuple[WeightFile, ...]:
    """The weights that a scorer says it needs; one of the user's own need not say."""
    return tuple(getattr(scorer, "files", ()))


def _about(name: str) -> dict[str, str]:
    """The comments at the head of a scorer's file: its text, and `Word: what it says`."""
    folders = (Path.cwd() / "scorers", data_root() / "scorers")
    path = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path else []
    comments = [line[1:].strip() for line in _head(lines)]
    found = {"text": next((line for line in comments if not line.startswith("bayes-merger ")), "")}
    for line in comments:
        if said := re.fullmatch(r"(Good for|Range|Licence|Tested): (.+)", line):
            found[said[1].lower()] = said[2]
    return {key: printable(text, longest=200) for key, text in found.items()}


def _head(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _list(arguments: Sequence[str]) -> None:
    parser = Parser(prog="bayes-merger scorers", description="Who can judge pictures.")
    parser.add_argument("--json", action="store_true", help="all there is to say, for programs")
    parser.add_argument("--markdown", action="store_true", help="the table of the documentation")
    given = parser.parse_args(arguments)
    if given.markdown:
        print(table(), end="")
        return
    found = entries()
    if given.json:
        print(json.dumps([_data(entry) for entry in found], indent=1, ensure_ascii=False))
        return
    print(f"{'scorer':<15} {'weights':<8} good for")
    for entry in found:
        good = entry.trouble or entry.about.get("good for") or entry.about["text"]
        print(f"{entry.name:<15} {entry.state:<8} {one_line(good)}")
    if missing := [entry.name for entry in found if entry.state == "missing"]:
        print(f"\nmissing: fetch with  bayes-merger scorers fetch NAME, like  scorers fetch {missing[0]}")


def _data(entry: Entry) -> dict[str, Any]:
    weights = [
        {"setting": file.setting, "source": file.source, "sha256": file.sha256, "here": file.is_here}
        for file in entry.files
    ]
    trouble = {"trouble": entry.trouble} if entry.trouble else {}
    return {"name": entry.name, **entry.about, "weights": weights, **trouble}


def _chosen(command: str, words: Sequence[str]) -> dict[str, Scorer]:
    """The scorers that are named, with the settings that are typed beside them."""
    known = compose.choices("scorers")
    names = [word for word in words if "=" not in word]
    if not names:
        raise ConfigError(f"scorers {command}: takes names, like  bayes-merger scorers {command} laion")
    for name in names:
        if name not in known:
            raise ConfigError(f"scorers: no '{printable(name)}'; {nearest(name, known)}")
    settings = _settings(names, [word for word in words if "=" in word])
    return {name: _built(name, found) for name, found in settings.items()}


def _fetch(arguments: Sequence[str]) -> None:
    parser = Parser(prog="bayes-merger scorers fetch", description="Fetch the weights of scorers.")
    parser.add_argument("names", nargs="*", metavar="NAME | key=value", help="scorers, and settings of theirs")
    for name, scorer in _chosen("fetch", parser.parse_args(arguments).names).items():
        if not _files(scorer):
            print(f"{name}: needs no weights")
        for file in _files(scorer):
            was_here = file.is_here
            with _bar(file) as progress:
                path = file.find(progress)
            print(f"{name}: {path} {'was here' if was_here else 'is here now'} ({path.stat().st_size / 1e6:.1f} MB)")
        with tempfile.TemporaryDirectory() as folder:  # what it keeps of a study
            scorer.prepare(Path(folder))


@contextmanager
def _bar(file: WeightFile) -> Iterator[Callable[[int, int], None]]:
    """How far a download is: a bar on a terminal, a line for each tenth elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _tenths(file_name(file.source))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(file_name(file.source), total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total or None, visible=True)


def _tenths(name: str) -> Callable[[int, int], None]:
    said = 0

    def progress(done: int, total: int) -> None:
        nonlocal said
        tenth = 10 * done // total if total else 0
        if tenth > said and total >= WORTH_A_LINE:
            said = tenth
            print(f"note: {name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr)

    return progress


def _check(arguments: Sequence[str]) -> None:
    parser = Parser(prog="bayes-merger scorers check", description="Load scorers and score a picture.")
    parser.add_argument("names", nargs="*", metavar="NAME | key=value", help="scorers, and settings of theirs")
    parser.add_argument("--picture", help="the picture to score; by default a drawn one")
    parser.add_argument("--prompt", default="a red ball on a blue table", help="what it was asked to show")
    given = parser.parse_args(arguments)
    image = _opened(given.picture) if given.picture else _drawn()
    for name, scorer in _chosen("check", given.names).items():
        if scorer.interactive:
            print(f"{name}: asks you, nothing to check")
            continue
        with tempfile.TemporaryDirectory() as folder:  # what it keeps of a study
            scorer.prepare(Path(folder))
            begin = time.perf_counter()
            first = score_images(scorer, [_judged(image, given.prompt)])[0].value
            loaded = time.perf_counter()
            score_images(scorer, [_judged(image.rotate(180), given.prompt)])
            again = time.perf_counter() - loaded
        low, high = scorer.scale
        points = 10 * (first - low) / (high - low)
        took = max(loaded - begin - again, 0.0)
        print(f"{name}: {first:.4g} ({points:.1f} points); {took:.1f} s to load, {again:.2g} s a picture")


def _judged(image: Any, prompt: str) -> ImageToScore:
    return ImageToScore("check", 0, 0, prompt, image, None, "check")


def _opened(path: str) -> Any:
    from PIL import Image

    try:
        with Image.open(user_path(path)) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"--picture: {printable(path)} cannot be read as a picture ({one_line(error)})") from error


def _drawn() -> Any:
    """A red ball on a blue table: something to see for every scorer, drawn rather than kept."""
    from PIL import Image, ImageDraw, ImageFilter

    image = Image.linear_gradient("L").resize((512, 512)).convert("RGB")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 330, 512, 512), fill=(40, 70, 190))
    pen.ellipse((150, 160, 370, 380), fill=(205, 30, 35))
    pen.ellipse((205, 200, 255, 245), fill=(250, 190, 190))
    return image.filter(ImageFilter.GaussianBlur(1))


def table() -> str:
    """The table of docs/scorers.md, from the files of the scorers."""
    rows = ["| scorer | good for | range | weights | licence | tested with |", "|---|---|---|---|---|---|"]
    for entry in entries():
        about = entry.about
        cells = [f"`{entry.name}`", about.get("good for", ""), about.get("range", "")]
        cells += [_sources(entry.files), about.get("licence", ""), about.get("tested", "")]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _sources(files: Sequence[WeightFile]) -> str:
    """Repository, file and the beginning of the SHA-256 of each."""
    said = []
    for file in files:
        if file.is_address:
            owner, repository = file.source.split("/")[3:5]
            mark = f"SHA-256 {file.sha256[:8]}..." if file.sha256 else "not pinned"
            said.append(f"{owner}/{repository}: {file_name(file.source)} ({mark})")
        else:
            said.append("in the package")
    return "<br>".join(dict.fromkeys(said)) or "none"
