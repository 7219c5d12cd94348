"""What stands for a diffusers tensor in a single file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

UNET = "model.diffusion_model."
"""What files put before the tensors of a U-Net or transformer."""

VAE = "first_stage_model."
"""What most files put before those of the VAE."""

_VAE_CONVOLUTION = re.compile(r".*\.mid\.attn_1\.(?:q|k|v|proj_out)\.weight$")


@dataclass(frozen=True)
class Counterpart:
    """Where the numbers of a diffusers tensor are in a single file.

    Attributes:
        key: of the tensor that holds them.
        stack: all that are stacked in that tensor by rows, as diffusers names them, in order; empty where it holds
            only this one.
        swapped: whether the first and second half of its rows are swapped.
        transposed: whether rows and columns are swapped.
    """

    key: str
    stack: tuple[str, ...] = ()
    swapped: bool = False
    transposed: bool = False

    def fits(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether tensors of these shapes can be what the single file's is made of.

        Args:
            shapes: of the diffusers tensors in it, in order.
        """
        first = shapes[0]
        if self.stack:  # the last of Flux's stacks is wider than the others
            rows = {shape[:1] for shape in shapes[:-1]}
            return len(first) > 0 and len(rows) == 1 and {shape[1:] for shape in shapes} == {first[1:]}
        if self.transposed:
            return len(first) == 2
        return not self.swapped or (len(first) > 0 and first[0] % 2 == 0)

    def shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of the single file's tensor.

        Args:
            shapes: of the diffusers tensors in it, in order.
        """
        first = shapes[0]
        if self.stack:
            return (sum(shape[0] for shape in shapes), *first[1:])
        if self.transposed:
            return first[::-1]
        if len(first) == 2 and _VAE_CONVOLUTION.match(self.key):
            return (*first, 1, 1)
        return first


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the 1x1 of a convolution, which some files have dropped from the VAE's attention."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def numbers_in(pattern: str, names: Collection[str]) -> set[tuple[int, int]]:
    """The two numbers in all names that begin like this."""
    matches = (re.match(pattern, name) for name in names)
    return {(int(match[1]), int(match[2])) for match in matches if match}


def renamed(rest: Sequence[str], names: Mapping[str, str]) -> str:
    """A name with its first part called as in files."""
    return ".".join([names.get(rest[0], rest[0]), *rest[1:]])
