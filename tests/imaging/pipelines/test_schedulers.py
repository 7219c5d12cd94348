from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.pipelines.schedulers import SAMPLERS, build_scheduler, check_sampler
from tests.imaging.pipelines.sigma_reference import METHODS, denoiser, sigmas_of


@pytest.mark.parametrize(
    ("name", "scheduler", "expected"),
    [
        ("Euler a", "Automatic", ("Euler a", "Uniform")),
        ("euler A", "automatic", ("Euler a", "Uniform")),
        ("DPM++ 2M", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M Karras", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M SDE", "Automatic", ("DPM++ 2M SDE", "Exponential")),
        ("DPM++ 2M SDE Heun Karras", "Automatic", ("DPM++ 2M SDE Heun", "Karras")),
        ("Euler", "sgm_uniform", ("Euler", "SGM Uniform")),
        ("LMS Karras", "Karras", ("LMS", "Karras")),
        ("k_euler_a", "Automatic", ("Euler a", "Uniform")),
        ("k_dpmpp_2m_ka", "Automatic", ("DPM++ 2M", "Karras")),
        ("k_dpmpp_2m_sde_ka", "Automatic", ("DPM++ 2M SDE", "Karras")),
        ("k_lms_ka", "Automatic", ("LMS", "Karras")),
        ("k_dpm_2", "Automatic", ("DPM2", "Karras")),
        ("dpmpp_2m", "karras", ("DPM++ 2M", "Karras")),
        ("dpmpp_2m_sde_gpu", "exponential", ("DPM++ 2M SDE", "Exponential")),
        ("dpmpp_2m_sde_heun", "karras", ("DPM++ 2M SDE Heun", "Karras")),
        ("euler_ancestral", "normal", ("Euler a", "Uniform")),
        ("euler", "sgm_uniform", ("Euler", "SGM Uniform")),
        ("uni_pc", "Automatic", ("UniPC", "Uniform")),
        ("heun", "karras", ("Heun", "Karras")),
        ("ddim", "Automatic", ("DDIM", "Uniform")),
        ("lcm", "Automatic", ("LCM", "Uniform")),
        ("DPM++ 2M", "Polyexponential", ("DPM++ 2M", "Exponential")),
        ("Heun", "Normal", ("Heun", "Uniform")),
        ("dpmpp_2m", "beta", ("DPM++ 2M", "Beta")),
        ("Euler a SGM Uniform", "Automatic", ("Euler a", "SGM Uniform")),
    ],
)
def test_names_as_web_ui_users_write_them(name: str, scheduler: str, expected: tuple[str, str]) -> None:
    assert check_sampler(name, scheduler) == expected
    assert check_sampler(*expected) == expected


@pytest.mark.parametrize(
    ("name", "scheduler", "message"),
    [
        ("Eular", "Automatic", "no sampler 'Eular'; did you mean Euler"),
        ("DPM++ 2S a Karras", "Automatic", "nearest is 'Euler a'"),
        ("Restart", "Automatic", "nearest is 'Heun'"),
        ("Euler a Karras", "Automatic", "no 'Karras' for the sampler 'Euler a'; it has Uniform, Simple, SGM"),
        ("Euler", "KL Optimal", "no 'KL Optimal' for the sampler 'Euler'"),
        ("Euler", "Karas", "no noise schedule 'Karas'; did you mean Karras"),
        ("Euler Karras", "Exponential", "contradict"),
        ("dpmpp_3m_sde_gpu", "karras", r"nearest is 'DPM\+\+ 2M SDE'"),
        ("k_dpm_2_a_ka", "Automatic", "nearest is 'Euler a'"),
        ("dpmpp_2s_ancestral", "normal", "nearest is 'Euler a'"),
        ("ddpm", "Automatic", "nearest is 'Euler a'"),
        ("heunpp2", "beta", "nearest is 'Heun'"),
        ("euler_ancestral_cfg_pp", "normal", "nearest is 'Euler a'"),
        ("x" * 9000, "Automatic", r"no sampler 'xxx.*\.\.\."),
    ],
)
def test_what_diffusers_cannot_do_is_refused_by_name(name: str, scheduler: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sampler(name, scheduler)


def test_karras_sigmas_start_where_web_uis_start() -> None:
    for name in ("Euler Karras", "Euler", "Euler a", "Heun", "LMS"):
        scheduler = build_scheduler(name)
        scheduler.set_timesteps(10)
        assert float(scheduler.sigmas[0]) == pytest.approx(14.6146, abs=2e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_v_prediction_and_zero_snr_are_honoured_or_refused(name: str) -> None:
    assert build_scheduler(name, prediction_type="v_prediction").config.prediction_type == "v_prediction"
    if SAMPLERS[name].zero_snr:
        scheduler = build_scheduler(name, prediction_type="v_prediction", zero_snr=True)
        scheduler.set_timesteps(10)
        assert float(scheduler.alphas_cumprod[-1]) < 1e-6
    else:
        with pytest.raises(ConfigError, match="zero terminal SNR; use one of Euler a"):
            build_scheduler(name, prediction_type="v_prediction", zero_snr=True)


def network(x: Tensor, time: Tensor) -> Tensor:
    """A network that any change of its inputs changes: smooth, of the same size for every time."""
    kernel = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.15
    near = torch.nn.functional.conv2d(x, kernel, padding=1)
    return torch.tanh(near + 0.8 * x + (time.double() / 1000 - 0.5) * 0.3)


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_by_diffusers(name: str, schedule: str, steps: int) -> Tensor:
    scheduler, generator = build_scheduler(name, schedule), noise(1)
    scheduler.set_timesteps(steps)
    x: Tensor = torch.randn(1, 4, 16, 16, generator=generator, dtype=torch.float64) * scheduler.init_noise_sigma
    options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for time in scheduler.timesteps:
        predicted = network(scheduler.scale_model_input(x, time), time)
        x = scheduler.step(predicted, time, x, **options, return_dict=False)[0]
    return x


@pytest.mark.parametrize(
    ("name", "schedule"), [(name, schedule) for name in METHODS for schedule in SAMPLERS[name].schedules]
)
def test_samplers_draw_what_those_of_web_uis_draw(name: str, schedule: str) -> None:
    generator, sigmas = noise(1), sigmas_of(schedule, 10)

    def draw() -> Tensor:
        return torch.randn(1, 4, 16, 16, generator=generator, dtype=torch.float64)

    expected = METHODS[name](denoiser(network), draw() * sigmas[0], sigmas, draw)
    error = (drawn_by_diffusers(name, schedule, 10) - expected).abs().max() / expected.abs().max()
    exact = name != "DPM++ 2M" and schedule != "SGM Uniform"
    assert error < (1e-6 if exact else SAMPLERS[name].error or 0)
