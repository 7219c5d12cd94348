from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.errors import ConfigError
from bayes_merger.scoring.models.heads import CITY, LINEAR, RELU, WAIFU, Head, head_layout, load_head, read_layout
from bayes_merger.scoring.weights import WeightFile

SIZES = (16, 12, 10, 8, 4, 1)


def stack(indices: tuple[int, ...], prefix: str = "layers.", sizes: tuple[int, ...] = SIZES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index, taken, given in zip(indices, sizes[:-1], sizes[1:], strict=True):
        tensors[f"{prefix}{index}.weight"] = torch.randn(given, taken, generator=generator) / taken**0.5
        tensors[f"{prefix}{index}.bias"] = torch.randn(given, generator=generator)
    return tensors


def layered(tensors: dict[str, torch.Tensor], *, relu: bool) -> torch.nn.Sequential:
    """The head as its authors wrote it, dropout and all."""
    layers: list[torch.nn.Module] = []
    weights = [tensor for key, tensor in tensors.items() if key.endswith("weight")]
    biases = [tensor for key, tensor in tensors.items() if key.endswith("bias")]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = weight, bias
        layers += [linear]
        if number < len(weights) - 1:
            layers += [torch.nn.ReLU()] if relu else []
            layers += [torch.nn.Dropout(0.2)]
    return torch.nn.Sequential(*layers).eval()


def embeddings(count: int = 32, width: int = 16) -> torch.Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(drawn, dim=-1)


def test_a_stack_without_activations_collapses_to_one_layer_and_says_the_same(tmp_path: Path) -> None:
    tensors = stack((0, 2, 4, 6, 7))
    save_file(tensors, tmp_path / "head.safetensors")
    head = load_head(WeightFile(str(tmp_path / "head.safetensors"), "head"))
    assert len(head.layers) == 1
    with torch.no_grad():
        expected = layered(tensors, relu=False)(embeddings()).squeeze(-1)
    torch.testing.assert_close(head(embeddings()), expected, atol=1e-5, rtol=0)


def test_the_relu_variant_keeps_its_layers_and_says_the_same(tmp_path: Path) -> None:
    tensors = stack((0, 3, 6, 9, 11))
    torch.save(tensors, tmp_path / "ava+logos-l14-reluMSE.pth")
    head = load_head(WeightFile(str(tmp_path / "ava+logos-l14-reluMSE.pth"), "head"))
    assert head.kind == RELU
    assert len(head.layers) == 5
    with torch.no_grad():
        expected = layered(tensors, relu=True)(embeddings()).squeeze(-1)
    torch.testing.assert_close(head(embeddings()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["", "linear.", "m.", "module.linear."])
def test_one_linear_layer_under_any_name(tmp_path: Path, prefix: str) -> None:
    torch.save({f"{prefix}weight": torch.ones(1, 16), f"{prefix}bias": torch.tensor([2.0])}, tmp_path / "head.pth")
    assert read_layout(WeightFile(str(tmp_path / "head.pth"), "head")).width == 16
    head = load_head(WeightFile(str(tmp_path / "head.pth"), "head"))
    assert head(torch.full((3, 16), 0.25)).tolist() == [6.0, 6.0, 6.0]


def test_a_state_dict_inside_a_checkpoint_is_found(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.weight": torch.ones(1, 4), "module.bias": torch.zeros(1)}}, tmp_path / "h.pth")
    assert load_head(WeightFile(str(tmp_path / "h.pth"), "head"))(torch.ones(1, 4)).tolist() == [4.0]


def test_layers_are_put_in_the_order_of_their_numbers() -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in stack((0, 3, 6, 9, 11)).items()}
    shuffled = dict(sorted(shapes.items()))  # "layers.11" before "layers.3"
    assert head_layout(shuffled, "head").layers == ("layers.0", "layers.3", "layers.6", "layers.9", "layers.11")


def test_waifu_has_relu_and_sigmoid() -> None:
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(*shape, generator=generator) for shape in ((8, 16), (8,), (4, 8), (4,), (1, 4), (1,))]
    head = Head(tuple(zip(parts[::2], parts[1::2], strict=True)), WAIFU)
    x = embeddings()
    hidden = torch.relu(torch.relu(x @ parts[0].T + parts[1]) @ parts[2].T + parts[3])
    torch.testing.assert_close(head.collapsed()(x), torch.sigmoid(hidden @ parts[4].T + parts[5]).squeeze(-1))


def test_the_head_of_v25_is_linear_and_may_be_in_bfloat16(tmp_path: Path) -> None:
    tensors = {key: tensor.bfloat16() for key, tensor in stack((0, 2, 4, 6, 8), "scoring_head.").items()}
    torch.save(tensors, tmp_path / "head.pth")
    head = load_head(WeightFile(str(tmp_path / "head.pth"), "head"))
    assert (head.kind, len(head.layers)) == (LINEAR, 1)
    with torch.no_grad():
        expected = layered({key: tensor.float() for key, tensor in tensors.items()}, relu=False)(embeddings())
    torch.testing.assert_close(head(embeddings()), expected.squeeze(-1), atol=1e-5, rtol=0)


class Residual(torch.nn.Module):
    """A step of CityAesthetics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        steps: list[torch.nn.Module] = [torch.nn.Linear(width, width)]
        for _ in range(2):
            steps += [torch.nn.LeakyReLU(0.1), torch.nn.Linear(width, width)]
        self.long = torch.nn.Sequential(*steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.long(x) + x)


def city(width: int, hidden: int) -> torch.nn.ModuleDict:
    """CityAesthetics as a network of its own."""
    torch.manual_seed(4)
    one, two, three = torch.nn.Linear(hidden, 12), torch.nn.Linear(12, 8), torch.nn.Linear(8, 4)
    down = torch.nn.Sequential(one, two, torch.nn.Dropout(0.1), torch.nn.LeakyReLU(), three, torch.nn.Linear(4, 1))
    up = torch.nn.Sequential(torch.nn.Linear(width, hidden), Residual(hidden))
    return torch.nn.ModuleDict({"up": up, "down": down}).eval()


def test_cityaesthetics_says_what_its_network_says(tmp_path: Path) -> None:
    network = city(16, 24)
    save_file(network.state_dict(), tmp_path / "city.safetensors")
    file = WeightFile(str(tmp_path / "city.safetensors"), "head")
    assert read_layout(file).width == 16
    head = load_head(file)
    assert (head.kind, head.normalised) == (CITY, False)
    x = 5 * embeddings()
    with torch.no_grad():
        expected = (torch.tanh(network["down"](network["up"](x))) + 1) / 2
    torch.testing.assert_close(head(x), expected.squeeze(-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "tensors",
    [
        stack((0, 2, 4, 6, 8)),  # a numbering that might hide activations
        stack((0, 2, 4, 6, 7), "scoring_head."),
        stack((0, 2, 4, 6, 7)) | {"scale": torch.ones(1)},
        {"conv.weight": torch.ones(1, 3, 4, 4), "conv.bias": torch.ones(1)},
        {"weight": torch.ones(2, 16), "bias": torch.ones(2)},
        {"weight": torch.ones(1, 16)},
        {
            "fc1.weight": torch.ones(1, 16),
            "fc1.bias": torch.ones(1),
            "fc9.weight": torch.ones(1, 1),
            "fc9.bias": torch.ones(1),
        },
    ],
)
def test_what_is_no_known_head_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"scorers\.x\.head: .*x\.safetensors"):
        read_layout(WeightFile(str(tmp_path / "x.safetensors"), "scorers.x.head"))


def test_layers_that_do_not_follow_each_other_are_refused(tmp_path: Path) -> None:
    tensors = stack((0, 2, 4, 6, 7))
    tensors["layers.4.weight"] = torch.ones(8, 11)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"layers\.4"):
        read_layout(WeightFile(str(tmp_path / "x.safetensors"), "head"))


def test_a_head_with_nan_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.full((1, 4), torch.nan), "bias": torch.zeros(1)}, tmp_path / "h.pth")
    with pytest.raises(ConfigError, match="NaN"):
        load_head(WeightFile(str(tmp_path / "h.pth"), "head"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code was run",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Evil()}, tmp_path / "h.pth")
    with pytest.raises(ConfigError, match="carries foreign objects"):
        load_head(WeightFile(str(tmp_path / "h.pth"), "head"))
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"<html>404</html>", b"PK\x03\x04 broken", b"\x80\x02."])
def test_a_damaged_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "h.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"h\.pth"):
        read_layout(WeightFile(str(tmp_path / "h.pth"), "head"))


def test_the_real_laion_head_collapses_without_a_trace(facts: Path) -> None:
    path = facts / "heads" / "laion-sac-logos-ava-v2.safetensors"
    layout = read_layout(WeightFile(str(path), "head"))
    assert (layout.width, layout.kind) == (768, LINEAR)
    tensors = load_file(path)
    ordered = {
        f"layers.{n}.{part}": tensors[f"layers.{n}.{part}"] for n in (0, 2, 4, 6, 7) for part in ("weight", "bias")
    }
    head = load_head(WeightFile(str(path), "head"))
    x = embeddings(200, 768)
    with torch.no_grad():
        expected = layered(ordered, relu=False)(x).squeeze(-1)
    torch.testing.assert_close(head(x), expected, atol=1e-5, rtol=0)
    ((weight, bias),) = head.layers
    assert weight.norm().item() == pytest.approx(18.0, abs=0.05)
    assert bias.item() == pytest.approx(5.24, abs=0.005)


def test_the_real_linear_head_is_w_e_plus_b(facts: Path) -> None:
    path = facts / "heads" / "sa_0_4_vit_l_14_linear.safetensors"
    head = load_head(WeightFile(str(path), "head"))
    weight, bias = load_file(path)["weight"], load_file(path)["bias"]
    x = embeddings(50, 768)
    torch.testing.assert_close(head(x), (x.double() @ weight.double().T + bias).squeeze(-1).float(), atol=1e-5, rtol=0)


def test_the_real_head_of_waifu_diffusion_is_three_layers_and_a_sigmoid(facts: Path) -> None:
    path = facts / "heads" / "aes-B32-v0.safetensors"
    head, x = load_head(WeightFile(str(path), "head")), embeddings(50, 512)
    assert head.kind == WAIFU
    expected = x.double()
    for number in (1, 2, 3):
        tensors = {part: load_file(path)[f"fc{number}.{part}"].double() for part in ("weight", "bias")}
        expected = expected @ tensors["weight"].T + tensors["bias"]
        expected = torch.sigmoid(expected) if number == 3 else torch.relu(expected)
    torch.testing.assert_close(head(x), expected.squeeze(-1).float(), atol=1e-5, rtol=0)
