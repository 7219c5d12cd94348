"""The samplers of models that were trained by flow matching: Stable Diffusion 3 and Flux."""

from __future__ import annotations

from typing import Any

from bayes_merger.checkpoints.config_trees import SCHEDULER, Settings
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.pipelines.schedulers import AUTOMATIC, check_sampler

FLOW_SAMPLERS = ("Euler",)
_SCHEDULES = (AUTOMATIC, "Uniform", "Simple")  # what the model's own shift of the noise makes of even steps
_OF_THE_MODEL = ("shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")


def check_flow_sampler(name: str, scheduler: str = AUTOMATIC) -> None:
    """Refuse the samplers of diffusion models.

    Raises:
        ConfigError: a sampler or schedule that does not go with flow matching.
    """
    known = ", ".join(FLOW_SAMPLERS)
    if check_sampler(name)[0] not in FLOW_SAMPLERS or name.lower() not in map(str.lower, FLOW_SAMPLERS):
        raise ConfigError(f"sampler_name: {name!r} does not go with SD3 and Flux; use {known}")
    if scheduler.lower() not in map(str.lower, _SCHEDULES):
        raise ConfigError(f"scheduler: {scheduler!r} does not go with SD3 and Flux; use {', '.join(_SCHEDULES)}")


def build_flow_scheduler(name: str, scheduler: str, settings: Settings) -> Any:
    """A fresh scheduler of diffusers for one batch.

    Args:
        name: A1111's name of the sampler.
        scheduler: A1111's schedule type.
        settings: of the model, which say how its noise is shifted.

    Raises:
        ConfigError: as `check_flow_sampler`; or a shift that is no number.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    check_flow_sampler(name, scheduler)
    own = {key: settings[SCHEDULER][key] for key in _OF_THE_MODEL if key in settings[SCHEDULER]}
    if odd := [key for key, value in own.items() if isinstance(value, bool) or not isinstance(value, int | float)]:
        raise ConfigError(f"{SCHEDULER}: {odd[0]} is no number; download it again")
    dynamic = settings[SCHEDULER].get("use_dynamic_shifting") is True
    return FlowMatchEulerDiscreteScheduler(**own, use_dynamic_shifting=dynamic)
