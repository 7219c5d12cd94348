"""Architectures as tables: which block every tensor of a checkpoint belongs to.

A table is a list of rules, tried in order; the first whose pattern matches the start of a key decides. What a model
*is* can be told from keys and shapes alone (``kind_of``), also for kinds that have no table yet, so that errors can
name them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from bayes_merger.errors import CheckpointError, ConfigError, nearest
from bayes_merger.merging.kinds import kind_of

BlockWeights = Mapping[str, Mapping[str, float]]
"""Weight name -> block -> number, e.g. ``{"alpha": {"BASE": 0.5, "IN00": 0.1, ...}}``."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """Where a key belongs.

    Attributes:
        role: ``block`` (merged), ``vae`` (merged only when asked), ``position_ids`` (copied and checked), ``schedule``
            and ``ema`` (dropped on writing), ``marker`` (zero-size flags such as ``v_pred``: kept if any model has
            them) or ``other`` (unknown: model A's is kept).
        block: the block whose weights it follows; ``None`` where no weight applies.
        slot: a finer address that may be given a weight of its own (``TIME``, ``OUT``, ``TE``, ``VAE``).
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

    def place(self, key: str) -> Place | None:
        """The place of ``key``, or ``None`` when the rule is not about it."""
        found = self._compiled.match(key)
        if found is None:
            return None
        block = self.block.format(int(found[1])) if self.block and found.re.groups else self.block
        return Place(self.role, block, self.slot)


# What every architecture shares. The twelve buffers of the noise schedule sit at the top level of LDM files.
_SPECIAL_RULES = (
    Rule(r".*\.position_ids$", role="position_ids"),
    Rule(r"model_ema\.", role="ema"),
    Rule(
        r"(?:betas|(?:sqrt_|sqrt_one_minus_|log_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(?:_prev)?"
        r"|posterior_(?:variance|log_variance_clipped|mean_coef1|mean_coef2))$",
        role="schedule",
    ),
    Rule(r"(?:v_pred|ztsnr|edm_vpred\.sigma_(?:max|min))$", role="marker"),
)


@dataclass(frozen=True)
class Architecture:
    """A family of models with the same tensors.

    Attributes:
        name: ``sd1``, ...
        blocks: the blocks that take a weight each, ``BASE`` first, in the order of weight strings.
        rules: the table.
        slots: finer addresses; they follow a block unless they are given a weight of their own.
        title: the name people use.
        modelspec: its name in the metadata of files.
        resolution: what its files are said to be trained at, pixels.
    """

    name: str
    blocks: tuple[str, ...]
    rules: tuple[Rule, ...]
    slots: tuple[str, ...]
    title: str
    modelspec: str
    resolution: int

    def place(self, key: str) -> Place:
        """What happens to ``key``: its block, or the special rule it falls under."""
        return _place(self, key)

    def block(self, name: str) -> str:
        """The block or slot called ``name``, in any case; ``base`` and ``block_0`` ... are understood too.

        Raises:
            ConfigError: there is none.
        """
        upper = name.strip().upper()
        numbered = re.fullmatch(r"BLOCK_(\d+)", upper)
        if numbered and int(numbered[1]) < len(self.blocks) - 1:
            return self.blocks[1 + int(numbered[1])]
        if upper in self.blocks or upper in self.slots:
            return upper
        raise ConfigError(f"'{name}' is not a block of {self.name}: {nearest(name, (*self.blocks, *self.slots))}")


@lru_cache(maxsize=16384)  # a key is asked for its place by the plan, the live merge and the reports
def _place(architecture: Architecture, key: str) -> Place:
    for rule in architecture.rules:
        place = rule.place(key)
        if place is not None and (place.block is None or place.block in architecture.blocks):
            return place
    return Place("other")


def _unet_rules(last_block: str) -> tuple[Rule, ...]:
    unet = r"model\.diffusion_model\."
    return (
        Rule(unet + r"input_blocks\.(\d+)\.", "IN{:02d}"),
        Rule(unet + r"middle_block\.", "M00"),
        Rule(unet + r"output_blocks\.(\d+)\.", "OUT{:02d}"),
        Rule(unet + r"time_embed\.", "BASE", slot="TIME"),
        Rule(unet + r"out\.", last_block, slot="OUT"),
        Rule(r"first_stage_model\.", "BASE", role="vae", slot="VAE"),
    )


SD1 = Architecture(
    name="sd1",
    blocks=("BASE", *(f"IN{i:02d}" for i in range(12)), "M00", *(f"OUT{i:02d}" for i in range(12))),
    rules=(*_SPECIAL_RULES, *_unet_rules("OUT11"), Rule(r"cond_stage_model\.", "BASE", slot="TE")),
    slots=("TIME", "OUT", "TE", "VAE"),
    title="Stable Diffusion 1.x",
    modelspec="stable-diffusion-v1",
    resolution=512,
)

ARCHITECTURES: Mapping[str, Architecture] = {SD1.name: SD1}


def identify(shapes: Shapes) -> Architecture:
    """The architecture of a checkpoint, from its keys and shapes.

    Args:
        shapes: key to shape.

    Raises:
        CheckpointError: it is none that can be merged; the text says what it looks like instead.
    """
    kind = kind_of(shapes)
    if kind.name in ARCHITECTURES:
        return ARCHITECTURES[kind.name]
    raise CheckpointError(f"this is {kind.words}; {kind.way_out or 'only Stable Diffusion 1.x can be merged so far'}")


def weights_from_string(text: str, architecture: Architecture, *, base: float | None = None) -> dict[str, float]:
    """A weight per block, from the strings that supermerger and its kin use.

    Args:
        text: numbers separated by commas or blanks: one for every block (``BASE`` first), one fewer when ``base``
            is given, or a single one for all.
        architecture: whose blocks they are.
        base: the number of ``BASE`` when the text leaves it out.

    Raises:
        ConfigError: not numbers, or the wrong count of them.
    """
    numbers = [_number(part) for part in re.split(r"[,\s]+", text.strip(" \t\r\n,")) if part]
    blocks = architecture.blocks
    if len(numbers) == 1:
        numbers *= len(blocks)
        if base is not None:
            numbers[0] = float(base)
    elif len(numbers) == len(blocks) - 1 and base is not None:
        numbers.insert(0, float(base))
    elif len(numbers) != len(blocks) or base is not None:
        raise ConfigError(
            f"weights: {len(numbers)} numbers{' and a base' if base is not None else ''} for {architecture.name}; "
            f"give {len(blocks)} (BASE first), {len(blocks) - 1} and a base, or one for all"
        )
    return dict(zip(blocks, numbers, strict=True))


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(f"weights: '{text}' is not a number; give numbers separated by commas") from error
    if not math.isfinite(number):
        raise ConfigError(f"weights: '{text}' is not finite; give numbers separated by commas")
    return number


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
