"""A checkpoint, of any architecture that is drawn -> a live pipeline, from local files only."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.pipelines.architectures import DrawnArchitecture, drawn
from bayes_merger.imaging.pipelines.device import check_offload, device_of, dtype_of, keep_freed_memory
from bayes_merger.imaging.pipelines.pipeline import LivePipeline
from bayes_merger.imaging.pipelines.speed import check_speed, make_fast

if TYPE_CHECKING:
    import torch

    from bayes_merger.checkpoints.checkpoint import Checkpoint
    from bayes_merger.imaging.pipelines.layout import Dtypes


def load_pipeline(
    model: Path | str | Checkpoint,
    *,
    config: Path | str | None = None,
    vae: Checkpoint | None = None,
    text_encoder_3: Path | str | None = None,
    offload: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "auto",
    compiled: bool = False,
    max_batch: int = 4,
    prediction_type: str | None = None,
) -> LivePipeline:
    """Load a checkpoint as a live pipeline; reads local files only.

    Args:
        model: `.safetensors`, `.ckpt`, a diffusers folder, ...; or a model that is open.
        config: a diffusers folder, whose settings (`unet/config.json` ...) are those of a model of unusual size, and
            whose weights stand in for parts that the model lacks.
        vae: the VAE of the merges, where the model has none.
        text_encoder_3: file or folder of a T5, for SD3 and Flux models without one.
        offload: `"text_encoders"`: they are on the GPU only while prompts are embedded.
        device: `"auto"` (CUDA, else Apple's MPS, else CPU) or a torch device.
        dtype: `"auto"` (fp32 on the CPU; elsewhere fp16, for Flux bf16), `"fp32"`, `"fp16"` or `"bf16"`.
        attention: kernels of attention: `"auto"`, `"flash"`, `"efficient"`, `"cudnn"` or `"math"`.
        compiled: the network is compiled when it first draws, which takes minutes and makes it faster.
        max_batch: most pictures drawn at once; needs memory, and a study keeps to one value.
        prediction_type: `"epsilon"`, `"v_prediction"`; `None` or `"auto"` uses the file's markers.

    Raises:
        CheckpointError: the file cannot be read or does not fit the config.
        ConfigError: an invalid setting.
    """
    place = _place(device, offload, max_batch)
    tree, t5 = Path(config) if config else None, Path(text_encoder_3) if text_encoder_3 else None
    with ExitStack() as opened, _quiet():
        base = opened.enter_context(open_checkpoint(model)) if isinstance(model, str | Path) else model
        kind = _kind_of(base, t5)
        check_speed(attention, compiled, device, dtype, kind.half)
        from bayes_merger.imaging.pipelines.loading import load_model

        live = load_model(
            base,
            config=tree,
            vae=vae,
            t5=None if t5 is None else (kind.t5, t5),
            optional=kind.optional,
            device=place,
            dtype_of=_dtypes(kind, dtype_of(dtype, place, kind.half)),
            prediction_type=prediction_type,
        )
        architecture = kind(live, kind.tokenizers_of(live, tree, t5))
        pipe = _diffusers_pipeline(architecture)
    leaving = [part for part in kind.encoders if part in live.modules and (offload or part not in live.merged_parts)]
    make_fast(live.modules[kind.network], compiled=compiled)
    return LivePipeline(architecture, pipe, max_batch=max_batch, attention=attention, leaving=leaving)


def _place(device: str, offload: str | None, max_batch: int) -> torch.device:
    """The device, once it is sure that it can be drawn there so."""
    if max_batch < 1:
        raise ConfigError(f"max_batch: {max_batch} pictures at once are not possible; use 1 or more")
    check_offload(offload)
    place = device_of(device)
    if place.type == "cpu":
        keep_freed_memory()
    return place


def _kind_of(base: Checkpoint, t5: Path | None) -> type[DrawnArchitecture]:
    """How models of this architecture are drawn; a T5 is for those that have one."""
    kind = drawn(base)
    if t5 is not None and not kind.t5:
        raise ConfigError(f"generator.text_encoder_3: {base.architecture.title} has no T5; leave it out")
    return kind


def _diffusers_pipeline(architecture: DrawnArchitecture) -> Any:
    """diffusers' pipeline of live parts, which is given a scheduler for every batch."""
    import diffusers

    modules = architecture.model.modules
    parts = {part: modules.get(part) for part in (architecture.network, "vae", *architecture.encoders)}
    tokenizers = {
        part.replace("text_encoder", "tokenizer"): architecture.tokenizers.get(part) for part in architecture.encoders
    }
    kind = getattr(diffusers, architecture.pipeline)
    pipe = kind(**parts, **tokenizers, **architecture.components, scheduler=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _dtypes(kind: type[DrawnArchitecture], dtype: torch.dtype) -> Dtypes:
    """The dtype of every tensor: that of the model, and fp32 for the few that overflow in fp16."""
    import torch

    def of(part: str, name: str) -> torch.dtype:
        overflows = (kind.vae_in_fp32 and part == "vae") or (part == kind.t5 and name.endswith(".wo.weight"))
        return torch.float32 if dtype == torch.float16 and overflows else dtype

    return of


@contextmanager
def _quiet() -> Iterator[None]:
    """Import diffusers offline, and silence it: no progress bars, no warnings about settings that we set on purpose."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub on import
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
