"""Contracts to inherit and fakes to use, for those who add a method, a scorer, an optimiser or a surface.

``methods``, ``scorers`` and ``samplers`` hold classes of tests for pytest; ``evaluator`` and ``progress`` stand in for
a live pipeline and a terminal.
"""
