"""A single-file checkpoint -> live diffusers modules, without network access or a second copy in memory.

The modules are built empty (meta device) from a diffusers config tree, the file's keys and shapes are checked against
them, and only then is memory taken and filled, tensor by tensor, from the mapped file. Parameters never share memory
with the file's tensors, whatever the dtypes: merging into them cannot change the models being merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.prediction import ZERO_SNR, V, edm_mark
from bayes_merger.documents import read_document
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging.pipelines.keymap import TEXT, UNET, VAE, to_single_file
from bayes_merger.imaging.pipelines.schedulers import PREDICTIONS

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

SD15 = Path(__file__).parents[2] / "checkpoints" / "configs" / "sd15"
_PARTS = {UNET: "UNet", VAE: "VAE", TEXT: "text encoder"}


@dataclass(frozen=True)
class LoadedModules:
    """The three live models, and what the file states about them.

    Attributes:
        unet: `UNet2DConditionModel`.
        vae: `AutoencoderKL`.
        text_encoder: `CLIPTextModel`.
        shapes: the file's shape of each mapped key.
        prediction_type: `"epsilon"` or `"v_prediction"`.
        zero_snr: trained down to zero signal-to-noise ratio.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    shapes: Mapping[str, tuple[int, ...]]
    prediction_type: str
    zero_snr: bool


def load_modules(
    model: Path | Checkpoint,
    *,
    config: Path | None,
    device: torch.device,
    dtype: torch.dtype,
    prediction_type: str | None,
) -> LoadedModules:
    """The models of a checkpoint, a file or one that is open, filled and ready.

    Raises:
        CheckpointError: the file cannot be read, lacks tensors, or does not fit the config.
        ConfigError: the config tree is not valid.
    """
    tree = SD15 if config is None else config
    modules = empty_modules(tree)
    expected = to_single_file(**{part: module.state_dict() for part, module in modules.items()})
    with open_checkpoint(model) if isinstance(model, Path) else nullcontext(model) as source:
        shapes = source.shapes
        check_shapes(source.path, shapes, {key: tuple(tensor.shape) for key, tensor in expected.items()}, tree)
        prediction, zero_snr = prediction_of(source, prediction_type, config)
        for module in modules.values():
            _materialise(module, device, dtype)
        live = to_single_file(**{part: dict(module.named_parameters()) for part, module in modules.items()})
        for key, parameter in live.items():
            parameter.detach().copy_(source.tensor(key).view(parameter.shape))
    return LoadedModules(**modules, shapes={k: shapes[k] for k in live}, prediction_type=prediction, zero_snr=zero_snr)


def check_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], config: Path
) -> None:
    """Compare a file's keys and shapes with what the config's modules need.

    Raises:
        CheckpointError: one line that names the first tensor missing or misshapen.
    """
    missing = [key for key in expected if key not in found]
    for prefix, part in _PARTS.items():
        lacking = [key for key in missing if key.startswith(prefix)]
        if lacking and len(lacking) == sum(key.startswith(prefix) for key in expected):
            raise CheckpointError(
                f"{path}: has no {part} (no key starts with {prefix}); take a complete SD1.x checkpoint, with UNet, "
                "text encoder and VAE in one file"
            )
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(expected)} tensors are missing, first {missing[0]}; "
            f"the file is incomplete, or not built as {config} says"
        )
    wrong = [key for key, shape in expected.items() if not _same_shape(found[key], shape)]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{path}: {key} has shape {found[key]}, {config} says {expected[key]} ({len(wrong)} tensors differ); "
            "give generator.config=FOLDER, a diffusers config tree, for a model of unusual size"
        )


def prediction_of(source: Checkpoint, given: str | None, config: Path | None = None) -> tuple[str, bool]:
    """What the model predicts and whether it has zero terminal SNR.

    The given setting, else the file's markers, else the scheduler of the given config tree.

    Raises:
        ConfigError: a prediction type that does not exist.
        CheckpointError: markers of a model that the schedulers here cannot draw.
    """
    if given not in (None, "auto", *PREDICTIONS):
        raise ConfigError(f"prediction_type: {given!r} is not a prediction type; use {', '.join(PREDICTIONS)}")
    if odd := edm_mark(source.shapes):
        raise CheckpointError(f"{source.path}: the key {odd} marks an EDM model, which cannot be drawn here")
    prediction = "v_prediction" if source.prediction == V else _prediction_of_tree(config)
    if given in PREDICTIONS:
        prediction = given
    return prediction, prediction == "v_prediction" and ZERO_SNR in source.shapes


def empty_modules(tree: Path) -> dict[str, Any]:
    """The three models on the meta device: shapes, no memory."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel.from_config(_config(tree, "unet")),
            "vae": AutoencoderKL.from_config(_config(tree, "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**_config(tree, "text_encoder"))),
        }
    return {part: module.eval() for part, module in modules.items()}


def _config(tree: Path, part: str, name: str = "config.json") -> dict[str, Any]:
    file = tree / part / name
    if not file.exists():
        raise ConfigError(
            f"{file}: no such file; generator.config is a folder with unet/, vae/ and text_encoder/, each with its "
            "config.json"
        )
    try:
        config = read_document(file)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: expected a table of settings")
    return config


def _prediction_of_tree(tree: Path | None) -> str:
    if tree is None or not (tree / "scheduler" / "scheduler_config.json").is_file():
        return "epsilon"
    prediction: str = _config(tree, "scheduler", "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ConfigError(
            f"{tree}: the scheduler's prediction_type {prediction!r} is not one of {', '.join(PREDICTIONS)}"
        )
    return prediction


def _materialise(module: Module, device: torch.device, dtype: torch.dtype) -> None:
    """Allocate memory for a module on the meta device; parameters stay unfilled."""
    import torch

    for holder in module.modules():
        for name, parameter in list(holder.named_parameters(recurse=False)):
            memory = torch.empty(parameter.shape, dtype=dtype, device=device)
            setattr(holder, name, torch.nn.Parameter(memory, requires_grad=False))
        for name, buffer in list(holder.named_buffers(recurse=False)):
            if name != "position_ids":
                raise NotImplementedError(f"{type(holder).__name__}.{name}: no rule for this buffer")
            setattr(holder, name, torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))


def _same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Equal, but for the 1x1 of the VAE's attention, which some files have dropped."""
    return found == expected or (len(expected) == 4 and expected[2:] == (1, 1) and found == expected[:2])
