"""Grids of pictures: merges along two or three axes, each drawn once and in place."""
