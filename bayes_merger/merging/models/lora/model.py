"""A LoRA file on model A, usable like any other model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.header import FLOATS
from bayes_merger.checkpoints.kinds import LORA
from bayes_merger.errors import CheckpointError, printable
from bayes_merger.merging.models.lora.adapter import Adapter, Shape, Situation, Unfit
from bayes_merger.merging.models.lora.adapters import adapter_of, decomposed, ia3_axis
from bayes_merger.merging.models.lora.layers import Layer, find_layer, layers_by_id
from bayes_merger.merging.models.lora.parameters import parameter_of
from bayes_merger.merging.models.lora.strength import ADAPTER_CONFIG, Strengths

if TYPE_CHECKING:
    from torch import Tensor

NO_EFFECT = "do not and have no effect"
"""Wording in the note on a LoRA for layers that model A does not have."""

_STRENGTH = {"alpha", "scale"}
_ABOUT = {*_STRENGTH, "dora_scale", "magnitude", "reshape_weight"}  # parameters that say how another one is applied
_BIASES = {"diff_b", "up_bias"}
_ANY_DTYPE = {*_STRENGTH, "on_input", "reshape_weight"}

_MOST = 50_000  # tensors; real files have a few thousand, and each is looked up


@dataclass(frozen=True)
class Patch:
    """A LoRA's change to one layer.

    Attributes:
        name: of the layer in the LoRA's file.
        layer: of model A.
        parts: parameter (``up``, ``down``, ``alpha``, ``hada_w1_a``, ``diff``, ...) to key in the LoRA's file.
        adapter: what is done to the matrix; ``None`` where only the bias is changed.
        rank: of the adapter's factors, 0 where there is none.
        axis: of PEFT's IA3: 0 for outputs, 1 for inputs.
    """

    name: str
    layer: Layer
    parts: Mapping[str, str]
    adapter: Adapter | None = None
    rank: int = 0
    axis: int = 1

    @property
    def changes_bias(self) -> bool:
        """Whether it changes the bias of the layer, if there is one."""
        return bool(_BIASES & set(self.parts)) or ("ia3_l" in self.parts and self.axis == 0)


class LoraModel(ModelView):
    """Model A with a LoRA applied at full strength, usable like any other model.

    Its tensors that the LoRA changes are computed when they are asked for, in fp32; the others are model A's own.

    Attributes:
        base: model A.
        patches: what it changes.
        unmatched: layers in the LoRA's file that model A does not have.

    Args:
        base: model A, opened; it must stay open.
        lora: the opened LoRA file, which is closed with this.

    Raises:
        CheckpointError: nothing in it fits model A, a layer has another size there, or it is malformed.
    """

    def __init__(self, base: Checkpoint, lora: Checkpoint) -> None:
        base.architecture  # noqa: B018  a LoRA for a LoRA is refused here
        self.base, self._lora = base, lora
        self._strengths = Strengths(lora.path, lora.metadata)
        try:
            found, self.unmatched = _patches(base, lora)
            self.patches = tuple(_checked(patch, lora, base, self._strengths) for patch in found)
            unsaid = [self._says_nothing(patch) for patch in self.patches]
        except CheckpointError as error:
            raise CheckpointError(f"{lora.path}: {error}") from error
        self._unsaid = any(unsaid)
        self._matrices: dict[str, list[Patch]] = {}
        self._biases: dict[str, list[Patch]] = {}
        for patch in self.patches:
            if patch.adapter:
                self._matrices.setdefault(patch.layer.weight, []).append(patch)
            if patch.changes_bias and patch.layer.bias in base.shapes:
                self._biases.setdefault(patch.layer.bias, []).append(patch)
        entries = {k: ("F32" if k in self.changed else base.dtypes[k], shape) for k, shape in base.shapes.items()}
        super().__init__(base, entries=entries)
        self.path, self.metadata = lora.path, lora.metadata
        self.computed = self.derived = True
        self._close = lora.close  # model A belongs to whoever opened it

    def on(self, base: Checkpoint) -> LoraModel:
        """The same LoRA on another model, which must stay open as well as this one."""
        return LoraModel(base, self._lora)

    @property
    def files(self) -> tuple[Path, ...]:
        """The LoRA's."""
        return self._lora.files

    def sha256(self) -> str:
        """That of the LoRA."""
        return self._lora.sha256()

    @property
    def has_parts(self) -> bool:
        """Always false: its tensors are computed."""
        return False

    def release(self) -> None:
        """Release the memory of what was read of both files."""
        self.base.release()
        self._lora.release()

    @property
    def changed(self) -> frozenset[str]:
        """The keys of model A that it changes."""
        return frozenset((*self._matrices, *self._biases))

    @property
    def notes(self) -> tuple[str, ...]:
        """How much of the file fits model A, and whether its strength is known."""
        name = printable(self.path.name)
        note = f"{name} is a LoRA: {len(self.patches)} layers fit model A ({len(self.changed)} tensors)"
        if self.unmatched:
            some = ", ".join(map(printable, self.unmatched[:3])) + (" ..." if len(self.unmatched) > 3 else "")
            note += f", {len(self.unmatched)} {NO_EFFECT}: {some}"
        if not self._unsaid:
            return (note,)
        return (
            note,
            f"{name} does not say its alpha, in {ADAPTER_CONFIG} or elsewhere: it is applied as if alpha were the rank",
        )

    def _says_nothing(self, patch: Patch) -> bool:
        """Whether the strength of a layer with PEFT's names is said nowhere, which may be wrong.

        Raises:
            CheckpointError: what says it is damaged.
        """
        if _STRENGTH & set(patch.parts) or not patch.rank:
            return False
        peft = any(part in key for key in patch.parts.values() for part in (".lora_A", ".lora_B", "base_model.model."))
        return self._strengths.of(patch.name, None, patch.rank) is None and peft

    def _read_model(self, key: str) -> Tensor:
        import torch

        tensor = self.base.tensor(key)
        if key not in self.changed:
            return tensor
        tensor = tensor.to(torch.float32, copy=True)
        try:
            for patch in self._biases.get(key, ()):
                patch.layer.put(tensor, self._bias(patch.layer.of(tensor), patch))
            for patch in self._matrices.get(key, ()):
                patch.layer.put(tensor, self._matrix(patch.layer.of(tensor), patch))
        except Unfit as error:
            raise CheckpointError(f"{self.path}: '{printable(patch.name)}': {error}") from error
        return tensor

    def _matrix(self, weight: Tensor, patch: Patch) -> Tensor:
        assert patch.adapter is not None
        parts = _Parts(self, patch)
        config = {**self._strengths.config(patch.name).values, "axis": patch.axis}
        result = patch.adapter.apply(weight, parts, Situation(self._strength(patch), config))
        if "magnitude" in parts:
            return decomposed(result, parts["magnitude"], by_rows=True)
        if "dora_scale" in parts:
            scale = parts["dora_scale"]
            return decomposed(result, scale, by_rows=_by_rows(tuple(scale.shape), tuple(weight.shape)))
        return result

    def _bias(self, bias: Tensor, patch: Patch) -> Tensor:
        parts = _Parts(self, patch)
        if "ia3_l" in parts:
            return bias * parts["ia3_l"].reshape(bias.shape)
        if "diff_b" in parts:
            bias = bias + parts["diff_b"].reshape(bias.shape)
        return bias + self._strength(patch) * parts["up_bias"].reshape(bias.shape) if "up_bias" in parts else bias

    def _strength(self, patch: Patch) -> float:
        if "oft_blocks" in patch.parts:  # its alpha is a limit
            return 1.0
        if "scale" in patch.parts:  # goes before an alpha, as in A1111
            return float(self.part(patch, "scale").reshape(()))
        alpha = float(self.part(patch, "alpha").reshape(())) if "alpha" in patch.parts else None
        try:
            strength = self._strengths.of(patch.name, alpha, patch.rank)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        return 1.0 if strength is None else strength

    def part(self, patch: Patch, name: str) -> Tensor:
        """A parameter in fp32.

        Raises:
            CheckpointError: it holds NaN or infinity.
        """
        from bayes_merger.checkpoints.nonfinite import find_nonfinite

        key = patch.parts[name]
        tensor = self._lora.tensor(key).float()
        if fault := find_nonfinite(tensor):
            raise CheckpointError(f"{self.path}: '{printable(key)}' holds {fault}; this LoRA is broken, use another")
        return tensor


def is_lora(checkpoint: Checkpoint) -> bool:
    """Whether an opened file is a LoRA, on a model or alone."""
    return isinstance(checkpoint, LoraModel) or checkpoint.kind is LORA


class _Parts(Mapping[str, "Tensor"]):
    """The parameters of a patch, read when they are asked for."""

    def __init__(self, model: LoraModel, patch: Patch) -> None:
        self._model, self._patch = model, patch

    def __getitem__(self, name: str) -> Tensor:
        return self._model.part(self._patch, name)

    def __contains__(self, name: object) -> bool:
        return name in self._patch.parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._patch.parts)

    def __len__(self) -> int:
        return len(self._patch.parts)


def _patches(base: Checkpoint, lora: Checkpoint) -> tuple[tuple[Patch, ...], tuple[str, ...]]:
    if len(lora.shapes) > _MOST:
        raise CheckpointError(f"it holds {len(lora.shapes)} tensors, more than any LoRA ({_MOST}); use another file")
    table = layers_by_id(base.shapes)
    found: dict[str, Patch] = {}
    unmatched: dict[str, None] = {}
    for key in lora.shapes:
        name, part = parameter_of(key)
        layer = find_layer(name, table) if part else None
        if layer is None:
            unmatched[name] = None
            continue
        parts = dict(found[layer.name].parts) if layer.name in found else {}
        if part in parts:
            both = f"'{printable(parts[part])}' and '{printable(key)}'"
            raise CheckpointError(f"{both} are the same parameter under two names; keep one")
        found[layer.name] = Patch(name, layer, {**parts, part: key})
    for own, patch in list(found.items()):
        idle = set() if "on_input" in patch.parts else {"weight"}  # a whole tensor, which is no change
        if not set(patch.parts) - _STRENGTH - idle:
            idle |= _STRENGTH  # of factors that somebody has taken out
        unmatched |= dict.fromkeys(key for part, key in patch.parts.items() if part in idle)
        found[own] = replace(patch, parts={part: key for part, key in patch.parts.items() if part not in idle})
    fitting = tuple(patch for patch in found.values() if patch.parts)
    if not fitting:
        example = printable(next(iter(unmatched), ""))
        raise CheckpointError(
            f"none of its {len(unmatched)} layers is in model A, which is {base.kind.words} (the first is "
            f"'{example}'); give a LoRA for that kind of model"
        )
    return fitting, tuple(unmatched)


def _checked(patch: Patch, lora: Checkpoint, base: Checkpoint, strengths: Strengths) -> Patch:
    """The patch with its adapter; parameters that do not fit each other or the layer are refused.

    Raises:
        CheckpointError: they do not.
    """
    shown = f"'{printable(patch.name)}'"
    for part, key in patch.parts.items():
        if lora.dtypes[key] not in FLOATS and part not in _ANY_DTYPE:
            raise CheckpointError(
                f"'{printable(key)}' is in {lora.dtypes[key]}; only floating point LoRAs are supported"
            )
    shapes = {part: lora.shapes[key] for part, key in patch.parts.items()}
    for part in ("alpha", "scale", "on_input"):
        if math.prod(shapes.get(part, ())) != 1:
            raise CheckpointError(f"'{printable(patch.parts[part])}' is {list(shapes[part])}, and {part} is one number")
    _check_bias(patch, shapes, base)
    own = {part: shape for part, shape in shapes.items() if part not in _ABOUT | _BIASES}
    if not own:
        if not _BIASES & set(shapes):
            raise CheckpointError(f"{shown} has {', '.join(shapes)} but nothing to scale; the file is incomplete")
        return patch
    layer = patch.layer
    if len(layer.shape) < 2 and set(own) - {"diff", "set_weight"}:
        raise CheckpointError(f"{shown} has factors, and model A's '{layer.weight}' is no matrix; use another file")
    try:
        adapter = adapter_of(own)
        axis = 1
        if "ia3_l" in own:
            axis = ia3_axis(own["ia3_l"], layer.shape, strengths.config(patch.name).values, patch.name)
        made, rank = adapter.made(own, layer.shape), adapter.rank(own)
    except Unfit as error:
        raise CheckpointError(f"{shown}: {error}") from error
    if made[0] != layer.shape[0] or math.prod(made) != math.prod(layer.shape) or not _alike(made, layer.shape):
        padded = ", of more channels than model A's," if "reshape_weight" in shapes else ""
        raise CheckpointError(
            f"{shown} is for a layer of {list(made)}{padded} and model A's '{layer.weight}' has {list(layer.shape)}; "
            "it was made for another kind of model"
        )
    _check_lengths(patch, shapes, adapter)
    return replace(patch, adapter=adapter, rank=rank, axis=axis)


def _check_bias(patch: Patch, shapes: Mapping[str, Shape], base: Checkpoint) -> None:
    rows = patch.layer.shape[0] if patch.layer.shape else 1
    for part in _BIASES & set(shapes):
        if patch.layer.bias not in base.shapes or math.prod(shapes[part]) != rows:
            have = list(base.shapes.get(patch.layer.bias, ()))
            raise CheckpointError(f"'{printable(patch.parts[part])}' is {list(shapes[part])} and model A's bias {have}")


def _check_lengths(patch: Patch, shapes: Mapping[str, Shape], adapter: Adapter) -> None:
    """Refuse a DoRA's lengths that fit neither rows nor columns, or that follow what is no difference."""
    layer = patch.layer.shape
    for part, axes in (("magnitude", layer[:1]), ("dora_scale", layer[:2])):
        scale = shapes.get(part)
        if scale is None:
            continue
        if not adapter.decomposes:
            raise CheckpointError(f"'{printable(patch.parts[part])}': DoRA of a rotation or an IA3 is not supported")
        if not scale or len(layer) < 2 or max(scale) != math.prod(scale) or max(scale) not in axes:
            raise CheckpointError(f"'{printable(patch.parts[part])}' is {list(scale)} for a layer of {list(layer)}")


def _by_rows(scale: Shape, layer: Shape) -> bool:
    """Whether a ``dora_scale`` has one length per output: by its axis, or by its count where there is but one axis."""
    if len(scale) > 1 and scale[1] == layer[1] and scale[0] == 1:
        return False
    return math.prod(scale) == layer[0]


def _alike(made: Shape, wanted: Shape) -> bool:
    """Equal but for the 1x1 of a convolution, or flattened to a matrix."""
    return len(made) <= 2 or len(wanted) == 2 or made == wanted
