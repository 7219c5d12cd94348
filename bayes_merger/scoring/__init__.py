"""Scoring: the scorers of a trial's pictures, and how their scores are combined into one number."""

from bayes_merger.lazy import from_stub

__getattr__, __dir__, __all__ = from_stub(__name__, __file__)
