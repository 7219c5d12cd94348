"""What makes scores comparable, and merges the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bayes_merger.config import RunConfig
from bayes_merger.imaging.pipelines.t5 import t5_hash
from bayes_merger.imaging.web_ui import LATER_OPTIONS
from bayes_merger.merging.method import own_sources
from bayes_merger.merging.models.opening import with_orders
from bayes_merger.merging.recipe.settings import VAE_FILE
from bayes_merger.merging.saliency.settings import hashed as hashed_file
from bayes_merger.run.models import merge_settings
from bayes_merger.run.payloads import path_of
from bayes_merger.run.points import comparable
from bayes_merger.run.setup import RunSetup


def fingerprint(setup: RunSetup, scorers: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What makes scores comparable: two runs with the same one may share trials.

    Args:
        parts: the run.
        scorers: their settings, as data.
        known: that of a study that exists; what older ones do not say cannot be compared and is left out.
    """
    judging, t5 = json.loads(json.dumps(scorers)), path_of(setup.config.generator.text_encoder_3)
    objectives = {"objectives": list(setup.config.objectives)} if setup.config.objectives else {}
    recipe = {"recipe": {k: v for k, v in setup.config.recipe.items() if k != "models"}} if setup.config.recipe else {}
    methods = own_sources([step.method for step in setup.steps.steps] if setup.steps else [setup.method.name])
    return {
        **_settings_used(setup.config),
        **({"method_sources": methods} if methods else {}),
        **recipe,
        **objectives,
        **({"scoring": scoring} if (scoring := comparable(setup.config.scoring)) else {}),
        "models": {name: checkpoint.sha256() for name, checkpoint in setup.checkpoints.items()},
        "method": setup.method.name,
        "dtype": setup.config.dtype,
        "vae": VAE_FILE if "vae" in setup.checkpoints else setup.config.vae,
        "space": setup.space.to_json(),
        "payloads": [payload.to_json() for payload in setup.payloads],
        "scorers": _without(judging, ("device", "batch_size", "setting", "viewer", "ledger", "confirm")),
        "prediction_type": setup.config.generator.prediction_type,
        **({"web_ui": _web_ui(setup.web_ui, known)} if setup.web_ui is not None else {}),
        **({"prompt_files": files} if (files := setup.files.hashes()) else {}),
        **({"text_encoder_3": t5_hash(t5)} if t5 and (known is None or "text_encoder_3" in known) else {}),
        **({"activations": activations} if (activations := _activations(setup)) else {}),
        **({"rebasin": orders} if (orders := _orders(setup)) else {}),
    }


def _web_ui(settings: Mapping[str, Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """The web UI's settings, less those that an older study does not have."""
    before = settings if known is None else known.get("web_ui") or {}
    return {name: value for name, value in settings.items() if name in before or name not in LATER_OPTIONS}


def _activations(setup: RunSetup) -> list[list[str]]:
    """The hashes of the files of activations, each with what the user calls it."""
    files = setup.recipe({}, hashed=False).activation_files
    return [[name, hashed_file(name, file)["sha256"]] for name, file in files]


def _orders(setup: RunSetup) -> Mapping[str, Any]:
    """The orders that neurons of models are put in."""
    return with_orders(setup.recipe({}, hashed=False), setup.checkpoints).rebasin


def _settings_used(config: RunConfig) -> dict[str, Any]:
    """The settings of the merge that are not the defaults, as they were written: what is not used changes nothing.

    Files of activations count by their hashes, see `_activations`, and orders of neurons by theirs.
    """
    apart = {"compat", "act", "rebasin"}
    used = set(merge_settings(config).changed()) - apart | ({"compat"} if config.elements else set())
    said = {name: getattr(config, name) for name in used} | ({"adjust": config.adjust} if config.adjust else {})
    return said | ({"saliency": _without(said["saliency"], ("a", "b"))} if "saliency" in said else {})


def _without(tree: Any, keys: tuple[str, ...]) -> Any:
    """``tree`` less the settings that change how a score is got but not what it is."""
    if not isinstance(tree, dict):
        return tree
    return {key: _without(value, keys) for key, value in tree.items() if key not in keys}


def candidate_id(weights: Mapping[str, Mapping[str, float]]) -> str:
    """A short name of a merge within its study, the same for the same weights."""
    text = json.dumps(weights, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
