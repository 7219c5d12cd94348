"""CLIP towers from open_clip, and the scorer of how well a picture agrees with its prompt.

A tower is heavy (ViT-L/14: 1.7 GB, about 4 CPU seconds a picture), so all scorers with the same model, weights and
device share one, and a picture that a second scorer asks for is not embedded again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.documents import read_document
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.paths import user_path
from bayes_merger.scoring.download import find_weights, open_weights, read_weights
from bayes_merger.scoring.models.conversion import from_transformers
from bayes_merger.scoring.scorer import ImageToScore, Scale, check_importance, check_scale

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# OpenAI's weights in open_clip's names: the tower of LAION's heads, of SD-Chad's, and of CLIPScore.
PUBLISHED = {
    "ViT-L-14-quickgelu": (
        "https://huggingface.co/timm/vit_large_patch14_clip_224.openai/resolve/main/open_clip_model.safetensors",
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
    )
}
REMEMBERED = 256  # embeddings a loaded tower keeps, 3 kB each: more than one trial's pictures


class ClipTower:
    """Pictures and texts to embeddings of length 1, through open_clip.

    Args:
        model: open_clip's name of the architecture. OpenAI's weights need the `-quickgelu` one: without it LAION's head
            gave 4.44 where 5.05 is right, without a warning.
        weights: path or address of the weights: open_clip's own files, or a `transformers` CLIP as safetensors; None
            for the published ones of `model`, fetched once.
        sha256: what a download must have; see :func:`bayes_merger.scoring.download.find_weights`.
        config: path of an open_clip model JSON (or `open_clip_config.json`) instead of a named `model`.
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
        device: str = "auto",
        batch_size: int = 16,
        setting: str = "tower",
    ) -> None:
        self.model = model
        self.config = user_path(config) if config else None
        published = PUBLISHED.get(str(model)) if weights is None and config is None else None
        self.weights, self.sha256 = published or (str(weights or ""), sha256)
        self.device = device
        self.batch_size = batch_size
        self.setting = setting
        self._architecture: dict[str, Any] | None = None
        self._loaded: LoadedTower | None = None

    @property
    def width(self) -> int:
        """Length of an embedding, from the architecture alone."""
        return int(self._read_architecture()["model_cfg"]["embed_dim"])

    def prepare(self) -> None:
        """Checks architecture and weights without loading them; fetches the weights when they are not here yet.

        Raises:
            ConfigError: unknown architecture, no weights, or weights of another size.
        """
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ConfigError(f"{self.setting}.batch_size must be 1 or more, not {self.batch_size!r}")
        architecture = self._read_architecture()["model_cfg"]
        if "openai" in self.weights.lower() and not architecture.get("quick_gelu") and self.config is None:
            raise ConfigError(
                f"{self.setting}: OpenAI's weights need QuickGELU; give {self.setting}.model={self.model}-quickgelu"
            )
        path = find_weights(self.weights, setting=f"{self.setting}.weights", sha256=self.sha256)
        if path.suffix == ".safetensors":
            with open_weights(path, f"{self.setting}.weights") as file:
                _check_shapes(file.shapes, architecture, f"{self.setting}.weights: {path}")

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Embeddings of shape N x width, float32 on the CPU, each of length 1; pictures of any size and mode."""
        return self.load().embed_images(images, self.batch_size)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of shape N x width, float32 on the CPU, each of length 1; a text is cut after 75 tokens."""
        return self.load().embed_texts(texts, self.batch_size)

    def load(self) -> LoadedTower:
        """The loaded model, shared with every tower of the same model, weights and device."""
        if self._loaded is None:
            path = find_weights(self.weights, setting=f"{self.setting}.weights", sha256=self.sha256).resolve()
            architecture = self._read_architecture()
            device = _device(self.device, self.setting)
            key = (json.dumps(architecture, sort_keys=True), str(path), path.stat().st_mtime_ns, device)
            loaded = _SHARED.get(key)
            if loaded is None:
                loaded = LoadedTower(architecture, path, device, f"{self.setting}.weights")
                _SHARED[key] = loaded
            self._loaded = loaded
        return self._loaded

    def _read_architecture(self) -> dict[str, Any]:
        if self._architecture is None:
            self._architecture = _architecture(self.model, self.config, self.setting)
        return self._architecture


class LoadedTower:
    """An open_clip model in memory, its preprocessing and its tokenizer."""

    def __init__(self, architecture: Mapping[str, Any], weights: Path, device: str, setting: str) -> None:
        import open_clip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        settings = dict(architecture["model_cfg"])
        custom = settings.pop("custom_text", False)
        state = from_transformers(read_weights(weights, setting))
        with torch.random.fork_rng(devices=[]):  # the constructor draws random weights
            model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**settings)
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:3]]
            raise ConfigError(f"{setting}: {weights} does not fit the model: {' '.join(lines)[:300]}") from error
        self.device = device
        self.model = model.eval().requires_grad_(False).to(device)
        chosen = {"size": model.visual.image_size, **architecture.get("preprocess_cfg", {})}
        self.preprocess = image_transform_v2(PreprocessCfg(**chosen), is_train=False)
        self.tokenize = open_clip.SimpleTokenizer(context_length=settings["text_cfg"].get("context_length", 77))
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()

    def embed_images(self, images: Sequence[Image], batch_size: int) -> Tensor:
        """See :meth:`ClipTower.embed_images`; embeddings of recent pictures are cached by their pixels."""
        import torch

        keys = [_pixels(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        found = {key: self._known[key] for key in keys if key in self._known}
        waiting = list(new)
        with torch.inference_mode():
            for start in range(0, len(waiting), batch_size):
                batch = waiting[start : start + batch_size]
                pixels = torch.stack([self.preprocess(new[key]) for key in batch]).to(self.device)
                embedded = self.model.encode_image(pixels, normalize=True).float().cpu()
                found.update(zip(batch, embedded, strict=True))
        for key in keys:
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return torch.stack([found[key] for key in keys])

    def embed_texts(self, texts: Sequence[str], batch_size: int) -> Tensor:
        """See :meth:`ClipTower.embed_texts`."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch_size):
                tokens = self.tokenize(list(texts[start : start + batch_size])).to(self.device)
                parts.append(self.model.encode_text(tokens, normalize=True).float().cpu())
            return torch.cat(parts)


# Scorers are built apart from each other by the configuration, yet must not each hold a tower of 1.7 GB. Weak: when no
# scorer uses a tower any more it is freed.
_SHARED: weakref.WeakValueDictionary[tuple[str, str, int, str], LoadedTower] = weakref.WeakValueDictionary()


class ClipScorer:
    """Agreement of picture and prompt: the cosine of their CLIP embeddings, usually 0.15 to 0.35.

    The default scale converts it to points as CLIPScore does, `10 * 2.5 cos` (https://arxiv.org/abs/2104.08718).

    Args:
        tower: what embeds both.
        name: what its scores are stored under.
        scale: the cosines that mean 0 and 10 points.
        importance: how much it counts beside other scorers.
    """

    interactive = False

    def __init__(
        self,
        tower: ClipTower,
        *,
        name: str = "clip",
        scale: Sequence[float] = (0.0, 0.4),
        importance: float = 1.0,
    ) -> None:
        self.name = name
        self.tower = tower
        self.scale: Scale = check_scale(f"scorer {name}", scale)
        self.importance = check_importance(f"scorer {name}", importance)

    def prepare(self, folder: Path | None = None) -> None:
        """Checks the tower's files; see :meth:`ClipTower.prepare`."""
        self.tower.prepare()

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        """The cosine of every picture with its own prompt, -1 to 1; each prompt is embedded once."""
        if not images:
            return []
        prompts = list(dict.fromkeys(image.prompt for image in images))
        texts = dict(zip(prompts, self.tower.embed_texts(prompts), strict=True))
        pictures = self.tower.embed_images([image.image for image in images])
        return [float(picture @ texts[image.prompt]) for picture, image in zip(pictures, images, strict=True)]


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
    return {"model_cfg": settings, "preprocess_cfg": whole.get("preprocess_cfg", {})}


def _check_shapes(shapes: Mapping[str, Sequence[int]], settings: Mapping[str, Any], where: str) -> None:
    """Compares the embedding's width where the file says it; unusual image towers are left to the loader."""
    for key, axis in (("visual.proj", 1), ("visual_projection.weight", 0)):
        if key in shapes and shapes[key][axis] != settings["embed_dim"]:
            raise ConfigError(f"{where} embeds in {shapes[key][axis]} numbers, the model in {settings['embed_dim']}")
    if not any(key.startswith(("visual.", "vision_model.", "module.visual.")) for key in shapes):
        raise ConfigError(f"{where} holds no CLIP image tower; its tensors: {', '.join(sorted(shapes)[:4])}, ...")


def _device(device: str, setting: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"{setting}.device: {device!r} is not a device; use auto, cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{setting}.device: no GPU is usable here; give {setting}.device=cpu")
    return device


def _pixels(image: Image) -> bytes:
    if image.mode == "P":  # its bytes mean nothing without the palette
        image = image.convert("RGBA")
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()
