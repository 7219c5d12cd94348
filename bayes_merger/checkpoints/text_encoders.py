"""Text encoders under names of other programs in a single file, seen under those of the official files.

Stable Diffusion 2 and the larger encoder of the XL family are OpenCLIP's, and web UIs read them under its names. Some
converters write those of transformers, which hold the same numbers: queries, keys and values in three tensors for one,
and the projection transposed. ComfyUI calls an encoder ``clip_l``, ``clip_h`` or ``clip_g`` and writes transformers'
names after that (https://github.com/Comfy-Org/ComfyUI, ``comfy/sd1_clip.py``), which are official in newer models only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.kinds import SD2
from bayes_merger.checkpoints.naming import Counterpart, encoder_names

if TYPE_CHECKING:
    from torch import Tensor

_XL = {"clip_l": "conditioner.embedders.0.transformer.", "clip_g": "conditioner.embedders.1.model."}
_OFFICIAL: Mapping[str, Mapping[str, str]] = {  # architecture -> ComfyUI's name of an encoder -> the official one
    "sd1": {"clip_l": "cond_stage_model.transformer."},
    "sd2": {"clip_h": "cond_stage_model.model."},
    "sdxl": _XL,
    "sdxl-refiner": {"clip_g": "conditioner.embedders.0.model."},
}
_SCALE = "logit_scale"
_COMFYUI = re.compile(rf"(?:text_encoders\.|cond_stage_model\.)?(clip_[lgh])\.(?:transformer\.|{_SCALE}$)")


def under_official_names(file: Checkpoint) -> Checkpoint:
    """A file with its text encoders under the names of official files: itself where it has them so.

    Args:
        file: opened; closed with what is returned.
    """
    found = {key: pair for prefix, own in _places(file) for key, pair in _made(file, prefix, own)}
    return _Renamed(file, found) if found else file


def _places(file: Checkpoint) -> Iterator[tuple[str, str]]:
    """What stands before transformers' names, and what before the official ones in their place."""
    starts = {key[: key.find(".", key.find("transformer")) + 1] for key in file.shapes if "transformer." in key[:40]}
    if "cond_stage_model.transformer." in starts and file.kind is SD2:
        yield "cond_stage_model.transformer.", "cond_stage_model.model."
    if {_XL["clip_l"], "conditioner.embedders.1.transformer."} <= starts:
        yield "conditioner.embedders.1.transformer.", "conditioner.embedders.1.model."
    yield "conditioner.embedders.1.model.", "conditioner.embedders.1.model."
    comfyuis = {found[0]: found for key in file.shapes if (found := _COMFYUI.match(key))}
    official = _OFFICIAL.get(file.kind.architecture or file.kind.name, {}) if comfyuis else {}
    yield from ((start, official[found[1]]) for start, found in comfyuis.items() if found[1] in official)


def _made(file: Checkpoint, prefix: str, own: str) -> Iterator[tuple[str, tuple[Counterpart, tuple[str, ...]]]]:
    """OpenCLIP's key of each tensor, with what it is made of; those made of unlike tensors are left as they are."""
    if prefix.endswith(_SCALE):  # ComfyUI writes it outside of ``transformer``
        key = own.removesuffix("transformer.") + _SCALE
        yield key, (Counterpart(key), (prefix,))
        return
    names = [key.removeprefix(prefix) for key in file.shapes if key.startswith(prefix)]
    name_of = encoder_names(own, names)
    for name in names:
        found = name_of(name)
        stack = tuple(prefix + part for part in (found.stack or (name,))) if found else ()
        if not found or found.key in file.shapes or prefix + name != stack[0] or not file.shapes.keys() >= set(stack):
            continue
        if len({file.dtypes[key] for key in stack}) == 1 and found.fits([file.shapes[key] for key in stack]):
            yield found.key, (found, stack)


class _Renamed(ModelView):
    def __init__(self, file: Checkpoint, made: Mapping[str, tuple[Counterpart, tuple[str, ...]]]) -> None:
        gone = {key for _, stack in made.values() for key in stack}
        names = {key: key for key in file.shapes if key not in gone} | {
            key: stack[0] for key, (_, stack) in made.items()
        }
        entries = {key: (file.dtypes[own], file.shapes[own]) for key, own in names.items()}
        for key, (found, stack) in made.items():
            entries[key] = (entries[key][0], found.shape([file.shapes[part] for part in stack]))
        super().__init__(file, names, entries)
        self._made, self._read_part = made, None

    def _read_model(self, key: str) -> Tensor:
        import torch

        if key not in self._made:
            return super()._read_model(key)
        found, stack = self._made[key]
        parts = [self._model.tensor(part) for part in stack]
        if len(parts) > 1:
            return torch.cat(parts)
        return parts[0].t().contiguous() if found.transposed else parts[0]
