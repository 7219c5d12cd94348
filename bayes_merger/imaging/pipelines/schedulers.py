"""AUTOMATIC1111's sampler names -> the steps that draw them, and the schedules that go with them.

The pictures are those of web UIs, with k-diffusion's samplers (`sigma_steps`) and with those that A1111 has in code of
its own (`time_steps`). None is built `from_config` of a checkpoint: that would
inherit e.g. `timestep_spacing: leading` and be 42 % off. What would be another picture is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayes_merger.errors import ConfigError, nearest, printable

AUTOMATIC = "Automatic"
PREDICTIONS = ("epsilon", "v_prediction")
_SCHEDULES = ("Uniform", "Karras", "Exponential", "Simple", "SGM Uniform", "Beta", "DDIM")
_OTHER_SCHEDULES = ("KL Optimal", "Align Your Steps", "Turbo", "Karras Exponential", "Linear Quadratic")
_SCHEDULE_ALIASES = {"normal": "Uniform", "polyexponential": "Exponential", "sgmuniform": "SGM Uniform",
                     "ddim_uniform": "DDIM"}  # fmt: skip
"""ComfyUI's `normal` has the same steps of time, and A1111's polyexponential is exponential unless its rho is set."""
_BASE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Sampler:
    """Who draws what A1111 calls by this name.

    Attributes:
        scheduler: name of the class in `sigma_steps` or `time_steps`.
        schedules: noise schedules; the first is what "Automatic" means.
        zero_snr: whether the scheduler can do models with zero terminal signal-to-noise ratio.
        calls: of the network per step, by which A1111 counts the steps of prompts that change.
    """

    scheduler: str
    schedules: tuple[str, ...] = _SCHEDULES
    zero_snr: bool = True
    calls: int = 1


_KARRAS = ("Karras", *(name for name in _SCHEDULES if name != "Karras"))
_EXPONENTIAL = ("Exponential", *(name for name in _SCHEDULES if name != "Exponential"))

SAMPLERS: Mapping[str, Sampler] = {
    "Euler a": Sampler("EulerAncestral"),
    "Euler": Sampler("Euler"),
    "DPM++ 2M": Sampler("Multistep", _KARRAS),
    "DPM++ SDE": Sampler("SingleStepSDE", _KARRAS, calls=2),
    "DPM++ 2M SDE": Sampler("MultistepSDE", _EXPONENTIAL),
    "DPM++ 2M SDE Heun": Sampler("MultistepSDEHeun", _EXPONENTIAL),
    "DPM++ 3M SDE": Sampler("ThirdOrderSDE", _EXPONENTIAL),
    "DPM++ 2S a": Sampler("SingleStepAncestral", _KARRAS, calls=2),
    "Heun": Sampler("Heun", calls=2),
    "LMS": Sampler("LinearMultistep"),
    "DPM2": Sampler("Midpoint", _KARRAS, calls=2),
    "DPM2 a": Sampler("MidpointAncestral", _KARRAS, calls=2),
    "DDIM": Sampler("TimeSteps", ("Uniform",)),
    "PLMS": Sampler("TimeMultistep", ("Uniform",)),
    "UniPC": Sampler("UniPC", ("Uniform",)),
    "LCM": Sampler("Consistency", zero_snr=False),
}
_LEAVE_NOISE = ("DDIM", "PLMS")
REDRAWN: Mapping[str, str] = {
    **dict.fromkeys(("DDIM", "PLMS", "LCM", "DPM++ 2M SDE", "DPM++ 2M SDE Heun"), "0.2.0"),
    "UniPC": "0.3.0",
}
"""Samplers whose pictures were not A1111's, which can be seen, before this version of bayes_merger."""

_NEAREST_OF = {
    "DPM fast": "DPM++ 2M",
    "DPM adaptive": "DPM++ 2M",
    "Restart": "Heun",
    "DDIM CFG++": "DDIM",
    "DDPM": "Euler a",
    "Euler CFG++": "Euler",
    "Euler a CFG++": "Euler a",
    "HeunPP2": "Heun",
    "IPNDM": "LMS",
    "IPNDM V": "LMS",
    "DEIS": "DPM++ 2M",
    "Res multistep": "DPM++ 2M",
    "ER SDE": "DPM++ 2M SDE",
    "UniPC BH2": "UniPC",
}
_ALIASES = {
    "euler ancestral": "Euler a",
    "dpm 2": "DPM2",
    "dpm 2 a": "DPM2 a",
    "dpm 2 ancestral": "DPM2 a",
    "dpm ad": "DPM adaptive",
    "dpmpp 2m": "DPM++ 2M",
    "dpmpp 2m sde": "DPM++ 2M SDE",
    "dpmpp 2m sde heun": "DPM++ 2M SDE Heun",
    "dpmpp 2s a": "DPM++ 2S a",
    "dpmpp 2s ancestral": "DPM++ 2S a",
    "dpmpp 3m sde": "DPM++ 3M SDE",
    "dpmpp sde": "DPM++ SDE",
    "uni pc": "UniPC",
    "uni pc bh2": "UniPC BH2",
    "euler cfg pp": "Euler CFG++",
    "euler ancestral cfg pp": "Euler a CFG++",
}
"""How A1111's API (`k_euler_a`, `k_dpmpp_2m_ka`) and ComfyUI (`dpmpp_2m`, `euler_ancestral`, `..._gpu`) spell them."""
_SHORT_SCHEDULES = {"ka": "karras", "exp": "exponential"}


def check_sampler(name: str, scheduler: str = AUTOMATIC) -> tuple[str, str]:
    """Sampler and noise schedule under their proper names: `"DPM++ 2M Karras"` -> `("DPM++ 2M", "Karras")`.

    Args:
        name: A1111's sampler name, in any case; a schedule may follow it, as in A1111 before 1.9.
        scheduler: A1111's schedule type; "Automatic" is what A1111 takes for this sampler.

    Raises:
        ConfigError: a sampler or schedule that is unknown, or that is not drawn here as A1111 draws it.
    """
    sampler, behind = _split(name)
    if sampler not in SAMPLERS:
        if sampler in _NEAREST_OF:
            raise ConfigError(
                f"sampler_name: {name!r} is not drawn here as web UIs draw it; the nearest is {_NEAREST_OF[sampler]!r}"
            )
        shown = printable(repr(name), longest=60)
        raise ConfigError(f"sampler_name: no sampler {shown}; {nearest(name, SAMPLERS, listed=20)}")
    given = _proper(scheduler, (AUTOMATIC, *_SCHEDULES, *_OTHER_SCHEDULES))
    if behind and given not in (AUTOMATIC, behind):
        raise ConfigError(f"sampler_name {name!r} and scheduler {scheduler!r} contradict each other; remove one")
    schedules = SAMPLERS[sampler].schedules
    chosen = behind or given
    chosen = next(iter(schedules)) if chosen == AUTOMATIC else chosen
    if chosen not in schedules:
        raise ConfigError(f"scheduler: no {chosen!r} for the sampler {sampler!r}; it has {', '.join(schedules)}")
    return sampler, chosen


def check_steps(name: str, steps: int, *, zero_snr: bool = False) -> None:
    """Check whether a sampler can draw so many steps of such a model.

    Args:
        name: sampler as in `check_sampler`.
        steps: of the whole schedule.
        zero_snr: whether the model was trained down to zero signal-to-noise ratio.

    Raises:
        ConfigError: it cannot.
    """
    sampler, _ = _split(name)
    if steps == 1 and sampler in _LEAVE_NOISE:
        raise ConfigError(f"steps: {sampler} would leave the noise of 1 step as it is; give 2 or more")
    if zero_snr and not SAMPLERS[sampler].zero_snr:
        able = ", ".join(known for known, entry in SAMPLERS.items() if entry.zero_snr)
        raise ConfigError(f"sampler_name: {sampler!r} cannot draw a model with zero terminal SNR; use one of {able}")


def build_scheduler(
    name: str,
    scheduler: str = AUTOMATIC,
    *,
    prediction_type: str = "epsilon",
    zero_snr: bool = False,
    rng: str = "cpu",
) -> Any:
    """A fresh diffusers scheduler for one batch (schedulers carry the state of the picture they draw).

    Args:
        name: sampler as in `check_sampler`.
        scheduler: noise schedule as in `check_sampler`.
        prediction_type: what the model predicts, `"epsilon"` or `"v_prediction"`.
        zero_snr: whether it was trained down to zero signal-to-noise ratio.
        rng: where the noise of stochastic differential equations comes from, one of `noise.RNGS`.

    Raises:
        ConfigError: see `check_sampler`, and for a sampler that cannot do `zero_snr`.
    """
    proper, schedule = check_sampler(name, scheduler)
    sampler = SAMPLERS[proper]
    check_steps(proper, 2, zero_snr=zero_snr)
    options = {**_BASE, "prediction_type": prediction_type}
    if zero_snr:
        options["rescale_betas_zero_snr"] = True
    from bayes_merger.imaging.pipelines import sigma_steps, time_steps

    room = sigma_steps if hasattr(sigma_steps, sampler.scheduler) else time_steps
    steps = getattr(room, sampler.scheduler)(**options)
    steps.schedule, steps.rng = schedule, rng
    return steps


def steps_of_second_pass(name: str, whole: int, asked: int) -> int:
    """How many of the last steps of a whole schedule a second pass draws, at least one.

    A1111's own samplers leave some out.
    """
    sampler, _ = _split(name)
    if sampler not in (*_LEAVE_NOISE, "UniPC"):
        return asked
    times = len(range(0, _BASE["num_train_timesteps"], max(_BASE["num_train_timesteps"] // whole, 1)))
    return max(asked - 1 - (times - whole), whole - times + 2, 1)


def calls_per_step(name: str) -> int:
    """How often a sampler calls the network per step, as A1111 counts."""
    sampler, _ = _split(name)
    return SAMPLERS[sampler].calls if sampler in SAMPLERS else 1


def proper_names(name: str, scheduler: str = AUTOMATIC) -> tuple[str, str]:
    """A1111's names of a sampler and its schedule, also of those not drawn here; unknown ones stay as they are."""
    sampler, behind = _split(name)
    if behind:
        return sampler, behind
    try:
        return sampler, _proper(scheduler, (AUTOMATIC, *_SCHEDULES, *_OTHER_SCHEDULES))
    except ConfigError:
        return sampler, scheduler


def same_sampler(one: str, other: str) -> bool:
    """Whether two names are spellings of one sampler and schedule."""
    return _split(one) == _split(other)


def nearest_sampler(name: str) -> str:
    """The sampler to take instead of one that cannot be drawn: the one that is most alike, else the default."""
    sampler, _ = _split(name)
    return sampler if sampler in SAMPLERS else _NEAREST_OF.get(sampler, "Euler a")


def _split(name: str) -> tuple[str, str | None]:
    """A sampler's proper name, and the schedule that follows it; the name as it is where it is unknown."""
    known = {sampler.lower(): sampler for sampler in (*SAMPLERS, *_NEAREST_OF)} | _ALIASES
    low = " ".join(name.lower().replace("_", " ").split()).removeprefix("k ").removesuffix(" gpu")
    if low in known:
        return known[low], None
    for schedule in (*_SHORT_SCHEDULES, *(proper.lower() for proper in _SCHEDULES)):
        front = low.removesuffix(" " + schedule)
        if front != low and front in known:
            return known[front], _proper(_SHORT_SCHEDULES.get(schedule, schedule), _SCHEDULES)
    return name, None


def _proper(scheduler: str, known: tuple[str, ...]) -> str:
    names = {name.lower().replace(" ", "_"): name for name in known}  # A1111 also takes `sgm_uniform`
    names |= {alias: name for alias, name in _SCHEDULE_ALIASES.items() if name in known}
    found = names.get(scheduler.strip().lower().replace(" ", "_"))
    if found is None:
        shown = printable(repr(scheduler), longest=60)
        raise ConfigError(f"scheduler: no noise schedule {shown}; {nearest(scheduler, known, listed=20)}")
    return found
