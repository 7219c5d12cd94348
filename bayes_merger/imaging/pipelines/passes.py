"""What a pass over pictures needs beside the model: words that may change on the way, noise, larger latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayes_merger.imaging.noise import PictureNoise, answering
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.hires import UPSCALERS, Hires
from bayes_merger.imaging.pipelines.schedulers import calls_per_step
from bayes_merger.imaging.prompts.editing import by_call, spans
from bayes_merger.imaging.prompts.networks import without_tags

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Words:
    """What the prompts of one picture say at each call of the network; the last of them hold to the end.

    Attributes:
        wanted: the prompt's.
        unwanted: the negative prompt's.
    """

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]

    def at(self, call: int, *, negative: bool = False) -> str:
        """The text at a call, from 0."""
        texts = self.unwanted if negative else self.wanted
        return texts[min(call, len(texts) - 1)]

    @property
    def calls(self) -> int:
        """How many calls it takes until the last text is reached; 1 where nothing changes."""
        return max(len(self.wanted), len(self.unwanted))

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is said at any time."""
        return tuple(dict.fromkeys((*self.wanted, *self.unwanted)))


@dataclass(frozen=True)
class Pass:
    """One picture in one pass.

    Attributes:
        payload: the payload's, with the size, the steps and the sampler of this pass.
        index: which of the payload's pictures.
        words: of the picture.
    """

    payload: Payload
    index: int
    words: Words


def passes(payload: Payload, index: int) -> tuple[Pass, ...]:
    """The first pass over a picture of a resolved payload, and the second if there is one."""
    steps = payload.steps * calls_per_step(payload.sampler_name)
    first = Pass(payload, index, _words(payload.prompts[index], payload.negative_prompts[index], steps))
    if payload.hires is None:
        return (first,)
    hires = payload.hires
    wanted, unwanted = (words[index] for words in payload.second_prompts())
    words = _words(wanted, unwanted, hires.steps * calls_per_step(hires.sampler_name), before=steps)
    return first, Pass(payload.enlarged(), index, words)


def _words(wanted: str, unwanted: str, steps: int, before: int | None = None) -> Words:
    return Words(_by_call(without_tags(wanted), steps, before), _by_call(unwanted, steps, before))


def _by_call(text: str, steps: int, before: int | None) -> tuple[str, ...]:
    found = spans(text, steps, before)
    calls = found[-2].last + 2 if len(found) > 1 else 1  # from then on it is the last text
    return tuple(by_call(found, calls))


@contextmanager
def noise_of(batch: Sequence[Pass]) -> Iterator[list[torch.Generator]]:
    """A generator for each picture, with which diffusers draws the picture's noise while this is open."""
    import torch

    seeds = [one.payload.seeds[one.index] for one in batch]
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    payload = batch[0].payload
    if payload.rng == "cpu" and not payload.subseed_strength and not payload.eta_noise_seed_delta:
        yield generators
        return
    sources = {
        generator: PictureNoise(
            seed,
            payload.rng,
            subseed=one.payload.subseeds[one.index] if payload.subseed_strength else 0,
            strength=payload.subseed_strength,
            delta=payload.eta_noise_seed_delta,
        )
        for generator, seed, one in zip(generators, seeds, batch, strict=True)
    }
    with answering(sources):
        yield generators


def enlarged_latents(latents: Tensor, hires: Hires, scale: int = 8) -> Tensor:
    """Latents for a second pass, by interpolation.

    Args:
        latents: shape `(n, channels, height / scale, width / scale)` of the first pass.
        hires: with an upscaler of latents.
        scale: pixels per number of the latents.
    """
    from torch.nn.functional import interpolate

    options = UPSCALERS[hires.upscaler]
    assert options is not None
    size = (hires.scaled_height // scale, hires.scaled_width // scale)
    return cropped(interpolate(latents, size=size, **options), hires, scale)


def enlarged_pictures(pictures: Sequence[Image], hires: Hires) -> list[Image]:
    """Pictures for a second pass, by Lanczos interpolation, still to be cropped."""
    from PIL.Image import Resampling

    return [picture.resize((hires.scaled_width, hires.scaled_height), Resampling.LANCZOS) for picture in pictures]


def cropped(latents: Tensor, hires: Hires, scale: int = 8) -> Tensor:
    """The middle of latents that are larger than the second pass; of an odd rest, more goes on the right and below."""
    high, wide = hires.height // scale, hires.width // scale
    top, left = (latents.shape[2] - high) // 2, (latents.shape[3] - wide) // 2
    return latents[:, :, top : top + high, left : left + wide]
