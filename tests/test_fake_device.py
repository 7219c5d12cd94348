"""What the device of ``fake_device`` refuses, as the real one does."""

from __future__ import annotations

import pytest
import torch

from tests.fake_device import fake_device, read


@pytest.mark.parametrize("name", ["cuda:0", "mps:0"])
def test_tensors_on_it_have_numbers_and_those_of_the_cpu_are_refused(name: str) -> None:
    with fake_device(name) as device:
        numbers = torch.arange(6.0, device=name).view(2, 3)
        numbers[0].mul_(2)
        assert numbers.device == torch.device(name)
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            numbers + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            numbers.numpy()
        before = device.waits
        assert numbers.tolist() == [[0, 2, 4], [3, 4, 5]]
        assert float(numbers.sum()) == 18
        assert device.waits == before + 2
    assert read(numbers).tolist() == [[0, 2, 4], [3, 4, 5]]


def test_mps_has_no_double_precision() -> None:
    with fake_device("cuda:0"):
        assert torch.ones(2, device="cuda:0").double().dtype == torch.float64
    with fake_device("mps:0"), pytest.raises(TypeError, match="float64"):
        torch.ones(2, device="mps:0").double()
