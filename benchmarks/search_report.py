"""The tables and plots of docs/optimisers.md, from what lies in the cache of ``benchmarks/search.py``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from landscapes import MERGES, STANDARD
from numpy.typing import NDArray
from scipy.stats import wilcoxon
from search import BEFORE, LANDSCAPES, MOMENTS, NOISY, OTHERS, ROOT, SIZES, WORKERS, Setting

Array = NDArray[np.float64]
Key = tuple[str, int]
"""A landscape and the number of an instance."""
Results = dict[Key, dict[str, Any]]
NOW = "structured"
TRAP = "two_basins"

INTRODUCTION = """# Optimisers side by side

Written by `python benchmarks/search.py report`. The ten landscapes are those of `benchmarks/landscapes.py`; on an
instance all methods have the same noise, a function of the point, as the pictures of fixed seeds are. Nothing was tuned
on these instances. Regret is 0 at the optimum and 1 at the median random point. `observed` is the trial with the best
score, `posterior` the one with the best posterior mean, `predicted` the top of the posterior mean over the whole cube,
a merge that need not have been tried. Each method begins with the start design of its version: today's of 10 trials,
`{before}` with 20.

Mean regret is the mean over all instances; p is Wilcoxon's signed-rank test, two-sided, of the paired instances, not
corrected for the number of tests. The pooled median sits in a gap between easy and hard landscapes, so it jumps; the
mean of the landscapes' medians does not. Only what has been run is shown; `runs` says on how many instances. CPU times
are those of one core of a busy machine.

On real merges of the demo models, drawn and judged: [search_demo.md](../benchmarks/results/search_demo.md). With 64
pictures a trial, eight of each of the demo's prompts, what is handed over after 30 trials has 4.95 points on pictures
that no trial has drawn (six seeds: 5.02, 4.81, 4.70, 5.05, 5.12, 4.99), and after 40 trials too, none below 4.79. The
version before has 4.93 after 30 such trials and 4.97 after 60: all are at the top, and a judgement has a standard
error of 0.1.

**Few pictures a trial mislead, however many trials there are.** With 16 a trial, two of each prompt, as the demo was
drawn before, the same search has 4.45, 4.42 and 4.58 points after 30, 40 and 60 trials, and the version before 4.62
after 60. How the same number is split matters little: 960 pictures give 4.44 points as 120 trials of one picture of
each prompt, 4.58 as 60 of two, 4.51 as 30 of four, and 4.33 as 15 of eight, which are too few trials (the differences
have standard errors of 0.15 to 0.17). 1920 pictures are better in few trials: as 30 of eight they give 4.70, 5.05,
5.12 and 4.99 on seeds 2 to 5, as 120 of two 4.24, 4.33, 4.59 and 4.66 (+0.51 ± 0.08), no more than 60 such trials
(4.42).

Why? Not for want of a better merge. A plain one that we know to be good, OUT08 to OUT11 from B, half of OUT07, all
else from A, has 4.84 to 5.07 points on fresh pictures, 4.94 on average. But on the 16 pictures that a run drew, the
merges which the searches find have *more* than it:

| seed | 0 | 1 | 2 | 3 | 4 | 5 |
|---|---|---|---|---|---|---|
| found in 60 trials, on the run's own 16 pictures | 4.76 | 5.38 | 5.44 | 5.10 | 5.27 | 5.15 |
| the plain merge, on the same pictures | 4.64 | 5.06 | 4.82 | 4.91 | 5.14 | 5.01 |
| found in 60 trials, on fresh pictures | 4.99 | 4.84 | 4.14 | 4.35 | 4.55 | 4.63 |
| the plain merge, on fresh pictures | 4.97 | 4.92 | 4.84 | 4.83 | 5.07 | 4.99 |

So the search learns its own pictures, and few pictures mislead: what 16 say differs from what all others say by 0.3
points, smoothly in the weights, which no model of the scores can tell from a better merge. What was tried against it
without more pictures: other seeds in every trial are worse, since differences between merges drown in those between
pictures (by posterior mean 3.44, 4.67 and 4.03 on seeds 2, 3 and 4 instead of 4.11, 4.46 and 4.55). 64 pictures in
four sets that take turns, with a process that tells what a set adds from what a merge is worth, give 4.52 and 4.49 on
seeds 2 and 3 after 30 trials, where the same 16 pictures in every trial give 4.21 and 4.55, and 64 give 4.70 and 5.05.

So the demo draws 64 pictures in each of 30 trials, and `images_budget` leaves 30 trials after the start design before
it draws more of each prompt. For real models: draw many prompts, rather than one of yours often, and believe the
closing table of the final round, not the trials' scores.

Before pictures were drawn as web UIs draw them, a Gaussian process of 460 scores (R² of left-out scores 0.95) served
as a landscape of its own. On draws of it, noise fitted to the scores gained 0.16 points after 30 trials (36 draws, p
0.015); searched for real, -0.07 ± 0.17 on six seeds, so it is not built in. Suggestions no further than 0.3 from the
best, a start design of 6 trials, and another width of the confidence bound brought nothing there (p 0.28 to 0.81).

![regret against trials on the standard landscapes](optimisers-standard.png)

![regret against trials on landscapes modelled on merges](optimisers-merges.png)
"""


def load(cache: Path, setting: Setting, method: str) -> Results:
    """What lies in the cache of one method; of runs that differ only in their budget, the longest."""
    found: Results = {}
    for trials in sorted({setting.trials, *MOMENTS}):
        folder = cache / replace(setting, trials=trials).folder / method.replace(":", ",")
        for path in sorted(folder.glob("*.json")):
            landscape, _, number = path.stem.rpartition("-")
            found[landscape, int(number)] = json.loads(path.read_text())
    return found


def reaching(results: Results, trials: int) -> Results:
    """The runs of at least so many trials."""
    return {key: result for key, result in results.items() if len(result["score"]) >= trials}


def observed(result: dict[str, Any], trials: int) -> float:
    """Regret of the trial with the best of the first scores."""
    return float(result["regret"][int(np.argmax(result["score"][:trials]))])


def posterior(result: dict[str, Any], trials: int) -> float:
    """Regret of the trial with the best posterior mean."""
    return float(result["regret"][result["kept"][MOMENTS.index(trials)]])


def predicted(result: dict[str, Any], trials: int) -> float:
    """Regret of the predicted point; NaN where none was predicted."""
    value = result["predicted"][MOMENTS.index(trials)]
    return float("nan") if value is None else float(value)


Kept = Callable[[dict[str, Any], int], float]
KEPT: dict[str, Kept] = {"observed": observed, "posterior": posterior, "predicted": predicted}


def summary(results: Results, kept: Kept, trials: int) -> tuple[float, float, float]:
    """Mean, mean of the landscapes' medians, pooled median."""
    values = {key: kept(result, trials) for key, result in results.items()}
    medians = [np.median([v for (name, _), v in values.items() if name == one]) for one in {name for name, _ in values}]
    everything = list(values.values())
    return float(np.mean(everything)), float(np.mean(medians)), float(np.median(everything))


def comparison(before: Results, now: Results, moments: Sequence[int]) -> Iterator[str]:
    """Today's default against the one before on the instances of both, each way of keeping a merge against the
    observed best and against the same way."""
    yield "| trials | runs | kept before | kept now | mean regret | mean of medians | pooled median | better | p |"
    yield "|---|---|---|---|---|---|---|---|---|"
    pairs = [
        ("observed", "observed"),
        ("posterior", "posterior"),
        ("observed", "predicted"),
        ("posterior", "predicted"),
    ]
    for trials in moments:
        keys = sorted(reaching(before, trials).keys() & reaching(now, trials).keys())
        for old, new in pairs if keys else ():
            one = summary({key: before[key] for key in keys}, KEPT[old], trials)
            other = summary({key: now[key] for key in keys}, KEPT[new], trials)
            shown = " | ".join(f"{a:.3f} → {b:.3f}" for a, b in zip(one, other, strict=True))
            gains = np.array([KEPT[old](before[key], trials) - KEPT[new](now[key], trials) for key in keys])
            p = wilcoxon(gains).pvalue if gains.any() else 1.0
            better = f"{(gains > 0).sum()} of {(gains != 0).sum()}"
            yield f"| {trials} | {len(keys)} | {old} | {new} | {shown} | {better} | {p:.1g} |"


def by_landscape(methods: dict[str, Results], moments: Sequence[int]) -> Iterator[str]:
    """Median regret of each landscape after so many trials, best observed and predicted."""
    yield f"| landscape | {' | '.join(f'{name}, observed' for name in methods)} | {NOW}, predicted |"
    yield f"|{'---|' * (len(methods) + 2)}"
    for landscape in LANDSCAPES:
        cells = [_medians(results, landscape, observed, moments) for results in methods.values()]
        cells.append(_medians(methods[NOW], landscape, predicted, moments))
        yield f"| {landscape} | {' | '.join(cells)} |"


def _medians(results: Results, landscape: str, kept: Kept, moments: Sequence[int]) -> str:
    cells = []
    for trials in moments:
        own = [kept(result, trials) for (name, _), result in reaching(results, trials).items() if name == landscape]
        cells.append(f"{np.median(own):.2f}" if own else "–")
    return " / ".join(cells)


def rows_of(named: dict[str, Results], moments: Sequence[int]) -> Iterator[str]:
    """A row per method or setting: means over the instances that all of them have, of the whole budget."""
    named = {name: reaching(results, moments[-1]) for name, results in named.items()}
    keys = set.intersection(*(set(results) for results in named.values()))
    yield f"Mean regret over {len(keys)} instances after {' / '.join(map(str, moments))} trials."
    yield ""
    yield "| | observed | posterior | predicted | CPU s per suggestion |"
    yield "|---|---|---|---|---|"
    for name, results in named.items():
        own = {key: results[key] for key in sorted(keys)}
        means = [[summary(own, kept, trials)[0] for trials in moments] for kept in KEPT.values()]
        cells = [" / ".join("–" if np.isnan(m) else f"{m:.3f}" for m in one) for one in means]
        cpu = np.mean([np.mean(result["cpu"]) for result in own.values()])
        yield f"| {name} | {' | '.join(cells)} | {cpu:.2f} |"


def costs(cache: Path) -> Iterator[str]:
    """CPU seconds of a suggestion after so many trials."""
    yield "| CPU s of a suggestion after | 100 trials | 1 000 | 10 000 |"
    yield "|---|---|---|---|"
    for path in sorted((cache / "costs").glob("*.json")):
        yield f"| {path.stem} | {' | '.join(f'{seconds:.2f}' for seconds in json.loads(path.read_text()).values())} |"


def plot(methods: dict[str, Results], landscapes: Sequence[str], path: Path) -> None:
    """Median regret of the best observed trial against trials, a panel per landscape."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(landscapes), 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(landscapes), squeeze=False)[0]
    counts = range(1, MOMENTS[-1] + 1)
    for panel, landscape in zip(panels, landscapes, strict=True):
        for name, results in methods.items():
            whole = reaching(results, counts[-1]).items()
            runs = [[observed(r, n) for n in counts] for (which, _), r in whole if which == landscape]
            if runs:
                panel.plot(counts, np.median(runs, axis=0), label=name, linewidth=1.2)
        panel.set(title=landscape, xlabel="trials", xlim=(1, counts[-1]), ylim=(0, 1))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("median regret")
    panels[-1].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=80)


def write_report(cache: Path) -> None:
    """docs/optimisers.md and its plots; what has not been run is left out."""
    usual = {method: load(cache, Setting(), method) for method in (NOW, BEFORE, *OTHERS)}
    usual = {method: results for method, results in usual.items() if results}
    pair = {method: usual[method] for method in (BEFORE, NOW)}
    rest = {method: {key: r for key, r in results.items() if key[0] != TRAP} for method, results in pair.items()}
    sections: list[tuple[str, Iterator[str]]] = [
        ("The default against the one before, noise 0.05", comparison(pair[BEFORE], pair[NOW], MOMENTS)),
        (
            f"The same without {TRAP}, which needs the scan",
            comparison(rest[BEFORE], rest[NOW], MOMENTS),
        ),
        ("Landscape by landscape, median regret after 30 / 60 / 100 trials", by_landscape(pair, MOMENTS)),
    ]
    for title, setting in [("Noise 0.15", NOISY), *((f"{one.dimensions} weights", one) for one in SIZES)]:
        old, new = (load(cache, setting, method) for method in (BEFORE, NOW))
        if old.keys() & new.keys():
            sections.append((title, comparison(old, new, [m for m in MOMENTS if m <= setting.trials])))
    pending = {f"{one.pending} at a time": load(cache, one, NOW) for one in (Setting(), *WORKERS)}
    pending = {name: results for name, results in pending.items() if results}
    if len(pending) > 1:
        sections.append(("Several trials at the same time", rows_of(pending, MOMENTS)))
    if usual.keys() > pair.keys():
        sections.append(("Other optimisers", rows_of(usual, MOMENTS)))
    sections.append(("Cost", costs(cache)))
    lines = [INTRODUCTION.format(before=BEFORE)]
    for title, section in sections:
        lines += [f"## {title}", "", *section, ""]
    (ROOT / "docs" / "optimisers.md").write_text("\n".join(lines))
    for name, landscapes in (("standard", STANDARD), ("merges", MERGES)):
        plot(usual, tuple(landscapes), ROOT / "docs" / f"optimisers-{name}.png")
