"""``report``: a study as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bayes_merger.atomic import write_atomically
from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import StorageError, trouble
from bayes_merger.paths import user_path
from bayes_merger.run.folder import find_study, load


def report(arguments: Sequence[str]) -> None:
    """Write the page.

    Raises:
        ConfigError: no such study.
        StorageError: the page cannot be written.
    """
    parser = Parser(
        prog="bayes-merger report",
        description="A study as one HTML file to look at and to send around: it needs no other file and asks nobody.",
    )
    parser.add_argument("name", help="the study; - is the newest")
    parser.add_argument("--out", help="the file (default: report.html in the study's folder)")
    parser.add_argument("--pictures", type=int, default=40, help="at most so many (default: 40)")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--storage", default="", help="the database that has the study, if its folder is not here")
    options = parser.parse_args(arguments)
    from bayes_merger.report.contents import contents_of
    from bayes_merger.report.page import page

    folder = find_study(Path(options.runs), options.name, options.storage)
    path = user_path(options.out) if options.out else folder.path / "report.html"
    text = page(contents_of(load(folder), folder, max(0, options.pictures)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise StorageError(trouble(error) or f"{path}: {error}") from error
    print(f"wrote {path} ({len(text.encode()) / 1e6:.1f} MB); open it in a browser")
