"""The loop of a study: where merging, search, imaging and scoring meet."""
