"""Which merge is meant: a study's, a recipe's, or the one that settings describe."""
