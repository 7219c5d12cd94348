"""Which neurons of a network may change places without changing what it computes.

A *space* is a set of neurons that some tensors write (rows) and others read (columns); permuting all of these alike
changes nothing, as long as what stands between them treats the neurons alike. SiLU, GELU and LayerNorm do; GroupNorm
does within a group, and for whole groups; attention does within a head, and for whole heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Shapes = Mapping[str, tuple[int, ...]]

_VAE_GROUPS = "vae_groups"


class Axis(NamedTuple):
    """Where a tensor has the neurons of a space.

    Attributes:
        key: of the tensor.
        dim: its rows are 0, its columns 1.
        offset: of the first neuron there.
    """

    key: str
    dim: int
    offset: int = 0


@dataclass(frozen=True)
class Space:
    """Neurons that change places together.

    Attributes:
        name: the layer that makes them, for users.
        cells: sizes of the parts that they change places within; their sum is the number of neurons.
        tracks: the tensors that have them. An attention has two tracks, queries with keys and values with outputs,
            whose orders within a head are independent; others have one.
        exchange: whether whole cells, which are then of one size, change places too, in all tracks alike.
    """

    name: str
    cells: tuple[int, ...]
    tracks: tuple[tuple[Axis, ...], ...]
    exchange: bool = False

    @property
    def size(self) -> int:
        """How many neurons."""
        return sum(self.cells)

    @property
    def keys(self) -> frozenset[str]:
        """Those of all its tensors."""
        return frozenset(axis.key for track in self.tracks for axis in track)


@dataclass(frozen=True)
class Layout:
    """What the shapes of a network do not say.

    Attributes:
        groups: of its GroupNorms.
        heads: width of an attention -> its heads.
        text_heads: width of a text encoder -> its heads.
        vae_groups: of the GroupNorms of its VAE; 0 where the VAE stays in its order, as it does in recipes of before
            there were its spaces.
    """

    groups: int
    heads: Mapping[int, int]
    text_heads: Mapping[int, int]
    vae_groups: int = 0

    @classmethod
    def of(cls, networks: Mapping[str, Any]) -> Layout:
        """That of a model with these networks, as `empty_networks` makes them.

        Raises:
            ValueError: layers of one width differ in their heads.
        """
        unet = networks["unet"].config
        widths = unet.block_out_channels
        given = unet.num_attention_heads or unet.attention_head_dim  # the latter is a misnomer
        heads = list(zip(widths, given if isinstance(given, list | tuple) else [given] * len(widths), strict=True))
        texts = [network.config for part, network in networks.items() if part.startswith("text_encoder")]
        if dict(heads) != dict(heads[::-1]):
            raise ValueError("layers of one width have different numbers of heads")
        return cls(
            unet.norm_num_groups,
            dict(heads),
            {text.hidden_size: text.num_attention_heads for text in texts},
            networks["vae"].config.norm_num_groups if "vae" in networks else 0,
        )

    def data(self) -> dict[str, Any]:
        """As plain data, which `read` reads."""
        tables = {"heads": self.heads, "text_heads": self.text_heads}
        return {
            "groups": self.groups,
            **{name: {str(width): count for width, count in table.items()} for name, table in tables.items()},
            **({_VAE_GROUPS: self.vae_groups} if self.vae_groups else {}),
        }

    @classmethod
    def read(cls, data: Any) -> Layout:
        """What `data` described.

        Raises:
            ValueError: it has another form.
        """
        if not isinstance(data, Mapping) or {*data} - {_VAE_GROUPS} != {"groups", "heads", "text_heads"}:
            raise ValueError("its layout is not a table of groups, heads, text_heads and vae_groups")
        heads, text_heads = data["heads"], data["text_heads"]
        tables = [table for table in (heads, text_heads) if isinstance(table, Mapping)]
        counts = [data["groups"], data.get(_VAE_GROUPS, 1), *(count for table in tables for count in table.values())]
        if len(tables) < 2 or not all(type(count) is int and count > 0 for count in counts):
            raise ValueError("its layout has no whole numbers of groups and heads")
        if not all(isinstance(width, str) and width.isascii() and width.isdecimal() for t in tables for width in t):
            raise ValueError("its layout has a width that is no whole number")
        both = [{int(width): count for width, count in table.items()} for table in tables]
        return cls(data["groups"], both[0], both[1], data.get(_VAE_GROUPS, 0))


class Tensors:
    """The tensors of a network by the layers that have them; one that is not there is a `KeyError`."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes

    def has(self, layer: str) -> bool:
        """Whether there is such a layer."""
        return f"{layer}.weight" in self.shapes

    def width(self, layer: str) -> int:
        """The rows of a layer."""
        return self.shapes[f"{layer}.weight"][0]

    def axis(self, key: str, dim: int, offset: int = 0) -> Axis:
        """Where a tensor has neurons."""
        if key not in self.shapes:
            raise KeyError(key)
        return Axis(key, dim, offset)

    def rows(self, *layers: str, offset: int = 0) -> tuple[Axis, ...]:
        """Where layers, or norms, write neurons: rows and biases."""
        found = []
        for layer in layers:
            found.append(self.axis(f"{layer}.weight", 0, offset))
            if f"{layer}.bias" in self.shapes:
                found.append(self.axis(f"{layer}.bias", 0, offset))
        return tuple(found)

    def columns(self, *layers: str, offset: int = 0) -> tuple[Axis, ...]:
        """Where layers read neurons."""
        return tuple(self.axis(f"{layer}.weight", 1, offset) for layer in layers)

    def numbers(self, start: str) -> list[int]:
        """The numbers that follow this start of a name, in order."""
        found = (key[len(start) :].partition(".")[0] for key in self.shapes if key.startswith(start))
        return sorted({int(part) for part in found if part.isdigit()})


def equal_cells(size: int, count: int, what: str) -> tuple[int, ...]:
    """So many cells of one size.

    Raises:
        ValueError: they do not divide the neurons.
    """
    if count < 1 or size % count:
        raise ValueError(f"{what} has {size} channels, which {count} groups or heads do not divide")
    return (size // count,) * count


def attention(name: str, heads: int, size: int, inside: Sequence[Axis], outside: Sequence[Axis]) -> Space:
    """The heads of an attention: queries with keys, and values with outputs."""
    return Space(name, equal_cells(size, heads, name), (tuple(inside), tuple(outside)), exchange=True)
