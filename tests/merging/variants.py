"""Every way in which the methods of the registry can be called: with fewer and more models, with each option."""

from __future__ import annotations

import pytest

from bayes_merger.merging import METHODS
from bayes_merger.testing.methods import Variant, bound, variants

__all__ = ["SAMPLED", "VARIANTS", "Variant", "bound", "title"]

VARIANTS: list[Variant] = [variant for name in sorted(METHODS) for variant in variants(name)]


def title(variant: Variant) -> str:
    name, models, options = variant
    return "-".join([name, "".join(models), *(f"{option}={choice}" for option, choice in options)])


SAMPLED = [
    variant if number % 4 == 0 else pytest.param(variant, marks=pytest.mark.slow)
    for number, variant in enumerate(VARIANTS)
]
"""Every fourth in each run of the tests, the others in the slow ones; all kinds of methods are among them."""
