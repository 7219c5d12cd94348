"""What diffusers calls the tensors of a model, and what single files call them."""

from bayes_merger.checkpoints.naming.counterpart import UNET, VAE, Counterpart, squeezed
from bayes_merger.checkpoints.naming.naming import INDEX, PARTS, Naming, Shapes
from bayes_merger.checkpoints.naming.prefixes import NETWORK, canonical_keys
from bayes_merger.checkpoints.naming.texts import OPEN_CLIP, OPEN_CLIP_EDGES, encoder_names, with_text_model
from bayes_merger.checkpoints.naming.transformers import FLUX_LAYERS, SD3_LAYERS, layers_in
from bayes_merger.checkpoints.naming.unets import RESNET, UNET_EDGES

__all__ = [
    "FLUX_LAYERS",
    "INDEX",
    "NETWORK",
    "OPEN_CLIP",
    "OPEN_CLIP_EDGES",
    "PARTS",
    "RESNET",
    "SD3_LAYERS",
    "UNET",
    "UNET_EDGES",
    "VAE",
    "Counterpart",
    "Naming",
    "Shapes",
    "canonical_keys",
    "encoder_names",
    "layers_in",
    "squeezed",
    "with_text_model",
]
