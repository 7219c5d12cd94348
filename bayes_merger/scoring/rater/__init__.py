"""A small model of the person who rates: it learns from the ratings so far, and says how sure it is."""
