"""Training of the demo's scorers: a tiny open_clip model and an affine aesthetic head on its image embedding.

The CLIP model learns from pictures as drawn, as the VAE gives them back, and from damaged ones; a caption that happens
to be true of another picture in the batch is not held against it. Beside the contrast of pictures and captions two
throw-away heads (the words of the scene; how damaged the picture is) speed the picture tower up and make it keep
what the aesthetic head needs. The head is then a ridge regression of the grade on the L2-normalised embedding.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_merger.demo import CLIP_NAME, networks, pictures
from bayes_merger.demo.denoiser import Say, pixels, rate
from bayes_merger.demo.pictures import Scene

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_model() -> Any:
    """A fresh open_clip model of the demo's shape."""
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{CLIP_NAME}.json").write_text(json.dumps(networks.CLIP), encoding="utf-8")
        open_clip.add_model_config(folder)
        return open_clip.create_model(CLIP_NAME, pretrained=None, precision="fp32")


def normalise(images: Tensor) -> Tensor:
    """Pixels in [0, 1] as open_clip's preprocessing hands them to the model."""
    mean, std = (torch.tensor(value, device=images.device).view(1, 3, 1, 1) for value in (MEAN, STD))
    return (images - mean) / std


# --- damage -------------------------------------------------------------------------------------------------------


def damaged(images: Tensor, level: Tensor, rng: np.random.Generator) -> Tensor:
    """Each picture spoilt in one or two ways, as strongly as its level says.

    Args:
        images: (n, 3, 64, 64) in [0, 1].
        level: (n,) in [0, 1]; 0 leaves a picture as it is.
    """
    result = images.clone()
    for index in range(len(images)):
        strength = float(level[index])
        if strength <= 0:
            continue
        for way in rng.choice(len(_WAYS), size=int(rng.integers(1, 3)), replace=False):
            result[index] = _WAYS[way](result[index], strength, images, rng)
    return result.clamp(0, 1)


def _noise(image: Tensor, strength: float, others: Tensor, rng: np.random.Generator) -> Tensor:
    return image + 0.35 * strength * torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))


def _blotches(image: Tensor, strength: float, others: Tensor, rng: np.random.Generator) -> Tensor:
    size = int(rng.choice([6, 10, 16]))
    coarse = torch.from_numpy(rng.standard_normal((1, 3, size, size)).astype(np.float32))
    return image + 0.4 * strength * F.interpolate(coarse, size=image.shape[-2:], mode="bicubic")[0]


def _blur(image: Tensor, strength: float, others: Tensor, rng: np.random.Generator) -> Tensor:
    size = max(4, round(64 / (1 + 9 * strength)))
    small = F.interpolate(image[None], size=(size, size), mode="area")
    return F.interpolate(small, size=image.shape[-2:], mode="bicubic")[0]


def _warp(image: Tensor, strength: float, others: Tensor, rng: np.random.Generator) -> Tensor:
    axis = torch.linspace(-1, 1, image.shape[-1])
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    coarse = torch.from_numpy(rng.standard_normal((1, 2, 5, 5)).astype(np.float32))
    bend = 0.28 * strength * F.interpolate(coarse, size=image.shape[-2:], mode="bicubic")[0]
    grid = torch.stack([columns + bend[0], rows + bend[1]], dim=-1)
    return F.grid_sample(image[None], grid[None], padding_mode="reflection", align_corners=True)[0]


def _pale(image: Tensor, strength: float, others: Tensor, rng: np.random.Generator) -> Tensor:
    mean = image.mean((1, 2), keepdim=True).mean(0, keepdim=True)
    return image + 0.8 * strength * (mean - image)


def _ghost(image: Tensor, strength: float, others: Tensor, rng: np.random.Generator) -> Tensor:
    other = others[int(rng.integers(len(others)))]
    return (1 - 0.5 * strength) * image + 0.5 * strength * other


def _patches(image: Tensor, strength: float, others: Tensor, rng: np.random.Generator) -> Tensor:
    result = image.clone()
    for _ in range(round(10 * strength)):
        other = others[int(rng.integers(len(others)))]
        y, x, v, u = (int(value) for value in rng.integers(0, 52, size=4))
        result[:, y : y + 12, x : x + 12] = other[:, v : v + 12, u : u + 12]
    return result


_WAYS = (_noise, _blotches, _blur, _warp, _pale, _ghost, _patches)


# --- CLIP ---------------------------------------------------------------------------------------------------------


class _Aids(nn.Module):
    """The throw-away heads beside the contrast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        kinds = [len(pictures.SHAPES), len(pictures.COLOURS), len(pictures.COLOURS), len(pictures.EXTENTS)]
        self.words = nn.ModuleList(nn.Linear(width, count) for count in kinds)
        self.grade = nn.Linear(width, 1)

    def loss(self, embedding: Tensor, facts: Tensor, weight: Tensor, grade: Tensor) -> Tensor:
        scaled = embedding * 8
        total: Tensor = (self.grade(scaled).view(-1) - grade / 10).square().mean() * 4
        for column, head in enumerate(self.words):
            share = 1.0 if column == 0 else 0.25  # shapes are what comes hardest
            total = total + share * (F.cross_entropy(head(scaled), facts[:, column], reduction="none") * weight).mean()
        return total


def _facts(scenes: Sequence[Scene]) -> Tensor:
    names = list(pictures.COLOURS)
    rows = [
        (
            pictures.SHAPES.index(str(told.shape)),
            names.index(str(told.colour)),
            names.index(str(told.background)),
            list(pictures.EXTENTS).index(str(told.size)),
        )
        for told in scenes
    ]
    return torch.tensor(rows)


def _batch(rng: np.random.Generator, count: int, vae: Any, device: str) -> tuple[list[Scene], Tensor, Tensor]:
    """Scenes, their pictures in [0, 1] (drawn, from the VAE, or damaged) and the damage, 0 to 1 each."""
    scenes = [pictures.scene(rng) for _ in range(count)]
    kinds = len(pictures.SHAPES)
    for start in range(0, count // 2 - kinds + 1, kinds):  # half of them differ from their neighbours in shape alone
        for offset, shape in enumerate(pictures.SHAPES):
            scenes[start + offset] = replace(scenes[start], shape=shape)
    images = pixels(scenes, rng)
    level = torch.from_numpy(np.where(rng.random(count) < 0.4, 0, rng.random(count)).astype(np.float32))
    if vae is not None:
        some = torch.from_numpy(rng.permutation(count)[: max(1, count // 8)])
        with torch.no_grad():
            latents = vae.encode(images[some].to(device)).latent_dist.mean
            shake = float(rng.uniform(0, 0.15)) * torch.randn(latents.shape).to(device) * latents.std()
            images[some] = vae.decode(latents + shake).sample.cpu().clamp(-1, 1)
    images = damaged((images + 1) / 2, level, rng)
    return scenes, images, level


def train_clip(*, steps: int, seed: int, device: str, say: Say, vae: Any = None, batch: int = 96) -> Any:
    """Contrast of pictures and captions; the averaged weights of the run."""
    import open_clip

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = clip_model().to(device).train()
    aids = _Aids(networks.CLIP["embed_dim"]).to(device)
    tokenize = open_clip.SimpleTokenizer(context_length=networks.CONTEXT)
    with torch.no_grad():
        model.token_embedding.weight.normal_(0, 0.2)
        model.logit_scale.fill_(math.log(10))
    everything = [*model.parameters(), *aids.parameters()]
    optimiser = torch.optim.AdamW(everything, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)
    average = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    started = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, peak=2e-3, warmup=100)
        scenes, images, level = _batch(rng, batch, vae, device)
        claims = [pictures.partial(told, rng) for told in scenes]
        texts = tokenize([pictures.wording(claim, rng) for claim in claims]).to(device)
        also_true = torch.tensor([[claim.holds_for(told) for claim in claims] for told in scenes])
        also_true.fill_diagonal_(False)

        seen = F.normalize(model.encode_image(normalise(images.to(device))), dim=-1)
        read = F.normalize(model.encode_text(texts), dim=-1)
        logits = model.logit_scale.exp().clamp(max=30) * seen @ read.T
        logits = logits.masked_fill(also_true.to(device), -1e4)
        target = torch.arange(batch, device=device)
        weight = (1 - 0.8 * level).to(device)
        contrast = (F.cross_entropy(logits, target, reduction="none") * weight).mean()
        contrast = contrast + (F.cross_entropy(logits.T, target, reduction="none") * weight).mean()
        facts = _facts(scenes).to(device)
        loss = contrast / 2 + aids.loss(seen, facts, weight, (10 * (1 - level)).to(device))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(everything, 1.0)
        optimiser.step()
        decay = min(0.995, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                average[name].lerp_(tensor, 1 - decay)
        if step % 50 == 0 or step == steps - 1:
            clean = level.to(device) == 0
            right = (logits.argmax(1) == target)[clean].float().mean()
            shape = (aids.words[0](seen * 8).argmax(1) == facts[:, 0])[clean].float().mean()
            say(
                f"clip {step:5d}/{steps}  contrast {contrast.item() / 2:.3f}  all {loss.item():.3f}  "
                f"right {right.item():.2f}  shape {shape.item():.2f}  {time.monotonic() - started:.0f} s"
            )
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(average[name])
        for _ in range(20 if steps > 20 else 1):  # the running statistics belong to the weights before averaging
            model.encode_image(normalise(_batch(rng, batch, vae, device)[1].to(device)))
    return model.eval()


@torch.no_grad()
def fit_head(model: Any, *, count: int, seed: int, device: str, say: Say, vae: Any = None) -> dict[str, Tensor]:
    """The aesthetic head {weight (1, d), bias (1,)}: ridge regression of the grade, 10 for clean, 0 for ruined."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    rows, grades = [], []
    for _ in range(math.ceil(count / 128)):
        _, images, level = _batch(rng, 128, vae, device)
        rows.append(F.normalize(model.encode_image(normalise(images.to(device))), dim=-1).cpu().double())
        grades.append(10 * (1 - level.double()))
    seen, grade = torch.cat(rows), torch.cat(grades)
    held = len(seen) // 5
    padded = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.float64)], dim=1)
    train, test = padded[held:], padded[:held]
    gram = train.T @ train + 1e-4 * len(train) * torch.eye(padded.shape[1], dtype=torch.float64)
    gram[-1, -1] -= 1e-4 * len(train)
    solution = torch.linalg.solve(gram, train.T @ grade[held:])
    spread = torch.corrcoef(torch.stack([test @ solution, grade[:held]]))[0, 1]
    say(f"head: correlation with the true grade {spread:.3f} on {held} unseen pictures")
    return {"weight": solution[:-1].float()[None], "bias": solution[-1:].float()}
