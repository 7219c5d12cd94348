"""Noise as web UIs draw it, against values that torch gives on NVIDIA's cards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bayes_merger.imaging.noise import Philox, PictureNoise, answering, mixed, stream

# torch.manual_seed(0); torch.randn(3, 4, device="cuda"), as published with the web UI's own generator
CUDA_0 = [
    [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
    [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
    [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
]


def test_philox_gives_the_numbers_of_cuda() -> None:
    generator = Philox(0)
    assert np.allclose(generator.randn((3, 4)), CUDA_0, rtol=0, atol=3e-7)
    again = generator.randn((3, 4))
    assert again.dtype == np.float32
    assert not np.allclose(again, CUDA_0, atol=0.1)
    assert np.array_equal(Philox(0).randn((2, 2)).ravel(), Philox(0).randn((4,)))


def test_philox_is_normal_for_seeds_of_any_size() -> None:
    for seed in (1, 2**32 - 1, 2**40 + 7):
        numbers = Philox(seed).randn((4, 64, 64))
        assert abs(float(numbers.mean())) < 0.03
        assert abs(float(numbers.std()) - 1) < 0.03
    assert not np.array_equal(Philox(2**40 + 7).randn((9,)), Philox(7).randn((9,)))


def test_variations_lie_on_the_sphere_between_two_noises() -> None:
    one, other = (stream("cpu", seed)((4, 8, 8)) for seed in (1, 2))
    assert torch.allclose(mixed(1e-6, one, other), one, atol=1e-4)
    assert torch.allclose(mixed(1, one, other), other, atol=1e-5)
    half = mixed(0.5, one, other)
    assert 0.8 < float(half.norm() / one.norm()) < 1.2
    assert torch.allclose(mixed(0.3, one, one), one)
    assert mixed(0.3, one, one).isfinite().all()


def test_only_the_first_noise_is_mixed_and_a_delta_begins_after_it() -> None:
    shape = (4, 8, 8)
    noise = PictureNoise(7, "nv", subseed=9, strength=0.5, delta=100)
    assert torch.equal(noise(shape), mixed(0.5, stream("nv", 7)(shape), stream("nv", 9)(shape)))
    later = stream("nv", 107)
    assert torch.equal(noise(shape), later(shape))
    assert torch.equal(noise(shape), later(shape))
    plain, expected = PictureNoise(7), stream("cpu", 7)
    assert all(torch.equal(plain(shape), expected(shape)) for _ in range(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_torch_answers_with_a_pictures_noise_and_otherwise_as_ever(dtype: torch.dtype) -> None:
    mine, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    with answering({mine: PictureNoise(0, "nv")}):
        drawn = torch.randn((1, 3, 2, 2), generator=mine, dtype=dtype, device=torch.device("cpu"))
        plain = torch.randn(1, 3, generator=other)
        torch.randn(3)
    assert drawn.dtype == dtype
    assert np.allclose(drawn.float().reshape(3, 4), CUDA_0, atol=2e-3)
    assert torch.equal(plain, torch.randn(1, 3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.randn(2, generator=mine), torch.randn(2, generator=torch.Generator().manual_seed(1)))
