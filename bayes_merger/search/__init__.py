"""The optimiser: numbers in, numbers out. It does not depend on pictures or models.

:mod:`~bayes_merger.search.space.space` is light. :mod:`~bayes_merger.search.samplers` and
:mod:`~bayes_merger.search.study.study` import Optuna (about a second), so they are imported where they are used.
"""

from __future__ import annotations

from bayes_merger.search.space.building import build_space
from bayes_merger.search.space.guide import space_from_guide
from bayes_merger.search.space.space import Parameter, SearchSpace

__all__ = ["Parameter", "SearchSpace", "build_space", "space_from_guide"]
