"""The files of activations that a merge names, opened and checked: whether they fit its models and each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bayes_merger.checkpoints.activations.names import measured_alike
from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.single_file import open_stored
from bayes_merger.errors import CheckpointError, ConfigError, printable
from bayes_merger.merging.method import MethodSpec, method_spec
from bayes_merger.merging.models.lora import is_lora
from bayes_merger.merging.saliency.settings import CHOICES, FILES, MOVED, STRENGTH, WINNER, Reference
from bayes_merger.merging.saliency.sources import STATISTICS, TensorWeights, found_in
from bayes_merger.paths import user_path


def open_tensor_weights(
    spec: MethodSpec,
    saliency: Mapping[str, Any],
    act: Mapping[str, Reference],
    models: Mapping[str, Checkpoint],
    names: Mapping[str, str],
) -> TensorWeights | None:
    """The files that a merge's settings name; `None` where they name none.

    Args:
        spec: the method, bound to its models.
        saliency: the setting.
        act: the setting.
        models: model name to opened file.
        names: of tensors that are treated as others are, to the names of those.

    Raises:
        ConfigError: a weight that cannot be a tensor, or a file that does not say what is asked of it.
        CheckpointError: a file that cannot be used, or belongs to another model.
    """
    if not saliency and not act:
        return None
    for weight in (*([MOVED] if saliency else []), *act):
        _check_weight(spec, weight)
    if saliency and MOVED in act:
        raise ConfigError(f"act.{MOVED}: saliency moves {MOVED} already; leave one of the two out")
    if spec.selects and saliency.get("takes") == WINNER:
        raise ConfigError(f"saliency.takes: {spec.name} gives every number to one model already; leave it out")
    by = saliency.get("by", CHOICES["by"][0])
    files = {name: _opened(f"saliency.{name}", saliency[name], models, by) for name in FILES if name in saliency}
    for name, file in files.items():
        _check_model(f"saliency.{name}", file, models.get(name))
    _check_pair(files, models)
    acts = {weight: _opened(f"act.{weight}", reference, models, by) for weight, reference in act.items()}
    notes = [
        *_notes_on_loras(files, models),
        *(note for file in acts.values() for note in _notes_on_model(file, models)),
    ]
    notes += [note for file in (*files.values(), *acts.values()) for note in _notes_on_names(file, models)]
    bounds = {weight: (spec.weights[weight].least, spec.weights[weight].most) for weight in act}
    wins = saliency.get("takes") == WINNER
    centred = saliency.get("centre", CHOICES["centre"][wins]) == "key"
    passed = STRENGTH in method_spec(spec.name).weights
    return TensorWeights(files, by, centred, wins, acts, passed, bounds, names, tuple(notes))


def seen_files(named: Iterable[tuple[str, Reference]]) -> tuple[Checkpoint, ...]:
    """The files of activations that a recipe names, closed, to see at the end of a work that they are still the same.

    Args:
        named: what the user calls each, and the file.

    Raises:
        CheckpointError: one cannot be opened.
    """
    files = tuple(open_stored(user_path(file["path"])) for _, file in named)
    for file in files:
        file.close()
    return files


def _check_weight(spec: MethodSpec, weight: str) -> None:
    if weight not in spec.weights:
        raise ConfigError(f"act.{weight}: {spec.name} has no weight '{weight}'; it has {', '.join(spec.weights)}")
    if weight not in spec.tensors:
        able = ", ".join(name for name in spec.weights if name in spec.tensors)
        way = f"give it to {able}" if able else "make it a step, and go from A to its result by weighted_sum"
        raise ConfigError(f"{spec.name}'s {weight} is one number for a whole tensor, which no saliency divides; {way}")


def _opened(name: str, reference: Reference, models: Mapping[str, Checkpoint], by: str) -> Sidecar:
    path = user_path(reference["path"])
    try:
        file = Sidecar(path)
        if reference["sha256"] and file.sha256 != reference["sha256"]:
            raise CheckpointError(
                f"{file.path} is not the recipe's file (SHA-256 {file.sha256[:10]}, not {reference['sha256'][:10]})"
            )
        _check_fits(file, models, by)
    except CheckpointError as error:
        raise type(error)(str(error), subject=name) from error
    return file


def _check_fits(file: Sidecar, models: Mapping[str, Checkpoint], by: str) -> None:
    model = models["a"]
    if file.about is not None and file.about.architecture != model.architecture.name:
        found = printable(file.about.architecture)
        raise CheckpointError(f"{file.path}: measured on {found}, and the models are {model.architecture.name}")
    known = [key for key in file.statistics if key in model.shapes]
    if not known:
        raise CheckpointError(
            f"{file.path}: none of its weights is in model A ({model.path.name}); {_called(file, model)}"
        )
    if file.about is not None and not any(found_in(file, key, by) for key in known):
        if by == CHOICES["by"][3]:
            raise CheckpointError(f"{file.path}: is measured, not plain; leave  by=plain  out")
        way = {
            "response": "draw with cfg_scale above 1, or, as for Flux, give  saliency.by=activation",
            "gradient": "measure it with --gradients",
        }.get(by, "")
        raise CheckpointError(f"{file.path}: holds no {by}; {way or 'measure it again'}")
    for key in known:
        shapes = [one.shapes[key] for one in models.values() if key in one.shapes]  # of inpainting models others
        faults = [_fault_of_shape(file, key, shape, by) for shape in dict.fromkeys(shapes)]
        if all(faults):
            raise CheckpointError(f"{file.path}: '{printable(key)}' {faults[0]}")


def _called(file: Sidecar, model: Checkpoint) -> str:
    """What to do about names that a model does not have."""
    own = next(iter(file.statistics))
    like = next((key for key in model.shapes if own in key and key.endswith("weight")), "")
    return f"'{printable(own)}' is called '{printable(like)}' there" if like else "measure it again"


def _fault_of_shape(file: Sidecar, key: str, shape: tuple[int, ...], by: str) -> str:
    """Why what a file says of a weight does not fit one of this shape; empty where it does."""
    if file.about is None:
        own = file.shape(key)
        fits = len(own) == len(shape) and all(size in (1, wanted) for size, wanted in zip(own, shape, strict=True))
        return "" if fits or math.prod(own) == 1 else f"is {list(own)}, which does not fit {list(shape)}"
    if not found_in(file, key, by):
        return ""
    rows, columns = STATISTICS[by]
    found = [file.channels(key, statistic) for statistic in (rows, columns) if statistic]
    wanted = [size for size, statistic in zip(shape, (rows, columns), strict=False) if statistic]
    return f"has {found} channels, the weight {list(shape)}" if len(shape) < 2 or found != wanted else ""


def _check_model(name: str, file: Sidecar, model: Checkpoint | None) -> None:
    if model is not None and model.reordered:
        raise CheckpointError(
            f"{file.path}: belongs to {model.path.name} as it is, and rebasin puts its neurons in another order; write "
            "that model once with  bayes-merger rebasin  and measure it",
            subject=name,
        )
    if file.about is None or model is None or model.derived:
        return
    if file.about.model != model.sha256():
        raise CheckpointError(
            f"{file.path}: measured on another model ({printable(file.about.model[:10])}), not on "
            f"{model.path.name} ({model.sha256()[:10]}); measure that one",
            subject=name,
        )


def _notes_on_loras(files: Mapping[str, Sidecar], models: Mapping[str, Checkpoint]) -> list[str]:
    return [
        f"{file.path.name} is taken to be measured on model A with {models[name].path.name}, merged at alpha 1: what a "
        "LoRA does is in no file that could be compared"
        for name, file in files.items()
        if file.about is not None and name in models and is_lora(models[name])
    ]


def _notes_on_model(file: Sidecar, models: Mapping[str, Checkpoint]) -> list[str]:
    """That a weight is multiplied by what was measured on none of the models, which may be meant."""
    every = list(models.values())
    if file.about is None or any(model.derived for model in every):
        return []
    if file.about.model in [model.sha256() for model in every]:
        return []
    return [f"{file.path.name} was measured on none of these models, but on {printable(file.about.model[:10])}"]


def _notes_on_names(file: Sidecar, models: Mapping[str, Checkpoint]) -> list[str]:
    unknown = [key for key in file.statistics if not any(key in model.shapes for model in models.values())]
    if not unknown:
        return []
    of = len(file.statistics)
    return [f"{len(unknown)} of {of} weights in {file.path.name} are in no model, such as '{printable(unknown[0])}'"]


def _check_pair(files: Mapping[str, Sidecar], models: Mapping[str, Checkpoint]) -> None:
    """Refuse two files that cannot be compared."""
    if len(files) < 2:
        return
    one, other = (files[name] for name in FILES)
    if one.about is None or other.about is None:
        if (one.about is None) != (other.about is None):
            raise ConfigError("saliency: one file is measured and the other plain; give two of a kind")
        return
    if one.about.model == other.about.model and any(models[name].derived for name in FILES if name in models):
        raise ConfigError(
            f"saliency: {one.path.name} and {other.path.name} were measured on the same model "
            f"({printable(one.about.model[:10])}), so they differ nowhere; measure A with the LoRA, merged at alpha 1"
        )
    if not measured_alike(one.about, other.about):
        raise ConfigError(
            f"saliency: {one.path.name} and {other.path.name} were not measured alike; give both the same payloads, "
            "seeds, bands and settings"
        )
