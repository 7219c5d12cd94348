"""AUTOMATIC1111's sampler names -> diffusers schedulers, and how close they come.

Schedulers are built explicitly, never `from_config` of a checkpoint: that would inherit e.g. `timestep_spacing:
leading` and be 42 % off. The errors in `SAMPLERS` are the largest relative difference of the final latents from
k-diffusion with A1111's sigmas (10 steps, the same UNet and noise); samplers that differ by more than 2 %, or that
diffusers does not have, are refused by name. The SDE samplers take white noise per image where A1111 takes a Brownian
tree: the same method, repeatable, but not exactly A1111's picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bayes_merger.errors import ConfigError, nearest, printable

AUTOMATIC = "Automatic"
PREDICTIONS = ("epsilon", "v_prediction")
_SCHEDULES = ("Uniform", "Karras", "Exponential", "Simple", "SGM Uniform", "Beta")
_OTHER_SCHEDULES = ("KL Optimal", "Align Your Steps", "DDIM", "Turbo", "Karras Exponential", "Linear Quadratic")
_SCHEDULE_ALIASES = {"normal": "Uniform", "polyexponential": "Exponential", "sgmuniform": "SGM Uniform",
                     "ddim_uniform": "DDIM"}  # fmt: skip
"""ComfyUI's `normal` has the same steps of time, and A1111's polyexponential is exponential unless its rho is set."""
_BASE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Sampler:
    """How diffusers draws what A1111 calls by this name.

    Attributes:
        scheduler: name of the class in diffusers.
        schedules: noise schedule -> scheduler options; the first is what "Automatic" means.
        options: scheduler options that do not depend on the schedule.
        error: difference from k-diffusion as described above; `None` where A1111 uses its own code, not compared.
        zero_snr: whether the scheduler can do models with zero terminal signal-to-noise ratio.
        calls: of the network per step, by which A1111 counts the steps of prompts that change.
    """

    scheduler: str
    schedules: Mapping[str, Mapping[str, Any]]
    error: float | None
    options: Mapping[str, Any] = field(default_factory=dict)
    zero_snr: bool = False
    calls: int = 1


_LINEAR = {"timestep_spacing": "linspace"}
_TRAILING = {"timestep_spacing": "trailing"}
_KARRAS = {"use_karras_sigmas": True}
_EXPONENTIAL = {"use_exponential_sigmas": True}
_BETA = {"use_beta_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_UNIFORM_FIRST: Mapping[str, Mapping[str, Any]] = {
    "Uniform": _LINEAR,
    "Karras": _KARRAS,
    "Exponential": _EXPONENTIAL,
    "Simple": _TRAILING,
    "SGM Uniform": _TRAILING,
    "Beta": _BETA,
}
_KARRAS_FIRST: Mapping[str, Mapping[str, Any]] = {"Karras": _KARRAS, **_UNIFORM_FIRST}

SAMPLERS: Mapping[str, Sampler] = {
    "Euler a": Sampler(
        "EulerAncestralDiscreteScheduler",
        {"Uniform": _LINEAR, "Simple": _TRAILING, "SGM Uniform": _TRAILING},
        5e-4,
        zero_snr=True,
    ),
    "Euler": Sampler("EulerDiscreteScheduler", _UNIFORM_FIRST, 3e-4, zero_snr=True),
    "DPM++ 2M": Sampler("DPMSolverMultistepScheduler", _KARRAS_FIRST, 1.7e-2, zero_snr=True),
    "DPM++ 2M SDE": Sampler(
        "DPMSolverMultistepScheduler", {"Exponential": _EXPONENTIAL, "Karras": _KARRAS}, 1.2e-2, _SDE, zero_snr=True
    ),
    "DPM++ 2M SDE Heun": Sampler(
        "DPMSolverMultistepScheduler",
        {"Exponential": _EXPONENTIAL, "Karras": _KARRAS},
        1.2e-2,
        {**_SDE, "solver_type": "heun"},
        zero_snr=True,
    ),
    "Heun": Sampler("HeunDiscreteScheduler", _UNIFORM_FIRST, 4e-5, calls=2),
    "LMS": Sampler("LMSDiscreteScheduler", _UNIFORM_FIRST, 9e-5),
    "DPM2": Sampler("KDPM2DiscreteScheduler", {"Karras": _KARRAS}, 1.2e-2, calls=2),
    "DDIM": Sampler(
        "DDIMScheduler",
        {"Uniform": {"timestep_spacing": "leading"}},
        1e-6,
        {"clip_sample": False, "set_alpha_to_one": False},
        zero_snr=True,
    ),
    "PLMS": Sampler("PNDMScheduler", {"Uniform": {"timestep_spacing": "leading"}}, None, {"skip_prk_steps": True}),
    "UniPC": Sampler(
        "UniPCMultistepScheduler",
        {"Uniform": _LINEAR},
        None,
        # bh1 divides by the last step's length, which is infinite down to sigma 0: end where A1111 does
        {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        zero_snr=True,
    ),
    "LCM": Sampler("LCMScheduler", {"Uniform": {"timestep_spacing": "leading"}}, None),
}
_NEAREST_OF = {
    "DPM++ SDE": "DPM++ 2M SDE",
    "DPM++ 2S a": "Euler a",
    "DPM++ 3M SDE": "DPM++ 2M SDE",
    "DPM2 a": "Euler a",
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
        ConfigError: a sampler or schedule that is unknown, or that diffusers cannot do as A1111 does.
    """
    sampler, behind = _split(name)
    if sampler not in SAMPLERS:
        if sampler in _NEAREST_OF:
            raise ConfigError(
                f"sampler_name: {name!r} cannot be reproduced by diffusers as web UIs draw it; the nearest is "
                f"{_NEAREST_OF[sampler]!r}"
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


def build_scheduler(
    name: str, scheduler: str = AUTOMATIC, *, prediction_type: str = "epsilon", zero_snr: bool = False
) -> Any:
    """A fresh diffusers scheduler for one batch (schedulers carry the state of the picture they draw).

    Args:
        name: sampler as in `check_sampler`.
        scheduler: noise schedule as in `check_sampler`.
        prediction_type: what the model predicts, `"epsilon"` or `"v_prediction"`.
        zero_snr: whether it was trained down to zero signal-to-noise ratio.

    Raises:
        ConfigError: see `check_sampler`, and for a sampler that cannot do `zero_snr`.
    """
    import diffusers

    proper, schedule = check_sampler(name, scheduler)
    sampler = SAMPLERS[proper]
    options = {**_BASE, **sampler.options, **sampler.schedules[schedule], "prediction_type": prediction_type}
    if zero_snr:
        if not sampler.zero_snr:
            able = ", ".join(known for known, entry in SAMPLERS.items() if entry.zero_snr)
            raise ConfigError(f"sampler_name: {proper!r} cannot draw a model with zero terminal SNR; use one of {able}")
        options["rescale_betas_zero_snr"] = True
        if "use_karras_sigmas" not in options and "use_exponential_sigmas" not in options:
            options["timestep_spacing"] = "trailing"  # otherwise the first step, pure noise, is skipped
    return getattr(diffusers, sampler.scheduler)(**options)


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
