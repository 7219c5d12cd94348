"""What diffusers calls the tensors of a model, and what single files call them: for every architecture, as text.

A checkpoint as people share it ("single file", LDM's layout or ComfyUI's) and a diffusers folder hold the same numbers
under different names, spread over parts (``unet``, ``vae``, ``text_encoder``, ...). ``Naming`` is the table. It is read
off the names alone, so it fits any width and any number of levels and layers. A few tensors are also laid out
differently, and ``Counterpart`` says how: several stacked in one, the halves of one swapped, one transposed; and the
projections of the VAE's attention are 1x1 convolutions ``(C, C, 1, 1)`` in files and matrices in diffusers.

Not part of the table, because nothing that uses it needs them: ``position_ids``, the second copy of T5's embeddings,
the schedule's buffers, averages over training and markers such as ``v_pred``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bayes_merger.checkpoints.naming.counterpart import VAE, Counterpart
from bayes_merger.checkpoints.naming.texts import COPY, encoder_names
from bayes_merger.checkpoints.naming.transformers import Sd3Names, flux_name
from bayes_merger.checkpoints.naming.unets import UnetNames, VaeNames
from bayes_merger.errors import CheckpointError

INDEX = "model_index.json"
"""The file by which a diffusers folder is known."""

PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
"""The parts of a folder that hold tensors of a single file; a safety checker and the like are ignored."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name to shape, of the tensors of one part."""

_NO_NUMBER = re.compile(r"\.(?![0-9]+\.|[A-Za-z])[^.]*\.")  # parts of names are numbers or words

_TEXT_ENCODERS = PARTS[3:]
_UNET_TEXTS = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
    "sdxl-refiner": ("", "conditioner.embedders.0.model."),
}


@dataclass(frozen=True)
class Naming:
    """The table of one model.

    Attributes:
        family: ``sd1``, ``sd2``, ``sdxl``, ``sdxl-refiner``, ``sd3`` or ``flux``; ``vae`` for a VAE alone.
        parts: part to what finds a name's counterpart; ``None`` for a tensor that files do not have.
    """

    family: str
    parts: Mapping[str, Callable[[str], Counterpart | None]] = field(repr=False)

    @classmethod
    def of(cls, parts: Mapping[str, Shapes]) -> Naming:
        """The table for a model with these tensors.

        Args:
            parts: diffusers' name of a part (``unet`` or ``transformer``, ``vae``, ``text_encoder``,
                ``text_encoder_2``, ``text_encoder_3``) to its tensors; parts may be missing.

        Raises:
            CheckpointError: they match no known architecture.
        """
        family = _family(parts)
        if family == "flux":
            network: Callable[[str], Counterpart | None] = flux_name
            texts: tuple[str, ...] = ("text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer.")
        elif family == "sd3":
            network = Sd3Names.of(parts["transformer"]).name
            texts = tuple(f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl"))
        else:
            network = UnetNames.of(parts["unet"]).name
            texts = _UNET_TEXTS[family]
        vae = VaeNames.of(parts.get("vae", {}), "vae." if family == "flux" else VAE)
        encoders = zip(_TEXT_ENCODERS, texts, strict=False)
        found = {part: encoder_names(prefix, parts.get(part, {})) for part, prefix in encoders if prefix}
        return cls(family, {"transformer" if family in ("sd3", "flux") else "unet": network, "vae": vae.name, **found})

    @classmethod
    def of_vae(cls, shapes: Shapes, prefix: str) -> Naming:
        """The table for a VAE alone, whose keys begin with ``prefix`` in a single file."""
        return cls("vae", {"vae": VaeNames.of(shapes, prefix).name})

    def counterpart(self, part: str, name: str) -> Counterpart | None:
        """Where a tensor is in a single file; ``None`` for one that is not there.

        Raises:
            CheckpointError: it does not belong to a model of this kind.
        """
        if name.endswith("position_ids"):
            return None
        try:
            found = None if _NO_NUMBER.search(name) else self.parts[part](name)
        except (KeyError, ValueError, IndexError):  # no such part, an invalid number, or a name that ends early
            found = None
        if found is None:
            raise CheckpointError(
                f"{part}'s tensor '{name}' has no name in single files of {self.family}; it is damaged, or of a model "
                "of another kind"
            )
        return None if found is COPY else found


def _family(parts: Mapping[str, Shapes]) -> str:
    transformer = parts.get("transformer", {})
    if any(name.startswith("single_transformer_blocks.") for name in transformer):
        return "flux"
    if "pos_embed.pos_embed" in transformer and "transformer_blocks.0.attn.add_q_proj.weight" in transformer:
        return "sd3"
    unet = parts.get("unet", {})
    if any(name.startswith("down_blocks.0.resnets.0.") for name in unet):
        if any(name.startswith("add_embedding.") for name in unet):
            alone = "text_encoder_2" in parts and "text_encoder" not in parts
            return "sdxl-refiner" if alone else "sdxl"
        widths = (shape[-1:] for name, shape in unet.items() if name.endswith("attn2.to_k.weight"))
        return "sd2" if next(widths, ()) == (1024,) else "sd1"
    raise CheckpointError(
        "its parts match no architecture that can be merged; Stable Diffusion 1, 2, XL, 3 and Flux can"
    )
