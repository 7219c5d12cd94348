"""Scorers that are models."""
