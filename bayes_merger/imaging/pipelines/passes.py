"""What a pass over pictures needs beside the model: words that may change on the way, noise, larger latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
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

    from bayes_merger.imaging.prompts.embedding import Kin


@dataclass(frozen=True)
class Wording:
    """What a prompt says while a picture is drawn.

    Attributes:
        texts: all that it says, each once.
        times: how often it says each of them; between times at which it might change, once.
        by_call: which of them it is at each call of the network; the last one holds to the end.
    """

    texts: tuple[str, ...]
    times: tuple[int, ...]
    by_call: tuple[int, ...]

    @classmethod
    def of(cls, prompt: str, steps: int, before: int | None = None) -> Wording:
        """What a prompt says in so many calls, after those of a first pass, if there was one."""
        found = spans(prompt, steps, before)
        times = Counter(span.text for span in found)
        calls = found[-2].last + 2 if len(found) > 1 else 1  # from then on it is the last text
        texts = tuple(times)
        return cls(texts, tuple(times.values()), tuple(map(texts.index, by_call(found, calls))))

    def at(self, call: int) -> int:
        """Which text it is at a call, from 0."""
        return self.by_call[min(call, len(self.by_call) - 1)]


@dataclass(frozen=True)
class Words:
    """What the prompts of one picture say.

    Attributes:
        wanted: the prompt.
        unwanted: the negative prompt.
    """

    wanted: Wording
    unwanted: Wording

    @property
    def calls(self) -> int:
        """How many calls it takes until the last text is reached; 1 where nothing changes."""
        return max(len(self.wanted.by_call), len(self.unwanted.by_call))


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
    return Words(Wording.of(without_tags(wanted), steps, before), Wording.of(unwanted, steps, before))


def kin_of(said: Sequence[Wording]) -> Kin:
    """Of the texts of some prompts, one below the other, which are of one prompt."""
    begins = accumulate((len(one.texts) for one in said), initial=0)
    groups = [dict(enumerate(one.times, begin)) for begin, one in zip(begins, said, strict=False)]
    return [group for group in groups for _ in group]


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


def enlarged_pictures(decoded: Tensor, hires: Hires) -> list[Image]:
    """Pictures for a second pass, by Lanczos interpolation, still to be cropped.

    Args:
        decoded: shape `(n, 3, height, width)`, from 0 to 1; of a colour's number, web UIs leave the fraction out.
        hires: how large they become.
    """
    from PIL import Image

    colours = (decoded.float() * 255).permute(0, 2, 3, 1).cpu().byte().numpy()
    size = (hires.scaled_width, hires.scaled_height)
    return [Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS) for picture in colours]


def cropped(latents: Tensor, hires: Hires, scale: int = 8) -> Tensor:
    """The middle of latents that are larger than the second pass; of an odd rest, more goes on the right and below."""
    high, wide = hires.height // scale, hires.width // scale
    top, left = (latents.shape[2] - high) // 2, (latents.shape[3] - wide) // 2
    return latents[:, :, top : top + high, left : left + wide]
