"""What happens to each tensor of a merge, from the files' headers alone and whatever the weights will be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bayes_merger.checkpoints.architectures import TEXT_SLOTS, divided
from bayes_merger.checkpoints.blocks import Architecture, Place
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.header import FLOATS, ITEM_SIZES
from bayes_merger.checkpoints.kinds import describe_input
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging.method import MethodSpec, Numbers
from bayes_merger.merging.models.ema import averages
from bayes_merger.merging.models.vae import vae_keys
from bayes_merger.merging.plan.predictions import prediction_of_merge
from bayes_merger.merging.recipe.elements import ElementRule, parse_rules, rules_of_keys
from bayes_merger.merging.recipe.postprocess import clipped
from bayes_merger.merging.recipe.settings import KEEP_EMA, VAE_FILE, MergeSettings
from bayes_merger.merging.saliency.coverage import coverage
from bayes_merger.merging.saliency.opening import open_tensor_weights
from bayes_merger.merging.saliency.sources import TensorWeights
from bayes_merger.merging.saliency.weights import Weights

Checkpoints = Mapping[str, Checkpoint]

_ABSENT = "not in"
VAE = "vae"  # the name of the file whose VAE is taken, among the models
LATENT = 4  # channels of the latent image, which come first in every U-Net
_FIRST_CONVOLUTION = "input_blocks.0.0.weight"
_FIRST_LAYER = "img_in.weight"  # of Flux

DTYPES: Mapping[str, str] = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}
"""What a recipe calls a dtype -> what files call it."""

SMALL_DTYPES: Mapping[str, str] = {"fp8_e4m3fn": "F8_E4M3", "fp8_e5m2": "F8_E5M2"}
"""Those of files only: for the matrices and convolutions of the U-Net, what is beside them is fp16, as UIs expect."""


@dataclass(frozen=True)
class PlanItem:
    """What happens to one tensor.

    Attributes:
        key: its name.
        action: ``merge``, ``keep`` (model A's), ``copy`` (another model's) or ``drop``.
        source: whose tensor is kept or copied.
        place: its block, or the special rule it falls under.
        why: for people.
        shape: of the result.
        dtype: of the result, as files name it.
        rules: the elemental rules that hold for it, in order; the last one that gives a weight decides it.
        common: input channels that are merged where the models have different numbers of them, else 0.
    """

    key: str
    action: str
    source: str
    place: Place
    why: str
    shape: tuple[int, ...]
    dtype: str
    rules: tuple[ElementRule, ...] = ()
    common: int = 0

    @property
    def merged(self) -> tuple[int, ...]:
        """The shape of what is merged of it: without the channels that not all models have."""
        return (self.shape[0], self.common, *self.shape[2:]) if self.common else self.shape

    @property
    def block(self) -> str | None:
        """The block whose weights it takes, if it takes any."""
        return self.place.block if self.action == "merge" else None


@dataclass(frozen=True)
class MergePlan:
    """What happens to every tensor of a merge, known from the files' headers alone.

    Attributes:
        items: one per key, in the order of model A's file.
        method: the merge method.
        architecture: of all models.
        dtype: of the result, ``fp16``, ``bf16`` or ``fp32``.
        missing: keys kept from A because another model lacks them.
        remarks: what is allowed but worth knowing, one line each; `notes` has those on activations too.
        rules: all elemental rules.
        prediction: what the result predicts, a kind of ``checkpoints.prediction``; empty where no model says it.
        tensor_weights: what files of activations make of the weights, if there are any.
        step: the name of the step that this is; empty of a merge in one.
    """

    items: tuple[PlanItem, ...]
    method: MethodSpec
    architecture: Architecture
    dtype: str
    missing: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    rules: tuple[ElementRule, ...] = ()
    prediction: str = ""
    tensor_weights: TensorWeights | None = None
    step: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person may want to know, one line each; that of activations is computed only if somebody asks."""
        merged = (item for item in self.items if item.action == "merge")
        every = (*self.remarks, *(coverage(self.tensor_weights, merged) if self.tensor_weights else ()))
        own = f"step {self.step}: " if self.step else ""
        return tuple(note if note.startswith("step ") else f"{own}{note}" for note in every)  # of a step before it

    def weights_of(self, item: PlanItem, numbers: Numbers) -> Weights:
        """A merged tensor's weights as the method takes them, from the numbers of its block and of elemental rules."""
        if self.tensor_weights is None:
            return numbers
        return self.tensor_weights.weights(item.key, item.merged, numbers)

    def varies(self, item: PlanItem) -> bool:
        """Whether a tensor has weights that differ from number to number, so that it is merged by itself."""
        return self.tensor_weights is not None and self.tensor_weights.covers(item.key)

    @property
    def written(self) -> tuple[PlanItem, ...]:
        """The items that put a tensor into the result."""
        return tuple(item for item in self.items if item.action != "drop")


def plan_structure(spec: MethodSpec, checkpoints: Checkpoints, settings: MergeSettings) -> MergePlan:
    """The plan as far as it does not depend on weights.

    Args:
        spec: the settings' method, bound to its models and options.
        checkpoints: model name to what it is, file or computed.
        settings: of the merge.

    Raises:
        ConfigError: a setting that is unknown; elemental rules or blocks that make no sense for these models.
        CheckpointError: models that do not fit together.
    """
    settings.check()
    vae, ema = settings.vae, settings.ema
    files = checkpoints
    checkpoints = {name: model for name, model in files.items() if name != "vae" or vae != VAE_FILE}
    _check_models(spec, files, checkpoints, vae)
    averaged = averages(checkpoints["a"]) if ema == KEEP_EMA else {}
    if ema == KEEP_EMA and not averaged:
        raise ConfigError(f"ema: model A ({checkpoints['a'].path.name}) has no averages to keep; leave it out")
    spec = clipped(spec, settings.clip)
    architecture = divided(_common_architecture(checkpoints), settings.blocks, checkpoints["a"].shapes)
    rules = parse_rules(settings.elements, architecture, tuple(spec.weights))
    prediction = prediction_of_merge(spec, checkpoints)
    name = resolve_dtype(settings.dtype, checkpoints["a"])
    _check_vae(vae, checkpoints)
    router = _Router(spec, files, architecture, {**DTYPES, **SMALL_DTYPES}[name], vae, averaged, ema)
    read = (*spec.models, *([VAE] if vae == VAE_FILE else []))
    items = tuple(router.item(key) for key in dict.fromkeys(k for m in read for k in files[m].shapes))
    if settings.channels == "pad":
        items = tuple(_padded(item, checkpoints) for item in items)
    _check_shapes(items, checkpoints)
    missing = tuple(item.key for item in items if item.why.startswith(_ABSENT))
    merged = [item.key for item in items if item.action == "merge" and item.key not in averaged]
    held = rules_of_keys(rules, merged, architecture, settings.compat)
    held |= {key: held[own] for key, own in averaged.items() if own in held}
    items = tuple(replace(item, rules=held[item.key]) if item.key in held else item for item in items)
    notes = [note for model in spec.models for note in checkpoints[model].notes]
    notes += [*_notes_on_files(spec, checkpoints), *_notes(items, missing, architecture, vae)]
    tensors = open_tensor_weights(spec, settings.saliency, settings.act, checkpoints, averaged)
    if tensors is not None:
        spec = replace(spec, between=spec.between and not settings.act)
        notes += tensors.notes
    return MergePlan(items, spec, architecture, name, missing, tuple(notes), rules, prediction, tensors)


def _check_models(spec: MethodSpec, files: Checkpoints, models: Checkpoints, vae: str) -> None:
    if set(models) != set(spec.models):
        raise ConfigError(f"{spec.name} takes models {names_of(spec.models)}, and {names_of(models)} are open")
    if vae not in (*spec.models, "merge", *([VAE_FILE] if "vae" in files else [])):
        raise ConfigError(f"vae: '{vae}' is unknown; give {', '.join(spec.models)}, merge or the name of a file")


def _check_vae(vae: str, models: Checkpoints) -> None:
    """Refuse to take the VAE of a model that has none, or parts of one: what is written would not draw."""
    if vae not in models or vae == "a":
        return
    model = models[vae]
    found, wanted = vae_keys(model.shapes), vae_keys(models["a"].shapes)
    shown = f"model {vae.upper()} ({model.path.name})"
    if not found:
        raise ConfigError(f"vae: {shown} has no VAE; leave it out, or give a file that has one")
    if lacking := [key for key in wanted if key not in model.shapes]:
        raise CheckpointError(f"vae: the VAE of {shown} lacks '{lacking[0]}', which model A's has; give another one")


def _notes_on_files(spec: MethodSpec, models: Checkpoints) -> list[str]:
    """That a file is two models of a merge: of three it leaves differences of nothing, which may be a slip."""
    files: dict[Path, list[str]] = {}
    for name in spec.models:
        if not (models[name].derived or models[name].reordered):
            files.setdefault(models[name].path, []).append(name.upper())
    return [f"models {' and '.join(names)} are one file, {path.name}" for path, names in files.items() if names[1:]]


def _notes(items: Iterable[PlanItem], missing: Sequence[str], architecture: Architecture, vae: str) -> list[str]:
    """What a person should know of the tensors that are not simply merged."""
    items = list(items)
    notes = [f"kept from A, since another model lacks them: {listed(missing)}"] if missing else []
    lost = [item.key for item in items if item.action == "drop" and item.place.role in ("block", "vae")]
    if lost:
        notes.append(f"left out, since model {_owner_of(lost[0], architecture, vae)} lacks them: {listed(lost)}")
    return notes + [
        f"{item.key}: the first {item.common} input channels are merged, the others are model {item.source.upper()}'s"
        for item in items
        if item.common
    ]


def _owner_of(key: str, architecture: Architecture, vae: str) -> str:
    """The model without which a tensor is not written."""
    return vae.upper() if architecture.place(key).role == "vae" and vae != "merge" else "A"


@dataclass(frozen=True)
class _Router:
    spec: MethodSpec
    checkpoints: Checkpoints
    architecture: Architecture
    dtype: str
    vae: str
    averages: Mapping[str, str]
    ema: str

    def item(self, key: str) -> PlanItem:
        place = self.architecture.place(self.averages.get(key, key))
        action, source, why = self._route(key, place)
        owner = self.checkpoints[source]
        shape, own = owner.shapes[key], owner.dtypes[key]
        return PlanItem(key, action, source, place, why, shape, self._dtype_of(key, place, own, shape))

    def _dtype_of(self, key: str, place: Place, own: str, shape: tuple[int, ...]) -> str:
        if place.role == "position_ids":
            return "I64"
        if own not in FLOATS or place.role == "marker":
            return own
        if self.dtype not in SMALL_DTYPES.values():
            return self.dtype
        own_place = (self.architecture.whole or self.architecture).place(self.averages.get(key, key))
        network = own_place.role == "block" and own_place.slot not in TEXT_SLOTS
        return self.dtype if network and len(shape) >= 2 else "F16"

    def _route(self, key: str, place: Place) -> tuple[str, str, str]:
        owners = [name for name in self.spec.models if key in self.checkpoints[name].shapes]
        if self.vae == VAE_FILE and (place.role == "vae" or not owners):
            if key in self.checkpoints[VAE].shapes:
                return "copy", VAE, f"the VAE is that of {self.checkpoints[VAE].path.name}"
            return "drop", owners[0], f"the VAE is that of {self.checkpoints[VAE].path.name}, which has no such tensor"
        first = owners[0]
        if place.role == "ema" and self.ema == KEEP_EMA:
            return ("keep" if first == "a" else "drop"), first, "kept beside the averages"
        if place.role in ("ema", "schedule"):
            return "drop", first, "left out of merged files, nothing reads it"
        if place.role == "marker" and self.spec.adds_difference and first != "a":
            return "drop", first, "marks how another model than A was trained"
        if place.role == "marker":
            return ("keep" if first == "a" else "copy"), first, "marks how the model was trained"
        if place.role == "vae" and self.vae != "merge":
            if self.vae not in owners:
                return "drop", first, f"the VAE is model {self.vae.upper()}'s, which has no such tensor"
            return ("keep" if self.vae == "a" else "copy"), self.vae, f"the VAE is model {self.vae.upper()}'s"
        if first != "a":
            return "drop", first, "model A has no such tensor"
        if place.role == "position_ids":
            return "keep", "a", "position ids are counted anew"
        if place.role == "other":
            return "keep", "a", f"not a tensor of {self.architecture.name}"
        if any(self.checkpoints[name].dtypes[key] not in FLOATS for name in owners):
            return "keep", "a", "whole numbers are not merged"
        absent = [name for name in self.spec.models if name not in owners]
        if absent:
            return "keep", "a", f"{_ABSENT} {names_of(absent).upper()}"
        return "merge", "a", place.slot or place.block or ""


def names_of(names: Iterable[str]) -> str:
    """Model names in order, for an error."""
    return ", ".join(sorted(names)) or "none"


def _common_architecture(checkpoints: Checkpoints) -> Architecture:
    kinds = {checkpoint.kind.name for checkpoint in checkpoints.values()}
    if len(kinds) > 1:
        each = "; ".join(f"{name.upper()} ({c.path.name}) is {c.kind.words}" for name, c in checkpoints.items())
        raise CheckpointError(f"models of different kinds cannot be merged: {each}")
    return next(iter([checkpoint.architecture for checkpoint in checkpoints.values()]))  # each refuses what is strange


def _padded(item: PlanItem, checkpoints: Checkpoints) -> PlanItem:
    """The item of a first convolution that takes the input channels of the widest model; others as they are.

    Only one kind of further channels may be there: those of inpainting and of pix2pix mean different things.
    """
    if item.action != "merge" or not item.key.endswith(_FIRST_CONVOLUTION):
        return item
    shapes = {name: checkpoint.shapes[item.key] for name, checkpoint in checkpoints.items()}
    alike = {(len(shape), shape[:1], shape[2:]) for shape in shapes.values()}
    widths = sorted({shape[1] for shape in shapes.values() if len(shape) == 4})
    if len(alike) > 1 or len(widths) != 2 or widths[0] != LATENT:
        return item
    wide = next(name for name, shape in shapes.items() if shape[1] == widths[1])
    return replace(item, source=wide, shape=shapes[wide], common=widths[0])


def _check_shapes(items: Iterable[PlanItem], checkpoints: Checkpoints) -> None:
    wrong = [
        (item, name) for item in items if item.action == "merge" and not item.common
        for name in checkpoints if checkpoints[name].shapes[item.key] != item.shape
    ]  # fmt: skip
    if not wrong:
        return
    (item, name), key = wrong[0], wrong[0][0].key
    a, other = checkpoints["a"], checkpoints[name]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    sorts = [(s, describe_input(c.shapes)) for s, c in (("A", a), (name.upper(), other))]
    hint = "".join(f"; {model} is made for {sort}" for model, sort in sorts if sort)
    widths = {checkpoint.shapes[key][1:2] for checkpoint in checkpoints.values()}
    if key.endswith(_FIRST_CONVOLUTION) and len(widths) == 2 and (LATENT,) in widths:
        hint += "; channels=pad merges the channels that both have"
    if key.endswith(_FIRST_LAYER):
        hint += "; channels=pad is for U-Nets only"
    if item.place.slot in TEXT_SLOTS:
        hint += f"; their text encoders differ: to keep A's, give a copy of {name.upper()} without its text encoder"
    raise CheckpointError(
        f"shapes differ: '{key}' is {_shape(a, key)} in A ({a.path.name}) "
        f"and {_shape(other, key)} in {name.upper()} ({other.path.name}){more}{hint}"
    )


def _shape(checkpoint: Checkpoint, key: str) -> str:
    return str(list(checkpoint.shapes[key]))


def resolve_dtype(dtype: str | None, checkpoint: Checkpoint) -> str:
    """The dtype of a merge: the one asked for, or that of most bytes of model A.

    Raises:
        ConfigError: unknown, or results are not written in model A's.
    """
    if dtype not in (None, "auto"):
        if dtype not in DTYPES and dtype not in SMALL_DTYPES:
            raise ConfigError(f"dtype: '{dtype}' is unknown; give {', '.join((*DTYPES, *SMALL_DTYPES))} or auto")
        return str(dtype)
    sizes: Counter[str] = Counter()
    for key, name in checkpoint.stored.items():
        if name in FLOATS:
            sizes[name] += math.prod(checkpoint.shapes[key]) * ITEM_SIZES[name]
    own = max(sizes, key=lambda name: sizes[name], default="F16")
    found = next((name for name, file_name in DTYPES.items() if file_name == own), None)
    if found is None:
        small = next((name for name, file_name in SMALL_DTYPES.items() if file_name == own), "")
        known = ", ".join([*DTYPES, *([small] if small else [])])
        raise ConfigError(f"dtype: model A ({checkpoint.path.name}) is in {own}; give one of {known}")
    return found


def listed(names: Iterable[str]) -> str:
    """The first few names and how many more there are."""
    every = list(names)
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return ", ".join(every[:3]) + more
