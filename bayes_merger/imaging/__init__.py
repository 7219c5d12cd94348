"""Pictures: a live diffusers pipeline that takes new weights in place. Importing this stays light."""

from __future__ import annotations

from bayes_merger.imaging.keymap import single_file_views, to_single_file
from bayes_merger.imaging.payload import Payload, payload_from_mapping, resolve
from bayes_merger.imaging.pipeline import DrawnImage, LivePipeline, load_pipeline
from bayes_merger.imaging.prompt import check_prompt, plain_prompt
from bayes_merger.imaging.samplers import SAMPLERS, check_sampler

__all__ = [
    "SAMPLERS",
    "DrawnImage",
    "LivePipeline",
    "Payload",
    "check_prompt",
    "check_sampler",
    "load_pipeline",
    "payload_from_mapping",
    "plain_prompt",
    "resolve",
    "single_file_views",
    "to_single_file",
]
