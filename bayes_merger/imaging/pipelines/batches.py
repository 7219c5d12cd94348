"""Pictures to be drawn, and which of them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import TrialFailed
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.passes import Pass

if TYPE_CHECKING:
    from torch import Tensor

    from bayes_merger.imaging.pipelines.sketches import Onlooker


@dataclass(frozen=True)
class Order:
    """One picture to be drawn.

    Attributes:
        payload: it is of this one.
        index: which of the payload's pictures.
        passes: over it.
        chunks: of tokens that the prompt and the negative prompt of each pass need.
    """

    payload: Payload
    index: int
    passes: tuple[Pass, ...]
    chunks: tuple[tuple[int, int], ...]

    @property
    def prompt(self) -> str:
        """Its words, A1111's syntax kept."""
        return self.payload.prompts[self.index]

    @property
    def seed(self) -> int:
        """Of its noise."""
        return self.payload.seeds[self.index]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Pictures of one kind can share a batch."""
        return (self.payload.bare, self.chunks)

    def __str__(self) -> str:
        return f"payload {self.payload.name}, picture {self.index} (seed {self.seed})"


def batches_of(orders: Sequence[Order], most: int) -> list[list[Order]]:
    """Orders of one kind together, as even in size as `most` allows.

    Sorted, since a picture's last bits depend on its place in the batch and should not on the order of the payloads.
    """
    kinds: dict[tuple[Any, ...], list[Order]] = {}
    for order in sorted(orders, key=lambda order: (order.payload.name, order.index)):
        kinds.setdefault(order.kind, []).append(order)
    batches = []
    for same in kinds.values():
        count = math.ceil(len(same) / most)
        batches += [same[len(same) * at // count : len(same) * (at + 1) // count] for at in range(count)]
    return batches


def check_finite(batch: Sequence[Order], values: Tensor, what: str) -> None:
    """Whether all numbers of some pictures are numbers.

    Raises:
        TrialFailed: naming the first picture of which they are not.
    """
    finite = values.isfinite().flatten(1).all(dim=1).tolist()
    for order, good in zip(batch, finite, strict=True):
        if not good:
            raise TrialFailed(f"{order}: {what} not finite; in fp16, generator.dtype=fp32 may help")


@dataclass(frozen=True)
class Progress:
    """Continues the count of the batches before, and shows what is drawn on the way."""

    report: Callable[[int, int], None]
    before: int
    steps: int
    total: int
    onlooker: Onlooker | None = None

    def after(self, done: int, steps: int) -> Progress:
        """The count of a second pass, of so many steps."""
        return replace(self, before=self.before + done, steps=steps)

    def show(self, latents: Callable[[], Tensor]) -> None:
        """Show latents to who wants to see something now."""
        if self.onlooker is not None and self.onlooker.is_looking:
            self.onlooker.on_latents(latents())

    def step(self, at: int, of: int) -> None:
        """Some samplers evaluate the model more than once per step: `at` of `of` evaluations are done."""
        self.report(self.before + at * self.steps // of, self.total)
