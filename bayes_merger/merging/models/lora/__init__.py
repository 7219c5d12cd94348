"""LoRA files as models: what they do to model A, in fp32, as if they had been applied and the result saved."""

from bayes_merger.merging.models.lora.model import NO_EFFECT, LoraModel, is_lora

__all__ = ["NO_EFFECT", "LoraModel", "is_lora"]
