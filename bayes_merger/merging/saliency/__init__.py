"""Weights that differ from number to number of a tensor, because files of activations say what matters where."""
