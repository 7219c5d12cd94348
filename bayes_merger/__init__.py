"""Find the best merge of Stable Diffusion checkpoints instead of guessing it.

``import bayes_merger as bm``: what is public is listed in ``__init__.pyi`` and shown in docs/python.md. Each name is
imported when it is first used, so that importing the package costs nothing.
"""

from bayes_merger.lazy import from_stub

__version__ = "0.3.0"

__getattr__, __dir__, __all__ = from_stub(__name__, __file__)
__all__ += ["__version__"]
