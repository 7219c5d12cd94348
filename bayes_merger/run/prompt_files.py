"""The files that prompts name: LoRAs, which change the model for their pictures, and textual-inversion embeddings."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.kinds import LORA
from bayes_merger.checkpoints.naming import UNET
from bayes_merger.checkpoints.naming.prefixes import canonical_keys
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.documents import files_below
from bayes_merger.errors import CheckpointError, ConfigError, nearest, printable
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, OnDrawn
from bayes_merger.imaging.prompts.inversions import embeddings_in, read_embedding
from bayes_merger.imaging.prompts.networks import NetworkTag, network_tags
from bayes_merger.merging.models.lora import LoraModel

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = (".safetensors", ".sft", ".pt", ".ckpt")
Draw = Callable[[Sequence[Payload], OnDrawn | None], Sequence[DrawnImage]]
"""Draws some payloads' pictures; those that it gives on as they are drawn are all of them."""


@dataclass(frozen=True)
class PromptFiles:
    """What the prompts of a run name.

    Attributes:
        loras: name in the prompts to the opened file, on model A.
        embeddings: name in the prompts to the file.
    """

    loras: Mapping[str, LoraModel]
    embeddings: Mapping[str, Path]

    def hashes(self) -> dict[str, str]:
        """What the files are, by kind and name, for the study's fingerprint."""
        found = {f"lora {name}": model.sha256() for name, model in self.loras.items()}
        for name, path in self.embeddings.items():
            with open_checkpoint(path) as file:
                found[f"embedding {name}"] = file.sha256()
        return found


NO_FILES = PromptFiles({}, {})


def find_files(
    payloads: Iterable[Payload], model: Checkpoint, loras: Path | None, embeddings: Path | None
) -> PromptFiles:
    """The files that some prompts name, checked.

    Args:
        payloads: resolved.
        model: what the LoRAs are applied to, model A; it must stay open.
        loras: their folder.
        embeddings: theirs.

    Raises:
        ConfigError: a LoRA that is not there, or that there are two of.
        CheckpointError: a file that is damaged or for another kind of model.
    """
    wanted, texts = set(), set[str]()
    for payload in payloads:
        second, avoided = payload.second_prompts()
        texts |= {*payload.prompts, *payload.negative_prompts, *second, *avoided}
        wanted |= {tag.name for prompt in payload.prompts for tag in network_tags(prompt)}
    found = {name: _open_lora(name, loras, model) for name in sorted(wanted)}
    named = embeddings_in(embeddings, texts) if embeddings is not None else {}
    for path in named.values():
        read_embedding(path)
    return PromptFiles(found, named)


def _open_lora(name: str, folder: Path | None, model: Checkpoint) -> LoraModel:
    shown = f"<lora:{printable(name, longest=60)}:...>"
    if folder is None:
        raise ConfigError(f"{shown}: no folder of LoRAs is given; set  loras=FOLDER")
    known = list(files_below(folder, _SUFFIXES))
    plain = unicodedata.normalize("NFC", name)
    fitting = [
        path
        for path in known
        if plain in (unicodedata.normalize("NFC", text) for text in (path.stem, _below(folder, path)))
    ]
    if not fitting:
        raise ConfigError(f"{shown}: no such file in {folder}; {nearest(name, [path.stem for path in known])}")
    if len(fitting) > 1:
        place = _below(folder, fitting[0])
        raise ConfigError(f"{shown}: {fitting[0]} and {fitting[1]} are called so; write its place, <lora:{place}:1>")
    lora = open_checkpoint(fitting[0])
    if lora.kind is not LORA:
        lora.close()
        raise CheckpointError(f"{shown}: {fitting[0]} is {lora.kind.words}, no LoRA; give another file")
    return LoraModel(model, lora)


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


class PromptLoras:
    """Draws pictures whose prompts name LoRAs: the live model with these, and afterwards as it was, to the bit.

    Args:
        loras: name to the LoRA on model A.
        model: model A, whose names the live tensors have.
        destinations: the live tensors, by their names in model A.
        text_encoder_changed: told before and after LoRAs that change a text encoder.
    """

    def __init__(
        self,
        loras: Mapping[str, LoraModel],
        model: Checkpoint,
        destinations: Callable[[], Mapping[str, Tensor]],
        text_encoder_changed: Callable[[], None],
    ) -> None:
        self._destinations = destinations
        self._text_encoder_changed = text_encoder_changed
        self._live: Mapping[str, Tensor] = {}
        entries = {key: (model.dtypes[key], shape) for key, shape in model.shapes.items()}
        live = Checkpoint(model.path, entries, {}, lambda key: self._live[key].float().cpu(), lambda: None)
        self._loras = {name: lora.on(live) for name, lora in loras.items()}
        networks = {own for own, canonical in canonical_keys(model.shapes.keys()).items() if canonical.startswith(UNET)}
        self._text_keys = frozenset(model.shapes.keys() - networks)

    def draw(self, payloads: Sequence[Payload], draw: Draw, on_drawn: OnDrawn | None = None) -> tuple[DrawnImage, ...]:
        """The payloads' pictures in their order, each with the LoRAs of its prompt."""
        groups: dict[tuple[NetworkTag, ...], dict[str, list[int]]] = {}
        for payload in payloads:
            for index, prompt in enumerate(payload.prompts):
                groups.setdefault(network_tags(prompt), {}).setdefault(payload.name, []).append(index)
        if set(groups) <= {()}:
            return tuple(draw(payloads, on_drawn))
        drawn: dict[tuple[str, int], DrawnImage] = {}

        def keep(places: Mapping[str, Sequence[int]], images: Sequence[DrawnImage]) -> None:
            own = [replace(image, index=places[image.payload][image.index]) for image in images]
            drawn.update({(image.payload, image.index): image for image in own})
            if on_drawn is not None:
                on_drawn(own)

        for tags, places in groups.items():
            some = [payload.picked(places[payload.name]) for payload in payloads if payload.name in places]
            with self._applied(tags):
                draw(some, partial(keep, places))
        return tuple(drawn[payload.name, index] for payload in payloads for index in range(len(payload.prompts)))

    @contextmanager
    def _applied(self, tags: Sequence[NetworkTag]) -> Iterator[None]:
        """The live model with some LoRAs, one after another."""
        self._live = self._destinations()
        before: dict[str, Tensor] = {}
        try:
            for tag in tags:
                self._apply(tag, before)
            if before.keys() & self._text_keys:
                self._text_encoder_changed()
            yield
        finally:
            live = self._destinations()  # text encoders may have moved meanwhile
            for key, tensor in before.items():
                live[key].copy_(tensor)
            if before.keys() & self._text_keys:
                self._text_encoder_changed()

    def _apply(self, tag: NetworkTag, before: dict[str, Tensor]) -> None:
        lora = self._loras[tag.name]
        for key in sorted(lora.changed & self._live.keys()):
            strength = tag.text if key in self._text_keys else tag.unet
            if not strength:
                continue
            live = self._live[key]
            before.setdefault(key, live.detach().to("cpu", copy=True))
            own = live.float().cpu()
            live.copy_(own + strength * (lora.tensor(key) - own))
