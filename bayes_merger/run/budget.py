"""A budget of pictures, split between the trials and the final round before anything is drawn.

A trial has one picture of each prompt. Of 240 pictures on ten synthetic landscapes (20 runs), 60 trials of 4 left a
mean regret of 0.34 and 30 trials of 8 one of 0.38 where pictures are noisy (noise of 0.15 of what lies between a median
merge and the best), and both the same where it is a third of that. What the final round needs is set aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.final import final_merges, final_pictures, images_per_payload, pictures_per_trial
from bayes_merger.run.pruning import check_pruning
from bayes_merger.run.record import ENOUGH
from bayes_merger.run.setup import RunSetup

FOLLOWING = ("n_iters", "final.images")
"""The settings that follow from the budget."""

SHARE = 4
"""The final round gets about one picture in so many, but enough to tell."""


def one_per_prompt(payload: Payload) -> Payload:
    """The payload with the first picture of each of its prompts: of one, unless wildcards make them differ."""
    words = list(zip(payload.prompts, payload.negative_prompts, strict=True))
    return payload.picked([words.index(own) for own in dict.fromkeys(words)])


def with_budget(setup: RunSetup, *, new: bool) -> RunSetup:
    """The run whose ``n_iters`` and ``final.images`` follow from ``images_budget``, if there is one.

    Args:
        setup: the run.
        new: whether its payloads are not drawn yet, so that they can be made of one picture per prompt.

    Raises:
        ConfigError: the budget does not hold the start design, or its trials are too small to be pruned.
    """
    config = setup.config
    if config.images_budget is None:
        return setup
    if new:
        setup = replace(setup, payloads=tuple(map(one_per_prompt, setup.payloads)))
        check_pruning(config, setup.payloads, setup.scorers)
    if config.final.images is None:
        row = config.images_budget // (SHARE * final_merges(setup) * len(setup.payloads))
        images = max(-(-ENOUGH // len(setup.payloads)), min(images_per_payload(setup), row))
        setup = replace(setup, config=replace(config, final=replace(config.final, images=images)))
    each, last = pictures_per_trial(setup), final_pictures(setup)
    trials = (config.images_budget - last) // each
    if trials < config.init_points:
        aside = f" beside the final round's {last}" if last else ""
        needed = last + each * config.init_points
        raise ConfigError(
            f"images_budget: {config.images_budget} pictures are {max(trials, 0)} trials of {each}{aside}, and the "
            f"start design has {config.init_points}; give {needed} or more, or lower init_points"
        )
    return replace(setup, config=replace(setup.config, n_iters=trials - config.init_points))


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
    return {**settings, "n_iters": setup.config.n_iters, "final": final}


def budget_line(setup: RunSetup) -> str:
    """The split in a line; empty without a budget."""
    if setup.config.images_budget is None:
        return ""
    trials, each = setup.trials, pictures_per_trial(setup)
    rest = f", {last} for the final round" if (last := final_pictures(setup)) else ""
    return (
        f"images_budget: {trials * each} pictures for {trials} trials{rest}; a trial has {each}, one per prompt "
        "whatever the payloads' batch_size says"
    )
