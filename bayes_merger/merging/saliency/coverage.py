"""What a plan says of files of activations: which they are, what they cover, and how far they go."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from bayes_merger.errors import printable
from bayes_merger.merging.saliency.settings import FILES, MOVED, STRENGTH
from bayes_merger.merging.saliency.sources import RATIO, TensorWeights
from bayes_merger.merging.saliency.weights import TensorWeight


class _Merged(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def merged(self) -> tuple[int, ...]: ...


def coverage(tensors: TensorWeights, items: Iterable[_Merged]) -> list[str]:
    """A line for every weight that differs inside tensors: its source, its coverage, its range.

    Args:
        tensors: what the files make of the weights.
        items: the tensors that are merged.
    """
    found: dict[str, list[tuple[int, float, float]]] = {}
    items = list(items)
    numbers = dict.fromkeys(tensors.acts, 1.0) | ({MOVED: 0.5, STRENGTH: 1.0} if tensors.saliency else {})
    for item in items:
        for name, weight in tensors.weights(item.key, item.merged, numbers).items():
            if isinstance(weight, TensorWeight):
                found.setdefault(name, []).append((math.prod(item.merged), *weight.ends()))
    total = sum(math.prod(item.merged) for item in items)
    lines = []
    for name, parts in found.items():
        count, low, high = sum(p[0] for p in parts), min(p[1] for p in parts), max(p[2] for p in parts)
        files = [tensors.acts[name]] if name in tensors.acts else list(tensors.saliency.values())[::-1]
        source = " against ".join(printable(file.path.name, longest=60) for file in files)
        of = "" if files[0].about is None else f"the {tensors.by} of "
        moves = "is moved by" if FILES[1] in tensors.saliency else "is moved away from"
        what = "is multiplied by" if name in tensors.acts else moves
        example = "1" if name in tensors.acts else "0.5" if tensors.wins else f"0.5 at {STRENGTH} 1"
        lines.append(
            f"{name} {what} {of}{source} in {len(parts)} of {len(items)} merged tensors, {count / total:.1%} of "
            f"their numbers, where {example} becomes {low:.2g} ... {high:.2g}; elsewhere it is the block's number"
        )
    if limited := sum(tensors.limited(item.key, item.merged) for item in items) if tensors.saliency else 0:
        other = "in one of the files" if len(tensors.saliency) > 1 else "there"
        what = f"channels that are 0 {other}, or differ by more than a ratio of e^{RATIO:g}, and count as that"
        lines.append(f"{what}: {limited}")
    return lines
