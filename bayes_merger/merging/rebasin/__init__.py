"""Re-basin: a model with its neurons in another's order, which draws what it drew."""
