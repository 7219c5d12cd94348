"""``python -m bayes_merger`` is ``bayes-merger``."""

from bayes_merger.cli import program

if __name__ == "__main__":
    program()
