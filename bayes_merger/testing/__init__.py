"""Contract tests for people who extend bayes-merger: inherit a class, name what it tests, run pytest."""
