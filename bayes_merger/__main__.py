"""``python -m bayes_merger`` is ``bayes-merger``."""

import sys

from bayes_merger.cli import main

if __name__ == "__main__":
    sys.exit(main())
