"""Networks made of the settings of a diffusers folder, on the meta device: names and shapes, no memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayes_merger.checkpoints.config_trees import Settings
from bayes_merger.checkpoints.naming import INDEX, PARTS
from bayes_merger.errors import CheckpointError, ConfigError

_NETWORKS = {
    "diffusers": ("UNet2DConditionModel", "AutoencoderKL", "SD3Transformer2DModel", "FluxTransformer2DModel"),
    "transformers": ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"),
}
_DEEPEST = 1000  # layers of a network; no model has a tenth of that
# What diffusers and transformers raise on settings that are not what they should be (seen by changing them).
_ODD_SETTINGS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def empty_networks(settings: Settings) -> dict[str, Any]:
    """The networks of a diffusers folder, by the names of its parts.

    Args:
        settings: its JSON files by their relative names, of which nothing is trusted.

    Raises:
        CheckpointError: a part is of a class that is not known here.
        ConfigError: its settings make no network.
    """
    import importlib

    import torch
    from huggingface_hub.errors import StrictDataclassError

    networks = {}
    for part in PARTS:
        library, name = settings[INDEX].get(part) or ("", None)
        if name is None:
            continue
        if name not in _NETWORKS.get(library, ()):
            raise CheckpointError(f"{part} is a {name}, and only Stable Diffusion and Flux are known here")
        network = getattr(importlib.import_module(library), name)
        config = settings[f"{part}/config.json"]
        try:
            _check_depth(config)
            with torch.device("meta"):
                known = library == "diffusers"
                networks[part] = network.from_config(config) if known else network(network.config_class(**config))
        except (*_ODD_SETTINGS, StrictDataclassError) as error:
            reason = " ".join(str(error).split())[:100]
            way_out = "give a config folder that fits the model"
            raise ConfigError(f"{part}/config.json: makes no {name} ({reason}); {way_out}") from error
    return networks


def _check_depth(config: Mapping[str, Any]) -> None:
    """Refuse settings of which it would take hours to find out that they are of no model."""
    for name, value in config.items():
        for number in value if isinstance(value, list) else [value]:
            if "layer" in name and isinstance(number, int) and number > _DEEPEST:
                raise ValueError(f"{name} is {number}")
