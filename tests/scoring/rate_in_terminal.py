"""Rates four pictures in this terminal; started by tests in a pty of their own.

python -m tests.scoring.rate_in_terminal LEDGER [VIEWER]
"""

from __future__ import annotations

import sys

from bayes_merger.errors import Paused
from bayes_merger.scoring import ManualScorer
from tests.scoring.pictures import judged

if __name__ == "__main__":
    scorer = ManualScorer(sys.argv[1], viewer=sys.argv[2] if len(sys.argv) > 2 else None)
    scorer.prepare()
    try:
        print("SCORES", scorer.score([judged(n) for n in range(4)]))
    except Paused as paused:
        print("PAUSED", paused)
        sys.exit(paused.exit_code)
