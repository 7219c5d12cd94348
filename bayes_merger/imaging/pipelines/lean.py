"""Layers of diffusers' networks that come to the same numbers with less work, bit for bit.

They write over what nobody reads again, and divide nothing by one. A layer keeps its parameters under their names; only
its `forward` is another, and may be diffusers' again for a while.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from bayes_merger.imaging.pipelines.pieces import InPieces


class Residual(ResnetBlock2D):  # type: ignore[misc]
    """A residual block of convolutions."""

    @staticmethod
    def fits(layer: Any) -> bool:
        """Whether a layer is of the common form, which is all that is computed here."""
        usual = layer.time_embedding_norm == "default" and isinstance(layer.nonlinearity, nn.SiLU)
        same_size = layer.upsample is None and layer.downsample is None
        return usual and same_size and layer.output_scale_factor == 1 and not layer.skip_time_act

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *rest: Any, **others: Any) -> Tensor:
        """The answer to channels `(n, channels, height, width)` at the times `(n, width)`."""
        if torch.is_grad_enabled():
            answer: Tensor = super().forward(input_tensor, temb, *rest, **others)
            return answer
        inner = self.conv1(functional.silu(self.norm1(input_tensor), inplace=True))
        if self.time_emb_proj is not None and temb is not None:
            inner += self.time_emb_proj(functional.silu(temb))[:, :, None, None]
        answer = self.conv2(functional.silu(self.norm2(inner), inplace=True))
        answer += input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return answer


class Transformer(BasicTransformerBlock):  # type: ignore[misc]
    """A block of attention among pixels, attention to words, and feed-forward layers."""

    @staticmethod
    def fits(layer: Any) -> bool:
        """Whether a layer is of the common form."""
        usual = layer.norm_type == "layer_norm" and layer.pos_embed is None and not hasattr(layer, "fuser")
        return usual and layer.attn2 is not None and not layer.only_cross_attention

    def forward(
        self, hidden_states: Tensor, *rest: Any, encoder_hidden_states: Tensor | None = None, **others: Any
    ) -> Tensor:
        """The answer to pixels `(n, pixels, width)` that read words `(n, tokens, width of words)`."""
        if torch.is_grad_enabled() or rest or any(other is not None for other in others.values()):
            answer: Tensor = super().forward(
                hidden_states, *rest, encoder_hidden_states=encoder_hidden_states, **others
            )
            return answer
        pixels = self.attn1(self.norm1(hidden_states)).add_(hidden_states)
        pixels = self.attn2(self.norm2(pixels), encoder_hidden_states=encoder_hidden_states).add_(pixels)
        answer = self.ff(self.norm3(pixels)).add_(pixels)
        return answer


class Attending(Attention):  # type: ignore[misc]
    """Attention without norms, masks and residuals of its own."""

    @staticmethod
    def fits(layer: Any) -> bool:
        """Whether a layer is of the common form."""
        norms = (layer.spatial_norm, layer.group_norm, layer.norm_cross, layer.norm_q, layer.norm_k)
        plain = all(norm is None for norm in norms) and not layer.residual_connection
        return plain and layer.rescale_output_factor == 1 and type(layer.processor) is AttnProcessor2_0

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """What pixels `(n, pixels, width)` make of words `(n, tokens, width of words)`, or of each other."""
        if attention_mask is not None or others:
            answer: Tensor = super().forward(hidden_states, encoder_hidden_states, attention_mask, **others)
            return answer
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        of = ((self.to_q, hidden_states), (self.to_k, read), (self.to_v, read))
        heads = (layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, tokens in of)
        found = functional.scaled_dot_product_attention(*heads)
        answer = self.to_out[0](found.transpose(1, 2).flatten(2))
        return answer


class Gated(GEGLU):  # type: ignore[misc]
    """The first half of a feed-forward layer, with a gate."""

    def forward(self, hidden_states: Tensor, *rest: Any, **others: Any) -> Tensor:
        """The answer to tokens: shape `(..., width)`."""
        if torch.is_grad_enabled():
            answer: Tensor = super().forward(hidden_states, *rest, **others)
            return answer
        values, gates = self.proj(hidden_states).chunk(2, dim=-1)
        return functional.gelu(gates).mul_(values)


_LEAN: Mapping[type[nn.Module], type[nn.Module]] = {
    ResnetBlock2D: Residual,
    BasicTransformerBlock: Transformer,
    Attention: Attending,
    GEGLU: Gated,
    FeedForward: InPieces,
}


def make_lean(network: nn.Module) -> None:
    """Let the layers of a network work so, as far as they are of a form that is known here."""
    for layer in network.modules():
        kind = _LEAN.get(type(layer))
        if kind is not None and getattr(kind, "fits", bool)(layer):
            layer.__class__ = kind


@contextmanager
def as_diffusers(network: nn.Module, of: Collection[type[nn.Module]] = tuple(_LEAN.values())) -> Iterator[None]:
    """For whoever watches a network's layers: each of them sees all of a call at once, and nothing is written over.

    Args:
        network: whose layers are diffusers' meanwhile.
        of: the kinds of layers; `InPieces` alone is enough for who keeps no tensor, and is faster.
    """
    before = {lean: kind for kind, lean in _LEAN.items() if lean in of}
    changed = [(layer, type(layer)) for layer in network.modules() if type(layer) in before]
    for layer, lean in changed:
        layer.__class__ = before[lean]
    try:
        yield
    finally:
        for layer, lean in changed:
            layer.__class__ = lean
