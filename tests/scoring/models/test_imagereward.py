"""ImageReward with random weights of its topology, under the names that its authors give them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.errors import ConfigError
from bayes_merger.scoring import ImageRewardScorer
from bayes_merger.scoring.models.preprocessing import Preprocessing
from tests.scoring.pictures import judged, noise

PICTURES = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
}
TEXTS = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "encoder_hidden_size": 64, "vocab_size": 40,
}  # fmt: skip
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "cat",
    "on",
    "the",
    "table",
    "two",
    "dogs",
    "##s",
    ",",
    ".",
]
THEIRS = (
    ("embeddings.class_embedding", "cls_token"), ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"), ("post_layernorm", "norm"), ("encoder.layers", "blocks"),
    ("self_attn.projection", "attn.proj"), ("self_attn", "attn"), ("layer_norm", "norm"),
)  # fmt: skip
STACK = {"0": 1024, "2": 128, "4": 64, "6": 16, "7": 1}


class Networks:
    """The parts as networks of transformers and torch, and a file of their weights."""

    def __init__(self, folder: Path) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        torch.manual_seed(0)
        self.eyes = BlipVisionModel(BlipVisionConfig(**PICTURES, patch_size=16, layer_norm_eps=1e-6)).eval()
        self.reader = BlipTextModel(BlipTextConfig(**TEXTS), add_pooling_layer=False).eval()
        widths = [48, *STACK.values()]
        self.layers = [torch.nn.Linear(*pair) for pair in pairwise(widths)]
        for parameter in [*self.eyes.parameters(), *self.reader.parameters()]:
            torch.nn.init.normal_(parameter, std=0.2)
        tensors: dict[str, Any] = {"blip.vision_proj.weight": torch.ones(2, 2)}
        for key, value in self.eyes.state_dict().items():
            for ours, theirs in THEIRS:
                key = key.replace(ours, theirs)
            tensors[f"blip.visual_encoder.{key}"] = value
        tensors |= {f"blip.text_encoder.{key}": value for key, value in self.reader.state_dict().items()}
        tensors["blip.text_encoder.embeddings.position_ids"] = torch.arange(512)[None]
        for name, layer in zip(STACK, self.layers, strict=True):
            tensors |= {f"mlp.layers.{name}.{key}": value for key, value in layer.state_dict().items()}
        torch.save(tensors, folder / "ImageReward.pt")
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")

    def reward(self, image: Any, tokens: list[int]) -> float:
        """Of tokens without padding."""
        with torch.no_grad():
            seen = self.eyes(Preprocessing(32)([image])).last_hidden_state
            value = self.reader(torch.tensor([tokens]), encoder_hidden_states=seen).last_hidden_state[:, 0]
            for layer in self.layers:
                value = layer(value)
        return (float(value) - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture
def networks(tmp_path: Path) -> Networks:
    return Networks(tmp_path)


def scorer(folder: Path, **change: Any) -> ImageRewardScorer:
    given = {"weights": folder / "ImageReward.pt", "vocabulary": folder / "vocab.txt", "device": "cpu", **change}
    return ImageRewardScorer("imagereward", **{"pictures": PICTURES, "texts": TEXTS, **given})


def test_the_reward_of_each_picture_for_its_own_prompt(networks: Networks, tmp_path: Path) -> None:
    judge = scorer(tmp_path)
    judge.prepare()
    images = [judged(0, prompt="a red cat on the table"), judged(1, prompt="Two cats, dogs.")]
    expected = [
        networks.reward(noise(0), [2, 5, 6, 7, 8, 9, 10, 3]),
        networks.reward(noise(1), [2, 11, 7, 13, 14, 12, 15, 3]),
    ]
    assert judge.score(images) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
    assert judge.score([]) == []
    assert [file.setting for file in judge.files] == ["scorers.imagereward.weights", "scorers.imagereward.vocabulary"]


def test_one_picture_has_another_reward_for_another_prompt(networks: Networks, tmp_path: Path) -> None:
    first, second = scorer(tmp_path).score([judged(0, prompt="a red cat"), judged(0, prompt="two dogs")])
    assert first != second


@pytest.mark.parametrize("name", ["ImageReward.pt", "vocab.txt"])
def test_a_missing_file_is_found_at_start_up(networks: Networks, tmp_path: Path, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=rf"scorers\.imagereward\.\w+: there is no file .*{name}"):
        scorer(tmp_path).prepare()


def test_weights_of_another_model_are_named(networks: Networks, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scorers\.imagereward\.weights: .* does not fit the model: .*layers\.2"):
        scorer(tmp_path, pictures={**PICTURES, "num_hidden_layers": 3}).score([judged(0)])
