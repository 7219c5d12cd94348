"""Where the time of a study's trials goes."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial
from rich.markup import escape
from rich.table import Table

from bayes_merger.errors import printable
from bayes_merger.run.attributes import SCORES, TIMES
from bayes_merger.search.study.stopping import SECONDS
from bayes_merger.timing import BESIDE

PARTS = {
    "choose": "choosing the weights",
    "merge": "merging",
    "embed": "prompts to embeddings",
    "draw": "drawing",
    "decode": "decoding by the VAE",
    "save": "saving pictures",
    "score": "scoring",
}
"""Part of a trial, as stored -> what it is."""

OTHER = "all else"


def words_of(part: str) -> str:
    """What a part of a trial is; one of another version by its own name."""
    return PARTS.get(part) or printable(part)


def timing(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Mean seconds of each part of a trial, in order; empty where no trial has them.

    Args:
        trials: those that were judged whole.
    """
    trials = _measured(trials)
    if not trials:
        return {}
    found = {part for trial in trials for part in trial.user_attrs[TIMES] if not part.startswith(BESIDE)}
    means = _means(trials, [*PARTS, *sorted(found - PARTS.keys())])
    whole = sum(trial.user_attrs[SECONDS] for trial in trials) / len(trials)
    return {**means, OTHER: max(whole - sum(means.values()), 0.0)}


def beside(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Mean seconds of what went on while other parts did, which is no part of the whole.

    Args:
        trials: those that were judged whole.
    """
    means = _means(_measured(trials), [BESIDE + part for part in PARTS])
    return {name: seconds for name, seconds in means.items() if seconds}


def pictures_of(trial: FrozenTrial) -> int:
    """How many pictures of a trial were judged."""
    return len({(one["payload"], one["index"]) for one in trial.user_attrs.get(SCORES, ())})


def _measured(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [one for one in trials if one.user_attrs.get(TIMES) and SECONDS in one.user_attrs]


def _means(trials: Sequence[FrozenTrial], names: Sequence[str]) -> dict[str, float]:
    sums = dict.fromkeys(names, 0.0)
    for trial in trials:
        times = trial.user_attrs[TIMES]
        for part in times.keys() & sums.keys():
            sums[part] += times[part]
    return {name: seconds / max(len(trials), 1) for name, seconds in sums.items()}


def timing_table(trials: Sequence[FrozenTrial]) -> Table | None:
    """The same as a table, with shares and seconds per picture; None where no trial has them."""
    means = timing(trials)
    if not means:
        return None
    trials = _measured(trials)
    pictures = sum(map(pictures_of, trials)) / len(trials)
    whole = sum(means.values()) or 1.0
    table = Table(title=f"where the time goes (mean of {len(trials)} trials)", title_justify="left")
    table.add_column("part")
    for column in ("seconds", "share", "per picture"):
        table.add_column(column, justify="right")
    threads = {f"{PARTS[name.removeprefix(BESIDE)]}, in another thread": one for name, one in beside(trials).items()}
    for name, seconds in {**means, "a trial": sum(means.values()), **threads}.items():
        each = f"{seconds / pictures:.3f}" if pictures else ""
        table.add_row(escape(words_of(name)), f"{seconds:.3f}", f"{seconds / whole:.0%}", each)
    return table
