"""Find the best merge of Stable Diffusion checkpoints instead of guessing it.

From Python: ``open_checkpoint``, ``merge``, ``save_merge`` and ``open_study``; see :mod:`bayes_merger.api`. They are
imported when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "merge", "open_checkpoint", "open_study", "save_merge"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("bayes_merger.api"), name)
    raise AttributeError(f"module 'bayes_merger' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
