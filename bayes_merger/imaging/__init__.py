"""Image generation: a live diffusers pipeline whose weights are replaced in place. Importing this stays light."""

from __future__ import annotations

from bayes_merger.imaging.payload import Payload, payload_from_mapping, resolve
from bayes_merger.imaging.pipelines.building import load_pipeline
from bayes_merger.imaging.pipelines.keymap import single_file_views, to_single_file
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, LivePipeline
from bayes_merger.imaging.pipelines.schedulers import SAMPLERS, check_sampler
from bayes_merger.imaging.prompts.prompt import check_prompt, plain_prompt

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
