"""Image generation: a live diffusers pipeline whose weights are replaced in place. Importing this stays light."""

from bayes_merger.lazy import from_stub

__getattr__, __dir__, __all__ = from_stub(__name__, __file__)
