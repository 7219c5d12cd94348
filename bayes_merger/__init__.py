"""Find the best merge of Stable Diffusion checkpoints instead of guessing it.

``import bayes_merger as bm``: what is public is listed here and shown in docs/python.md. Each name is imported when it
is first used, so that importing the package costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "MergeRecipe": "merging.recipe.recipe",
    "SearchSpace": "search.space.space",
    "begin": "api.running",
    "draw": "api.pictures",
    "load_study": "api.asking",
    "merge": "api.merges",
    "open_checkpoint": "checkpoints.opening",
    "open_evaluator": "api.pictures",
    "open_study": "api.asking",
    "recipe": "api.merges",
    "resume": "api.running",
    "sampler": "api.asking",
    "save_merge": "api.merges",
    "score": "api.pictures",
    "search_space": "api.asking",
}
"""Name -> the module it comes from."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"bayes_merger.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'bayes_merger' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
