"""How many ratings the model of the rater saves, and at what loss: a simulated person rates real merges of the demo.

    python benchmarks/rater.py draw --cache FOLDER        # the pictures of 120 merges, once; a run goes on
    python benchmarks/rater.py report --cache FOLDER      # benchmarks/results/rater.md

A study chooses among the merges that were drawn: ten to begin with, then the one with the greatest expected improvement
under a Gaussian process on the merges' weights. The person's opinion of a picture is three quarters what the demo's own
judges say, one quarter how sharp it is, put on a scale with mean 5 and standard deviation 2; each rating adds noise and
is rounded to half points. With `scoring.assist`, pictures of which the model of the rater is sure are not asked. What
counts at the end is the opinion, without noise, of the merge with the best mean score.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "rater.md"


def draw(cache: Path, merges: int) -> None:
    """Draw the pictures of so many merges, and keep what the simulation needs of them."""
    from bayes_merger import compose
    from bayes_merger.imaging.payload import resolve
    from bayes_merger.run.evaluator import PipelineEvaluator
    from bayes_merger.run.folder import RunFolder
    from bayes_merger.run.idle import without_idle
    from bayes_merger.run.progress import StopSignal
    from bayes_merger.scoring.formulas import sharpness
    from bayes_merger.search.study.study import design
    from bayes_merger.session import make_setup
    from bayes_merger.testing.progress import RecordingReporter

    settings = compose.compose_run(["experiment=demo"])
    setup = without_idle(make_setup(compose.validate(settings), settings, RunFolder(cache / "unused")))
    single = [replace(payload, batch_size=1, seeds=(), prompts=(), negative_prompts=()) for payload in setup.payloads]
    setup = replace(setup, payloads=resolve(single, 0, None))
    rows = design(setup.space, merges, 0, kind="blocks")
    silent = RecordingReporter()
    evaluator = PipelineEvaluator.load(setup, silent, StopSignal(silent))
    tower = setup.scorers["demo_clip"].tower  # type: ignore[attr-defined]
    cache.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        path = cache / f"{number:04d}.npz"
        if path.exists():
            continue
        weights = setup.space.assemble(row)
        evaluator.load_weights(weights)
        images = evaluator.draw(setup.payloads)
        points = setup.combination.picture_points(evaluator.score(weights, images, ()))
        np.savez(
            path.with_suffix(".tmp.npz"),
            row=np.array([row[parameter.name] for parameter in setup.space.parameters]),
            embeddings=tower.embed_images([image.image for image in images]).numpy(),
            points=np.array([points[image.payload, image.index] for image in images]),
            sharpness=np.array([sharpness(image.image) for image in images]),
        )
        path.with_suffix(".tmp.npz").replace(path)
        print(f"{number + 1} of {len(rows)} merges", flush=True)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "report"])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--merges", type=int, default=120)
    options = parser.parse_args()
    if options.what == "draw":
        draw(options.cache, options.merges)


if __name__ == "__main__":
    main()
