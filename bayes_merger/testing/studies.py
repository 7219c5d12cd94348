"""A study such as a run leaves it, without models: to see what is made of studies, small ones and large ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from PIL import Image, ImageDraw

from bayes_merger import __version__
from bayes_merger.checkpoints.architectures import ARCHITECTURES
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.run.attributes import (
    CONFIG,
    FINAL,
    IMAGES,
    PAYLOADS,
    RECIPE,
    SCORERS,
    SCORES,
    TIMES,
    VERSIONS,
    WEIGHTS,
)
from bayes_merger.run.folder import RunFolder
from bayes_merger.search.space.building import build_space
from bayes_merger.search.space.space import SearchSpace
from bayes_merger.search.study.history import DESIGN, PHASE, PREDICTED, REASON, ROW
from bayes_merger.search.study.stopping import SECONDS
from bayes_merger.search.study.study import create_study, open_storage

BEGUN = datetime(2026, 1, 5, 20, 0, 0)
SCALE = (0.0, 10.0)
PROMPTS = {"portrait": "a portrait of an old sailor", "street": "a street in the rain", "still_life": "three pears"}


def make_study(
    path: Path,
    trials: int = 40,
    *,
    budget: int | None = None,
    pictures: int = 2,
    drawn: int = 0,
    size: int = 64,
    architecture: str = "sd1",
    idle: Sequence[str] = ("IN00.alpha",),
    final: bool = True,
    payloads: Mapping[str, str] | None = None,
    seed: int = 0,
) -> RunFolder:
    """A study of ``weighted_sum`` in that folder, one trial in twenty of which has failed.

    Args:
        path: the folder; its name is the study's.
        trials: how many.
        budget: how many it was to have; None: as many.
        pictures: of each payload and trial.
        drawn: the first so many trials have picture files; all have the names of theirs.
        size: of a picture, pixels a side.
        architecture: of the models.
        idle: the weights that change nothing.
        final: whether the final round is over.
        payloads: name -> prompt.
        seed: of all numbers.
    """
    folder, luck = RunFolder(path), random.Random(seed)
    folder.make()
    prompts = PROMPTS if payloads is None else payloads
    unresolved = [Payload(name, text, batch_size=pictures, width=size, height=size) for name, text in prompts.items()]
    given = resolve(unresolved, seed)
    space = build_space(ARCHITECTURES[architecture].blocks, {"alpha": (0.0, 1.0)}).without_idle(idle)
    done = [_trial(number, final and number == trials - 1, space, given, luck) for number in range(trials)]
    study = create_study(
        open_storage(folder.where),
        folder.name,
        optuna.samplers.RandomSampler(seed),
        space=space,
        fingerprint={"models": {"a": 64 * "a", "b": 64 * "b"}, "method": "weighted_sum"},
        design=[],
        attributes=_attributes(architecture, given, trials if budget is None else budget),
        taken=done,
    )
    if final and any(trial.values is not None for trial in done):
        study.set_user_attr(FINAL, _final(done, len(given) * pictures))
    for number in range(min(drawn, trials)):
        for name in done[number].user_attrs.get(IMAGES, ()):
            _draw(path / name, done[number].user_attrs[WEIGHTS]["alpha"], size)
    return folder


def more_trials(folder: RunFolder, count: int, seed: int = 1) -> Iterator[int]:
    """Go on with a study as its run would: each step tells one more trial and gives its number.

    Args:
        folder: as :func:`make_study` gave it.
        count: how many trials.
        seed: of their numbers.
    """
    study = optuna.load_study(study_name=folder.name, storage=open_storage(folder.where))
    space = SearchSpace.from_json(study.user_attrs[DESIGN]["space"])
    payloads, luck = [Payload.from_json(one) for one in study.user_attrs[PAYLOADS]], random.Random(seed)
    first = len(study.get_trials(deepcopy=False))
    for number in range(first, first + count):
        study.add_trial(_trial(number, False, space, payloads, luck))
        yield number


def _trial(
    number: int, last: bool, space: SearchSpace, payloads: Sequence[Payload], luck: random.Random
) -> FrozenTrial:
    anchor = {0: 0.0, 1: 1.0, 2: 0.5}.get(number)
    ideal = {p.name: (7 * place % 11) / 10 for place, p in enumerate(space.parameters)}
    spread = 0.6 / (1.0 + number / 10)
    tried = {name: min(max(luck.gauss(best, spread), 0.0), 1.0) for name, best in ideal.items()}
    values = tried if anchor is None else dict.fromkeys(ideal, anchor)
    weights = space.assemble(values)
    worth = 6.5 - 9.0 * sum((values[name] - best) ** 2 for name, best in ideal.items()) / len(values)
    scores: list[dict[str, Any]] = [
        {"scorer": "laion", "payload": payload.name, "index": index, "seed": drawn_with,
         "value": worth + (drawn_with % 7) / 7 + luck.gauss(0.0, 0.2)}
        for payload in payloads for index, drawn_with in enumerate(payload.seeds)
    ]  # fmt: skip
    attributes = {
        PHASE: "design" if number < 12 else PREDICTED if last else "search",
        WEIGHTS: weights,
        SCORES: scores,
        IMAGES: [f"images/{number:04d}/{one['payload']}-{one['index']}.png" for one in scores],
        SECONDS: 20.0,
        TIMES: {"choose": 0.5, "merge": 2.0, "draw": 15.0, "decode": 1.0, "score": 1.0},
    }
    failed = number > 2 and number % 20 == 19 and not last
    begun = BEGUN + timedelta(seconds=20 * number)
    return optuna.trial.FrozenTrial(
        number, TrialState.FAIL if failed else TrialState.COMPLETE,
        None if failed else sum(one["value"] for one in scores) / len(scores),
        begun, begun + timedelta(seconds=20), values, dict(space.distributions()),
        {PHASE: "search", REASON: "the picture is black"} if failed
        else attributes | ({ROW: number} if number < 12 else {}),
        {}, {}, number,
    )  # fmt: skip


def _attributes(architecture: str, payloads: Sequence[Payload], budget: int) -> dict[str, Any]:
    models = {name: {"path": f"models/{word}.safetensors", "sha256": 64 * name} for name, word in
              (("a", "dreamshaper_8"), ("b", "revAnimated_v122"))}  # fmt: skip
    return {
        CONFIG: {
            "model_a": models["a"]["path"], "model_b": models["b"]["path"], "method": "weighted_sum", "seed": 0,
            "init_points": min(12, budget), "n_iters": max(0, budget - 12),
            "optimiser": {"_target_": "bayes_merger.search.samplers.structured"},
        },
        RECIPE: {"method": "weighted_sum", "models": models, "architecture": architecture, "dtype": "auto", "vae": "a",
                 "options": {}, "elements": [], "compat": "", "blocks": [], "channels": "equal"},
        PAYLOADS: [payload.to_json() for payload in payloads],
        SCORERS: {"laion": [1.0, list(SCALE)]},
        VERSIONS: {"bayes_merger": __version__, "torch": "2.14.0", "device": "cpu"},
    }  # fmt: skip


def _final(done: Sequence[FrozenTrial], images: int) -> dict[str, Any]:
    scored = [trial for trial in done if trial.state == TrialState.COMPLETE]
    best = max(scored, key=lambda trial: trial.value or 0.0)
    rows = [("best merge", 0.0, 0.0), ("model A", 1.2, 0.2), ("model B", 2.1, 0.3), ("even mix", 0.6, 0.15)]
    value = best.value or 0.0
    return {
        "winner": best.number,
        "images": images,
        "rescored": [{"trial": best.number, "mean": value - 0.1, "error": 0.2}],
        "rows": [
            {"name": name, "mean": value - 0.2 - gap, "error": 0.25, "behind": gap, "behind_error": error}
            for name, gap, error in rows
        ],
    }  # fmt: skip


def _draw(path: Path, weights: Mapping[str, float], size: int) -> None:
    """A picture in which the weights can be seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    pen, share = ImageDraw.Draw(image), list(weights.values())
    for row, value in enumerate(share):
        top, bottom = size * row // len(share), size * (row + 1) // len(share)
        pen.rectangle((0, top, size * value, bottom), fill=(round(255 * value), 130, round(255 * (1 - value))))
    image.save(path)
