"""The spaces of a whole model."""

from __future__ import annotations

from bayes_merger.merging.rebasin.spaces import Layout, Shapes, Space, Tensors
from bayes_merger.merging.rebasin.texts import text_spaces
from bayes_merger.merging.rebasin.unets import unet_spaces
from bayes_merger.merging.rebasin.vaes import vae_spaces


def spaces_of(shapes: Shapes, layout: Layout) -> tuple[Space, ...]:
    """The spaces of a model's CLIP text encoders, its U-Net and its VAE.

    The neurons that tie networks to each other, or to the picture, stay: CLIP's own stream, what the U-Net reads of
    it, the channels of the latents and of the picture.

    Args:
        shapes: of its tensors, under canonical keys.
        layout: of the model.

    Raises:
        ValueError: the layout does not fit the shapes.
        KeyError: it lacks a tensor.
    """
    tensors = Tensors(shapes)
    return (
        *text_spaces(tensors, layout.text_heads),
        *unet_spaces(tensors, layout),
        *vae_spaces(tensors, layout.vae_groups),
    )
