"""Each study in a line: how far it is, what it has come to, when something last happened. Thousands of trials cost
nothing: of a study in a file none is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.study import Study

from bayes_merger.errors import UserError, printable
from bayes_merger.report.summary import method_of, optimiser_of
from bayes_merger.report.verdict import pictures_compared, verdict
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.control import run_state
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.run.outside import budget_of
from bayes_merger.run.record import complete_trials, final_about, value_of
from bayes_merger.search.study.loading import readable
from bayes_merger.search.study.rows import Glance, RowStorage

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Overview:
    """One study in a line.

    Attributes:
        name: of the study.
        state: ``running``, ``waiting``, ``pausing``, ``paused``, ``stopping``, ``done``, ``unfinished`` or
            ``unreadable``.
        finished: how many trials are done.
        budget: how many it is to have; None: as many as somebody asks for.
        trial: the winner; before the final round, the best so far.
        best: its points.
        verdict: on the winner; empty before the final round.
        last: when a trial last began or ended.
        size: bytes of its folder.
        method: of merging.
        optimiser: that searches.
        wrong: why it cannot be read; empty where it can.
    """

    name: str
    state: str
    finished: int = 0
    budget: int | None = None
    trial: int | None = None
    best: float | None = None
    verdict: str = ""
    last: datetime | None = None
    size: int = 0
    method: str = ""
    optimiser: str = ""
    wrong: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        data = {key: value for key, value in vars(self).items() if key not in ("finished", "budget", "trial")}
        data |= {"trials": {"finished": self.finished, "budget": self.budget}}
        data["best"] = None if self.best is None else {"trial": self.trial, "value": self.best}
        return data | {"last": self.last.isoformat(timespec="seconds") if self.last else None}


def overview(folder: RunFolder) -> Overview:
    """A study in a line; one that cannot be read says why."""
    try:
        with readable(folder.name):
            study = load(folder, whole=False)
            seen = glance(study)
            final = final_about(study, seen.values)
    except UserError as error:
        return Overview(folder.name, UNREADABLE, wrong=printable(str(error), longest=400))
    found = verdict(final, pictures_compared(study, final)) if final else None
    config: Mapping[str, Any] = study.user_attrs.get(CONFIG) or {}
    best = final.winner if final else max(seen.values, key=seen.values.__getitem__, default=None)
    return Overview(
        folder.name,
        run_state(folder) or ("done" if final else "unfinished"),
        len(seen.values) + seen.pruned,
        budget_of(study),
        best,
        None if best is None else seen.values[best],
        found.text if found else "",
        seen.last,
        folder.size,
        method_of(config) or "",
        optimiser_of(config),
    )


def glance(study: Study) -> Glance:
    """A study at a glance: of one score as the file has them; of several through the trials, whose points are sums."""
    storage: Any = study._storage
    if isinstance(storage, RowStorage) and len(study.directions) == 1:
        return storage.glance(study._study_id)
    trials = study.get_trials(deepcopy=False)
    moments = [moment for trial in trials for moment in (trial.datetime_start, trial.datetime_complete) if moment]
    pruned = sum(trial.state.name == "PRUNED" for trial in trials)
    return Glance({one.number: value_of(one) for one in complete_trials(study)}, pruned, max(moments, default=None))
