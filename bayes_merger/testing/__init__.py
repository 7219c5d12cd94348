"""Contracts of everything that can be added, as classes of tests to inherit; pytest is needed in here only."""
