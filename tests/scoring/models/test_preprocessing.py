"""Pictures as a tower sees them, against Pillow, torchvision and open_clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bayes_merger.scoring.models.preprocessing import Preprocessing, resize
from tests.fake_device import fake_device, read
from tests.scoring.pictures import noise

SIZES = [(1024, 1024), (640, 427), (512, 768), (33, 97), (64, 64), (224, 224), (225, 223), (1, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_the_two_passes_give_pillows_bytes(size: tuple[int, int]) -> None:
    image = noise(1, size)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = np.array(image.resize((224, 300), Image.Resampling.BICUBIC))
    assert np.array_equal(resize(pixels, 224, 300).permute(1, 2, 0).numpy(), expected)


def test_a_resize_to_its_own_size_changes_nothing() -> None:
    pixels = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)
    assert torch.equal(resize(pixels, 5, 4), pixels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_a_picture_is_prepared_as_open_clip_does(size: tuple[int, int], mode: str) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    theirs = image_transform_v2(PreprocessCfg(size=32, resize_mode=mode), is_train=False)
    ours = Preprocessing.from_open_clip(32, {"resize_mode": mode})
    image = noise(2, size)
    torch.testing.assert_close(ours([image])[0], theirs(image), atol=1e-6, rtol=0)


def test_colours_are_brought_to_the_towers_range() -> None:
    half = (0.5, 0.5, 0.5)
    grey = Preprocessing(2, half, half)([Image.new("RGB", (4, 4), (0, 51, 255))])
    assert grey[0, :, 0, 0].tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert grey.shape == (1, 3, 2, 2)


def test_the_longer_edge_fits_between_black_bars() -> None:
    prepared = Preprocessing(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "longest")([Image.new("RGB", (8, 4), "white")])
    assert prepared[0, 0].tolist() == [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]


def test_another_way_to_resize_is_refused() -> None:
    with pytest.raises(ValueError, match="'stretch' with 'bicubic' is not supported"):
        Preprocessing.from_open_clip(32, {"resize_mode": "stretch"})


@pytest.mark.gpu
def test_a_gpu_sees_the_same_bytes() -> None:
    image = noise(3, (640, 427))
    torch.testing.assert_close(
        Preprocessing(224)([image], "cuda").cpu(), Preprocessing(224)([image]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("device", ["cuda:0", "mps:0"])
def test_wherever_it_is_resized_the_bytes_are_the_same(device: str) -> None:
    image = noise(3, (640, 427))
    with fake_device(device):
        found = Preprocessing(224)([image], device)
    torch.testing.assert_close(read(found), Preprocessing(224)([image]), atol=1e-6, rtol=0)
