"""The engine: checkpoints in, merged tensors out.

Importing this package is light: torch comes with the first tensor that is read.
"""

from bayes_merger.lazy import from_stub

__getattr__, __dir__, __all__ = from_stub(__name__, __file__)
