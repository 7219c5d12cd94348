from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import payload_from_mapping
from bayes_merger.imaging.pipelines.architectures.sdxl import StableDiffusionXL
from bayes_merger.imaging.pipelines.brownian import increment
from bayes_merger.imaging.pipelines.schedulers import (
    SAMPLERS,
    build_scheduler,
    check_sampler,
    check_steps,
    steps_of_second_pass,
)
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
        ("Euler a Karras", "Automatic", ("Euler a", "Karras")),
        ("DPM++ 2S a Karras", "Automatic", ("DPM++ 2S a", "Karras")),
        ("DPM++ SDE", "Automatic", ("DPM++ SDE", "Karras")),
        ("dpmpp_3m_sde_gpu", "karras", ("DPM++ 3M SDE", "Karras")),
        ("k_dpm_2_a_ka", "Automatic", ("DPM2 a", "Karras")),
        ("dpmpp_2s_ancestral", "normal", ("DPM++ 2S a", "Uniform")),
        ("euler", "ddim_uniform", ("Euler", "DDIM")),
    ],
)
def test_names_as_web_ui_users_write_them(name: str, scheduler: str, expected: tuple[str, str]) -> None:
    assert check_sampler(name, scheduler) == expected
    assert check_sampler(*expected) == expected


@pytest.mark.parametrize(
    ("name", "scheduler", "message"),
    [
        ("Eular", "Automatic", "no sampler 'Eular'; did you mean Euler"),
        ("Restart", "Automatic", "nearest is 'Heun'"),
        ("DDIM", "Karras", "no 'Karras' for the sampler 'DDIM'; it has Uniform$"),
        ("Euler", "KL Optimal", "no 'KL Optimal' for the sampler 'Euler'"),
        ("Euler", "Karas", "no noise schedule 'Karas'; did you mean Karras"),
        ("Euler Karras", "Exponential", "contradict"),
        ("ddpm", "Automatic", "nearest is 'Euler a'"),
        ("heunpp2", "beta", "nearest is 'Heun'"),
        ("euler_ancestral_cfg_pp", "normal", "nearest is 'Euler a'"),
        ("x" * 9000, "Automatic", r"no sampler 'xxx.*\.\.\."),
    ],
)
def test_what_would_be_another_picture_is_refused_by_name(name: str, scheduler: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sampler(name, scheduler)


def test_karras_sigmas_start_where_web_uis_start() -> None:
    for name in ("Euler Karras", "Euler", "Euler a", "Heun", "LMS"):
        scheduler = build_scheduler(name)
        scheduler.set_timesteps(10)
        assert float(scheduler.sigmas[0]) == pytest.approx(14.6146, abs=2e-3)


def test_a_way_without_any_signal_begins_where_web_uis_begin() -> None:
    for schedule in ("Uniform", "Karras"):
        scheduler = build_scheduler("Euler", schedule, prediction_type="v_prediction", zero_snr=True)
        scheduler.set_timesteps(10)
        assert float(scheduler.sigmas[0]) == pytest.approx(4518.77, abs=0.01)
        assert float(scheduler.timesteps[0]) == 999


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


def drawn(name: str, schedule: str, steps: int, size: int = 16) -> Tensor:
    scheduler, generator = build_scheduler(name, schedule), noise(1)
    scheduler.set_timesteps(steps)
    x: Tensor = torch.randn(1, 4, size, size, generator=generator, dtype=torch.float64) * scheduler.init_noise_sigma
    options = {"generator": [generator]} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for time in scheduler.timesteps:
        predicted = network(scheduler.scale_model_input(x, time), time)
        x = scheduler.step(predicted, time, x, **options, return_dict=False)[0]
    return x


@pytest.mark.parametrize(
    ("name", "schedule"),
    [(name, schedule) for name in METHODS for schedule in SAMPLERS[name].schedules if schedule != "DDIM"],
)
@pytest.mark.parametrize("steps", [7, 10])
def test_samplers_draw_what_those_of_web_uis_draw(name: str, schedule: str, steps: int) -> None:
    generator, sigmas = noise(1), sigmas_of(schedule, steps)

    def draw() -> Tensor:
        return torch.randn(1, 4, 16, 16, generator=generator, dtype=torch.float64)

    expected = METHODS[name](denoiser(network), draw() * sigmas[0], sigmas, draw)
    assert (drawn(name, schedule, steps) - expected).abs().max() / expected.abs().max() < 2e-6


@pytest.mark.parametrize(
    ("name", "steps", "size", "first", "last"),
    [
        ("DPM2", 6, 8.051297, -1.157467, 1.723241),
        ("DPM2 a", 6, 8.395642, -4.681033, -1.284627),
        ("DPM++ 2S a", 6, 8.798881, -4.132385, -1.808618),
        ("DPM++ SDE", 6, 10.191753, 1.953357, -8.263832),
        ("DPM++ 2M SDE", 6, 9.399853, 5.885269, -5.305859),
        ("DPM++ 2M SDE Heun", 6, 10.435651, 9.008381, -7.301011),
        ("DPM++ 3M SDE", 6, 9.398654, 6.752454, -6.460052),
        ("DDIM", 6, 8.360887, -1.444339, 2.008515),
        ("DDIM", 10, 4.833201, -0.574901, 1.106060),
        ("PLMS", 6, 7.978711, -1.138778, 1.594266),
        ("PLMS", 10, 4.719402, -0.509205, 1.004812),
        ("UniPC", 6, 8.209189, -1.234121, 1.861977),
        ("UniPC", 10, 8.161542, -1.248972, 1.789446),
    ],
)
def test_latents_that_web_uis_own_code_drew_with_this_network(
    name: str, steps: int, size: float, first: float, last: float
) -> None:
    x = drawn(name, "Automatic", steps, 8)
    assert float(x.abs().mean()) == pytest.approx(size, abs=1e-5)
    assert float(x[0, 0, 0, 0]) == pytest.approx(first, abs=1e-4)
    assert float(x[0, 3, 7, 7]) == pytest.approx(last, abs=1e-4)


def test_the_noise_of_a_motion_is_a_picture_s_own_and_does_not_depend_on_the_steps() -> None:
    whole, shape = (0.0292, 14.6146), (4, 8, 8)
    at_once = increment("cpu", 5, shape, whole, 14.6146, 1.0) * (14.6146 - 1.0) ** 0.5
    halves = [increment("cpu", 5, shape, whole, *part) * (part[0] - part[1]) ** 0.5
              for part in ((14.6146, 3.0), (3.0, 1.0))]  # fmt: skip
    assert torch.allclose(at_once, halves[0] + halves[1], atol=1e-5)
    assert float(at_once.std()) == pytest.approx(3.69, abs=0.4)
    assert not torch.equal(at_once, increment("nv", 5, shape, whole, 14.6146, 1.0) * (14.6146 - 1.0) ** 0.5)
    assert not torch.equal(at_once, increment("cpu", 6, shape, whole, 14.6146, 1.0) * (14.6146 - 1.0) ** 0.5)


def test_a_second_pass_by_ddim_takes_the_noise_of_one_step_for_the_next() -> None:
    # of 20 steps A1111 has the times 1, 51, ..., 951; of the last 14 it draws 12 from time 601, with the noise of 651
    assert steps_of_second_pass("DDIM", 20, 14) == 13
    assert steps_of_second_pass("DDIM", 12, 8) == 6
    assert steps_of_second_pass("Euler", 20, 14) == 14
    scheduler = build_scheduler("DDIM")
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == [951.0 - 50 * step for step in range(19)]
    scheduler.set_begin_index(7)
    noise, picture = torch.full((1, 4, 2, 2), 2.0), torch.ones(1, 4, 2, 2)
    sigmas = scheduler.sigmas[6:8].tolist()
    expected = (1 + 2 * sigmas[0]) * ((1 + sigmas[1] ** 2) / (1 + sigmas[0] ** 2)) ** 0.5
    assert float(scheduler.add_noise(picture, noise, scheduler.timesteps[7])[0, 0, 0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "size", "first", "last"),
    [("UniPC", 1.554456, 1.059909, 0.403242), ("PLMS", 1.554223, 1.053859, 0.407129)],
)
def test_a_second_pass_that_web_uis_own_code_drew_with_this_network(
    name: str, size: float, first: float, last: float
) -> None:
    scheduler, begin = build_scheduler(name), 20 - steps_of_second_pass(name, 20, 14)
    scheduler.set_timesteps(20)
    times = scheduler.timesteps[begin:]  # diffusers' pipeline takes them before it says where it begins
    scheduler.set_begin_index(begin)
    fresh = torch.randn(1, 4, 8, 8, generator=noise(1), dtype=torch.float64)
    x = scheduler.add_noise(torch.ones(1, 4, 8, 8, dtype=torch.float64), fresh, times[:1])
    for time in times:
        x = scheduler.step(network(scheduler.scale_model_input(x, time), time), time, x)[0]
    assert len(times) == 13
    assert float(x.abs().mean()) == pytest.approx(size, abs=1e-5)
    assert float(x[0, 0, 0, 0]) == pytest.approx(first, abs=1e-5)
    assert float(x[0, 3, 7, 7]) == pytest.approx(last, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "whole", "asked", "steps", "calls"),
    [("DDIM", 20, 14, 13, 12), ("DDIM", 20, 1, 2, 1), ("DDIM", 2, 2, 2, 1), ("DDIM", 12, 12, 10, 10),
     ("PLMS", 20, 14, 13, 13), ("PLMS", 20, 1, 2, 2), ("PLMS", 2, 2, 2, 2), ("PLMS", 4, 3, 2, 2),
     ("UniPC", 20, 14, 13, 13), ("UniPC", 20, 1, 2, 2), ("UniPC", 2, 2, 2, 2), ("UniPC", 12, 12, 10, 11)],
)  # fmt: skip
def test_a_second_pass_begins_with_a_step_and_draws_at_least_one(
    name: str, whole: int, asked: int, steps: int, calls: int
) -> None:
    assert steps_of_second_pass(name, whole, asked) == steps
    scheduler = build_scheduler(name)
    scheduler.set_timesteps(whole)
    scheduler.set_begin_index(whole - steps)
    x = torch.ones(1, 4, 2, 2)
    x = scheduler.add_noise(x, x, scheduler.timesteps[whole - steps :][:1])
    assert len(scheduler.timesteps[whole - steps :]) == calls
    for time in scheduler.timesteps[whole - steps :]:
        x = scheduler.step(scheduler.scale_model_input(x, time), time, x)[0]
    assert torch.isfinite(x).all()


def test_one_step_that_would_leave_the_noise_is_refused() -> None:
    for name in ("DDIM", "PLMS"):
        with pytest.raises(ValueError, match="would leave the noise as it is; give 2 or more"):
            build_scheduler(name).set_timesteps(1)
        with pytest.raises(ConfigError, match=f"steps: {name} would leave the noise of 1 step as it is; give 2"):
            check_steps(name, 1)
        check_steps(name, 2)
    check_steps("Euler", 1)
    with pytest.raises(ConfigError, match="'LCM' cannot draw a model with zero terminal SNR; use one of Euler"):
        check_steps("LCM", 9, zero_snr=True)


def test_a_second_pass_is_refused_before_a_model_is_loaded() -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5}
    payload = payload_from_mapping("x", {"prompt": "a", "sampler_name": "Euler", **hires})
    StableDiffusionXL.check_passes(payload, zero_snr=False)
    with pytest.raises(ConfigError, match="enable_hr: a second pass is not drawn for this kind of model; set it to"):
        StableDiffusionXL.check_passes(payload, zero_snr=True)
    short = payload_from_mapping("x", {"prompt": "a", "steps": 2, **hires, "hr_sampler_name": "DDIM",
                                       "denoising_strength": 1, "hr_second_pass_steps": 1})  # fmt: skip
    with pytest.raises(ConfigError, match="steps: DDIM would leave the noise of 1 step"):
        StableDiffusionXL.check_passes(short, zero_snr=False)


@pytest.mark.parametrize(("name", "steps"), [("LCM", 120), ("DDIM", 600), ("PLMS", 600)])
def test_more_steps_than_there_are_times_begin_at_the_first(name: str, steps: int) -> None:
    scheduler = build_scheduler(name)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps[0] == scheduler.timesteps[1] == 999
    x, generator = torch.ones(1, 4, 2, 2), [noise(1)]
    for time in scheduler.timesteps:
        x = scheduler.step(scheduler.scale_model_input(x, time), time, x, generator=generator)[0]
    assert torch.isfinite(x).all()


def test_the_noise_a_picture_begins_with_is_scaled_by_a_plain_number() -> None:
    for name in ("Euler", "DDIM"):
        scheduler = build_scheduler(name)
        scheduler.set_timesteps(10)
        assert type(scheduler.init_noise_sigma) is float


@pytest.mark.parametrize("steps", [2, 3, 1000])
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps_makes_a_way(name: str, steps: int) -> None:
    scheduler = build_scheduler(name)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) >= steps - 1
    assert torch.isfinite(scheduler.sigmas).all()


def test_no_call_is_left_out_where_the_first_two_have_the_same_time() -> None:
    scheduler = build_scheduler("LCM", "Beta")
    scheduler.set_timesteps(20)
    first, second = scheduler.timesteps[:2].tolist()
    assert first == second == 999.0
    scheduler.scale_model_input(torch.ones(1, 4, 2, 2), scheduler.timesteps[0])
    assert scheduler.step_index == 0
    assert torch.isfinite(drawn("LCM", "Beta", 20)).all()
