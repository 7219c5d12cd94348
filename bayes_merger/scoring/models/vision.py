"""Towers that see pictures only, built by transformers: SigLIP's image half, and classifiers."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError, nearest, one_line
from bayes_merger.scoring.models.embedding import Embedder
from bayes_merger.scoring.models.preprocessing import Preprocessing
from bayes_merger.scoring.models.towers import Tower
from bayes_merger.scoring.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

# Architecture -> classes of its settings and of its model, what of the result is the vector, and the settings' name of
# its length
KINDS: Mapping[str, tuple[str, str, str, str]] = {
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", "pooler_output", "hidden_size"),
    "beit": ("BeitConfig", "BeitForImageClassification", "logits", "num_labels"),
    "vit": ("ViTConfig", "ViTForImageClassification", "logits", "num_labels"),
}


class VisionTower(Tower):
    """Pictures to vectors, through transformers: a SigLIP's embedding, or a classifier's logits.

    Pictures are squeezed into a square, and their colours are brought to -1 ... 1.

    Args:
        architecture: `siglip`, `beit` or `vit`.
        settings: of the architecture, with the names of transformers (`hidden_size`, `image_size`, `num_labels`, ...).
        weights: path or address of the weights in the names of transformers; a SigLIP's text half may be among them.
        sha256: what a download must have; see :class:`~bayes_merger.scoring.weights.WeightFile`.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` for the first GPU if there is one.
        batch_size: how many pictures go through at once.
        setting: what the configuration calls this tower, for messages.
    """

    def __init__(
        self,
        architecture: str,
        settings: Mapping[str, Any],
        weights: str | Path,
        *,
        sha256: str | None = None,
        device: str = "auto",
        batch_size: int = 16,
        setting: str = "tower",
    ) -> None:
        super().__init__(weights, sha256, device, batch_size, setting)
        self.architecture = architecture
        self.settings = dict(settings)

    @property
    def name(self) -> str:
        """The architecture's name."""
        return self.architecture

    @property
    def width(self) -> int:
        """Length of a vector."""
        name = KINDS[self._known()][3]
        given = self.settings.get(name)
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise ConfigError(f"{self.setting}.settings: {name} must be 1 or more, not {given!r}")
        return given

    def prepare(self) -> None:
        """Checks settings and weights without loading them; fetches the weights when they are not here yet.

        Raises:
            ConfigError: an unknown architecture, no weights, or none of a picture's model.
        """
        size = self.settings.get("image_size")
        if self.width and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(f"{self.setting}.settings: image_size must be 1 or more, not {size!r}")
        super().prepare()

    def _known(self) -> str:
        if self.architecture not in KINDS:
            near = nearest(self.architecture, KINDS)
            raise ConfigError(f"{self.setting}.architecture: '{self.architecture}' is not known; {near}")
        return self.architecture

    def _kind(self) -> Hashable:
        return self._known(), json.dumps(self.settings, sort_keys=True)

    def _maker(self, what: str, device: str) -> Callable[[], Embedder]:
        half = (0.5, 0.5, 0.5)
        preprocessing = Preprocessing(int(self.settings["image_size"]), half, half, "squash")
        vector = KINDS[self._known()][2]

        def make() -> Embedder:
            model: Any = _loaded(self.architecture, self.settings, self.file, self.setting)
            return Embedder(model, lambda pixels: getattr(model(pixels), vector), preprocessing.arguments, device)

        return make


def _loaded(architecture: str, settings: Mapping[str, Any], file: WeightFile, setting: str) -> Module:
    config_class, model_class, _, _ = KINDS[architecture]
    state = file.read(lambda key: not key.startswith(("text_model.", "logit_")))
    return with_weights(model_class, config_class, settings, state, f"{setting}: {file.path}")


def with_weights(
    model: str, config: str, settings: Mapping[str, Any], state: Mapping[str, Tensor], where: str, **options: Any
) -> Module:
    """A model of transformers with these weights, in float32.

    Args:
        model: name of its class.
        config: name of its settings' class.
        settings: with the names of transformers.
        state: key -> tensor; more than it needs is no mistake.
        where: setting and path, for messages.
        **options: further arguments of its class.

    Raises:
        ConfigError: the settings make no sense, or a weight is missing or has another shape.
    """
    import transformers

    try:
        with _silence():
            loaded, report = getattr(transformers, model).from_pretrained(
                None,
                config=getattr(transformers, config)(**settings),
                state_dict=dict(state),
                dtype="float32",
                output_loading_info=True,
                **options,
            )
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{where} as {model}: {one_line(error)}") from error
    absent = sorted(report["missing_keys"]) + [str(key) for key in report["mismatched_keys"]]
    if absent:
        raise ConfigError(f"{where} does not fit the model: {', '.join(absent[:4])}")
    return loaded  # type: ignore[no-any-return]


@contextmanager
def _silence() -> Iterator[None]:
    """No bar, report or advice of transformers: what does not fit is an error of ours."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
