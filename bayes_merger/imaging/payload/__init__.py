"""Payloads: prompts and the numbers that go with them, from the files that people have for their web UI."""

from bayes_merger.lazy import from_stub

__getattr__, __dir__, __all__ = from_stub(__name__, __file__)
