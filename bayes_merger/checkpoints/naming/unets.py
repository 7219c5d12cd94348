"""The names of U-Nets and VAEs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bayes_merger.checkpoints.naming.counterpart import UNET, Counterpart, numbers_in, renamed

RESNET: Mapping[str, str] = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
"""The layers of a U-Net's resnet: diffusers' name to the file's."""

UNET_EDGES: Mapping[str, str] = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "label_emb.0.0",  # of unCLIP
    "class_embedding.linear_2": "label_emb.0.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""The layers of a U-Net outside its blocks."""

# the second half: how diffusers called them until its version 0.17
_VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
}  # fmt: skip


@dataclass(frozen=True)
class UnetNames:
    """The U-Nets of Stable Diffusion 1, 2 and XL.

    Attributes:
        layers: resnets per level on the way down.
        attentive: the levels on the way up that have attention; the upsampler stands behind it.
    """

    layers: int
    attentive: frozenset[int]

    @classmethod
    def of(cls, names: Collection[str]) -> UnetNames:
        """The names of a U-Net with these tensors."""
        down = numbers_in(r"down_blocks\.(\d+)\.resnets\.(\d+)\.", names)
        up = numbers_in(r"up_blocks\.(\d+)\.attentions\.(\d+)\.", names)
        return cls(1 + max((layer for _, layer in down), default=0), frozenset(block for block, _ in up))

    def name(self, name: str) -> Counterpart | None:
        """Where a tensor of the U-Net is in a single file."""
        found = self._place(name)
        return None if found is None else Counterpart(UNET + found)

    def _place(self, name: str) -> str | None:
        head, _, leaf = name.rpartition(".")
        if head in UNET_EDGES:
            return f"{UNET_EDGES[head]}.{leaf}"
        step = self.layers + 1
        match name.split("."):
            case ["mid_block", "attentions", "0", *rest]:
                return f"middle_block.1.{'.'.join(rest)}"
            case ["mid_block", "resnets", i, *rest] if rest[0] in RESNET:
                return f"middle_block.{2 * int(i)}.{renamed(rest, RESNET)}"
            case ["down_blocks", b, "downsamplers", "0", "conv", leaf]:
                return f"input_blocks.{1 + int(b) * step + self.layers}.0.op.{leaf}"
            case ["up_blocks", b, "upsamplers", "0", *rest]:
                place = 2 if int(b) in self.attentive else 1
                return f"output_blocks.{int(b) * step + self.layers}.{place}.{'.'.join(rest)}"
            case [("down_blocks" | "up_blocks") as way, b, "attentions", i, *rest]:
                return f"{self._block(way, b, i)}.1.{'.'.join(rest)}"
            case [("down_blocks" | "up_blocks") as way, b, "resnets", i, *rest] if rest[0] in RESNET:
                return f"{self._block(way, b, i)}.0.{renamed(rest, RESNET)}"
        return None

    def _block(self, way: str, level: str, place: str) -> str:
        number = int(level) * (self.layers + 1) + int(place)
        return f"input_blocks.{1 + number}" if way == "down_blocks" else f"output_blocks.{number}"


@dataclass(frozen=True)
class VaeNames:
    """The VAE, the same in all models except for its width, its number of channels and its prefix.

    Attributes:
        levels: resolutions that it works at.
        prefix: of its keys.
    """

    levels: int
    prefix: str

    @classmethod
    def of(cls, names: Collection[str], prefix: str) -> VaeNames:
        """The names of a VAE with these tensors, behind this prefix."""
        levels = numbers_in(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", names)
        return cls(1 + max((level for level, _ in levels), default=-1), prefix)

    def name(self, name: str) -> Counterpart | None:
        """Where a tensor of the VAE is in a single file."""
        found = self._place(name)
        return None if found is None else Counterpart(self.prefix + found)

    def _place(self, name: str) -> str | None:
        shortcut = {"conv_shortcut": "nin_shortcut"}
        match name.split("."):
            case [side, "down_blocks", b, "resnets", i, *rest]:
                return f"{side}.down.{b}.block.{i}.{renamed(rest, shortcut)}"
            case [side, "up_blocks", b, "resnets", i, *rest]:
                return f"{side}.up.{self.levels - 1 - int(b)}.block.{i}.{renamed(rest, shortcut)}"
            case [side, "down_blocks", b, "downsamplers", "0", *rest]:
                return f"{side}.down.{b}.downsample.{'.'.join(rest)}"
            case [side, "up_blocks", b, "upsamplers", "0", *rest]:
                return f"{side}.up.{self.levels - 1 - int(b)}.upsample.{'.'.join(rest)}"
            case [side, "mid_block", "resnets", i, *rest]:
                return f"{side}.mid.block_{int(i) + 1}.{renamed(rest, shortcut)}"
            case [side, "mid_block", "attentions", "0", *rest] if ".".join(rest[:-1]) in _VAE_ATTENTION:
                return f"{side}.mid.attn_1.{_VAE_ATTENTION['.'.join(rest[:-1])]}.{rest[-1]}"
            case [side, "conv_norm_out", leaf]:
                return f"{side}.norm_out.{leaf}"
            case ["encoder" | "decoder", "conv_in" | "conv_out", _] | ["quant_conv" | "post_quant_conv", _]:
                return name
        return None
