"""``pause`` and ``stop``: a run that goes on in another window, or was started from the page."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from bayes_merger.cli.arguments import Parser
from bayes_merger.run import steering
from bayes_merger.run.control import WAITING, run_state
from bayes_merger.run.folder import RunFolder, find_study


def pause(arguments: Sequence[str]) -> None:
    """Pause a run.

    Raises:
        ConfigError: no such study, or no run of it goes on.
    """
    about = "Hold a run where it is, with its models in memory, until  bayes-merger resume NAME; stop it to free them."
    parser = _parser("pause", about)
    folder = _run_of(parser.parse_args(arguments))
    steering.pause(folder)
    print(f"study {folder.name} pauses at its next step; go on with  bayes-merger resume {folder.typed}")


def stop(arguments: Sequence[str]) -> None:
    """Stop a run.

    Raises:
        ConfigError: no such study, or no run of it goes on.
    """
    parser = _parser("stop", "End a run after its trial; nothing is lost:  bayes-merger resume NAME  goes on with it.")
    parser.add_argument("--now", action="store_true", help="at once: the trial that it draws is drawn again on resume")
    options = parser.parse_args(arguments)
    folder = _run_of(options)
    waits = run_state(folder) == WAITING
    steering.stop(folder, now=options.now)
    if waits or not folder.exists():
        print(f"study {folder.name} ends before it has begun")
        return
    when = "at its next step" if options.now else "after this trial"
    print(f"study {folder.name} stops {when}; go on with  bayes-merger resume {folder.typed}")


def _run_of(options: Namespace) -> RunFolder:
    """The study's folder; that of a run which waits its turn holds no study yet."""
    folder = RunFolder(Path(options.runs) / options.name)
    if Path(options.name).name == options.name and folder.is_running and not folder.exists():
        return folder
    return find_study(Path(options.runs), options.name)


def _parser(command: str, about: str) -> Parser:
    parser = Parser(prog=f"bayes-merger {command}", description=about)
    parser.add_argument("name", help="the study, or how its name begins; - is the newest")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    return parser
