"""The search of an earlier version on the demo, in a process of its own: it says what to try, and is told the scores.

    PYTHONPATH=TREE python benchmarks/earlier.py structured SEED      # a line of JSON each way for every trial

``search_demo.py`` starts it for ``NAME@COMMIT``, and draws and judges what it says as for any other method.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import optuna

from bayes_merger import compose
from bayes_merger.run.folder import RunFolder
from bayes_merger.search.samplers import make_sampler
from bayes_merger.search.study.study import design
from bayes_merger.setups import make_setup


def main(optimiser: str, seed: int) -> None:
    """Suggest until nobody asks any more."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = compose.compose_run(["experiment=demo", f"seed={seed}", f"optimiser={optimiser}"])
    setup = make_setup(compose.validate(settings), settings, RunFolder(Path("unused")))
    space = setup.space.distributions()
    study = optuna.create_study(direction="maximize", sampler=make_sampler(setup.sampler, space, seed))
    for row in design(setup.space, setup.config.init_points, seed):
        study.enqueue_trial(row, user_attrs={"phase": "design"})
    while True:
        trial = study.ask(dict(space))
        print(json.dumps(trial.params), flush=True)
        told = sys.stdin.readline()
        if not told:
            return
        result = json.loads(told)
        trial.set_user_attr("scores", result["scores"])
        study.tell(trial, result["value"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
