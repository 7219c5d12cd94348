"""Quantised files: fp8 with factors beside it is read as the numbers that it means, all else is refused by name.

A scaled fp8 file holds, beside a matrix ``X.weight``, the factor ``X.scale_weight`` (ComfyUI's older name) or
``X.weight_scale`` (its newer one, and that of compressed-tensors): one number, or one per row. The factor of what goes
into the layer (``scale_input``, ``input_scale``) does not belong to the weights. See
https://github.com/Comfy-Org/ComfyUI, ``comfy/utils.py: convert_old_quants``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.header import FLOATS, ITEM_SIZES
from bayes_merger.errors import CheckpointError, printable

if TYPE_CHECKING:
    from torch import Tensor

_FACTORS = ("scale_weight", "weight_scale")
_UNREAD = ("scale_input", "input_scale", "comfy_quant", "scaled_fp8")
_CODES = frozenset(ITEM_SIZES) - FLOATS - {"BOOL", "C64"}
_SMALL = frozenset({"F8_E4M3", "F8_E5M2"})
_WAY_OUT = "give the file in fp16, bf16 or fp32 that it was made from, or in scaled fp8"

_FORMATS: Mapping[str, str] = {  # the last part of a tensor's name -> whose it is
    **dict.fromkeys(("absmax", "nested_absmax", "quant_map", "nested_quant_map"), "bitsandbytes' nf4 or fp4"),
    **dict.fromkeys(("bitsandbytes__nf4", "bitsandbytes__fp4"), "bitsandbytes' nf4 or fp4"),
    **dict.fromkeys(("SCB", "weight_format"), "bitsandbytes' int8"),
    **dict.fromkeys(("wscales", "wtscale", "wcscales", "wzeros"), "SVDQuant (nunchaku)"),
    **dict.fromkeys(("smooth", "smooth_orig", "smooth_factor", "smooth_factor_orig"), "SVDQuant (nunchaku)"),
    **dict.fromkeys(("qweight", "qzeros", "g_idx"), "GPTQ or AWQ"),
    **dict.fromkeys(("_data", "_packed", "_shift"), "quanto"),
    **dict.fromkeys(("_amax", "_pre_quant_scale"), "ModelOpt"),
    **dict.fromkeys(("weight_packed", "weight_zero_point", "weight_shape"), "packed integers (compressed-tensors)"),
    **dict.fromkeys(("encoded_exponent", "sign_mantissa", "luts", "output_positions", "split_positions"), "DFloat11"),
    **dict.fromkeys(("_weight_qdata", "weight_qdata"), "torchao"),
    "W_q": "HQQ",
    "weight_scale_2": "nvfp4",
    "weight_scale_inv": "fp8 in blocks",
}
_ORDER = list(dict.fromkeys(_FORMATS.values()))  # what stands further up has names of what stands below it


def as_meant(file: Checkpoint) -> Checkpoint:
    """A file with the numbers that it means: itself, or seen with fp8 times its factors.

    Args:
        file: opened; closed with what is returned.

    Raises:
        CheckpointError: it is quantised in a way that is not read; the text does not name the file.
    """
    parts = {key: key.rpartition(".") for key in file.shapes}
    if found := [(_FORMATS[last], key) for key, (_, _, last) in parts.items() if last in _FORMATS]:
        raise _refused(*min(found, key=lambda pair: _ORDER.index(pair[0])))
    factors = {}
    for key, (layer, _, last) in parts.items():
        weight = f"{layer}.weight"
        small = any(file.dtypes.get(matrix, "") in _SMALL for matrix in (weight, layer))
        if last in _FACTORS and weight in file.shapes:
            if weight in factors:
                raise _refused("fp8 with two factors", key)
            factors[weight] = _factor(file, weight, key)
        elif "scale" in last and last not in _UNREAD and small:
            raise _refused("fp8 with factors of an unknown kind", key)
        elif file.dtypes[key] in _CODES and key.endswith("weight") and len(file.shapes[key]) >= 2:
            raise _refused(f"integers ({file.dtypes[key]})", key)
    gone = {factor.key for factor in factors.values()}
    gone |= {key for key, (_, _, last) in parts.items() if last in _UNREAD}
    return ScaledFile(file, factors, gone) if gone else file


def _refused(title: str, key: str) -> CheckpointError:
    return CheckpointError(f"quantised as {title} ('{printable(key)}'), which is not read; {_WAY_OUT}")


@dataclass(frozen=True)
class _Factor:
    """What a tensor is multiplied by.

    Attributes:
        key: of the factor.
        shape: that it is given so that it can be multiplied: one number, or one per row.
    """

    key: str
    shape: tuple[int, ...]


def _factor(file: Checkpoint, weight: str, key: str) -> _Factor:
    shape, count = file.shapes[weight], math.prod(file.shapes[key])
    if file.dtypes[weight] not in FLOATS:
        raise _refused(f"integers ({file.dtypes[weight]}) with factors", weight)
    by_rows = bool(shape) and count == shape[0] and file.shapes[key][:1] == (count,)
    if file.dtypes[key] not in FLOATS or not (count == 1 or by_rows):
        raise _refused(f"factors of {file.dtypes[key]}{list(file.shapes[key])}", key)
    return _Factor(key, (1,) * len(shape) if count == 1 else (count, *(1,) * (len(shape) - 1)))


class ScaledFile(ModelView):
    """A file with its matrices times their factors, in fp32, and without the tensors that only say how to read them.

    Args:
        file: the file, which is closed with this.
        factors: key of a matrix to its factor.
        gone: the tensors that are not shown.
    """

    def __init__(self, file: Checkpoint, factors: Mapping[str, _Factor], gone: set[str]) -> None:
        names = {key: key for key in file.shapes if key not in gone}
        entries = {key: ("F32" if key in factors else file.dtypes[key], file.shapes[key]) for key in names}
        super().__init__(file, names, entries)
        self._factors = factors
        if factors:
            self.computed, self._read_part = True, None

    def _read_model(self, key: str) -> Tensor:
        tensor = super()._read_model(key)
        if key not in self._factors:
            return tensor
        factor = self._factors[key]
        return tensor.float() * self._model.tensor(factor.key).float().reshape(factor.shape)
