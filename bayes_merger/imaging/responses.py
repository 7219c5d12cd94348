"""What the networks of a model answer to fixed inputs: two models that answer alike draw alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_SIDE = 16  # of the latents: all levels of a U-Net see more than one position, and a full-size one answers in seconds
_TIMES = (10, 300, 700, 990)
_TOKENS = 77
_PICTURE = 64  # of the VAE's, a side: its latents have 8


@torch.no_grad()
def responses(networks: Mapping[str, Any]) -> dict[str, Tensor]:
    """The answer of the U-Net, of every text encoder, and of both halves of the VAE, by diffusers' names of the parts.

    The U-Net sees noise at four times and random words; the text encoders random tokens; the VAE a picture of noise,
    and noise for latents. The random numbers are the same in every call.

    Args:
        networks: by the same names; on the CPU.
    """
    generator = torch.Generator().manual_seed(0)
    found = {}
    for part, network in sorted(networks.items()):
        if part.startswith("text_encoder"):
            tokens = torch.randint(network.config.vocab_size, (2, _TOKENS), generator=generator)
            answer = network(tokens, output_hidden_states=True)
            found[part] = torch.stack([*answer.hidden_states, answer.last_hidden_state])
        elif part == "unet":
            found[part] = network(**_inputs(network, generator)).sample
        elif part == "vae":
            config = network.config
            side = _PICTURE >> len(config.block_out_channels) - 1  # each level but the last halves it
            picture = torch.rand(1, config.in_channels, _PICTURE, _PICTURE, generator=generator).to(network.dtype)
            latents = torch.randn(1, config.latent_channels, side, side, generator=generator).to(network.dtype)
            found["vae encoder"] = network.encode(2 * picture - 1).latent_dist.parameters
            found["vae decoder"] = network.decode(latents).sample
    return found


def _inputs(unet: Any, generator: torch.Generator) -> dict[str, Any]:
    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(unet.dtype)

    count, config = len(_TIMES), unet.config
    inputs: dict[str, Any] = {
        "sample": noise(count, config.in_channels, _SIDE, _SIDE),
        "timestep": torch.tensor(_TIMES),
        "encoder_hidden_states": noise(count, _TOKENS, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        numbers = torch.randint(1024, (count, 6), generator=generator)
        pooled = config.projection_class_embeddings_input_dim - numbers.shape[1] * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": noise(count, pooled), "time_ids": numbers}
    return inputs


def difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The largest difference of any number, relative to the largest number of its network."""
    return max(float((after[part] - before[part]).abs().max() / before[part].abs().max()) for part in before)
