"""What is done to a merge after the method: limits to its numbers, and supermerger's adjustments.

``clip`` keeps every number between those of A and B, as sd-meh's ``weights_clip`` does. ``hard`` cuts off at the
nearer of the two; ``soft`` lets a number exceed it smoothly, by at most half of their distance.

``adjust`` are supermerger's eight numbers, 0 for no change (its fine-tune tab): they change six tensors at the ends of
the U-Net, and with them detail (IN, OUT), noise (OUT2), contrast (CONT), brightness (BRI) and colour (COL1 to COL3).
Among the weights of a recipe they are stored as ``adjust``, with these names instead of blocks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.blocks import BlockWeights
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.merging.method import MethodSpec

if TYPE_CHECKING:
    from torch import Tensor

ADJUST = "adjust"
"""The name of the adjustments among the weights of a recipe."""

ADJUSTMENTS = ("IN", "OUT", "OUT2", "CONT", "BRI", "COL1", "COL2", "COL3")
ADJUSTMENT_RANGE = (-5.0, 5.0)
"""The default range in which a named adjustment is searched: what supermerger's users try."""

CLIPS = ("", "hard", "soft")

_UNET = "model.diffusion_model."
_COLOURS = {  # BRI, COL1, COL2, COL3 on the latent channels 1 to 3
    False: ((-1.0, 1 / 3, 2 / 3), (1.0, 1.0, 0.0), (0.0, -1.0, -1.0), (1.0, 0.0, 1.0)),
    True: ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (-1.0, -1.0, 0.0), (-1.0, 1.0, 0.0)),
}

ADJUSTED = frozenset(_UNET + name for name in (
    "input_blocks.0.0.weight", "input_blocks.0.0.bias", "out.0.weight", "out.0.bias", "out.2.weight", "out.2.bias",
))  # fmt: skip
"""The tensors that adjustments change."""


def method_weights(weights: BlockWeights) -> BlockWeights:
    """The weights less the adjustments, which are not the method's."""
    return {name: blocks for name, blocks in weights.items() if name != ADJUST}


def read_adjust(given: Any) -> dict[str, float | str]:
    """All eight adjustments; a name instead of a number is searched.

    Args:
        given: eight numbers (seven without OUT2, as older versions of supermerger have them) as a list or a text, or a
            table of some of them.

    Raises:
        ConfigError: it is not one of these forms.
    """
    numbers: dict[str, float | str] = dict.fromkeys(ADJUSTMENTS, 0.0)
    if isinstance(given, Mapping):
        for name, value in given.items():
            if str(name).upper() not in ADJUSTMENTS:
                raise ConfigError(f"adjust: '{name}' is unknown; {nearest(str(name), ADJUSTMENTS)}")
            numbers[str(name).upper()] = _number(value)
        return numbers
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str):
        given = given[0]  # a text on the command line of a run
    parts = [part for part in re.split(r"[,\s]+", given) if part] if isinstance(given, str) else given
    names = ADJUSTMENTS if not isinstance(parts, Sequence) or len(parts) != 7 else (*ADJUSTMENTS[:2], *ADJUSTMENTS[3:])
    if not isinstance(parts, Sequence) or len(parts) != len(names):
        raise ConfigError(f"adjust: {given!r}: give eight numbers ({','.join(ADJUSTMENTS)}), or some by name")
    return numbers | {name: _number(part) for name, part in zip(names, parts, strict=True)}


def _number(value: Any) -> float | str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
            return value
        raise ConfigError(f"adjust: {value!r} is neither a number nor a name") from None
    if not math.isfinite(number) or isinstance(value, bool):
        raise ConfigError(f"adjust: {value!r} is not a finite number")
    return number


def check_adjust(numbers: Mapping[str, Any], architecture: str) -> None:
    """Refuse adjustments that are incomplete, or that this architecture does not have.

    Raises:
        ConfigError: the first that is wrong.
    """
    if set(numbers) != set(ADJUSTMENTS):
        raise ConfigError(
            f"adjust: {', '.join(map(str, numbers))} are given; all of {', '.join(ADJUSTMENTS)} are needed"
        )
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ConfigError(f"adjust: {name} is {number!r}; give a finite number")
    if any(numbers.values()) and architecture not in ("sd1", "sd2", "sdxl"):
        raise ConfigError(f"adjust: {architecture} has no such tensors; only Stable Diffusion 1, 2 and XL have")


def adjusted(key: str, tensor: Tensor, numbers: Mapping[str, float], architecture: str) -> Tensor:
    """The tensor with supermerger's adjustments; the tensor itself if they do not change it.

    Args:
        key: its name.
        tensor: in fp32; not written to.
        numbers: all eight.
        architecture: its name; SDXL's latent channels have other colours.
    """
    if key not in ADJUSTED:
        return tensor
    part = key.removeprefix(_UNET)
    if part == "out.2.bias":
        shift = tensor.new_zeros(tensor.shape)
        shift[0] = numbers["CONT"]
        for name, colour in zip(("BRI", "COL1", "COL2", "COL3"), _COLOURS[architecture == "sdxl"], strict=True):
            shift[1:4] += numbers[name] * tensor.new_tensor(colour)[: len(tensor) - 1]
        return tensor + 0.02 * shift
    side = {"input_blocks.0.0": "IN", "out.0": "OUT", "out.2": "OUT2"}[part.rpartition(".")[0]]
    factor = 1 + 0.02 * numbers[side] if part.endswith("bias") else 1 - 0.01 * numbers[side]
    return tensor * factor


def clipped(spec: MethodSpec, clip: str) -> MethodSpec:
    """The method with its results kept between A and B.

    Raises:
        ConfigError: the method takes no B.
    """
    if not clip:
        return spec
    if not {"a", "b"} <= set(spec.models):
        raise ConfigError(f"clip: {spec.name} takes no model B to stay between")
    inside = _Clipped(spec.function, clip == "soft")
    return replace(spec, function=inside, fused=False, selects=False, linear=False, read=spec.models)


class _Clipped:
    """A method's function, its result clipped."""

    def __init__(self, function: Callable[..., Tensor], soft: bool) -> None:
        self._function, self._soft = function, soft

    def __call__(self, *models: Tensor, **settings: Any) -> Tensor:
        a, b = models[:2]
        result, low, high = self._function(*models, **settings), a.minimum(b), a.maximum(b)
        inside = result.maximum(low).minimum(high)
        if not self._soft:
            return inside
        room = (high - low) / 2
        bent = (result - inside).div_(room).tanh_().nan_to_num_(0.0).mul_(room)  # 0 / 0 where A and B are the same
        return inside.add(bent)
