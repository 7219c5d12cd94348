"""The setup of a run, everything that it needs, from its settings or from what a study remembers of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import optuna

from bayes_merger import compose
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError, Missing
from bayes_merger.imaging.payload import Payload
from bayes_merger.run.attributes import CONFIG, PAYLOADS
from bayes_merger.run.budget import settled, with_budget
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.idle import with_stored_idle
from bayes_merger.run.outside import is_outside
from bayes_merger.run.pruning import check_pruning
from bayes_merger.run.setup import RunSetup, check_setup
from bayes_merger.search.study.study import FINGERPRINT


def make_setup(
    config: RunConfig,
    settings: Mapping[str, Any],
    folder: RunFolder,
    payloads: tuple[Payload, ...] | None = None,
    stored: Mapping[str, Any] = MappingProxyType({}),
) -> RunSetup:
    """Everything a run needs, checked; nothing is loaded or written.

    Args:
        config: the settings, validated.
        settings: the same as plain data: the scorers and the optimiser are built from it.
        folder: the study's own.
        payloads: the resolved payloads of a study that goes on; ``None`` resolves the config's.
        stored: the attributes of a study whose final round is drawn with the same words.

    Raises:
        ConfigError: a setting that makes no sense.
        CheckpointError: a model file that cannot be used.
    """
    outside = is_outside(settings)
    scorers = {} if outside else compose.build_scorers(settings["scorers"])
    sampler = compose.build("optimiser", settings["optimiser"], _partial_=True)
    setup = check_setup(config, scorers, sampler, folder.path, payloads=() if outside else payloads, stored=stored)
    setup = with_budget(setup, new=payloads is None)
    check_pruning(setup.config, setup.payloads, setup.scorers)  # which depends on how many pictures a trial has
    return setup


def of_a_run(study: optuna.study.Study) -> Mapping[str, Any]:
    """What a study remembers of its run.

    Raises:
        ConfigError: it was made otherwise, such as from Python.
    """
    stored = study.user_attrs
    for key in (CONFIG, PAYLOADS, FINGERPRINT):
        if not isinstance(stored.get(key), Mapping | list):
            raise ConfigError(
                f"study '{study.study_name}': has no '{key}', so no run made it; go on with what made it, such as "
                "bayes_merger.open_study"
            )
    return stored


def stored_setup(
    folder: RunFolder, stored: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], RunSetup]:
    """The settings and the setup of a study that exists, with changes.

    Raises:
        ConfigError: a setting that makes no sense.
        CheckpointError: a model file that cannot be used.
    """
    settings = _with_one_budget(compose.changed(stored[CONFIG], overrides), overrides)
    payloads = tuple(Payload.from_json(payload) for payload in stored[PAYLOADS])
    with telling_of_moves(settings):
        setup = with_stored_idle(make_setup(compose.validate(settings), settings, folder, payloads, stored), stored)
    setup = setup.with_standards(stored)
    return settled(settings, setup), setup


@contextmanager
def telling_of_moves(settings: Mapping[str, Any]) -> Iterator[None]:
    """Say how a file of a study is given that is no longer where it was."""
    try:
        yield
    except Missing as error:
        setting = error.subject.replace("model_", "recipe.models.") if settings["recipe"] else error.subject
        way = f"if it has moved, give it with  {setting}=FILE" if setting else "put it back"  # of a step
        raise Missing(f"{error.reason}; {way}", subject=error.subject) from error


def _with_one_budget(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a study whose budget of pictures ends where its trials are given anew."""
    trials = any(override.startswith("n_iters=") for override in overrides)
    return {**settings, "images_budget": None} if trials else dict(settings)


def drawn_here(setup: RunSetup) -> tuple[Payload, ...]:
    """The payloads, as far as no other program draws them."""
    return setup.payloads if setup.config.generator.program == "diffusers" else ()
