"""What differs between the architectures that are drawn: one class each, beside its siblings."""

from __future__ import annotations

from collections.abc import Mapping

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.kinds import describe_input
from bayes_merger.errors import CheckpointError
from bayes_merger.imaging.pipelines.architectures.architecture import Conditioning, DrawnArchitecture, Told
from bayes_merger.imaging.pipelines.architectures.flux import Flux
from bayes_merger.imaging.pipelines.architectures.sd1 import StableDiffusion
from bayes_merger.imaging.pipelines.architectures.sd2 import StableDiffusion2
from bayes_merger.imaging.pipelines.architectures.sd3 import StableDiffusion3
from bayes_merger.imaging.pipelines.architectures.sdxl import StableDiffusionXL

__all__ = ["DRAWN", "Conditioning", "DrawnArchitecture", "Told", "drawn"]

DRAWN: Mapping[str, type[DrawnArchitecture]] = {
    "sd1": StableDiffusion,
    "sd2": StableDiffusion2,
    "sdxl": StableDiffusionXL,
    "sd3": StableDiffusion3,
    "sd3-large": StableDiffusion3,
    "flux": Flux,
}
"""Name of an architecture in ``checkpoints`` to what drawing it needs; the others can be merged only."""

_DISTILLED = "time_embed.cond_proj.weight"


def drawn(model: Checkpoint) -> type[DrawnArchitecture]:
    """What drawing a model needs.

    Raises:
        CheckpointError: it can be merged, but not be drawn.
    """
    found = DRAWN.get(model.architecture.name)
    what = ""
    if found is None:
        what = model.architecture.title
    elif kind := describe_input(model.shapes):
        what = f"a model for {kind}, which needs a picture to begin with,"
    elif any(key.endswith(_DISTILLED) for key in model.shapes):
        what = "an LCM, whose guidance is an input of its network,"
    if found is None or what:
        raise CheckpointError(
            f"{model.path}: {what} can be merged but not yet drawn, so a run cannot score it; merge it by hand with  "
            "bayes-merger merge model_a=... model_b=... --out FILE"
        )
    return found
