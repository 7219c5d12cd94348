"""What a block is: tables that give every tensor of a checkpoint its place, and weights as strings.

A table is a list of rules, tried in order; the first whose pattern matches the start of a key decides. The tables
themselves are in ``architectures.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from bayes_merger.errors import ConfigError, nearest

BlockWeights = Mapping[str, Mapping[str, float]]
"""Weight name -> block -> number, e.g. ``{"alpha": {"BASE": 0.5, "IN00": 0.1, ...}}``."""


@dataclass(frozen=True)
class Place:
    """Where a key belongs.

    Attributes:
        role: ``block`` (merged), ``vae`` (merged only when asked), ``position_ids`` (copied and checked), ``schedule``
            and ``ema`` (dropped on writing), ``marker`` (zero-size flags such as ``v_pred``: kept if any model has
            them) or ``other`` (unknown: model A's is kept).
        block: the block whose weights it follows; ``None`` where no weight applies.
        slot: a finer address that may have its own weight (``TIME``, ``OUT``, ``TE``, ``VAE``).
    """

    role: str
    block: str | None = None
    slot: str | None = None


@dataclass(frozen=True)
class Rule:
    """One line of a table: keys that match ``pattern`` at their start; ``{}`` in ``block`` is its first group."""

    pattern: str
    block: str | None = None
    role: str = "block"
    slot: str | None = None

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def find(self, key: str) -> tuple[Place, int] | None:
        """The place of ``key`` and the end of the prefix that says so; ``None`` when the rule is not about it."""
        found = self._compiled.match(key)
        if found is None:
            return None
        block = self.block.format(int(found[1])) if self.block and found.re.groups else self.block
        return Place(self.role, block, self.slot), found.end()


@dataclass(frozen=True)
class Architecture:
    """A family of models with the same tensors.

    Attributes:
        name: ``sd1``, ...
        blocks: the blocks that take a weight each, ``BASE`` first, in the order of weight strings.
        rules: the table.
        slots: finer addresses; they follow a block unless they have their own weight.
        title: the usual name, for users.
        modelspec: its name in the metadata of files.
        resolution: nominal training resolution, pixels.
        prediction: what its networks predict where no marker says otherwise; empty when files do not say.
        layers: pattern of what follows the block's name in the network's tensors; empty where anything may.
        whole: the architecture that a custom block table divides differently.
    """

    name: str
    blocks: tuple[str, ...]
    rules: tuple[Rule, ...]
    slots: tuple[str, ...]
    title: str
    modelspec: str
    resolution: int
    prediction: str = ""
    layers: str = ""
    whole: Architecture | None = None

    def __hash__(self) -> int:
        """Of its name alone: places are looked up by the thousand, and hashing all rules each time costs more."""
        return hash(self.name)

    def place(self, key: str) -> Place:
        """What happens to ``key``: its block, or the special rule it falls under."""
        return _located(self, key)[0]

    def element(self, key: str) -> str:
        """``key`` without the prefix that names its block: ``1.proj_in.weight``."""
        return key[_located(self, key)[1] :]

    def part(self, key: str) -> str:
        """The part of a block that ``key`` is in: ``attn1``, ``ff``, ``in_layers``, ..."""
        words = [word for word in self.element(key).split(".")[:-1] if not word.isdigit()]
        inside = [word for word in words if word != "transformer_blocks"]
        return (inside or words or ["conv"])[0]

    def knows(self, key: str) -> bool:
        """Whether models of this architecture have such a tensor in their network, where ``key`` has its place."""
        return not self.layers or re.fullmatch(self.layers, self.element(key)) is not None

    def block(self, name: str) -> str:
        """The block or slot called ``name``, in any case; ``base`` and ``block_0`` ... are accepted too.

        Raises:
            ConfigError: no block or slot has that name.
        """
        upper = name.strip().upper()
        numbered = re.fullmatch(r"BLOCK_(\d+)", upper)
        if numbered and int(numbered[1]) < len(self.blocks) - 1:
            return self.blocks[1 + int(numbered[1])]
        if upper in self.blocks or upper in self.slots:
            return upper
        raise ConfigError(f"'{name}' is not a block of {self.name}: {nearest(name, (*self.blocks, *self.slots))}")


@lru_cache(maxsize=16384)  # the plan, the live merge and the reports all look up the place of a key
def _located(architecture: Architecture, key: str) -> tuple[Place, int]:
    """The place of a key, and the length of the prefix that determines it."""
    if architecture.whole is not None:
        return _located_anew(architecture, architecture.whole, key)
    for rule in architecture.rules:
        found = rule.find(key)
        if found is not None and (found[0].block is None or found[0].block in architecture.blocks):
            return found
    return Place("other"), 0


def _located_anew(divided: Architecture, whole: Architecture, key: str) -> tuple[Place, int]:
    """What a custom block table changes: only the block."""
    place, begin = _located(whole, key)
    if place.block is None:
        return place, begin
    block = next((found[0].block for rule in divided.rules if (found := rule.find(key))), divided.blocks[0])
    return Place(place.role, block, place.slot if place.slot in divided.slots else None), begin


_LONG = ("BASE", *(f"IN{i:02d}" for i in range(12)), "M00", *(f"OUT{i:02d}" for i in range(12)))
_LORA_17 = ("BASE", *(f"IN{i:02d}" for i in (1, 2, 4, 5, 7, 8)), "M00", *(f"OUT{i:02d}" for i in range(3, 12)))
_LORA_12 = ("BASE", *(f"IN{i:02d}" for i in (4, 5, 7, 8)), "M00", *(f"OUT{i:02d}" for i in range(6)))


_PRESET_NAME = re.compile(r"\A\s*[A-Za-z_][\w ]*[:=\t]\s*")  # as in a line of supermerger's mbwpresets.txt


def weights_from_string(
    text: str, architecture: Architecture, *, base: float | None = None, of_lora: bool = False
) -> dict[str, float]:
    """A weight per block, from the strings that supermerger and similar programs use.

    Other counts than that of the architecture's blocks are read as their programs read them: the 26 numbers of Stable
    Diffusion 1 for SDXL, of which those for IN09 to IN11 and OUT09 to OUT11 are left out (``weighttoxl`` in
    ``scripts/mergers/mergers.py`` of https://github.com/hako-mikan/sd-webui-supermerger), and the 17 (SD1, SD2) and 12
    (SDXL) of LoRA block weights, 0 for the blocks without one (``BLOCKID17``, ``BLOCKID12`` and ``to26`` in
    ``scripts/lora_block_weight.py`` of https://github.com/hako-mikan/sd-webui-lora-block-weight).

    Args:
        text: numbers separated by commas or blanks, perhaps in brackets or behind a preset's name: one for every block
            (``BASE`` first), one fewer when ``base`` is given, or a single one for all.
        architecture: whose blocks they are.
        base: the number of ``BASE`` when the text leaves it out.
        of_lora: whether the model that they weigh is a LoRA.

    Raises:
        ConfigError: not numbers, or the wrong count of them.
    """
    bare = _PRESET_NAME.sub("", text).strip(" \t\r\n,;[]()")
    numbers = [_number(part) for part in re.split(r"[,;\s]+", bare) if part]
    blocks = architecture.blocks
    if len(numbers) == 1:
        return dict.fromkeys(blocks, numbers[0]) | ({} if base is None else {blocks[0]: float(base)})
    count, whole = len(numbers), numbers if base is None else [float(base), *numbers]
    order = _orders(architecture, of_lora).get(len(whole))
    if order is None:
        decimal = "; decimals have a point" if re.fullmatch(r"-?\d+,\d+", bare) else ""
        raise ConfigError(
            f"weights: {count} numbers{' and a base' if base is not None else ''} for {architecture.name}; "
            f"give {len(blocks)} (BASE first), {len(blocks) - 1} and a base, or one for all{decimal}"
        )
    given = dict(zip(order, whole, strict=True))
    return {block: given.get(block, 0.0) for block in blocks}


def _orders(architecture: Architecture, of_lora: bool) -> dict[int, tuple[str, ...]]:
    """How many numbers a weight string may have, and which block each is for."""
    found: dict[int, tuple[str, ...]] = {}
    if architecture.whole is None:
        xl = architecture.name == "sdxl"
        found |= {len(_LONG): _LONG} if xl else {}
        short = _LORA_12 if xl else _LORA_17 if architecture.name in ("sd1", "sd2") else ()
        found |= {len(short): short} if of_lora and short else {}
    return found | {len(architecture.blocks): architecture.blocks}


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(f"weights: '{text}' is not a number; give numbers separated by commas") from error
    if not math.isfinite(number):
        raise ConfigError(f"weights: '{text}' is not finite; give numbers separated by commas")
    return number


def blocks_to_string(names: Collection[str], order: Sequence[str]) -> str:
    """Names of blocks in order, three or more neighbours of one kind as a range: ``BASE, IN00, IN06-IN11``."""
    runs: list[list[str]] = []
    last = -2
    for place, name in enumerate([*order, *(name for name in names if name not in order)]):
        if name in names:
            if place == last + 1 and name.rstrip("0123456789") == runs[-1][0].rstrip("0123456789"):
                runs[-1].append(name)
            else:
                runs.append([name])
            last = place
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def weights_to_string(weights: Mapping[str, float], architecture: Architecture, digits: int = 4) -> str:
    """The numbers of every block, comma-separated, ``BASE`` first: ready to paste into supermerger.

    Args:
        weights: block to number, one for every block.
        architecture: whose blocks they are.
        digits: decimals kept; trailing zeros are dropped.

    Raises:
        ConfigError: a block has no number.
    """
    lacking = [block for block in architecture.blocks if block not in weights]
    if lacking:
        raise ConfigError(f"weights: no number for {', '.join(lacking)}; {architecture.name} has blocks of that name")
    return ",".join(_short(weights[block], digits) for block in architecture.blocks)


def _short(number: float, digits: int) -> str:
    text = f"{number:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
