"""Find the best merge of Stable Diffusion checkpoints instead of guessing it."""

__version__ = "0.1.0"
