"""Every way in which the methods of the registry can be called: with fewer and more models, with each option."""

from __future__ import annotations

from bayes_merger.merging import METHODS, MethodSpec, method_spec

Variant = tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]


def _variants(name: str) -> list[Variant]:
    spec = method_spec(name)
    needed = tuple(model for model in spec.models if model not in spec.optional)
    choices = [((option, choice),) for option, about in spec.options.items() for choice in about.choices]
    options = [choice for choice in choices if spec.options[choice[0][0]].default != choice[0][1]]
    models = [spec.models] + ([needed] if spec.optional else []) + ([(*spec.models, "d", "e")] if spec.many else [])
    four: list[Variant] = [(name, (*spec.models, "d"), ())] if spec.many else []
    return [(name, given, chosen) for given in models for chosen in [(), *options]] + four


VARIANTS: list[Variant] = [variant for name in sorted(METHODS) for variant in _variants(name)]


def bound(variant: Variant) -> MethodSpec:
    name, models, options = variant
    return method_spec(name).bind(models, dict(options))


def title(variant: Variant) -> str:
    name, models, options = variant
    return "-".join([name, "".join(models), *(f"{option}={choice}" for option, choice in options)])
