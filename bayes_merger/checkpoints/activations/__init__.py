"""Activations: what a model does with its weights, measured while it draws, in a file beside the checkpoint."""
