"""Prompts in the web UIs' syntax, and their embeddings."""
