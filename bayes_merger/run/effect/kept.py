"""What was measured of parts before, kept in the folder so that a stopped measurement goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayes_merger.atomic import write_json
from bayes_merger.documents import read_document
from bayes_merger.errors import ConfigError
from bayes_merger.run.effect.entries import Entry
from bayes_merger.run.effect.measuring import DRAWN, Effect, Measure
from bayes_merger.search.study.study import fingerprint_difference, listed

_ABOUT, _MEASURED = "about.json", "measured"


def key_of(entry: Entry) -> str:
    """A short name for what an entry is, whatever is measured beside it."""
    return hashlib.sha256(f"{entry.rule}:{entry.ratio!r}".encode()).hexdigest()[:12]


class Kept:
    """The effects in a folder, all measured with the same settings.

    Args:
        folder: of the measurement.
        marks: what makes its numbers comparable.

    Raises:
        ConfigError: what the folder holds was measured otherwise, or is nothing of the kind.
    """

    def __init__(self, folder: Path, marks: Mapping[str, Any]) -> None:
        self._folder, self._marks = folder, json.loads(json.dumps(marks))
        if not folder.exists():
            return
        try:
            known = read_document(folder / _ABOUT)
        except ConfigError as error:
            raise ConfigError(
                f"--resume: {folder} holds no effect to go on with ({_ABOUT}: {error}); give another --out"
            ) from None
        if not isinstance(known, dict) or (differences := fingerprint_difference(known, self._marks)):
            what = listed(differences, 2) if isinstance(known, dict) else f"{_ABOUT} is not a table"
            raise ConfigError(f"--resume: {folder} was measured otherwise: {what}; undo that, or give another --out")

    def begin(self) -> None:
        """Make the folder, which says from then on how it is measured."""
        (self._folder / _MEASURED).mkdir(parents=True, exist_ok=True)
        write_json(self._folder / _ABOUT, self._marks)

    def find(self, entries: Sequence[Entry]) -> dict[Entry, Effect]:
        """The effects of those of the entries that were measured to the end."""
        found = {entry: self._read(entry) for entry in entries}
        return {entry: effect for entry, effect in found.items() if effect}

    def add(self, effect: Effect) -> None:
        """Keep an effect, whose pictures are written.

        Raises:
            OSError: it cannot be written.
        """
        measures = {name: list(measure.values) for name, measure in effect.measures.items()}
        write_json(self._path(effect.entry), {"payloads": list(effect.payloads), "measures": measures})

    def _path(self, entry: Entry) -> Path:
        return self._folder / _MEASURED / f"{key_of(entry)}.json"

    def _read(self, entry: Entry) -> Effect | None:
        """What is kept of an entry; None where that is nothing, or nothing whole."""
        try:
            data = read_document(self._path(entry))
            payloads = tuple(str(name) for name in data["payloads"])
            measures = {str(name): Measure(tuple(map(float, own))) for name, own in data["measures"].items()}
        except (ConfigError, ValueError, TypeError, KeyError, AttributeError):
            return None
        numbers = [measure.values for measure in measures.values()]
        whole = "changed" in measures and all(own and all(map(math.isfinite, own)) for own in numbers)
        whole = whole and len(measures["changed"].values) == len(payloads)
        return Effect(entry, DRAWN, measures, payloads) if whole else None
