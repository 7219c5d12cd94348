"""The axes of a grid as they are typed, ``x="OUT05.alpha=0,0.25,0.5,1"``, and what each of their values changes.

The kinds of axes are those of AUTOMATIC1111's X/Y/Z plot and of supermerger's (elemental_en.md and ``sample.txt`` of
https://github.com/hako-mikan/sd-webui-supermerger): what is merged, or what is drawn.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_merger.documents import parse_document, read_text
from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.payload.fields import TEXT_FIELDS, is_field, overlaid, own_name
from bayes_merger.merging.method import MethodSpec, method_spec
from bayes_merger.merging.recipe.postprocess import ADJUST
from bayes_merger.merging.recipe.settings import SETTINGS
from bayes_merger.paths import user_path

PLACES = ("x", "y", "z")
"""Columns, rows and pages."""

ELEMENTS, MORE_ELEMENTS = "elements", "add_elements"
BLOCKS_ALONE, ELEMENTS_ALONE = "pinpoint_blocks", "pinpoint_elements"
PAYLOAD, REPLACE = "payload", "replace"
ALONE = (BLOCKS_ALONE, ELEMENTS_ALONE)
_RULES = (ELEMENTS, MORE_ELEMENTS)

OTHER_NAMES = {
    "elemental": ELEMENTS, "add_elemental": MORE_ELEMENTS, "pinpoint_block": BLOCKS_ALONE,
    "pinpoint_element": ELEMENTS_ALONE, "payloads": PAYLOAD, "prompt_s/r": REPLACE, "prompt_sr": REPLACE,
    "sampler": "sampler_name", "calcmode": "method",
}  # fmt: skip
"""What supermerger and AUTOMATIC1111 call some kinds of axes."""

_RATIO = "pinpoint"  # the name of the one ratio that an axis of `ALONE` has
_NUMBER = r"([+-]?\d{1,12}(?:\.\d{1,12})?)"
_RANGE = re.compile(rf"{_NUMBER}\s*-\s*{_NUMBER}\s*(?:\({_NUMBER}\)|\[(\d{{1,6}})\])", re.ASCII)


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes:
        place: ``x``, ``y`` or ``z``.
        kind: what its values are for: a setting or weight of a merge, a field of a payload, or a name from above.
        values: as typed, in order; empty text of `ELEMENTS` is a merge without rules.
    """

    place: str
    kind: str
    values: tuple[str, ...]

    @property
    def drawn(self) -> bool:
        """Whether it changes what is drawn, and no merge."""
        return self.kind in (PAYLOAD, REPLACE) or is_field(self.kind)

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that each value sets: ``OUT04.alpha+OUT05.alpha`` are two."""
        return tuple(name.strip() for name in self.kind.split("+"))

    def label(self, place: int) -> str:
        """One of its values for people."""
        value = self.values[place]
        if not value:
            return "no rules"
        if self.kind.startswith("model_") or self.kind == "vae":
            value = Path(value).name.rsplit(".", 1)[0]
        return printable(", ".join(line.strip(" ,") for line in value.split("\n") if line.strip()), longest=100)

    def title(self, place: int) -> str:
        """The same with the name of its kind, where a value does not say it by itself."""
        telling = (
            *_RULES,
            *ALONE,
            PAYLOAD,
            REPLACE,
            "prompt",
            "negative_prompt",
            "sampler_name",
            "scheduler",
            "method",
        )
        is_told = self.kind in telling or self.kind.startswith("model_")
        return self.label(place) if is_told else f"{self.kind} {self.label(place)}"


Chosen = Sequence[tuple[Axis, str]]
"""The value that a cell has on each axis."""


def read_axes(words: Sequence[tuple[str, str]]) -> tuple[Axis, ...]:
    """The axes of a grid, ``x`` first.

    Args:
        words: what is typed, ``("x", "OUT05.alpha=0,0.5,1")``.

    Raises:
        ConfigError: one that makes no sense, two that are the same, or none.
    """
    axes = sorted((_read(place, text) for place, text in words), key=lambda axis: axis.place)
    if not axes or axes[0].place != "x":
        raise ConfigError('xy: there is no x; give it like  x="OUT05.alpha=0,0.25,0.5,1"')
    for one, two in ((one, two) for i, one in enumerate(axes) for two in axes[:i]):
        if one.place == two.place:
            raise ConfigError(f"{one.place}: is given twice; the places are x (columns), y (rows) and z (pages)")
        if {name.lower() for name in one.names} & {name.lower() for name in two.names}:
            raise ConfigError(f"{two.place} and {one.place} are both {one.kind}; leave one out")
    alone = [axis for axis in axes if axis.kind in ALONE]
    if len(alone) > 1:
        raise ConfigError(f"{alone[0].place} and {alone[1].place}: only one axis can say what is varied alone")
    return tuple(axes)


def _read(place: str, text: str) -> Axis:
    kind, equals, values = text.partition("=")
    folded = "_".join(kind.lower().split()).replace("-", "_")
    kind = own_name(OTHER_NAMES.get(folded, folded if is_field(own_name(folded)) or folded in ALONE else kind.strip()))
    if not equals or not kind:
        raise ConfigError(
            f'{place}: {printable(text)!r} is no axis; write KIND=VALUES, like  {place}="method=ties,dare"'
        )
    if values.startswith("@"):
        try:
            values = read_text(user_path(values[1:]))
        except ConfigError as error:
            raise ConfigError(f"{place}: {values[1:]}: {error}") from None
    found = tuple(_split(kind, values))
    if not found or (kind not in _RULES and not all(found)):
        raise ConfigError(f"{place}: {kind} has {'an empty value' if found else 'no values'}; give some after the =")
    if kind == ELEMENTS_ALONE and (wrong := [one for one in found if one.count(":") != 1]):
        raise ConfigError(
            f"{place}: '{wrong[0]}': an element alone is BLOCKS:ELEMENTS, without a ratio; write OUT05:attn2"
        )
    return Axis(place, kind, found)


def _split(kind: str, text: str) -> Iterator[str]:
    """The values in a text: lines or what ``|`` parts, else what commas part; sets of rules have both inside."""
    if kind in _RULES:
        sets = [part.strip() for part in re.split(r"\||\n[ \t]*\n", text.replace("\r", ""))]
        yield from (part for place, part in enumerate(sets) if part or not place)
        return
    if kind in ALONE:
        yield from (part.strip() for part in re.split(r"[,|\n]", text) if part.strip())
        return
    if re.search(r"[|\n]", text.strip()):
        parts = re.split(r"[|\n]", text.strip())
    else:
        parts = next(csv.reader([text.strip()], skipinitialspace=True), [])
    for part in map(str.strip, parts):
        yield from [part] if kind in (*TEXT_FIELDS, REPLACE) else _range(part)


def _range(text: str) -> Iterator[str]:
    """The numbers of ``0-1 [5]`` (five of them) or ``1-9 (+2)`` (in steps of 2), as web UIs write them."""
    found = _RANGE.fullmatch(text)
    if not found:
        yield text
        return
    low, high = float(found[1]), float(found[2])
    if found[4]:
        count = int(found[4])
        step = (high - low) / max(count - 1, 1)
    else:
        step = float(found[3])
        count = math.floor((high - low) / step + 1e-9) + 1 if step else 0
    if not 1 <= count <= 10_000:
        raise ConfigError(f"'{text}' is no range of numbers; write FIRST-LAST (+STEP) or FIRST-LAST [COUNT]")
    yield from (f"{low + step * number:.10g}" for number in range(count))


def merge_words(given: Mapping[str, Any], chosen: Chosen) -> dict[str, Any]:
    """The settings of a cell's merge.

    Args:
        given: those of the whole grid; the axes' values come in their place.
        chosen: the cell's values.

    Raises:
        ConfigError: an axis of something alone, and none that says how much of it.
    """
    words = dict(given)
    merging = [(axis, value) for axis, value in chosen if not axis.drawn]
    rules = list(words.get(ELEMENTS) or ())
    alone = next(((axis, value) for axis, value in merging if axis.kind in ALONE), None)
    for axis, value in sorted(merging, key=lambda pair: pair[0].kind == MORE_ELEMENTS):
        if axis.kind == ELEMENTS:
            rules = [value] if value else []
        elif axis.kind == MORE_ELEMENTS:
            rules += [value] if value else []
        elif axis.kind not in ALONE:
            words |= dict.fromkeys(axis.names, value)
    spec = method_spec(words.get("method") or "weighted_sum")
    weights = tuple(spec.weights)
    if alone:
        rules.append(_varied(*alone, merging, weights, words, given))
    if "alpha" in weights and any(axis.kind in (*ALONE, *_RULES) or _has_part(axis, spec) for axis, _ in merging):
        words.setdefault("alpha", "0")
    return words | ({ELEMENTS: rules} if rules or ELEMENTS in words else {})


def _has_part(axis: Axis, spec: MethodSpec) -> bool:
    """Whether an axis merges a part of the network, beside which the rest stays model A unless alpha is given."""
    whole = {*spec.weights, *spec.options, *SETTINGS, ADJUST}
    tables = ("model_", "saliency.", "act.")
    return any(name.lower() not in whole and not name.startswith(tables) for name in axis.names)


def _varied(
    axis: Axis, value: str, merging: Chosen, weights: Iterable[str], words: dict[str, Any], given: Mapping[str, Any]
) -> str:
    """The rule of what is varied alone; its ratio is the value of the axis of a weight, which is then no other's."""
    order = sorted(weights, key=lambda name: name != "alpha")
    ratios = [(other.kind, ratio) for other, ratio in merging if other.kind in order]
    if len(ratios) != 1:
        raise ConfigError(
            f"{axis.place}: {axis.kind} is varied by the values of another axis; give one like  alpha=0,0.5,1"
        )
    weight, words[_RATIO] = ratios[0]
    words.pop(weight)
    words |= {weight: given[weight]} if weight in given else {}
    elements = "" if axis.kind == ELEMENTS_ALONE else ":"
    return f"{value}{elements}:{';' * order.index(weight)}{_RATIO}"


def drawn_payloads(payloads: Mapping[str, Any], chosen: Chosen) -> dict[str, dict[str, Any]]:
    """What a cell draws: payload -> its fields.

    Args:
        payloads: those of the whole grid.
        chosen: the cell's values.

    Raises:
        ConfigError: a payload that is not there, a value that is no field's, a text that no prompt has.
    """
    drawing = [(axis, value) for axis, value in chosen if axis.drawn]
    found = {name: dict(fields) for name, fields in payloads.items()}
    for axis, value in drawing:
        if axis.kind == PAYLOAD:
            if value not in found:
                raise ConfigError(f"{axis.place}: no payload '{value}'; {nearest(value, found)}")
            found = {value: found[value]}
    for axis, value in drawing:
        if axis.kind not in (PAYLOAD, REPLACE):
            read = value if axis.kind in TEXT_FIELDS else parse_document(value)
            found = {name: overlaid(fields, {axis.kind: read}) for name, fields in found.items()}
    for axis, value in drawing:
        if axis.kind == REPLACE:
            found = {name: _replaced(axis, value, fields) for name, fields in found.items()}
    return found


def _replaced(axis: Axis, value: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A payload with the axis's first value replaced in its prompts."""
    sought, prompts = axis.values[0], ("prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt")
    texts = {name: str(text) for name, text in fields.items() if own_name(name) in prompts and text}
    if not any(sought in text for text in texts.values()):
        raise ConfigError(
            f"{axis.place}: no prompt has '{printable(sought)}', the first value, which the others replace"
        )
    return {**fields, **{name: text.replace(sought, value) for name, text in texts.items()}}
