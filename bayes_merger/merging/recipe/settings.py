"""What a merge is, besides its models and its numbers: one field per setting, with its meaning, default and reading.

A run's config, the command line, a recipe's YAML and its JSON are all read by ``read_settings``, and everything that
merges takes ``MergeSettings`` whole: a new setting is a new field here, and the code that gives it its effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from bayes_merger.checkpoints.architectures import OwnBlocks, own_blocks
from bayes_merger.errors import ConfigError
from bayes_merger.merging.method import MethodSpec, Options, method_spec
from bayes_merger.merging.rebasin.settings import Alike, read_rebasin
from bayes_merger.merging.recipe.elements import COMPAT
from bayes_merger.merging.recipe.postprocess import CLIPS
from bayes_merger.merging.saliency.settings import Reference, read_act, read_saliency, strengthened

DROP_EMA, KEEP_EMA = "drop", "keep"
VAE_FILE = "file"
"""The value of ``vae`` in a recipe whose VAE comes from a file, its model ``vae``."""


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; give a text")
    return str(value)


def _options(name: str, value: Any) -> dict[str, str | int]:
    if not isinstance(value, Mapping) or not all(type(given) in (str, int) for given in value.values()):
        raise ConfigError(f"{name} is not a table of a text or whole number per option")
    return {str(option): given for option, given in value.items()}


def _rules(name: str, value: Any) -> tuple[str, ...]:
    texts = ([value] if value else []) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{name} is not a list of rules, like ['OUT03-OUT05:attn2:0.5']")
    return tuple(texts)


def _blocks(_: str, value: Any) -> OwnBlocks:
    return own_blocks(value) if value else ()


def _read_by(read: Callable[[str, Any], Any], *choices: str) -> dict[str, Any]:
    """The metadata of a field: how to read it, from its name and a value, and its choices if it has any."""
    return {"read": read, "choices": choices}


@dataclass(frozen=True)
class MergeSettings:
    """How models are merged, independent of which models and which numbers.

    Attributes:
        method: name of the merge method.
        dtype: of the result: ``fp16``, ``bf16``, ``fp32``, or ``None`` (also ``auto``) for model A's own; in files also
            ``fp8_e4m3fn`` and ``fp8_e5m2``.
        vae: a model's name to take its VAE as it is, ``merge`` to merge it with the weights of ``BASE``, ``file`` to
            take that of the file that is model ``vae``.
        options: the method's settings that are not weights, by name; the others keep their defaults.
        elements: elemental rules, see ``elements.py``; the numbers of names in them are among the weights.
        compat: ``supermerger`` if the rules are to match as they do there.
        blocks: the user's own division into blocks, instead of the architecture's.
        channels: ``equal``, or ``pad`` to merge U-Nets with more input channels (inpainting, pix2pix) with ordinary
            ones: the common channels are merged, the others are those of the first model that has them.
        clip: ``hard`` or ``soft`` to keep the result between A and B, see ``postprocess.py``.
        saliency: files of activations that move alpha inside tensors, see ``saliency/settings.py``.
        act: weight to the file of activations that multiplies it.
        rebasin: model to the one whose order its neurons are put in, see ``rebasin/settings.py``.
        ema: ``keep`` to merge the EMA weights that model A's file has beside its weights, in the same way.
    """

    method: str = field(default="weighted_sum", metadata=_read_by(_text))
    dtype: str | None = field(default=None, metadata=_read_by(_text))
    vae: str = field(default="a", metadata=_read_by(_text))
    options: Options = field(default_factory=dict, metadata=_read_by(_options))
    elements: tuple[str, ...] = field(default=(), metadata=_read_by(_rules))
    compat: str = field(default="", metadata=_read_by(_text, *COMPAT))
    blocks: OwnBlocks = field(default=(), metadata=_read_by(_blocks))
    channels: str = field(default="equal", metadata=_read_by(_text, "equal", "pad"))
    clip: str = field(default="", metadata=_read_by(_text, *CLIPS))
    ema: str = field(default=DROP_EMA, metadata=_read_by(_text, DROP_EMA, KEEP_EMA))
    saliency: Mapping[str, Any] = field(default_factory=dict, metadata=_read_by(read_saliency))
    act: Mapping[str, Reference] = field(default_factory=dict, metadata=_read_by(read_act))
    rebasin: Mapping[str, Alike] = field(default_factory=dict, metadata=_read_by(read_rebasin))

    @property
    def spec(self) -> MethodSpec:
        """The method, with the weight that saliency adds.

        Raises:
            ConfigError: it does not exist.
        """
        return strengthened(method_spec(self.method), self.saliency)

    def check(self) -> None:
        """Refuse values that no merge supports.

        Raises:
            ConfigError: the value of a setting is not among its choices.
        """
        for name, about in _FIELDS.items():
            value, choices = getattr(self, name), about.metadata["choices"]
            if choices and value not in choices:
                known = ", ".join(filter(None, choices[:-1])) + " or " * bool(any(choices[:-1])) + choices[-1]
                way_out = ", or leave it out" if "" in choices else ""
                raise ConfigError(f"{name}: '{value}' is unknown; give {known}{way_out}")

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        return {name: getattr(self, name) for name in _FIELDS if getattr(self, name) != getattr(_DEFAULTS, name)}

    def settings_data(self) -> dict[str, Any]:
        """As plain data that ``read_settings`` reads; settings newer than the oldest recipes only if they are used."""
        return {name: _plain(getattr(self, name)) for name in _FIELDS if name in (*IN_ALL_FILES, *self.changed())}


_FIELDS = {about.name: about for about in fields(MergeSettings)}
_DEFAULTS = MergeSettings()
IN_ALL_FILES = ("method", "dtype", "vae", "options", "elements", "compat", "blocks", "channels")
"""The settings in every recipe's JSON. Later ones are written only if used: old bytes stay."""

SETTINGS = tuple(_FIELDS)
"""The names of all settings of a merge."""

OF_A_STEP = ("method", "vae", "options", "elements", "saliency", "act")
"""The settings that each step of a multi-step merge has separately; the others apply to the whole merge."""


def read_settings(data: Mapping[str, Any]) -> MergeSettings:
    """The settings of a merge, from a run's config, ``key=text`` of the command line, YAML or JSON.

    Args:
        data: setting to value; what is absent or ``None`` keeps its default, keys that are not settings are skipped.

    Raises:
        ConfigError: a value has the wrong form.
    """
    given = {name: data[name] for name in SETTINGS if data.get(name) is not None}
    return MergeSettings(**{name: _FIELDS[name].metadata["read"](name, value) for name, value in given.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
