"""The merges of the final round: drawn, judged and remembered one after the other, so that a killed round goes on."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import optuna

from bayes_merger.errors import ConfigError, TrialFailed, one_line
from bayes_merger.imaging.payload import Payload
from bayes_merger.run.attributes import DRAWN
from bayes_merger.run.baselines import Baseline
from bayes_merger.run.evaluator import Evaluation, Evaluator, Weights, conclude
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import ProgressReporter, StopSignal, ends
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import Score

FINAL_ROUND = "final round"
"""What its bar is called."""


@dataclass
class FinalDrawing:
    """Draws the final round's merges and says how far it is.

    Attributes:
        setup: the run.
        study: remembers what was drawn.
        evaluator: draws and judges.
        progress: told what is drawn.
        stop: asked before each merge.
        total: how many merges there are to draw; 0 where nobody counts.
        done: how many of them have been looked at.
    """

    setup: RunSetup
    study: optuna.study.Study
    evaluator: Evaluator
    progress: ProgressReporter
    stop: StopSignal
    total: int = 0
    done: int = 0
    _took: list[float] = field(default_factory=list)

    def evaluation(
        self,
        what: str,
        weights: Weights,
        payloads: Sequence[Payload],
        baseline: Baseline | None = None,
        folder: RunFolder | None = None,
    ) -> Evaluation | None:
        """What a merge gets on these payloads: remembered, or drawn and remembered; None if it cannot be judged.

        Args:
            what: is drawn, for people.
            weights: the merge's.
            payloads: what is drawn.
            baseline: instead, what the winner is compared with.
            folder: keeps the pictures; None: nobody does.

        Raises:
            Interrupted: somebody asked to stop.
        """
        self.stop.check()
        left = ends(statistics.median(self._took) * (self.total - self.done)) if self._took else ""
        self.progress.budget(self.done, self.total, FINAL_ROUND, f"{what}  {left}".rstrip())
        self.done += 1
        key = _key(weights, baseline, payloads)
        if known := self.study.user_attrs.get(key):
            with suppress(KeyError, TypeError, TrialFailed, ConfigError):  # what no run has written is drawn again
                return conclude(self.setup, [Score(**score) for score in known["scores"]])
        started = time.monotonic()
        try:
            self.evaluator.load_weights(weights, baseline)
            images = self.evaluator.draw(payloads)
            found = conclude(self.setup, self.evaluator.score(weights, images, ()), images)
        except TrialFailed as error:
            self.progress.note(f"{what} is left out of the final round: {one_line(error)}")
            return None
        data = {"value": found.value, "values": list(found.values), "scores": [vars(score) for score in found.scores]}
        if folder:
            paths = self.evaluator.save(folder.final / key.removeprefix(DRAWN), images, payloads)
            data["images"] = [path.relative_to(folder.path).as_posix() for path in paths]
        self.study.set_user_attr(key, data)
        self._took.append(time.monotonic() - started)
        return found

    def pictures(self, weights: Weights, payloads: Sequence[Payload], baseline: Baseline | None = None) -> list[str]:
        """Where the pictures of a merge were kept, relative to the run's folder."""
        found: list[str] = (self.study.user_attrs.get(_key(weights, baseline, payloads)) or {}).get("images", [])
        return found


def _key(weights: Weights, baseline: Baseline | None, payloads: Sequence[Payload]) -> str:
    """Under which a study remembers what a merge got on these payloads."""
    what = [weights, baseline.key if baseline else None, [payload.to_json() for payload in payloads]]
    return DRAWN + hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
