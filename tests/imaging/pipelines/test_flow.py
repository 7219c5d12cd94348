"""Samplers of flow matching against the same methods in the space of sigmas, on a velocity that is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload.hires import Hires
from bayes_merger.imaging.pipelines.flow import build_flow_scheduler, check_flow_sampler, second_pass
from tests.imaging.pipelines.sigma_reference import METHODS

SETTINGS: Any = {"scheduler/scheduler_config.json": {"shift": 3.0}}
DYNAMIC: Any = {"scheduler/scheduler_config.json": {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}}


def velocity(x: Tensor, sigma: float) -> Tensor:
    return torch.tanh(x * (1 + sigma)) - sigma**2


def drawn(name: str, start: Tensor, steps: int, settings: Any, **shift: float) -> Tensor:
    scheduler = build_flow_scheduler(name, "Automatic", settings)
    scheduler.set_timesteps(steps, **shift)
    x = start.float()
    for time in scheduler.timesteps:
        x = scheduler.step(velocity(x, float(time) / 1000), time, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("name", ["Euler", "Heun", "DPM++ 2M"])
@pytest.mark.parametrize(("settings", "shift"), [(SETTINGS, {}), (DYNAMIC, {"mu": 0.8})])
def test_a_step_is_the_one_of_the_method(name: str, steps: int, settings: Any, shift: dict[str, float]) -> None:
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    schedule = build_flow_scheduler("Euler", "Automatic", settings)
    schedule.set_timesteps(steps, **shift)
    sigmas = schedule.sigmas.double().tolist()
    expected = METHODS[name](lambda x, sigma: x - sigma * velocity(x, sigma), start, sigmas, lambda: start)
    torch.testing.assert_close(drawn(name, start, steps, settings, **shift).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["Euler a", "DPM++ 2M Karras", "DDIM", "LMS"])
def test_others_are_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"does not go with SD3 and Flux; use Euler, Heun, DPM\+\+ 2M"):
        check_flow_sampler(name)


@pytest.mark.parametrize(("steps", "whole", "left_out"), [(2, 4, 2), (7, 10, 3), (20, 20, 0), (3, 7, 4), (1, 1, 0)])
def test_a_second_pass_has_the_last_steps_of_its_schedule(steps: int, whole: int, left_out: int) -> None:
    hires = Hires(128, 64, 128, 64, steps, steps / whole, "Latent", "Euler", "Automatic", 3.0)
    assert hires.schedule_steps == whole
    for counted in (whole, 2 * whole - 1):
        strength = second_pass(hires, counted)["strength"]
        assert 0 <= strength <= 1
        assert int(max(counted - min(counted * strength, counted), 0)) == left_out
