"""A checkpoint -> live diffusers modules, without network access or a second copy in memory.

The modules are built empty (meta device) from the settings of a diffusers folder, the keys and shapes of the file are
checked against them, and only then is memory taken and filled, tensor by tensor, from the mapped file. Parameters never
share memory with the file's tensors, whatever the dtypes: merging into them cannot change the models being merged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.config_trees import SCHEDULER, Settings, absent_parts, settings_for
from bayes_merger.checkpoints.diffusers_folder import has_weights, open_folder
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.checkpoints.naming import INDEX, canonical_keys
from bayes_merger.checkpoints.prediction import ZERO_SNR, edm_mark, prediction_metadata
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging.pipelines.keymap import Home, LiveViews, homes, state_of
from bayes_merger.imaging.pipelines.layout import Dtypes, LiveMemory
from bayes_merger.imaging.pipelines.schedulers import PREDICTIONS
from bayes_merger.imaging.pipelines.t5 import open_t5, t5_config

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

PART_NAMES = {
    "unet": "UNet",
    "transformer": "transformer",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "text_encoder_3": "third text encoder",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model's live modules, and what its files state about it.

    Attributes:
        architecture: its name, as `checkpoints` has it.
        modules: diffusers' name of a part to its module.
        settings: the JSON files of a diffusers folder of such a model.
        memory: of the modules.
        views: on them.
        merged: key of the naming table to the model's own key and shape, of all that a merge writes.
        merged_parts: the parts that these are of.
        prediction_type: `"epsilon"` or `"v_prediction"`; for a transformer it says nothing.
        prediction_said: whether the user, the files or their folder say so.
        zero_snr: trained down to zero signal-to-noise ratio.
    """

    architecture: str
    modules: Mapping[str, Any]
    settings: Settings
    memory: LiveMemory
    views: LiveViews
    merged: Mapping[str, tuple[str, tuple[int, ...]]]
    merged_parts: Collection[str]
    prediction_type: str
    prediction_said: bool
    zero_snr: bool

    def destinations(self) -> dict[str, Tensor]:
        """The model's own keys -> views on the live parameters, in the shapes that they have in its file.

        Raises:
            ConfigError: what is written would be lost.
        """
        views = self.views.now()
        return {own: views[key].view(shape) for key, (own, shape) in self.merged.items()}

    def move(self, part: str, device: torch.device | str) -> None:
        """Move a part to another device; the memory that it had is free, as soon as nobody else has views on it."""
        self.views.forget()
        self.memory.move(part, device)


@dataclass(frozen=True)
class Source:
    """A model that some of the parts are read from.

    Attributes:
        model: it.
        own: canonical key to its own.
        merged: whether a merge writes these parts.
    """

    model: Checkpoint
    own: Mapping[str, str]
    merged: bool

    @classmethod
    def of(cls, model: Checkpoint, *, merged: bool = False) -> Source:
        """A model, from the header of its file."""
        own = {canonical: key for key, canonical in canonical_keys(model.shapes.keys()).items()}
        return cls(model, own, merged)

    @property
    def shapes(self) -> Shapes:
        """Under canonical keys."""
        return {key: self.model.shapes[own] for key, own in self.own.items()}


def load_model(
    base: Checkpoint,
    *,
    config: Path | None = None,
    vae: Checkpoint | None = None,
    t5: tuple[str, Path] | None = None,
    optional: Collection[str] = (),
    device: torch.device,
    dtype_of: Dtypes,
    prediction_type: str | None = None,
) -> LoadedModel:
    """The modules of a checkpoint, filled and ready.

    Args:
        base: the checkpoint, which stays open.
        config: a diffusers folder with its settings, and with the weights of parts that it lacks.
        vae: the VAE of the merges, where the checkpoint has none.
        t5: the part that is a T5, and a file or folder to read it from.
        optional: parts that may be missing.
        device: where the modules live.
        dtype_of: what in.
        prediction_type: `"epsilon"` or `"v_prediction"` where the files' marks do not count.

    Raises:
        CheckpointError: a file cannot be read, lacks tensors, or does not fit the config.
        ConfigError: the config tree is not valid.
    """
    name = base.architecture.name
    with ExitStack() as opened:
        sources = _sources(base, config, vae, t5, opened)
        shapes = {key: shape for source in reversed(sources) for key, shape in source.shapes.items()}
        _check_parts(base, name, shapes, optional)
        settings = settings_for(config, name, shapes, {**base.metadata, **prediction_metadata(base.prediction)})
        settings = _with_t5(settings, t5, shapes)
        prediction, zero_snr = prediction_of(base, prediction_type, settings)
        modules = {part: module.eval() for part, module in empty_networks(settings).items()}
        expected = homes({part: state_of(module) for part, module in modules.items()})
        places = places_of(expected, name, sources)
        check_shapes(base.path, places, expected, str(config or "the official config"))
        memory = LiveMemory(modules, device, dtype_of)
        views = LiveViews(modules, memory.copies)
        live = views.now()
        for key, (source, own) in places.items():
            live[key].copy_(source.model.tensor(own).view(live[key].shape))
        memory.settle()
    merged = {key: (own, source.model.shapes[own]) for key, (source, own) in places.items() if source.merged}
    parts = {expected[key].part for key in merged}
    said = (
        prediction_type in PREDICTIONS
        or bool(base.prediction)
        or (config is not None and (config / SCHEDULER).is_file())
    )
    return LoadedModel(name, modules, settings, memory, views, merged, parts, prediction, said, zero_snr)


def _sources(
    base: Checkpoint, config: Path | None, vae: Checkpoint | None, t5: tuple[str, Path] | None, opened: ExitStack
) -> list[Source]:
    """The checkpoint, and what else parts are read from; the first that has a part counts."""
    sources = [Source.of(base, merged=True)]
    lacking = absent_parts(base.architecture.name, sources[0].shapes)
    if vae is not None and "vae" in lacking:
        sources.append(Source.of(vae, merged=True))
    if t5 is not None:
        if t5[0] not in lacking:
            raise ConfigError(f"generator.text_encoder_3: {base.path} has a T5 of its own; leave the setting out")
        sources.append(Source.of(opened.enter_context(open_t5(t5[1]))))
    if lacking and config is not None and config != base.path and has_weights(config):
        sources.append(Source.of(opened.enter_context(open_folder(config))))
    return sources


def _check_parts(base: Checkpoint, name: str, shapes: Shapes, optional: Collection[str]) -> None:
    lacking = [part for part in absent_parts(name, shapes) if part not in optional]
    if not lacking:
        return
    ways = "generator.config=FOLDER, a whole diffusers folder of such a model"
    if lacking == ["vae"]:
        ways = f"vae=FILE, or {ways}"
    raise CheckpointError(
        f"{base.path}: has no {' and no '.join(PART_NAMES[part] for part in lacking)}, which drawing needs; give a "
        f"complete {base.architecture.title} checkpoint, or {ways}"
    )


def _with_t5(settings: Settings, t5: tuple[str, Path] | None, shapes: Shapes) -> Settings:
    """The settings with those of a T5 that no tree describes."""
    if t5 is None:
        return settings
    index = settings[INDEX] | {t5[0]: ["transformers", "T5EncoderModel"]}
    return settings | {INDEX: index, f"{t5[0]}/config.json": t5_config(shapes)}


def places_of(expected: Mapping[str, Home], name: str, sources: Sequence[Source]) -> dict[str, tuple[Source, str]]:
    """Key of the naming table -> the first source that has its part, and its key there; none where it lacks it.

    Args:
        expected: what the modules need.
        name: of the architecture.
        sources: of which one has each part.
    """
    absent = [(source, absent_parts(name, source.shapes)) for source in sources]
    canonical = canonical_keys(expected.keys())
    found = {}
    for key, home in expected.items():
        source = next(source for source, lacking in absent if home.part not in lacking)
        if canonical[key] in source.own:
            found[key] = source, source.own[canonical[key]]
    return found


def check_shapes(
    path: Path, places: Mapping[str, tuple[Source, str]], expected: Mapping[str, Home], config: str
) -> None:
    """Compare the files' keys and shapes with what the modules need.

    Raises:
        CheckpointError: one line that names the first tensor missing or misshapen.
    """
    missing = [key for key in expected if key not in places]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(expected)} tensors are missing, first {missing[0]}; "
            f"the file is incomplete, or not built as {config} says; generator.config=FOLDER is for unusual sizes"
        )
    found = {key: source.model.shapes[own] for key, (source, own) in places.items()}
    wrong = [key for key, home in expected.items() if not _same_shape(found[key], home.shape)]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{path}: {key} has shape {found[key]}, {config} says {expected[key].shape} ({len(wrong)} tensors differ); "
            "give generator.config=FOLDER, a diffusers config tree, for a model of unusual size"
        )


def prediction_of(source: Checkpoint, given: str | None, settings: Settings) -> tuple[str, bool]:
    """What the model predicts and whether it has zero terminal SNR.

    The given setting, else what the settings say, which is what the file's marks say if it has any.

    Raises:
        ConfigError: a prediction type that does not exist.
        CheckpointError: marks of a model that the schedulers here cannot draw.
    """
    if given not in (None, "auto", *PREDICTIONS):
        raise ConfigError(f"prediction_type: {given!r} is not a prediction type; use {', '.join(PREDICTIONS)}")
    if odd := edm_mark(source.shapes):
        raise CheckpointError(f"{source.path}: the key {odd} marks an EDM model, which cannot be drawn here")
    prediction = str(settings[SCHEDULER].get("prediction_type", "epsilon"))
    if given in PREDICTIONS:
        prediction = given
    if prediction not in PREDICTIONS:
        raise ConfigError(f"{SCHEDULER}: prediction_type {prediction!r} is not one of {', '.join(PREDICTIONS)}")
    return prediction, prediction == "v_prediction" and ZERO_SNR in source.shapes


def _same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Equal, but for the 1x1 of the VAE's attention, which some files have dropped."""
    return found == expected or (len(expected) == 4 and expected[2:] == (1, 1) and found == expected[:2])
