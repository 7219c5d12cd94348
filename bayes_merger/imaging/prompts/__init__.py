"""Prompts in the web UIs' syntax, and what the text encoder makes of them."""
