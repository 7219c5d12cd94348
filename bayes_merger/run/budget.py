"""A budget of pictures, split between the trials and the final round before anything is drawn.

What the final round needs is set aside. The rest is for a start design and some thirty trials after it, and so many
pictures of each prompt as that leaves; with fewer than one, for fewer trials. Pictures mislead alike in similar merges,
so that many trials of few find the best merge of their own pictures, not of all: with 1920 pictures on the demo, 30
trials of 64 hand over merges worth 0.51 ± 0.08 points more than 120 trials of 16 (`benchmarks/search_demo.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bayes_merger.errors import ConfigError, counted
from bayes_merger.imaging.payload import Payload
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.final import final_merges, final_pictures, images_per_payload, pictures_per_trial
from bayes_merger.run.record import ENOUGH
from bayes_merger.run.setup import RunSetup

FOLLOWING = ("n_iters", "images_per_prompt", "final.images")
"""The settings that follow from the budget."""

SHARE = 4
"""The final round gets about one picture in so many, but enough to tell."""

AFTER_DESIGN = 30
"""With more trials than this after the start design, pictures are better spent on the same trials."""

MOST = 64
"""A trial has no more pictures than this, unless prompts are more."""


def with_budget(setup: RunSetup, *, new: bool) -> RunSetup:
    """The run whose ``n_iters`` and ``final.images`` follow from ``images_budget``, if there is one.

    Args:
        setup: the run.
        new: whether its payloads are not drawn yet, so that they can be made of as many pictures as suit the budget.

    Raises:
        ConfigError: the budget does not hold the start design.
    """
    config = setup.config
    if config.images_budget is None:
        return setup
    if config.final.images is None:
        row = config.images_budget // (SHARE * final_merges(setup) * len(setup.payloads))
        images = max(-(-ENOUGH // len(setup.payloads)), min(images_per_payload(setup), row))
        setup = replace(setup, config=replace(config, final=replace(config.final, images=images)))
    last = final_pictures(setup)
    if new and config.images_per_prompt is None:
        count = _images_per_prompt(config.images_budget - last, _prompts(setup.payloads), config.init_points)
        payloads = tuple(payload.each_prompt(count) for payload in setup.payloads)
        setup = replace(setup, config=replace(setup.config, images_per_prompt=count), payloads=payloads)
    each = pictures_per_trial(setup)
    trials = (config.images_budget - last) // each
    if trials < config.init_points:
        aside = f" beside the final round's {last}" if last else ""
        needed = last + each * config.init_points
        lower = "init_points" if config.images_per_prompt is None else "init_points or images_per_prompt"
        way_out = f", or lower {lower}" if new else ""
        raise ConfigError(
            f"images_budget: {config.images_budget} pictures are {max(trials, 0)} trials of {each}{aside}, and the "
            f"start design has {config.init_points}; give {needed} or more{way_out}"
        )
    return replace(setup, config=replace(setup.config, n_iters=trials - config.init_points))


def _prompts(payloads: Sequence[Payload]) -> int:
    """How many prompts there are; wildcards make several of one."""
    return sum(len(payload.pictures_of_prompts()) for payload in payloads)


def _images_per_prompt(pictures: int, prompts: int, design: int) -> int:
    """How many pictures of each prompt a trial has, where so many are for all trials."""
    return max(1, min(pictures // (prompts * (design + AFTER_DESIGN)), MOST // prompts))


def with_more_trials(setup: RunSetup, stored: Mapping[str, Any]) -> RunSetup:
    """The run with the trials that somebody has given its study while it goes on; itself if nobody has.

    Args:
        setup: the run.
        stored: the study's attributes.
    """
    given = (stored.get(CONFIG) or {}).get("n_iters")
    if type(given) is not int or given <= setup.config.n_iters:
        return setup
    return replace(setup, config=replace(setup.config, n_iters=given))


def with_given(settings: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run with the trials that somebody has given its study since they were composed.

    Args:
        settings: of the run.
        before: the study's, of which they were made.
        now: the study's.
    """
    if now.get("n_iters") == before.get("n_iters"):
        return dict(settings)
    return {**settings, "n_iters": max(settings["n_iters"], now["n_iters"]), "images_budget": None}


def settled(settings: Mapping[str, Any], setup: RunSetup) -> dict[str, Any]:
    """The settings with the numbers that follow from the budget, as a study remembers them."""
    if setup.config.images_budget is None:
        return dict(settings)
    final = {**settings["final"], "images": setup.config.final.images}
    config = setup.config
    return {**settings, "n_iters": config.n_iters, "images_per_prompt": config.images_per_prompt, "final": final}


def about_few_pictures(setup: RunSetup) -> str:
    """That a new study's trials have few pictures for a model to judge by; empty where they have enough."""
    each = pictures_per_trial(setup)
    if not 0 < each < ENOUGH or any(scorer.interactive for scorer in setup.scorers.values()):
        return ""
    few = f"a trial of {counted(each, 'picture')} says little of a merge"
    more = "images_per_prompt=8" if setup.config.images_budget is None else "a larger images_budget"
    return f"{few}: with more payloads, or {more}, better ones are found"


def budget_line(setup: RunSetup) -> str:
    """The split in a line; empty without a budget."""
    if setup.config.images_budget is None:
        return ""
    trials, each = setup.trials, pictures_per_trial(setup)
    rest = f", {last} for the final round" if (last := final_pictures(setup)) else ""
    counts = {len(pictures) for payload in setup.payloads for pictures in payload.pictures_of_prompts()}
    is_one = len(counts) == 1  # unless the study began without a budget
    of_each = f", {counts.pop()} of each prompt whatever the payloads' batch_size says" if is_one else ""
    return f"images_budget: {trials * each} pictures for {trials} trials{rest}; a trial has {each}{of_each}"
