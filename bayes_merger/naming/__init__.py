"""What diffusers calls the tensors of a model, and what single files call them."""

from bayes_merger.naming.counterpart import UNET, VAE, Counterpart
from bayes_merger.naming.naming import INDEX, PARTS, Naming, Shapes
from bayes_merger.naming.prefixes import canonical_keys
from bayes_merger.naming.texts import OPEN_CLIP, with_text_model
from bayes_merger.naming.transformers import layers_in
from bayes_merger.naming.unets import RESNET, UNET_EDGES

__all__ = [
    "INDEX",
    "OPEN_CLIP",
    "PARTS",
    "RESNET",
    "UNET",
    "UNET_EDGES",
    "VAE",
    "Counterpart",
    "Naming",
    "Shapes",
    "canonical_keys",
    "layers_in",
    "with_text_model",
]
