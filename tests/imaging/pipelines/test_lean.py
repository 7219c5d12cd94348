"""Layers that come to the same numbers with less work."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from bayes_merger.imaging import LivePipeline
from bayes_merger.imaging.pipelines.lean import Attending, Residual, Transformer, make_lean

WIDTH = 32


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same = ResnetBlock2D(in_channels=WIDTH, out_channels=WIDTH, temb_channels=8, groups=4)
        self.wider = ResnetBlock2D(in_channels=WIDTH, out_channels=64, temb_channels=None, groups=4)
        self.words = BasicTransformerBlock(WIDTH, 2, 16, cross_attention_dim=24)

    def answers(self, channels: Tensor, times: Tensor, words: Tensor) -> list[Tensor]:
        pixels = channels.flatten(2).transpose(1, 2)
        read = self.words(pixels, encoder_hidden_states=words)
        return [self.same(channels, times), self.wider(channels, None), read, self.words.attn1(pixels)]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def inputs(rows: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, their times and their words."""
    torch.manual_seed(1)
    return torch.randn(rows, WIDTH, side, side), torch.randn(rows, 8), torch.randn(rows, 77, 24)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "side"), [(1, 4), (2, 16), (3, 12)])
def test_answers_are_diffusers_bit_for_bit_and_what_is_given_is_not_written_over(
    network: Network, rows: int, side: int
) -> None:
    given = inputs(rows, side)
    wanted = network.answers(*given)
    names = list(network.state_dict())
    make_lean(network)
    assert [type(layer) for layer in network.children()] == [Residual, Residual, Transformer]
    assert type(network.words.attn2) is Attending
    assert list(network.state_dict()) == names
    kept = [one.clone() for one in given]
    for found, answer in zip(network.answers(*given), wanted, strict=True):
        assert torch.equal(found, answer)
    assert all(torch.equal(one, other) for one, other in zip(given, kept, strict=True))


def test_who_wants_gradients_gets_diffusers(network: Network) -> None:
    given = inputs(4, 16)
    wanted = gradients(network, *given)
    make_lean(network)
    assert all(torch.equal(one, other) for one, other in zip(gradients(network, *given), wanted, strict=True))


def gradients(network: Network, *given: Tensor) -> list[Tensor]:
    network.zero_grad()
    sum((answer.square().sum() for answer in network.answers(*given)), torch.zeros(())).backward()
    return [weight.grad for weight in network.parameters() if weight.grad is not None]


def test_what_is_of_another_form_stays_as_it_is() -> None:
    network = nn.ModuleList(
        [
            ResnetBlock2D(in_channels=8, groups=4, output_scale_factor=2.0),
            ResnetBlock2D(in_channels=8, groups=4, time_embedding_norm="scale_shift"),
            ResnetBlock2D(in_channels=8, groups=4, up=True),
            BasicTransformerBlock(8, 2, 4, norm_type="ada_norm_zero", num_embeds_ada_norm=3),
            Attention(8, heads=2, dim_head=4, residual_connection=True),
            Attention(8, heads=2, dim_head=4, norm_num_groups=4),
        ]
    )
    before = [type(layer) for layer in network]
    make_lean(network)
    assert [type(layer) for layer in network] == before


def test_a_mask_and_words_of_another_kind_are_heeded(network: Network) -> None:
    pixels, words, mask = (
        torch.randn(2, 16, WIDTH),
        torch.randn(2, 5, 24),
        torch.tensor([[[0.0, 0, 0, -1e4, -1e4]]] * 2),
    )
    wanted = network.words(pixels, encoder_hidden_states=words, encoder_attention_mask=mask)
    make_lean(network)
    with torch.no_grad():
        found = network.words(pixels, encoder_hidden_states=words, encoder_attention_mask=mask)
        assert not torch.equal(network.words(pixels, encoder_hidden_states=words), found)
    assert torch.equal(found, wanted)


def test_a_pipeline_on_the_cpu_has_them(pipeline_a: LivePipeline) -> None:
    kinds = {type(layer) for layer in pipeline_a.pipe.unet.modules()}
    assert {Residual, Transformer, Attending} <= kinds
    assert not {ResnetBlock2D, BasicTransformerBlock, Attention} & kinds
