"""The ``space`` of a configuration, in our own words or those of the original sd-webui-bayesian-merger's guides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.search.space.building import build_space
from bayes_merger.search.space.from_effect import FROM_EFFECT, read_from_effect
from bayes_merger.search.space.rules import Range
from bayes_merger.search.space.space import Parameter, SearchSpace

_GUIDE = {"frozen": "frozen", "ranges": "ranges", "groups": "groups"} | {
    "frozen_params": "frozen",  # as in the original's guides
    "custom_ranges": "ranges",
}


IDLE = "idle"
"""What is done with weights that change nothing: the one setting of a space that needs the models' tensors."""


def keeps_idle(guide: Mapping[str, Any]) -> bool:
    """Whether weights that change nothing are to be searched all the same.

    Raises:
        ConfigError: the setting is neither ``freeze`` nor ``keep``.
    """
    value = guide.get(IDLE)
    if value not in (None, "freeze", "keep"):
        raise ConfigError(f"space.idle: {value!r} is unknown; give freeze or keep")
    return value == "keep"


def space_from_guide(
    blocks: Sequence[str],
    weights: Mapping[str, Range],
    guide: Mapping[str, Any],
    extra_parameters: Sequence[Parameter] = (),
    given: Mapping[str, float] | None = None,
) -> SearchSpace:
    """The space a configuration describes, with the keys of :func:`build_space` or those of the original's guides.

    Raises:
        ConfigError: for an unknown key, the same rules under two keys, or whatever :func:`build_space` refuses.
    """
    keeps_idle(guide)
    rules: dict[str, Any] = {}
    effect = read_from_effect(guide)
    for key, value in guide.items():
        if key in (IDLE, FROM_EFFECT):
            continue
        if key not in _GUIDE:
            raise ConfigError(f"space: unknown rule {key!r}; {nearest(str(key), (*_GUIDE, IDLE, FROM_EFFECT))}")
        if value is None:
            continue  # a key left empty in YAML
        if rules.get(_GUIDE[key]):
            raise ConfigError(f"space: {key} and {_GUIDE[key]} are the same rules under two names; keep one")
        rules[_GUIDE[key]] = value
    own = rules.setdefault("frozen", {})
    if effect and effect.frozen and isinstance(own, Mapping):
        rules["frozen"] = {**own, **effect.frozen}
    return build_space(blocks, weights, extra_parameters=extra_parameters, given=given, **rules)
