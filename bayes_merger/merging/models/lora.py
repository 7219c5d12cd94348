"""LoRA files as models: what they do to model A, in fp32, as if they had been applied and the result saved.

Every kind adds something to a matrix W of model A (strength 1; a merge's weights scale it):

==================  ================================================================================
LoRA, LoCon         W + s · up · down; convolutions flattened, or with a middle factor (Tucker)
LoHa                W + s · (w1_a · w1_b) ⊙ (w2_a · w2_b), each with a core where there is one
LoKr                W + s · kron(w1, w2), each whole or a product; s is 1 when both are whole
full difference     W + diff, and bias + diff_b
DoRA                m · (W + Δ) / ‖W + Δ‖, the norm per row or per column as the shape of m says
==================  ================================================================================

with s = alpha / rank, 1 when there is no alpha. The definitions are those of https://github.com/kohya-ss/sd-scripts,
https://github.com/KohakuBlueleaf/LyCORIS and https://github.com/huggingface/peft.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.header import FLOATS
from bayes_merger.errors import CheckpointError
from bayes_merger.merging.models.lora_names import Layer, layer_id, layers_by_id

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

NO_EFFECT = "do not and have no effect"
"""Wording in the note on a LoRA for layers that model A does not have."""

_PAIRS = ("down", "up")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_ENDS = (  # the end of a key, and which parameter of its layer that is; the first that fits counts
    (re.compile(r"\.processor\.(to_out)_lora\.(down|up)\.weight$"), r"\2", ".to_out.0"),
    (re.compile(r"\.processor\.(\w+)_lora\.(down|up)\.weight$"), r"\2", r".\1"),
    (re.compile(r"(?:\.lora_|\.lora\.|\.lora_linear_layer\.|_lora\.)(down|up|mid)\.weight$"), r"\1", ""),
    (re.compile(r"\.lora_A(?:\.\w+)?\.weight$"), "down", ""),
    (re.compile(r"\.lora_B(?:\.\w+)?\.weight$"), "up", ""),
    (re.compile(r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))$"), r"\1", ""),
    (re.compile(r"\.(?:diff|w_norm)$"), "diff", ""),
    (re.compile(r"\.(?:diff_b|b_norm)$"), "diff_b", ""),
    (re.compile(r"\.(?:lora_)?alpha$"), "alpha", ""),
    (re.compile(r"\.(?:dora_scale|lora_magnitude_vector(?:\.\w+)?(?:\.weight)?)$"), "dora_scale", ""),
)
_STRANGE = re.compile(
    r"\.(oft_\w+|on_input|a1\.weight|b1\.weight|a2\.weight|b2\.weight|boft_\w+|glora_\w+|lora_[AB]\.bias)$"
)


@dataclass(frozen=True)
class Patch:
    """A LoRA's change to one layer.

    Attributes:
        name: of the layer in the LoRA's file.
        layer: of model A.
        parts: parameter (``up``, ``down``, ``alpha``, ``hada_w1_a``, ``diff``, ...) to key in the LoRA's file.
    """

    name: str
    layer: Layer
    parts: Mapping[str, str]


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
        try:
            self.patches, self.unmatched = _patches(base, lora)
            for patch in self.patches:
                _check(patch, lora, base)
        except CheckpointError as error:
            raise CheckpointError(f"{lora.path}: {error}") from error
        self._matrices: dict[str, list[Patch]] = {}
        self._biases: dict[str, list[Patch]] = {}
        for patch in self.patches:
            if set(patch.parts) - {"diff_b", "alpha"}:
                self._matrices.setdefault(patch.layer.weight, []).append(patch)
            if "diff_b" in patch.parts:
                self._biases.setdefault(patch.layer.bias, []).append(patch)
        entries = {k: ("F32" if k in self.changed else base.dtypes[k], shape) for k, shape in base.shapes.items()}
        super().__init__(base, entries=entries)
        self.path, self.metadata, self.computed = lora.path, lora.metadata, True
        self._close = lora.close  # model A belongs to whoever opened it

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
        """How much of the file fits model A."""
        fitting = f"{self.path.name} is a LoRA: {len(self.patches)} layers fit model A ({len(self.changed)} tensors)"
        if not self.unmatched:
            return (fitting,)
        some = ", ".join(self.unmatched[:3]) + (" ..." if len(self.unmatched) > 3 else "")
        return (f"{fitting}, {len(self.unmatched)} {NO_EFFECT}: {some}",)

    def _read_model(self, key: str) -> Tensor:
        import torch

        tensor = self.base.tensor(key)
        if key not in self.changed:
            return tensor
        tensor = tensor.to(torch.float32, copy=True)
        for patch in self._biases.get(key, ()):
            _rows(tensor, patch.layer).add_(self._part(patch, "diff_b").view(-1))
        for patch in self._matrices.get(key, ()):
            own = _rows(tensor, patch.layer)
            own.copy_(self._applied(own, patch))
        return tensor

    def _applied(self, weight: Tensor, patch: Patch) -> Tensor:
        result = weight + self._delta(patch).reshape(weight.shape)
        if "dora_scale" not in patch.parts:
            return result
        scale = self._part(patch, "dora_scale")
        by_rows = scale.shape[0] == weight.shape[0] and scale.numel() == weight.shape[0]
        along = [axis for axis in range(weight.dim()) if axis != (0 if by_rows else 1)]
        norm = result.norm(dim=along, keepdim=True)
        scaled: Tensor = result * (scale.reshape(norm.shape) / norm.clamp_min(1e-12))
        return scaled

    def _delta(self, patch: Patch) -> Tensor:
        """What is added, fp32, flat or in the layer's shape."""
        import torch

        def part(name: str) -> Tensor:
            return self._part(patch, name)

        has = patch.parts
        if "diff" in has:
            return part("diff")
        if "down" in has:
            down, up = part("down"), part("up")
            if "mid" in has:
                product = torch.einsum("or,rskl,si->oikl", up.flatten(1), part("mid"), down.flatten(1))
            else:
                product = up.flatten(1) @ down.flatten(1)
            return product * self._scale(patch, down.shape[0])
        if "hada_w1_a" in has:
            first = _factored(part("hada_w1_a"), part("hada_w1_b"), part("hada_t1") if "hada_t1" in has else None)
            second = _factored(part("hada_w2_a"), part("hada_w2_b"), part("hada_t2") if "hada_t2" in has else None)
            return first * second * self._scale(patch, self._lora.shapes[has["hada_w1_b"]][0])
        return self._kronecker(patch)

    def _kronecker(self, patch: Patch) -> Tensor:
        import torch

        has, factors = patch.parts, []
        for name in ("lokr_w1", "lokr_w2"):
            core = self._part(patch, "lokr_t2") if name == "lokr_w2" and "lokr_t2" in has else None
            factors.append(
                self._part(patch, name)
                if name in has
                else _factored(self._part(patch, f"{name}_a"), self._part(patch, f"{name}_b"), core)
            )
        first, second = factors
        rank = _kronecker_rank(patch, self._lora)
        product = torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - first.dim())), second)
        return product * (self._scale(patch, rank) if rank else 1.0)

    def _part(self, patch: Patch, name: str) -> Tensor:
        """A parameter in fp32.

        Raises:
            CheckpointError: it holds NaN or infinity.
        """
        from bayes_merger.checkpoints.nonfinite import find_nonfinite

        tensor = self._lora.tensor(patch.parts[name]).float()
        if fault := find_nonfinite(tensor):
            raise CheckpointError(f"{self.path}: '{patch.parts[name]}' holds {fault}; this LoRA is broken, use another")
        return tensor

    def _scale(self, patch: Patch, rank: int) -> float:
        if "alpha" in patch.parts:
            return float(self._part(patch, "alpha").reshape(())) / rank
        alpha = _alpha_said(self.metadata, patch.name)
        return 1.0 if alpha is None else alpha / rank


def _rows(tensor: Tensor, layer: Layer) -> Tensor:
    return tensor if layer.rows is None else tensor[layer.rows[0] : layer.rows[1]]


def _factored(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """LyCORIS's pairs: a · b, or with a core a[i, p], b[j, r] around core[i, j, ...]."""
    import torch

    return a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a)


def _patches(base: Checkpoint, lora: Checkpoint) -> tuple[tuple[Patch, ...], tuple[str, ...]]:
    table = layers_by_id(base.shapes)
    found: dict[str, tuple[Layer | None, str, dict[str, str]]] = {}
    strangers: list[str] = []
    for key in lora.shapes:
        if odd := _STRANGE.search(key):
            raise CheckpointError(
                f"'{key}': adapters with {odd[1]} are not supported; give a LoRA, LoCon, LoHa or LoKr"
            )
        name, part = _parameter(key)
        if not part:
            strangers.append(key)
            continue
        own = layer_id(name)
        layer = table.get(own)
        parts = found.setdefault(layer.name if layer else own, (layer, name, {}))[2]
        if part in parts:
            raise CheckpointError(f"'{parts[part]}' and '{key}' are the same parameter under two names; keep one")
        parts[part] = key
    fitting = tuple(Patch(name, layer, parts) for layer, name, parts in found.values() if layer)
    unmatched = [name for layer, name, _ in found.values() if not layer]
    if not fitting:
        example = next(iter((*unmatched, *strangers)), "")
        raise CheckpointError(
            f"none of its {len(unmatched) or len(strangers)} layers is in model A, which is "
            f"{base.kind.words} (the first is '{example}'); give a LoRA for that kind of model"
        )
    return fitting, (*unmatched, *strangers)


def _parameter(key: str) -> tuple[str, str]:
    """The layer's name and which of its parameters a key is; nothing for an unknown key."""
    for pattern, part, layer in _ENDS:
        found = pattern.search(key)
        if found:
            return key[: found.start()] + found.expand(layer), found.expand(part)
    return key, ""


def _check(patch: Patch, lora: Checkpoint, base: Checkpoint) -> None:
    """Refuse factors that do not fit each other or the layer.

    Raises:
        CheckpointError: they do not.
    """
    for key in patch.parts.values():
        if lora.dtypes[key] not in FLOATS:
            raise CheckpointError(f"'{key}' is in {lora.dtypes[key]}; only floating point LoRAs are supported")
    shapes = {part: lora.shapes[key] for part, key in patch.parts.items()}
    layer = patch.layer
    if math.prod(shapes.get("alpha", ())) != 1:
        raise CheckpointError(f"'{patch.parts['alpha']}' is {list(shapes['alpha'])}, and alpha is one number")
    if "diff_b" in shapes:
        rows = layer.shape[0]
        if layer.bias not in base.shapes or math.prod(shapes["diff_b"]) != rows:
            have = list(base.shapes.get(layer.bias, ()))
            raise CheckpointError(f"'{patch.parts['diff_b']}' is {list(shapes['diff_b'])} and model A's bias {have}")
    if not set(shapes) - {"diff_b", "alpha"}:
        if "diff_b" not in shapes:
            raise CheckpointError(f"'{patch.name}' has an alpha but nothing to scale; the file is incomplete")
        return
    made = _product(patch, shapes)
    if made[0] != layer.shape[0] or math.prod(made) != math.prod(layer.shape) or not _alike(made, layer.shape):
        raise CheckpointError(
            f"'{patch.name}' is for a layer of {list(made)} and model A's '{layer.weight}' has {list(layer.shape)}; "
            "it was made for another kind of model"
        )
    scale = shapes.get("dora_scale")
    if scale is not None and (not scale or len(layer.shape) < 2 or math.prod(scale) not in layer.shape[:2]):
        raise CheckpointError(f"'{patch.parts['dora_scale']}' is {list(scale)} for a layer of {list(layer.shape)}")


def _alike(made: Shape, wanted: Shape) -> bool:
    """Equal but for the 1x1 of a convolution, or flattened to a matrix."""
    return len(made) <= 2 or len(wanted) == 2 or made == wanted


def _product(patch: Patch, shapes: Mapping[str, Shape]) -> Shape:
    """The shape of the product of the factors."""
    if "diff" in shapes:
        return shapes["diff"] or (1,)
    if "down" in shapes or "up" in shapes:
        _needs(patch, shapes, _PAIRS)
        up, down = shapes["up"], shapes["down"]
        if min(len(up), len(down)) < 2 or math.prod(up[2:]) != 1:
            raise CheckpointError(f"'{patch.name}': factors of {list(up)} and {list(down)} do not form a matrix")
        if "mid" in shapes:
            mid = shapes["mid"]
            if len(mid) != 4 or mid[:2] != (up[1], down[0]) or math.prod(down[2:]) != 1:
                raise _disagree(patch, up, mid, down)
            return (up[0], down[1], *mid[2:])
        if up[1] != down[0] or not down[0]:
            raise _disagree(patch, up, down)
        return (up[0], *down[1:])
    if any(part.startswith("hada") for part in shapes):
        _needs(patch, shapes, _LOHA)
        pair = [_pair(patch, shapes, f"hada_w{i}_a", f"hada_w{i}_b", f"hada_t{i}") for i in (1, 2)]
        if pair[0] != pair[1]:
            raise _disagree(patch, *pair)
        return pair[0]
    if any(part.startswith("lokr") for part in shapes):
        first = shapes.get("lokr_w1") or _pair(patch, shapes, "lokr_w1_a", "lokr_w1_b", "")
        second = shapes.get("lokr_w2") or _pair(patch, shapes, "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        if len(first) != 2 or len(second) < 2:
            raise _disagree(patch, first, second)
        return (first[0] * second[0], first[1] * second[1], *second[2:])
    raise CheckpointError(f"'{patch.name}' has {', '.join(shapes)} but nothing to apply; the file is incomplete")


def _pair(patch: Patch, shapes: Mapping[str, Shape], a: str, b: str, core: str) -> Shape:
    _needs(patch, shapes, (a, b))
    if len(shapes[a]) != 2 or len(shapes[b]) != 2 or 0 in shapes[b]:
        raise _disagree(patch, shapes[a], shapes[b])
    if core in shapes:
        if len(shapes[core]) != 4 or shapes[core][:2] != (shapes[a][0], shapes[b][0]):
            raise _disagree(patch, shapes[a], shapes[core], shapes[b])
        return (shapes[a][1], shapes[b][1], *shapes[core][2:])
    if shapes[a][1] != shapes[b][0]:
        raise _disagree(patch, shapes[a], shapes[b])
    return (shapes[a][0], shapes[b][1])


def _needs(patch: Patch, shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> None:
    lacking = [part for part in parts if part not in shapes]
    if lacking:
        raise CheckpointError(f"'{patch.name}' lacks its {' and '.join(lacking)}; the file is incomplete")


def _disagree(patch: Patch, *shapes: Shape) -> CheckpointError:
    each = " and ".join(str(list(shape)) for shape in shapes)
    return CheckpointError(f"'{patch.name}': factors of {each} do not fit each other; the file is damaged")


def _kronecker_rank(patch: Patch, lora: Checkpoint) -> int:
    """The rank that alpha is divided by; 0 when no factor has one."""
    found = next((patch.parts[part] for part in ("lokr_w2_b", "lokr_w1_b") if part in patch.parts), "")
    return lora.shapes[found][0] if found else 0


def _alpha_said(metadata: Mapping[str, str], name: str) -> float | None:
    """The alpha of a layer that diffusers wrote into the metadata instead of a tensor."""
    try:
        table = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return None
    part, _, layer = name.partition(".")
    if not isinstance(table, dict):
        return None
    own = table.get(f"{part}.alpha_pattern")
    said = next((a for end, a in own.items() if layer.endswith(end)), None) if isinstance(own, dict) else None
    said = table.get(f"{part}.lora_alpha") if said is None else said
    return float(said) if isinstance(said, int | float) and math.isfinite(said) else None
