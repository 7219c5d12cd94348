"""The order of a model's neurons whose activations are most like another's, while both draw the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.naming import VAE
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError, counted
from bayes_merger.imaging.answers import Latents, Place, Samples, Watched, watched
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.prompts.networks import network_tags
from bayes_merger.merging.rebasin.aligning import Pair, Progress
from bayes_merger.merging.rebasin.matching import match_activations, match_weights
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.spaces import Space
from bayes_merger.run.draw import check_here, loaded
from bayes_merger.run.payloads import check_payloads, path_of, resolve_payloads
from bayes_merger.run.progress import ends
from bayes_merger.run.prompt_files import find_files

if TYPE_CHECKING:
    from torch import Tensor


def match_drawing(
    pair: Pair,
    config: RunConfig,
    payloads: Sequence[Payload] | None = None,
    progress: Progress | None = None,
    on_step: Callable[[int, int], None] | None = None,
    note: Callable[[str], object] | None = None,
) -> Permutation:
    """Draw payloads with both models, one after the other, and match what their neurons answer; the VAE's by weights.

    What is kept of the answers lies meanwhile in files that are gone with the process, however that ends: about 2 GB
    of Stable Diffusion 1.5.

    Args:
        pair: the models.
        config: the settings of a run, of which the generator and the folders count.
        payloads: resolved; None: those of the settings.
        progress: told how far the matching is.
        on_step: called as `on_step(done, total)`, counting sampler steps of batches of one model.
        note: told, a line at a time, what is drawn before it is, and after some steps when it ends.

    Raises:
        ConfigError: a payload or a setting that makes no sense, or a prompt that names a LoRA.
        CheckpointError: a model that cannot draw.
        TrialFailed: a model draws NaN or a flat colour.
    """
    check_here(config)
    payloads = resolve_payloads(config, pair.a) if payloads is None else payloads
    for payload in payloads:
        if any(network_tags(prompt) for prompt in payload.prompts):
            raise ConfigError(f"payload {payload.name}: a prompt names a LoRA, which would change both models")
    on_step = _telling(pair, payloads, on_step, note) if note else on_step
    vae = [space for space in pair.spaces if space.name.startswith(VAE)]
    spaces = [space for space in pair.spaces if space not in vae]
    latents, kept = Latents(), list[Samples]()
    with ExitStack() as stack:
        for model, names in ((pair.a, pair.names_a), (pair.b, pair.names_b)):
            kept.append(Samples(stack.enter_context(TemporaryFile(prefix="bayes-merger-"))))
            _draw(config, model, payloads, _neurons(spaces, names), kept[-1], latents, on_step)
            model.release()
            latents.again()

        def answers(space: str, track: int) -> tuple[Tensor, Tensor] | None:
            name = _name(space, track)
            one, other = (samples.count(name) for samples in kept)
            return (kept[0].read(name), kept[1].read(name)) if one and one == other else None

        drawn = match_activations(spaces, answers, progress)
    decoding = match_weights(pair.a, pair.b, vae, pair.names_a, pair.names_b)
    return Permutation(pair.spaces, {**drawn.orders, **decoding.orders})


def _telling(
    pair: Pair, payloads: Sequence[Payload], on_step: Callable[[int, int], None] | None, note: Callable[[str], object]
) -> Callable[[int, int], None]:
    """Say what is drawn; as `on_step`, when the drawing ends, seen from its second step to its fifth."""
    a, b, count = pair.a.path.name, pair.b.path.name, sum(payload.batch_size for payload in payloads)
    note(
        f"{b}: the order of its neurons is looked for in {counted(count, 'picture')}, drawn with {a} and then with {b}"
    )
    seen: list[float] = []

    def stepped(done: int, total: int) -> None:
        if len(seen) < 5:
            seen.append(time.monotonic())
            if len(seen) == 5:
                note(f"this {ends((seen[4] - seen[1]) / 3 * (2 * total - done))}")
        if on_step:
            on_step(done, total)

    return stepped


def _draw(
    config: RunConfig,
    model: Checkpoint,
    payloads: Sequence[Payload],
    neurons: Mapping[str, Watched],
    into: Samples,
    latents: Latents,
    on_step: Callable[[int, int], None] | None,
) -> None:
    check_payloads(payloads, model, config.generator.prediction_type)
    files = find_files(payloads, model, path_of(config.loras), path_of(config.embeddings))
    calls = sum(payload.steps * math.ceil(payload.batch_size / config.generator.max_batch) for payload in payloads)
    with (
        loaded(config, model, payloads, files, on_step) as drawer,
        watched(drawer.pipeline, neurons, into, latents, calls),
    ):
        drawer.draw(payloads)


def _neurons(spaces: Iterable[Space], names: Mapping[str, str]) -> dict[str, Watched]:
    """The neurons of every track, and where one of the models has them."""
    return {
        _name(space.name, number): Watched(
            space.size, [Place(names[axis.key], axis.dim, axis.offset) for axis in track if axis.key in names]
        )
        for space in spaces
        for number, track in enumerate(space.tracks)
    }


def _name(space: str, track: int) -> str:
    return f"{space} {track}"
