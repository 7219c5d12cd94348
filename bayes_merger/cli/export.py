"""``export``: a study's merge, or its trials, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bayes_merger.atomic import write_atomically
from bayes_merger.cli.arguments import Parser, add_which
from bayes_merger.errors import ConfigError, StorageError, nearest, trouble
from bayes_merger.paths import user_path
from bayes_merger.report.exports import MERGES, STUDIES
from bayes_merger.run.folder import find_study, load
from bayes_merger.run.predicted import predicted_recipe
from bayes_merger.run.record import begun_trial, recipe_of


def export(arguments: Sequence[str]) -> None:
    """Print a study's merge or its trials in another program's form, or write them to a file.

    Raises:
        ConfigError: no such study, trial or form, or the form cannot hold the merge.
        StorageError: the file cannot be written.
    """
    forms = {name: about for name, (about, _) in {**MERGES, **STUDIES}.items()}
    listed = "; ".join(f"{name}: {about}" for name, about in forms.items())
    parser = Parser(prog="bayes-merger export", description=f"A study's best merge for other programs. {listed}.")
    parser.add_argument("name", help="the study; - is the newest")
    parser.add_argument("form", nargs="?", default="recipe", help=f"one of {', '.join(forms)} (default: recipe)")
    add_which(parser)
    parser.add_argument("--out", help="a file; without it, it is printed")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--storage", default="", help="the database that has the study, if its folder is not here")
    options = parser.parse_args(arguments)
    if options.form not in forms:
        raise ConfigError(f"export: no form '{options.form}'; {nearest(options.form, forms)}")
    folder = find_study(Path(options.runs), options.name, options.storage)
    study = load(folder)
    if options.form in STUDIES:
        text = STUDIES[options.form][1](study, folder)
    else:
        trial = None if options.predicted else begun_trial(study, options.trial)
        recipe = predicted_recipe(study) if trial is None else recipe_of(study, trial)
        text = MERGES[options.form][1](recipe, folder.name)
    if not options.out:
        print(text.rstrip("\n"))
        return
    path = user_path(options.out)
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StorageError(trouble(error) or f"{path}: {error}") from error
    print(f"wrote {path}")
