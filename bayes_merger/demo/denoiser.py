"""Training of the VAE and of the latent denoisers: the base model and what is fine-tuned from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_merger.demo import networks, pictures
from bayes_merger.demo.pictures import Scene

Words = Callable[[Scene, np.random.Generator], str]
Say = Callable[[str], None]


def pixels(scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
    """Rendered scenes as float32 (n, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(pictures.draw(scenes, rng)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def rate(step: int, steps: int, *, peak: float, warmup: int) -> float:
    """Learning rate: linear warm-up, then a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * done))))


# --- VAE ----------------------------------------------------------------------------------------------------------


def train_vae(*, steps: int, seed: int, device: str, say: Say, batch: int = 12, start: Any = None) -> Any:
    """An autoencoder with absolute and squared error, a small KL term.

    Args:
        start: a VAE to go on from, with a new warm-up and decay of the learning rate.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = (networks.vae() if start is None else start).to(device).train()
    learning = list(model.parameters())
    optimiser = torch.optim.AdamW(learning, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    started = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, peak=2e-3, warmup=50)
        images = pixels([pictures.scene(rng) for _ in range(batch)], rng).to(device)
        posterior = model.encode(images).latent_dist
        latents = posterior.sample()
        decoded = model.decode(latents).sample
        error = F.l1_loss(decoded, images) + F.mse_loss(decoded, images)
        loss = error + 2e-4 * posterior.kl().mean() / 256
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        if step % 50 == 0 or step == steps - 1:
            say(
                f"vae {step:5d}/{steps}  error {error.item():.4f}  std {latents.std().item():.2f}  "
                f"{time.monotonic() - started:.0f} s"
            )
    return model.eval()


@torch.no_grad()
def encode(model: Any, scenes: Sequence[Scene], rng: np.random.Generator, *, device: str) -> Tensor:
    """Mean latents of freshly drawn scenes, not yet scaled: float32 (n, 4, 16, 16)."""
    parts = []
    for start in range(0, len(scenes), 64):
        images = pixels(scenes[start : start + 64], rng).to(device)
        parts.append(model.encode(images).latent_dist.mean.cpu())
    return torch.cat(parts)


# --- the denoiser -------------------------------------------------------------------------------------------------


@dataclass
class Denoiser:
    """A U-Net and its text encoder, as they are trained together."""

    unet: Any
    text_encoder: Any

    def parameters(self) -> dict[str, Tensor]:
        """Every trainable tensor by name: `unet.` or `text_encoder.` before diffusers' own name."""
        named = {f"unet.{name}": tensor for name, tensor in self.unet.named_parameters()}
        return named | {f"text_encoder.{name}": tensor for name, tensor in self.text_encoder.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        """A copy of every tensor on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.parameters().items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> Denoiser:
        """Take over a `state`."""
        for name, tensor in self.parameters().items():
            tensor.copy_(state[name])
        return self


def fresh(*, seed: int, device: str) -> Denoiser:
    """An untrained denoiser."""
    torch.manual_seed(seed)
    model = Denoiser(networks.unet().to(device), networks.text_encoder().to(device))
    with torch.no_grad():  # transformers starts the table at 0.02: far too quiet for a width of 24
        model.text_encoder.get_input_embeddings().weight.normal_(0, 0.3)
    return model


def alphas_cumulative() -> Tensor:
    """The signal's share at each of the 1000 times, as in SD1.x: float32 (1000,)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


@dataclass(frozen=True)
class Lesson:
    """One run of training: whose words, how long, how fast, and which tensors may change (None: all).

    `emphasis` weighs times where the noise is louder than the signal by `snr ** -emphasis`: colours are decided there,
    and the plain loss hardly sees them (a flat colour shows through much noise).
    """

    words: Words
    steps: int
    peak: float = 1.5e-3
    batch: int = 32
    warmup: int = 100
    averaging: float = 0.995
    emphasis: float = 0.5
    learns: Callable[[str], bool] | None = None


def error(guess: Tensor, noise: Tensor, signal: Tensor, emphasis: float) -> Tensor:
    """The mean squared error of guessed noise, weighted by min-SNR 5, https://arxiv.org/abs/2303.09556.

    Args:
        guess: (n, channels, height, width).
        noise: of the same shape.
        signal: share of the picture in what was seen, (n, 1, 1, 1).
        emphasis: how much more very noisy pictures count, as `Lesson` has it.
    """
    ratio = signal / (1 - signal)
    weight = (ratio.clamp(max=5) / ratio * ratio.clamp(max=1).pow(-emphasis)).view(-1)
    return ((guess - noise).square().mean((1, 2, 3)) * weight).mean()


def train(
    model: Denoiser,
    lesson: Lesson,
    *,
    scenes: Sequence[Scene],
    latents: Tensor,
    seed: int,
    device: str,
    say: Say,
    check: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Noise prediction with captions (10 % empty), weighted by min-SNR 5; returns the averaged state.

    Args:
        latents: scaled latents of the scenes, (n, 4, 16, 16).
        check: called now and then with the step and the averaged state so far.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = networks.tokenizer()
    named = model.parameters()
    learning = {name: tensor for name, tensor in named.items() if lesson.learns is None or lesson.learns(name)}
    for name, tensor in named.items():
        tensor.requires_grad_(name in learning)
    optimiser = torch.optim.AdamW(
        list(learning.values()), lr=lesson.peak, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    average = {name: tensor.detach().clone() for name, tensor in learning.items()}
    cumulative = alphas_cumulative().to(device)
    fixed_text = not any(name.startswith("text_encoder.") for name in learning)
    started, smooth = time.monotonic(), 1.0
    for step in range(lesson.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, lesson.steps, peak=lesson.peak, warmup=lesson.warmup)
        chosen = rng.integers(len(scenes), size=lesson.batch)
        texts = ["" if rng.random() < 0.1 else lesson.words(scenes[i], rng) for i in chosen]
        clean = latents[torch.from_numpy(chosen)].to(device)
        noise = torch.randn(clean.shape).to(device)
        times = torch.randint(0, 1000, (lesson.batch,)).to(device)
        signal = cumulative[times].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        with torch.set_grad_enabled(not fixed_text):
            hidden = encode_text(model, tokenizer, texts, device=device)
        guess = model.unet(noisy, times, hidden).sample
        loss = error(guess, noise, signal, lesson.emphasis)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(learning.values()), 1.0)
        optimiser.step()
        decay = min(lesson.averaging, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, tensor in learning.items():
                average[name].lerp_(tensor, 1 - decay)
        smooth += (loss.item() - smooth) * max(0.02, 1 / (step + 1))
        if step % 50 == 0 or step == lesson.steps - 1:
            say(f"  {step:5d}/{lesson.steps}  loss {smooth:.4f}  {time.monotonic() - started:.0f} s")
        if check is not None and step and step % 250 == 0:
            check(step, _whole(named, average))
    return _whole(named, average)


def _whole(named: dict[str, Tensor], average: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: average.get(name, tensor).detach().cpu().clone() for name, tensor in named.items()}


def encode_text(model: Denoiser, tokenizer: Any, texts: Sequence[str], *, device: str) -> Tensor:
    """Hidden states (n, 77, width) of the texts; each distinct text is computed once."""
    distinct = list(dict.fromkeys(texts))
    ids = tokenizer(distinct, padding="max_length", truncation=True, max_length=networks.CONTEXT)["input_ids"]
    hidden: Tensor = model.text_encoder(torch.tensor(ids, device=device)).last_hidden_state
    return hidden[torch.tensor([distinct.index(text) for text in texts], device=device)]


@torch.no_grad()
def sample(
    model: Denoiser,
    vae: Any,
    texts: Sequence[str],
    *,
    scale: float,
    seed: int,
    device: str,
    steps: int = 14,
    guidance: float = 4.0,
) -> Tensor:
    """DDIM pictures as float32 (n, 3, 64, 64) in [0, 1], all in one batch."""
    tokenizer = networks.tokenizer()
    cumulative = alphas_cumulative().to(device)
    hidden = encode_text(model, tokenizer, [*texts, *[""] * len(texts)], device=device)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((len(texts), 4, 16, 16), generator=generator).to(device)
    stride = 1000 // steps
    for time_ in reversed(range(1, 1 + stride * steps, stride)):
        guess = model.unet(torch.cat([latents, latents]), time_, hidden).sample
        wanted, plain = guess.chunk(2)
        noise = plain + guidance * (wanted - plain)
        here, there = cumulative[time_], cumulative[max(0, time_ - stride)]
        clean = (latents - (1 - here).sqrt() * noise) / here.sqrt()
        latents = there.sqrt() * clean + (1 - there).sqrt() * noise
    images: Tensor = vae.decode(latents / scale).sample
    return (images / 2 + 0.5).clamp(0, 1)
