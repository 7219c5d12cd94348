"""Scoring by hand: the ledger of ratings, the terminal, the viewer."""
