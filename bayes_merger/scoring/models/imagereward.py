"""ImageReward: what people prefer for a prompt, by a BLIP that reads the prompt while it looks at the picture.

Xu et al., ImageReward: Learning and evaluating human preferences for text-to-image generation, 2023. The network is the
one of transformers with the authors' weights renamed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.scoring.models.embedding import Embedder, pixel_key
from bayes_merger.scoring.models.heads import Head, head_of
from bayes_merger.scoring.models.preprocessing import Preprocessing
from bayes_merger.scoring.models.towers import Tower
from bayes_merger.scoring.models.vision import with_weights
from bayes_merger.scoring.scorer import ImageToScore, ScorerBase
from bayes_merger.scoring.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

# The published reward is (r - MEAN) / STD of the raw one.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LONGEST = 35  # tokens of a prompt, as the authors have it

_SIZES = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_PICTURES = {**_SIZES, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6}
_TEXTS = {"num_attention_heads": 12, "encoder_hidden_size": 1024, "vocab_size": 30524}

# Names of the authors' picture encoder -> those of transformers.
_NAMES = {
    r"^cls_token$": "embeddings.class_embedding",
    r"^pos_embed$": "embeddings.position_embedding",
    r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"^norm\.": "post_layernorm.",
    r"^blocks\.(\d+)\.norm([12])\.": r"encoder.layers.\1.layer_norm\2.",
    r"^blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.\1.self_attn.qkv.",
    r"^blocks\.(\d+)\.attn\.proj\.": r"encoder.layers.\1.self_attn.projection.",
    r"^blocks\.(\d+)\.mlp\.": r"encoder.layers.\1.mlp.",
}


class ImageRewardScorer(ScorerBase):
    """The reward of a picture for its prompt, about -2 to 2; 0 is the mean of the pictures it was trained on.

    Args:
        name: what its scores are stored under.
        weights: path or address of `ImageReward.pt`.
        vocabulary: path or address of the `vocab.txt` of BERT (uncased).
        sha256: what downloaded weights must have.
        vocabulary_sha256: what a downloaded vocabulary must have.
        pictures: settings of the picture encoder, with the names of transformers, that differ from the published one's.
        texts: the same of the text encoder.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` for the first GPU if there is one.
        batch_size: how many pictures go through at once.
        scale: the raw values that mean 0 and 10 points.
        importance: how much it counts beside other scorers.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path,
        vocabulary: str | Path,
        *,
        sha256: str | None = None,
        vocabulary_sha256: str | None = None,
        pictures: Mapping[str, Any] | None = None,
        texts: Mapping[str, Any] | None = None,
        device: str = "auto",
        batch_size: int = 16,
        scale: Sequence[float] = (-2.0, 2.0),
        importance: float = 1.0,
    ) -> None:
        super().__init__(name, importance, scale)
        self._vocabulary = WeightFile(str(vocabulary), f"scorers.{name}.vocabulary", vocabulary_sha256)
        settings = ({**_PICTURES, **(pictures or {})}, {**_TEXTS, **(texts or {})})
        self._tower = _Blip(weights, sha256, device, batch_size, f"scorers.{name}", *settings, self._vocabulary)
        self._head: Head | None = None

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """The weights and the vocabulary it needs."""
        return (self._tower.file, self._vocabulary)

    def prepare(self, folder: Path | None = None) -> None:
        """Checks that the files are here, and fetches them where they are not.

        Raises:
            ConfigError: a file is missing or cannot be fetched.
        """
        self._vocabulary.find()
        self._tower.prepare()

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The reward of every picture for its own prompt."""
        if not images:
            return []
        if self._head is None:
            layers = self._tower.file.read(lambda key: key.startswith("mlp."))
            self._head = head_of(layers, f"{self._tower.file.setting}: {self._tower.file.path}")
        return [(float(reward) - MEAN) / STD for reward in self._head(self._tower.embed_pairs(images))]


class _Blip(Tower):
    """A picture and its prompt to one vector: what the text encoder makes of the first token as it sees the picture."""

    def __init__(
        self,
        weights: str | Path,
        sha256: str | None,
        device: str,
        batch_size: int,
        setting: str,
        pictures: Mapping[str, Any],
        texts: Mapping[str, Any],
        vocabulary: WeightFile,
    ) -> None:
        super().__init__(weights, sha256, device, batch_size, setting)
        self._pictures, self._texts, self._vocabulary = dict(pictures), dict(texts), vocabulary

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self._texts.get("hidden_size", 768))

    def embed_pairs(self, images: Sequence[ImageToScore]) -> Tensor:
        """Vectors of shape N x width, float32 on the CPU."""
        keys = [(pixel_key(image.image), image.prompt) for image in images]
        return self._embedder("pairs")(images, keys, self.batch_size)

    def _kind(self) -> Hashable:
        return repr((self._pictures, self._texts))

    def _maker(self, what: str, device: str) -> Callable[[], Embedder]:
        return lambda: self._made(device)

    def _made(self, device: str) -> Embedder:
        import torch
        from transformers import BertTokenizer

        where = f"{self.file.setting}: {self.file.path}"
        state = self.file.read(lambda key: key.startswith(("blip.visual_encoder.", "blip.text_encoder.")))
        eyes: Any = with_weights("BlipVisionModel", "BlipVisionConfig", self._pictures, _for_eyes(state), where)
        text = {
            key.removeprefix("blip.text_encoder."): tensor
            for key, tensor in state.items()
            if key.startswith("blip.text_encoder.") and not key.endswith("position_ids")
        }
        reader: Any = with_weights("BlipTextModel", "BlipTextConfig", self._texts, text, where, add_pooling_layer=False)
        tokenizer = BertTokenizer(str(self._vocabulary.find()))
        preprocessing = Preprocessing(int(self._pictures["image_size"]))

        def prepare(pairs: Sequence[ImageToScore], device: str) -> tuple[Tensor, ...]:
            prompts = [pair.prompt for pair in pairs]
            tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt")
            pixels = preprocessing([pair.image for pair in pairs], device)
            return pixels, tokens.input_ids.to(device), tokens.attention_mask.to(device)

        def run(pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
            seen = eyes(pixels).last_hidden_state
            read: Tensor = reader(tokens, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
            return read[:, 0]

        return Embedder(torch.nn.ModuleList([eyes, reader]), run, prepare, device)


def _for_eyes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        if key.startswith("blip.visual_encoder."):
            name = key.removeprefix("blip.visual_encoder.")
            for pattern, theirs in _NAMES.items():
                name = re.sub(pattern, theirs, name)
            renamed[name] = tensor
    return renamed
