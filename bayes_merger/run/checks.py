"""Whether settings make sense by themselves, whatever the models are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bayes_merger.config import MOST_TRIALS, RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.merging.plan.routing import SMALL_DTYPES
from bayes_merger.merging.rebasin.written import is_model
from bayes_merger.merging.recipe.settings import SETTINGS
from bayes_merger.run.points import FEWEST
from bayes_merger.run.web_ui import PROGRAMS
from bayes_merger.scoring.rater.scorer import RaterScorer
from bayes_merger.scoring.scorer import Scorer
from bayes_merger.search.study.stopping import read_time

_RANGES = (
    ("workers", 1, 1000), ("init_points", 1, 100_000), ("n_iters", 0, MOST_TRIALS), ("final.rescore", 0, 1000),
    ("final.images", 0, 10_000), ("generator.max_batch", 1, 10_000), ("images_per_prompt", 1, 1000),
)  # fmt: skip
"""Setting, its least and its largest value."""


def check_without_trials(typed: Iterable[str]) -> None:
    """Whether settings make sense where payloads are drawn as they are, without trials.

    Args:
        typed: their names; a ready-made run may have any.

    Raises:
        ConfigError: one says how many pictures a run or its trials have.
    """
    for name in typed:
        if name in ("images_per_prompt", "images_budget"):
            raise ConfigError(
                f"{name}: is about the trials of a run; here payloads.NAME.batch_size=2 says how many are drawn"
            )


def check_without_merge(typed: Iterable[str]) -> None:
    """Whether settings make sense where one model draws as it is: what is about a merge would be left out silently.

    Args:
        typed: their names; a ready-made run may have any.

    Raises:
        ConfigError: one is about trials, or a merge.
    """
    names = list(typed)
    check_without_trials(names)
    for name in names:
        if is_model(name) or name.partition(".")[0] in (*SETTINGS, "recipe", "models"):
            raise ConfigError(f"{name}: is about a merge, and here one model draws as it is; leave it out")


def check_numbers(config: RunConfig) -> None:
    """Whether the numbers and words among the settings make sense, whatever the models are.

    Raises:
        ConfigError: one does not.
    """
    for name, low, high in _RANGES:
        owner: Any = config
        for part in name.split("."):
            owner = getattr(owner, part)
        if owner is not None and owner < low:
            raise ConfigError(f"{name}: {owner} is too small; give {low} or more")
        if owner is not None and owner > high:
            raise ConfigError(f"{name}: {owner} is too large; give {high} or less")
    if config.images_budget is not None and config.images_budget < 1:
        raise ConfigError(f"images_budget: {config.images_budget} is too small; give a number of pictures, such as 400")
    if config.patience is not None and config.patience < 1:
        raise ConfigError(f"patience: {config.patience} is too small; give 1 or more, or null for none")
    if config.scoring.standardise and config.init_points < FEWEST:
        raise ConfigError(f"scoring.standardise: needs a start design of {FEWEST} trials; give  init_points={FEWEST}")
    read_time(config.time_limit)
    if config.dtype in SMALL_DTYPES:
        raise ConfigError(
            f"dtype: {config.dtype} is for files; search in fp16, and merge the best with  dtype={config.dtype}"
        )
    if config.generator.program not in PROGRAMS:
        raise ConfigError(f"generator.program: '{config.generator.program}' is not one of {', '.join(PROGRAMS)}")
    if config.images not in ("all", "best"):
        raise ConfigError(f"images: '{config.images}' is not one of all, best")


def check_rating(config: RunConfig, scorers: Mapping[str, Scorer]) -> None:
    """Whether the settings of rating by hand make sense.

    Raises:
        ConfigError: they do not.
    """
    people = [name for name, scorer in scorers.items() if getattr(scorer, "deferred", False)]
    if len(people) > 1:
        raise ConfigError(f"scorers: {' and '.join(people)} are both you; choose one, and rate under another name")
    if config.scoring.unit not in ("picture", "trial"):
        raise ConfigError(f"scoring.unit: '{config.scoring.unit}' is not one of picture, trial")
    if config.scoring.assist and not (people and any(isinstance(one, RaterScorer) for one in scorers.values())):
        raise ConfigError("scoring.assist: needs a person and a model of them; give  scorers=manual,rater")
    if config.scoring.assist and config.scoring.unit != "picture":
        raise ConfigError("scoring.assist: answers picture by picture; give  scoring.unit=picture")
    for name, low in (("ahead", 1), ("repeats", 0), ("playoff", 0)):
        if (value := getattr(config.scoring, name)) < low:
            raise ConfigError(f"scoring.{name}: {value} is too small; give {low} or more")


def check_no_person(scorers: Mapping[str, Scorer], way_out: str) -> None:
    """Whether several workers can judge: a person has one conversation at a time.

    Raises:
        ConfigError: one of the scorers asks a person.
    """
    for name, scorer in scorers.items():
        if scorer.interactive:
            raise ConfigError(f"workers: scorer '{name}' asks a person, who can only talk to one; {way_out}")
