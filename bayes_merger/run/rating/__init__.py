"""Rating by hand while a study goes on: what waits, a person's sitting at it, and what becomes of the ratings."""
