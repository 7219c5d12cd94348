"""Latents <-> pictures, by the VAE of a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bayes_merger.imaging.noise import stream
from bayes_merger.timing import timed

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def pictures_of(pipe: Any, decoded: Tensor) -> list[Image]:
    """Pictures of what `decoded_latents` gives."""
    processor = pipe.image_processor
    images: list[Image] = processor.numpy_to_pil(processor.pt_to_numpy(decoded))
    return images


def encoded_pictures(pipe: Any, pictures: Sequence[Image], seeds: Sequence[int]) -> Tensor:
    """Latents of pictures, as web UIs draw them at random from what the VAE says is likely.

    Args:
        pipe: with the VAE.
        pictures: some.
        seeds: of each of them, the seed of the CPU's noise.

    Returns:
        Tensor of shape `(n, channels, height / scale, width / scale)`.
    """
    import torch

    vae = pipe.vae
    pixels = pipe.image_processor.preprocess(list(pictures)).to(vae.device, vae.dtype)
    with torch.no_grad():
        likely = vae.encode(pixels).latent_dist
    noise = torch.stack([stream("cpu", seed)(likely.mean.shape[1:]) for seed in seeds])
    latents: Tensor = likely.mean + likely.std * noise.to(likely.mean)
    return (latents - (vae.config.shift_factor or 0.0)) * float(vae.config.scaling_factor)


@timed("decode")
def decoded_latents(pipe: Any, latents: Tensor) -> Tensor:
    """Pictures `(n, 3, height, width)` from 0 to 1, of latents."""
    import torch

    vae = pipe.vae
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor
    if vae.config.shift_factor is not None:
        scaled = scaled + vae.config.shift_factor
    with torch.no_grad():
        decoded = vae.decode(scaled, return_dict=False)[0]
    pictures: Tensor = pipe.image_processor.denormalize(decoded)
    return pictures
