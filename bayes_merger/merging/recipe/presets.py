"""The weights that supermerger offers by name (its ``mbwpresets.txt``), as the formulas they are samples of.

Each is 26 numbers: ``BASE``, which is 0 in all but ``ALL_B``, then ``IN00`` to ``OUT11``, the U-Net from its input
through its middle to its output; SDXL takes those of the blocks that it has. A curve is sampled at ``t = 0, 1/24, ...
1`` along these 25 blocks; what is listed as a reverse (``REVERSE_``, ``R_``) is 1 minus the curve. sd-meh's names for
the same are understood too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from bayes_merger.checkpoints.blocks import Architecture, weights_from_string
from bayes_merger.errors import ConfigError, nearest

Curve = Callable[[float], float]

_WORD = re.compile(r"[A-Za-z]\w{3,}")  # longer than nan and inf

UNET = 25
"""Blocks of Stable Diffusion 1's U-Net."""


def preset(name: str) -> tuple[float, ...]:
    """The 26 numbers called ``name``; case, dashes and underscores do not matter.

    Raises:
        ConfigError: there is none of that name.
    """
    known = presets()
    folded = {_folded(key): key for key in known} | {_folded(alias): key for alias, key in _ALIASES.items()}
    if _folded(name) not in folded:
        raise ConfigError(f"'{name}' is not a preset; {nearest(name, known)}")
    return known[folded[_folded(name)]]


def is_preset(name: str) -> bool:
    """Whether there is a preset of that name."""
    return _folded(name) in {_folded(key) for key in (*presets(), *_ALIASES)}


def read_weights(
    text: str, architecture: Architecture, *, base: float | None = None, of_lora: bool = False
) -> dict[str, float]:
    """A weight per block, from the name of a preset or a weight string.

    Args:
        text: either.
        architecture: whose blocks they are.
        base: the number of ``BASE``, which replaces a preset's, or that of a string with one number for every block.
        of_lora: whether the model that they weigh is a LoRA.

    Raises:
        ConfigError: as ``preset`` and ``weights_from_string``.
    """
    if not _WORD.fullmatch(text.strip()) and not is_preset(text):
        return weights_from_string(text, architecture, base=base, of_lora=of_lora)
    numbers = preset(text)
    written = ",".join(map(repr, numbers if base is None else (base, *numbers[1:])))
    try:
        return weights_from_string(written, architecture)
    except ConfigError:
        blocks = len(architecture.blocks)
        raise ConfigError(f"preset {text} has {len(numbers)} numbers, {architecture.name} takes {blocks}") from None


@lru_cache(maxsize=1)
def presets() -> dict[str, tuple[float, ...]]:
    """Every preset by supermerger's name for it."""
    found = {name: (0.0, *(curve(i / (UNET - 1)) for i in range(UNET))) for name, curve in _curves().items()}
    found |= {name: (0.0, *_steps(runs)) for name, runs in _RUNS.items()}
    return found | {"ALL_A": (0.0,) * (UNET + 1), "ALL_B": (1.0,) * (UNET + 1)}


def _curves() -> dict[str, Curve]:
    curves: dict[str, Curve] = {
        "GRAD_V": lambda t: abs(1 - 2 * t),
        "GRAD_A": lambda t: 1 - abs(1 - 2 * t),
        "SMOOTHSTEP": _smoothstep,
        "REVERSE-SMOOTHSTEP": _reverse(_smoothstep),
        "COSINE": lambda t: (1 + math.cos(math.pi * t)) / 2,
        "REVERSE_COSINE": lambda t: (1 - math.cos(math.pi * t)) / 2,
        "TRUE_CUBIC_HERMITE": _true_hermite,
        "TRUE_REVERSE_CUBIC_HERMITE": _reverse(_true_hermite),
        "FAKE_CUBIC_HERMITE": _fake_hermite,
        "FAKE_REVERSE_CUBIC_HERMITE": _reverse(_fake_hermite),
    }
    for k in (2, 3, 4):
        higher, faster = _folding_result(k), _folding_argument(k)
        curves |= {f"SMOOTHSTEP*{k}": higher, f"R_SMOOTHSTEP*{k}": _reverse(higher)}
        curves |= {f"SMOOTHSTEP/{k}": faster, f"R_SMOOTHSTEP/{k}": _reverse(faster)}
    return curves


def _smoothstep(t: float) -> float:
    return 3 * t**2 - 2 * t**3


def _fake_hermite(t: float) -> float:
    return 19 / 3 * t**3 - 19 / 2 * t**2 + 25 / 6 * t


def _true_hermite(t: float) -> float:
    return 77 / 12 * t**3 - 77 / 8 * t**2 + 25 / 6 * t + 1 / 24 if t > 0 else 0.0


def _reverse(curve: Curve) -> Curve:
    return lambda t: 1 - curve(t)


def _folding_result(k: int) -> Curve:
    """A smooth step ``k`` high, folded back at 1 and at 0."""
    return lambda t: _folded_back(k * _smoothstep(t))


def _folding_argument(k: int) -> Curve:
    """A smooth step up and down, ``k`` in all."""
    return lambda t: _smoothstep(_folded_back(k * t))


def _folded_back(x: float) -> float:
    return 1 - abs(x % 2 - 1)


_RUNS: dict[str, tuple[tuple[int, float], ...]] = {  # how many blocks, and their number
    "FLAT_25": ((25, 0.25),),
    "FLAT_75": ((25, 0.75),),
    "WRAP08": ((4, 1), (17, 0), (4, 1)),
    "WRAP12": ((6, 1), (13, 0), (6, 1)),
    "WRAP14": ((7, 1), (11, 0), (7, 1)),
    "WRAP16": ((8, 1), (9, 0), (8, 1)),
    "MID12_50": ((5, 0), (14, 0.5), (6, 0)),
    "OUT07": ((18, 0), (7, 1)),
    "OUT12": ((13, 0), (12, 1)),
    "OUT12_5": ((12, 0), (1, 0.5), (12, 1)),
    "RING08_SOFT": ((5, 0), (1, 0.5), (3, 1), (1, 0.5), (5, 0), (1, 0.5), (3, 1), (1, 0.5), (5, 0)),
    "RING08_5": ((6, 0), (4, 1), (5, 0), (4, 1), (6, 0)),
    "RING10_5": ((5, 0), (5, 1), (5, 0), (5, 1), (5, 0)),
    "RING10_3": ((6, 0), (5, 1), (3, 0), (5, 1), (6, 0)),
}

_ALIASES = {
    f"{named}{reverse}SMOOTHSTEP": f"{reverse}SMOOTHSTEP{sign}{k}"
    for k, (low, high) in {2: ("HALF_", "2"), 3: ("ONE_THIRD_", "3"), 4: ("ONE_FOURTH_", "4")}.items()
    for named, sign in ((low, "/"), (high, "*"))
    for reverse in ("", "R_")
}


def _steps(runs: Sequence[tuple[int, float]]) -> list[float]:
    return [float(number) for count, number in runs for _ in range(count)]


def _folded(name: str) -> str:
    return name.strip().upper().replace("-", "_")
