"""Merges as data: recipes, and the grammar of their settings."""
