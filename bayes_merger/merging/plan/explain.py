"""A plan in words and as data: what happens to each tensor, and who decides it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.header import FLOATS
from bayes_merger.merging.models.lora.model import is_lora
from bayes_merger.merging.plan.costs import bytes_read, result_size, seconds, working_memory
from bayes_merger.merging.plan.planning import numbers_of, sources_of
from bayes_merger.merging.plan.routing import VAE, MergePlan, PlanItem, listed
from bayes_merger.merging.recipe.postprocess import ADJUST
from bayes_merger.merging.recipe.recipe import MergeRecipe


@dataclass(frozen=True)
class Fate:
    """What happens to a tensor, and which setting decides it; tensors of one fate are one line.

    Attributes:
        action: ``merge``, ``keep``, ``copy`` or ``drop``.
        block: whose weights it follows, if any.
        numbers: weight name and number.
        says: what each number comes from: a block, one of its slots, or an elemental rule; else why it is not merged.
    """

    action: str
    block: str
    numbers: tuple[tuple[str, float], ...]
    says: tuple[str, ...]

    def text(self) -> str:
        """For a line: ``alpha 0.5, beta 0.2``."""
        return ", ".join(f"{name} {number:g}" for name, number in self.numbers) or self.action

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"action": self.action, "block": self.block, "weights": dict(self.numbers), "says": list(self.says)}


def fate(item: PlanItem, recipe: MergeRecipe, idle: Collection[str] = ()) -> Fate:
    """What happens to one tensor.

    Args:
        item: of the plan.
        recipe: whose plan it is.
        idle: the weights that change nothing, as in ``IN00.alpha``.
    """
    place = item.place
    if item.action != "merge":
        return Fate(item.action, place.slot or place.block or "", (), (item.why,))
    numbers = numbers_of(item, recipe.weights)
    says = []
    for name in numbers:
        rules = [rule.text for rule in item.rules if any(weight == name for weight, _ in rule.ratios)]
        slot = place.slot if place.slot in recipe.weights[name] else place.block
        says.append(f"'{rules[-1]}'" if rules else slot or "")
    unheard = [name for name, source in sources_of(item, recipe.weights).items() if f"{source}.{name}" in idle]
    if unheard:
        says.append(f"{', '.join(unheard)} changes nothing" if len(unheard) < len(numbers) else "changes nothing")
    return Fate("merge", place.block or "", tuple(numbers.items()), tuple(dict.fromkeys(says)))


def grouped(planned: MergePlan, recipe: MergeRecipe, idle: Collection[str] = ()) -> dict[Fate, list[str]]:
    """The tensors of each fate: merged ones in the order of the blocks, then the others."""
    groups: dict[Fate, list[str]] = {}
    for item in planned.items:
        groups.setdefault(fate(item, recipe, idle), []).append(item.key)
    blocks = [*planned.architecture.blocks, *planned.architecture.slots, ""]
    actions = ("merge", "keep", "copy", "drop")
    order = sorted(groups, key=lambda f: (actions.index(f.action), blocks.index(f.block)))
    return {found: groups[found] for found in order}


def finish_of(recipe: MergeRecipe) -> list[str]:
    """What is done after the method, one line each."""
    adjust = recipe.weights.get(ADJUST, {})
    lines = [f"clip: every number stays between A's and B's ({recipe.clip})"] if recipe.clip else []
    if any(adjust.values()):
        lines.append("adjust: " + ", ".join(f"{name} {number:g}" for name, number in adjust.items() if number))
    return lines


def notes_on(planned: MergePlan, checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """What is worth a look: unusual dtypes, rules that decide nothing, and the plan's own notes."""
    notes = [*planned.notes, *_not_merged(planned), *_unusual_dtypes(planned, checkpoints)]
    deciding = {
        rule
        for item in planned.items
        for name in planned.method.weights
        for rule in [r for r in item.rules if any(weight == name for weight, _ in r.ratios)][-1:]
    }
    idle = [rule for rule in planned.rules if rule not in deciding]
    notes += [f"'{rule.text}' decides nothing, later rules apply to all its tensors" for rule in idle]
    return notes


def _unusual_dtypes(planned: MergePlan, checkpoints: Mapping[str, Checkpoint]) -> Iterator[str]:
    for name, checkpoint in checkpoints.items():
        roles = ("vae",) if name == VAE else ("block", "vae")
        stored = {
            key: dtype
            for key, dtype in checkpoint.stored.items()
            if dtype in FLOATS and planned.architecture.place(key).role in roles and not is_lora(checkpoint)
        }
        (usual, _), *others = Counter(stored.values()).most_common() or [("", 0)]
        for dtype, count in others:
            key = next(key for key, own in stored.items() if own == dtype)
            yield f"{name.upper()} has {count} tensors in {dtype} among {usual}: {key} ..."


def _not_merged(planned: MergePlan) -> list[str]:
    """Why tensors are not merged that somebody may miss, a line for each reason; the plan's notes say of the others."""
    groups: dict[str, list[str]] = {}
    for item in planned.items:
        if item.action == "drop" and item.place.role in ("ema", "schedule"):
            what = "averages over training" if item.place.role == "ema" else "the noise schedule"
            way = "; ema=keep merges them too" if item.place.role == "ema" else ""
            groups.setdefault(f"left out, {what}, which nothing reads{way}", []).append(item.key)
        elif item.action == "keep" and item.place.role in ("block", "other") and item.key not in planned.missing:
            groups.setdefault(f"kept from A, {item.why}", []).append(item.key)
    return [f"{why}: {listed(keys)}" for why, keys in groups.items()]


def plan_data(
    recipe: MergeRecipe,
    planned: MergePlan,
    checkpoints: Mapping[str, Checkpoint],
    *,
    keys: bool = False,
    idle: Collection[str] = (),
) -> dict[str, Any]:
    """The plan as data; ``idle`` as for ``fate``."""
    data = {
        "method": planned.method.name,
        "architecture": planned.architecture.name,
        "dtype": planned.dtype,
        "models": {
            name: {"path": str(c.path), "tensors": len(c.shapes), "dtypes": dict(Counter(c.stored.values()))}
            for name, c in checkpoints.items()
        },
        "bytes": result_size(planned),
        "bytes_read": bytes_read(planned, checkpoints),
        "working_memory": working_memory(planned),
        "seconds": round(seconds(planned, checkpoints), 1),
        "finish": finish_of(recipe),
        "missing": list(planned.missing),
        "notes": notes_on(planned, checkpoints),
        "rules": [
            {"rule": rule.text, "tensors": sum(rule in item.rules for item in planned.items)} for rule in planned.rules
        ],
        "groups": [{**f.to_json(), "tensors": len(found)} for f, found in grouped(planned, recipe, idle).items()],
    }
    if keys:
        data["keys"] = {item.key: fate(item, recipe, idle).to_json() for item in planned.items}
    return data


def difference(
    recipe: MergeRecipe, planned: MergePlan, other: MergeRecipe, other_planned: MergePlan
) -> dict[str, tuple[Fate | None, Fate | None]]:
    """The tensors that are treated differently, whatever decides it; ``None`` where a merge has no such tensor."""
    fates = [{s.key: fate(s, r) for s in p.items} for r, p in ((recipe, planned), (other, other_planned))]
    found = {}
    for key in dict.fromkeys((*fates[0], *fates[1])):
        here, there = (side.get(key) for side in fates)
        if here is None or there is None or replace(here, says=(), block="") != replace(there, says=(), block=""):
            found[key] = (here, there)
    return found
