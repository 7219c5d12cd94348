"""Every way in which the methods of the registry can be called: with fewer and more models, with each option."""

from __future__ import annotations

from bayes_merger.merging import METHODS
from bayes_merger.testing.methods import Variant, bound, variants

__all__ = ["VARIANTS", "Variant", "bound", "title"]

VARIANTS: list[Variant] = [variant for name in sorted(METHODS) for variant in variants(name)]


def title(variant: Variant) -> str:
    name, models, options = variant
    return "-".join([name, "".join(models), *(f"{option}={choice}" for option, choice in options)])
