"""The samplers of models that were trained by flow matching: Stable Diffusion 3 and Flux."""

from __future__ import annotations

from typing import Any

from bayes_merger.checkpoints.config_trees import SCHEDULER, Settings
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload.hires import Hires
from bayes_merger.imaging.pipelines.schedulers import AUTOMATIC, check_sampler

FLOW_SAMPLERS = {"Euler": "", "Heun": "FlowHeun", "DPM++ 2M": "FlowMultistep"}
"""A1111's name of a sampler -> the class in ``flow_steps``; Euler is diffusers' own."""

_SCHEDULES = (AUTOMATIC, "Uniform", "Simple")  # what the model's own shift of the noise makes of even steps
_OF_THE_MODEL = ("shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")


def check_flow_sampler(name: str, scheduler: str = AUTOMATIC) -> str:
    """A sampler by its proper name, if it is one for flow matching; its schedule is the model's own.

    Raises:
        ConfigError: a sampler or schedule that does not go with flow matching.
    """
    known = ", ".join(FLOW_SAMPLERS)
    sampler = check_sampler(name)[0]
    if sampler not in FLOW_SAMPLERS or name.lower() not in map(str.lower, FLOW_SAMPLERS):
        raise ConfigError(f"sampler_name: {name!r} does not go with SD3 and Flux; use {known}")
    if scheduler.lower() not in map(str.lower, _SCHEDULES):
        raise ConfigError(f"scheduler: {scheduler!r} does not go with SD3 and Flux; use {', '.join(_SCHEDULES)}")
    return sampler


def second_pass(hires: Hires, counted: int) -> dict[str, Any]:
    """What diffusers' pipelines of such models are told of a second pass: of which steps it has the last ones.

    Args:
        hires: the second pass.
        counted: how many steps the pipeline takes its whole schedule for.
    """
    left_out = hires.schedule_steps - hires.steps  # a pipeline leaves out int(counted - counted * strength)
    return {"width": hires.width, "height": hires.height, "strength": 1 - (left_out + 0.5) / counted}


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

    from bayes_merger.imaging.pipelines import flow_steps

    sampler = check_flow_sampler(name, scheduler)
    own = {key: settings[SCHEDULER][key] for key in _OF_THE_MODEL if key in settings[SCHEDULER]}
    if odd := [key for key, value in own.items() if isinstance(value, bool) or not isinstance(value, int | float)]:
        raise ConfigError(f"{SCHEDULER}: {odd[0]} is no number; download it again")
    dynamic = settings[SCHEDULER].get("use_dynamic_shifting") is True
    kind = getattr(flow_steps, FLOW_SAMPLERS[sampler]) if FLOW_SAMPLERS[sampler] else FlowMatchEulerDiscreteScheduler
    return kind(**own, use_dynamic_shifting=dynamic)
