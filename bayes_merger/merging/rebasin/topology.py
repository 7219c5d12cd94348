"""The spaces of a whole model."""

from __future__ import annotations

from bayes_merger.merging.rebasin.spaces import Layout, Shapes, Space, Tensors
from bayes_merger.merging.rebasin.texts import text_spaces
from bayes_merger.merging.rebasin.unets import unet_spaces


def spaces_of(shapes: Shapes, layout: Layout) -> tuple[Space, ...]:
    """The spaces of a model's U-Net and CLIP text encoders, in the order in which they are computed.

    The neurons that tie networks to each other, or to the picture, stay: CLIP's own stream, what the U-Net reads of
    it, the channels of the latents. The VAE stays, too.

    Args:
        shapes: of its tensors, under canonical keys.
        layout: of the model.

    Raises:
        ValueError: the layout does not fit the shapes.
    """
    return (*text_spaces(Tensors(shapes), layout.text_heads), *unet_spaces(Tensors(shapes), layout))
