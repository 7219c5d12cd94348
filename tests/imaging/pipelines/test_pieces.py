"""Feed-forward layers that work on a few tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models.attention import FeedForward

from bayes_merger.imaging import LivePipeline
from bayes_merger.imaging.pipelines.lean import as_diffusers, make_lean
from bayes_merger.imaging.pipelines.pieces import InPieces


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gated, self.plain = FeedForward(32), FeedForward(64, activation_fn="gelu-approximate")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seen_by(network: Network, tokens: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """How many tokens the first layer was given, call by call, and its answer."""
    seen: list[int] = []
    first = network.get_submodule("gated.net.0")
    hook = first.register_forward_hook(lambda _, given, answer: seen.append(given[0].numel() // 32))
    answer: torch.Tensor = network.gated(tokens)
    hook.remove()
    return seen, answer


@torch.no_grad()
@pytest.mark.parametrize(("rows", "pieces"), [(1, [256]), (4, [1024]), (5, [640, 640]), (9, [768, 768, 768])])
def test_answers_are_those_of_whole_layers_bit_for_bit(rows: int, pieces: list[int]) -> None:
    torch.manual_seed(0)
    network, tokens = Network(), torch.randn(rows, 256, 32)
    names = list(network.state_dict())
    whole = [network.gated(tokens), network.plain(tokens.view(rows, 128, 64))]
    make_lean(network)
    assert [type(layer) for layer in network.children()] == [InPieces, InPieces]
    assert list(network.state_dict()) == names
    seen, answer = seen_by(network, tokens)
    assert seen == pieces
    assert torch.equal(answer, whole[0])
    assert torch.equal(network.plain(tokens.view(rows, 128, 64)), whole[1])
    with as_diffusers(network):
        assert seen_by(network, tokens)[0] == [rows * 256]
    assert seen_by(network, tokens)[0] == pieces


@torch.no_grad()
@pytest.mark.parametrize(("threads", "dtype"), [(2, torch.float32), (1, torch.bfloat16), (1, torch.float16)])
def test_what_would_be_added_up_in_another_order_is_taken_whole(threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    network = Network().to(dtype)
    make_lean(network)
    assert seen_by(network, torch.randn(9, 256, 32, dtype=dtype))[0] == [9 * 256]


def test_who_wants_gradients_gets_them_of_whole_layers() -> None:
    network = Network()
    make_lean(network)
    assert seen_by(network, torch.randn(9, 256, 32))[0] == [9 * 256]


def test_a_pipeline_on_the_cpu_has_them_and_its_names_are_diffusers(pipeline_a: LivePipeline, tiny_a: Path) -> None:
    kinds = {type(layer) for layer in pipeline_a.pipe.unet.modules()}
    assert InPieces in kinds
    assert FeedForward not in kinds
    assert any(name.endswith("ff.net.0.proj.weight") for name, _ in pipeline_a.pipe.unet.named_parameters())
