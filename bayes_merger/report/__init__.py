"""What a study looks like to people: summaries, plots."""
