"""The engine: plans and weights in, merged tensors out."""
