"""CLIP towers, built by open_clip."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.documents import read_document
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.paths import user_path
from bayes_merger.scoring.models.conversion import from_transformers
from bayes_merger.scoring.models.embedding import Embedder
from bayes_merger.scoring.models.preprocessing import Preprocessing
from bayes_merger.scoring.models.towers import Tower
from bayes_merger.scoring.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

# OpenAI's weights in open_clip's names, which the aesthetic heads were trained on: address, SHA-256 where it is known.
_OPENAI = "https://huggingface.co/timm/{}.openai/resolve/main/open_clip_model.safetensors"
PUBLISHED: Mapping[str, tuple[str, str | None]] = {
    "ViT-L-14-quickgelu": (
        _OPENAI.format("vit_large_patch14_clip_224"),
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
    ),
    "ViT-L-14-336-quickgelu": (_OPENAI.format("vit_large_patch14_clip_336"), None),
    "ViT-B-32-quickgelu": (_OPENAI.format("vit_base_patch32_clip_224"), None),
}


class ClipTower(Tower):
    """Pictures and texts to vectors of one space, through open_clip; each half is loaded when it is first needed.

    Args:
        model: open_clip's name of the architecture. OpenAI's weights need the `-quickgelu` one: without it LAION's head
            gave 4.44 where 5.05 is right, without a warning.
        weights: path or address of the weights: open_clip's own files, or a `transformers` CLIP as safetensors; None
            for the published ones of `model`, fetched once.
        sha256: what a download must have; see :class:`~bayes_merger.scoring.weights.WeightFile`.
        config: path of an open_clip model JSON (or `open_clip_config.json`) instead of a named `model`.
        fit: how a picture becomes a square, see :class:`~bayes_merger.scoring.models.preprocessing.Preprocessing`; None
            as the architecture says.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` for the first GPU if there is one.
        batch_size: how many pictures go through at once.
        setting: what the configuration calls this tower, for messages.
    """

    def __init__(
        self,
        model: str | None = "ViT-L-14-quickgelu",
        weights: str | Path | None = None,
        *,
        sha256: str | None = None,
        config: str | Path | None = None,
        fit: str | None = None,
        device: str = "auto",
        batch_size: int = 16,
        setting: str = "tower",
    ) -> None:
        published = PUBLISHED.get(str(model)) if weights is None and config is None else None
        weights, sha256 = published or (weights, sha256)
        super().__init__(weights, sha256, device, batch_size, setting)
        self.model = model
        self.config = user_path(config) if config else None
        self.fit = fit
        self._architecture: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The architecture's name or file."""
        return str(self.config or self.model)

    @property
    def width(self) -> int:
        """Length of a vector, from the architecture alone."""
        return int(self._read_architecture()["model_cfg"]["embed_dim"])

    def prepare(self) -> None:
        """Checks architecture and weights without loading them; fetches the weights when they are not here yet.

        Raises:
            ConfigError: unknown architecture, no weights, or weights of another size.
        """
        architecture = self._read_architecture()
        settings = architecture["model_cfg"]
        if "openai" in self.file.source.lower() and not settings.get("quick_gelu") and self.config is None:
            raise ConfigError(
                f"{self.setting}: OpenAI's weights need QuickGELU; give {self.setting}.model={self.model}-quickgelu"
            )
        self._preprocessing(architecture)
        super().prepare()
        if self.file.path.suffix == ".safetensors":
            _check_shapes(self.file.shapes(), settings, f"{self.file.setting}: {self.file.path}")

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors of shape N x width, float32 on the CPU, each of length 1; a text is cut after 75 tokens."""
        import torch

        if not texts:
            return torch.empty(0, self.width)
        return torch.nn.functional.normalize(self._embedder("texts")(texts, texts, self.batch_size), dim=-1)

    def logit_scale(self) -> float:
        """What the weights multiply cosines by, about 100.

        Raises:
            ConfigError: they do not say.
        """
        found = self.file.read(lambda key: key == "logit_scale")
        if not found:
            raise ConfigError(f"{self.file.setting}: {self.file.path} has no logit_scale")
        return float(found["logit_scale"].float().exp())

    def _kind(self) -> Hashable:
        return json.dumps(self._read_architecture(), sort_keys=True)

    def _maker(self, what: str, device: str) -> Callable[[], Embedder]:
        architecture = self._read_architecture()
        if what == "texts":
            return lambda: _text_embedder(architecture["model_cfg"], self.file, device)
        return lambda: _image_embedder(architecture["model_cfg"], self._preprocessing(architecture), self.file, device)

    def _preprocessing(self, architecture: Mapping[str, Any]) -> Preprocessing:
        try:
            size = architecture["model_cfg"]["vision_cfg"].get("image_size", 224)
            return Preprocessing.from_open_clip(size, architecture["preprocess_cfg"])
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{self.setting}: {self.name}: {error}") from error

    def _read_architecture(self) -> dict[str, Any]:
        if self._architecture is None:
            self._architecture = _architecture(self.model, self.config, self.setting)
            if self.fit is not None:
                self._architecture["preprocess_cfg"] |= {"resize_mode": self.fit}
        return self._architecture


def _image_embedder(
    settings: Mapping[str, Any], preprocessing: Preprocessing, file: WeightFile, device: str
) -> Embedder:
    visual: Any = _half(settings, file, pictures=True).visual
    return Embedder(visual, visual, preprocessing.arguments, device)


def _text_embedder(settings: Mapping[str, Any], file: WeightFile, device: str) -> Embedder:
    import open_clip

    model: Any = _half(settings, file, pictures=False)
    tokenize = open_clip.SimpleTokenizer(context_length=settings["text_cfg"].get("context_length", 77))
    return Embedder(model, model.encode_text, lambda texts, device: (tokenize(list(texts)).to(device),), device)


def _half(settings: Mapping[str, Any], file: WeightFile, *, pictures: bool) -> Module:
    """A CLIP of which one half has its weights, and the other one has no memory or is not there."""
    import torch

    model: Any = _empty(settings)
    if pictures:
        part = model.visual
    else:
        del model.visual
        part = model
    state = from_transformers(file.read(lambda key: _is_for_pictures(key) == pictures))
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items() if _is_for_pictures(key) == pictures}
    wrong = sorted(key for key in {*wanted, *state} if key not in state or wanted.get(key) != state[key].shape)
    if wrong:
        raise ConfigError(f"{file.setting}: {file.path} does not fit the model: {', '.join(wrong[:4])}")
    if any(tensor.is_meta for tensor in part.parameters()):
        part.to_empty(device="cpu")
    model.load_state_dict(state, strict=False)
    for module in model.modules():
        if isinstance(getattr(module, "attn_mask", None), torch.Tensor):  # computed, so it is in no file
            length = module.attn_mask.shape[-1]
            module.attn_mask = torch.full((length, length), float("-inf")).triu(1)
    return model  # type: ignore[no-any-return]


def _empty(settings: Mapping[str, Any]) -> Module:
    """The model without memory, unless it has numbers that are computed rather than read."""
    import open_clip
    import torch

    settings = dict(settings)
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):
        model: Module = kind(**settings)
    computed = {name for name, _ in model.named_buffers()} - set(model.state_dict())
    if all(name.endswith("attn_mask") for name in computed):
        return model
    with torch.random.fork_rng(devices=[]):  # the constructor draws random weights
        return kind(**settings)  # type: ignore[no-any-return]


def _is_for_pictures(key: str) -> bool:
    return key.startswith(("visual.", "vision_model.", "visual_projection."))


def _architecture(model: str | None, config: Path | None, setting: str) -> dict[str, Any]:
    """`{"model_cfg": ..., "preprocess_cfg": ...}` from a JSON, or from open_clip's own table without importing it."""
    if config is None:
        spec = importlib.util.find_spec("open_clip")
        if spec is None or spec.origin is None:
            raise ConfigError(f"{setting}: open_clip is not installed; pip install open-clip-torch")
        known = {path.stem: path for path in (Path(spec.origin).parent / "model_configs").glob("*.json")}
        if model not in known:
            raise ConfigError(f"{setting}.model: open_clip does not have {model!r}; {nearest(str(model), known)}")
        config = known[model]
    if not config.exists():
        raise ConfigError(f"{setting}.config: there is no file {config}")
    try:
        read = read_document(config)
    except ConfigError as error:
        raise ConfigError(f"{setting}.config: {config}: {error}") from None
    whole = read if isinstance(read, dict) and "model_cfg" in read else {"model_cfg": read}
    settings = whole["model_cfg"]
    if not isinstance(settings, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(settings):
        raise ConfigError(f"{setting}.config: {config} is not an open_clip model (embed_dim, vision_cfg, text_cfg)")
    if "hf_model_name" in settings["text_cfg"] or "hf_tokenizer_name" in settings["text_cfg"]:
        raise ConfigError(f"{setting}: {config.stem} takes its text side from a model hub, which is not supported")
    return {"model_cfg": settings, "preprocess_cfg": dict(whole.get("preprocess_cfg", {}))}


def _check_shapes(shapes: Mapping[str, Sequence[int]], settings: Mapping[str, Any], where: str) -> None:
    """Compares the vector's width where the file says it; unusual image towers are left to the loader."""
    for key, axis in (("visual.proj", 1), ("visual_projection.weight", 0)):
        if key in shapes and shapes[key][axis] != settings["embed_dim"]:
            raise ConfigError(f"{where} embeds in {shapes[key][axis]} numbers, the model in {settings['embed_dim']}")
    if not any(key.startswith(("visual.", "vision_model.")) for key in shapes):
        raise ConfigError(f"{where} holds no CLIP image tower; its tensors: {', '.join(sorted(shapes)[:4])}, ...")
