"""``effect.csv`` and ``effect.json``: written for people and programs, read by a search that trusts nothing in them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_merger.documents import read_document, read_text
from bayes_merger.errors import ConfigError, nearest, one_line, printable
from bayes_merger.run.effect.measuring import DRAWN, IDENTICAL, LEFT_OUT, Effect

METHOD = "weighted_sum"
"""How an entry's numbers of B come into A."""

BY = ("distance", "changed")
"""The measures that tell how much a part matters unless somebody names another; the first that was measured."""


def as_data(effects: Sequence[Effect], models: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each entry as a flat table: every measure by its name, and its standard error where there is one.

    Args:
        effects: of the entries.
        models: ``a`` and ``b`` to their SHA-256.
    """
    found: list[dict[str, Any]] = []
    for effect in effects:
        entry = effect.entry
        line: dict[str, Any] = {
            "entry": entry.name, "rule": entry.rule, "ratio": entry.ratio, "block": entry.block, "part": entry.part,
            "status": effect.status, "relative_norm": _finite(entry.relative), "promise": _finite(entry.promise),
        }  # fmt: skip
        for name, measure in effect.measures.items():
            line |= {name: measure.mean, f"{name}_error": measure.error}
        found.append(line | {"method": METHOD, "model_a": models["a"], "model_b": models["b"]})
    return found


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """What :func:`as_data` gives, a line for each entry, in their order; what was not drawn has no measures."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    last = ("method", "model_a", "model_b")
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(name for name in columns if name not in last), *last], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


@dataclass(frozen=True)
class BlockEffects:
    """What a table says of whole blocks of B, each taken over alone.

    Attributes:
        sizes: of the blocks that were drawn: how much they do, 0 or above, by one measure.
        equal: the blocks in which the models are equal.
        by: the measure.
        method: how the numbers came into A.
        models: ``a`` and ``b`` to their SHA-256.
    """

    sizes: Mapping[str, float]
    equal: frozenset[str]
    by: str
    method: str
    models: Mapping[str, str]


def read_block_effects(path: Path, by: str = "") -> BlockEffects:
    """The effects of whole blocks in a CSV or JSON file of ``effect``.

    Args:
        path: of the file; JSON if it is called so.
        by: the measure that counts, by its size; empty for the first of ``BY`` that is there.

    Raises:
        ConfigError: the file is not such a table, or lacks the measure. The text does not name the file.
    """
    lines = _lines(path)
    for name in ("entry", "block", "part", "ratio", "status", "method", "model_a", "model_b"):
        if not all(name in line for line in lines):
            raise ConfigError(f"has no column '{name}'; measure it with  bayes-merger effect")
    origin = {(line["method"], line["model_a"], line["model_b"]) for line in lines}
    if len(origin) != 1:
        raise ConfigError("has lines of different models or methods; give one measurement")
    method, *models = (str(part) for part in origin.pop())
    whole = [line for line in lines if line["block"] and not line["part"] and _number(line, "ratio") == 1]
    drawn = [line for line in whole if line["status"] == DRAWN]
    if not drawn:
        raise ConfigError("has no whole block that was drawn; measure them with  bayes-merger effect --of blocks")
    measures = [name.removesuffix("_error") for name in drawn[0] if name.endswith("_error")]
    by = by or next((name for name in BY if name in measures), "")
    if by not in measures:
        raise ConfigError(f"has no measure '{printable(by)}'; {nearest(by, measures)}")
    sizes: dict[str, float] = {}
    for line in drawn:
        if line["block"] in sizes:
            raise ConfigError(f"has {printable(line['block'])} twice; leave one out")
        sizes[line["block"]] = abs(_number(line, by))
    equal = frozenset(line["block"] for line in whole if line["status"] == IDENTICAL)
    return BlockEffects(sizes, equal, by, method, dict(zip("ab", models, strict=True)))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The table, its cells text or numbers."""
    if path.suffix.lower() == ".json":
        lines = read_document(path)
    else:
        try:
            lines = list(csv.DictReader(io.StringIO(read_text(path)), restval="", strict=True))
        except csv.Error as error:
            raise ConfigError(f"is not CSV ({one_line(error)})") from None
    cells = (str, int, float, type(None))
    if not isinstance(lines, list) or not lines or not all(isinstance(line, dict) for line in lines):
        raise ConfigError("is no table of effects; measure it with  bayes-merger effect")
    for line in lines:
        if not all(isinstance(name, str) and isinstance(cell, cells) for name, cell in line.items()):
            raise ConfigError("has a line with more cells than columns; measure it with  bayes-merger effect")
        if line.get("status") not in (DRAWN, IDENTICAL, LEFT_OUT, None):
            raise ConfigError(f"has an entry with status '{printable(str(line['status']))}', which is unknown")
        line |= {name: str(line[name] or "") for name in ("block", "part", "method", "model_a", "model_b")
                 if name in line}  # fmt: skip
    return lines


def _number(line: Mapping[str, Any], name: str) -> float:
    try:
        found = float(line.get(name))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        value = printable(str(line.get(name)))
        raise ConfigError(f"{printable(str(line['entry']))}: {name} is '{value}', which is no number")
    return found
