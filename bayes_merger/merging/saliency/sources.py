"""The files of activations of a merge, opened and checked, and what they make of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.errors import CheckpointError, ConfigError, printable
from bayes_merger.merging.method import MethodSpec, Numbers, method_spec
from bayes_merger.merging.saliency.settings import CHOICES, FILES, MOVED, STRENGTH, Reference
from bayes_merger.merging.saliency.weights import MovedWeight, ScaledWeight, TensorWeight, as_matrix
from bayes_merger.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor

_STATISTICS: Mapping[str, tuple[str, str]] = {
    "response": ("guided_out", "guided_in"),
    "activation": ("", "in_sq"),
    "gradient": ("gradient_out", "gradient_in"),
}
"""What a saliency is the product of: a statistic per row, and one per column."""

_MOST = 6.0  # of a log ratio; one of two that is 0 says no more
_PIECE = 2**14  # numbers whose powers one thread takes: at their ends torch's have other last bits


_Powers: TypeAlias = "tuple[Tensor, Tensor]"


@dataclass
class TensorWeights:
    """What activations make of the weights of a merge.

    Attributes:
        saliency: model to its opened file, of those that move alpha; with two, B's against A's.
        by: what is salient in a measured file.
        centred: whether the mean of each tensor's log odds stays where the block's number puts it.
        acts: weight to the opened file that multiplies it.
        passed: whether the method itself takes the strength.
        bounds: weight to where the method is defined.
        names: of tensors that are treated as others are, to the names of those.
    """

    saliency: Mapping[str, Sidecar]
    by: str
    centred: bool
    acts: Mapping[str, Sidecar]
    passed: bool
    bounds: Mapping[str, tuple[float, float]]
    names: Mapping[str, str]
    _sources: dict[str, Mapping[str, tuple[Sidecar, ...]]] = field(default_factory=dict)
    _logs: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    _last_powers: dict[str, tuple[float, _Powers]] = field(default_factory=dict)

    def covers(self, key: str) -> bool:
        """Whether a tensor has weights that are no numbers."""
        return bool(self._sources_of(key))

    def weights(self, key: str, shape: tuple[int, ...], numbers: Numbers) -> dict[str, float | TensorWeight]:
        """A tensor's weights as the method takes them.

        Args:
            key: its name.
            shape: of what is merged.
            numbers: of its block.
        """
        strength, width = numbers.get(STRENGTH, 0.0), math.prod(shape[1:])
        made: dict[str, float | TensorWeight] = {
            name: number for name, number in numbers.items() if name != STRENGTH or self.passed or not self.saliency
        }
        for name, files in self._sources_of(key).items():
            number = numbers[name]
            if name in self.acts:
                factors = tuple(as_matrix(factor, shape) for factor in self._factors(key, name, files, shape))
                made[name] = ScaledWeight(width, number, factors, *self.bounds[name])
            elif strength and 0 < number < 1:
                odds, against = self._powers(key, files, shape, strength)
                made[name] = MovedWeight(width, odds * (number / (1 - number)), against)
        return made

    def _sources_of(self, key: str) -> Mapping[str, tuple[Sidecar, ...]]:
        """The files that have something to say of a tensor, by the weight that they change."""
        known = self._sources.get(key)
        if known is not None:
            return known
        owner = self._owner(key)
        found: dict[str, tuple[Sidecar, ...]] = {
            name: (file,) for name, file in self.acts.items() if _found(file, owner, self.by)
        }
        files = tuple(self.saliency.values())
        if files and all(_found(file, owner, self.by) for file in files):
            found[MOVED] = files
        self._sources[key] = found
        return found

    def _owner(self, key: str) -> str:
        return self.names.get(key, key)

    def _factors(self, key: str, weight: str, files: tuple[Sidecar, ...], shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """What multiplies a weight, or its logarithm where its odds are moved; kept where it is small."""
        kept = f"{weight}|{key}"
        if kept in self._logs:
            return self._logs[kept]
        owner = self._owner(key)
        parts = [_saliency(file, owner, shape, self.by) for file in files]
        made = tuple(
            _scaled(pair[0], files[0]) if weight in self.acts else _log_ratio(pair, self.centred)
            for pair in zip(*parts, strict=True)
        )
        if _small(made, shape):
            self._logs[kept] = made
        return made

    def _powers(self, key: str, files: tuple[Sidecar, ...], shape: tuple[int, ...], strength: float) -> _Powers:
        """`r` and `c` of a tensor, see `weights`; those of the last strength are kept where they are small."""
        import torch

        kept = self._last_powers.get(key)
        if kept is not None and kept[0] == strength:
            return kept[1]
        *rows, last = self._factors(key, MOVED, files, shape)
        odds = _power(rows[0], strength) if rows else torch.ones(1)
        made = as_matrix(odds, shape), as_matrix(_power(last, -strength), shape)
        if _small(made, shape):
            self._last_powers[key] = strength, made
        return made


def _small(factors: Iterable[Tensor], shape: tuple[int, ...]) -> bool:
    """Whether they are vectors, for a tensor that is more than one."""
    return sum(factor.numel() for factor in factors) < math.prod(shape) or not shape[1:]


def _found(file: Sidecar, key: str, by: str) -> str:
    """The weight in a file whose saliency a tensor takes: its own, or of a bias that of the rows; empty for none."""
    if file.about is None:
        return key if key in file.statistics else ""
    rows, columns = _STATISTICS.get(by, ("?", "?"))
    if {*filter(None, (rows, columns))} <= {*file.statistics.get(key, ())}:
        return key
    weight = f"{key.removesuffix('bias')}weight" if key.endswith(".bias") else ""
    return weight if rows and rows in file.statistics.get(weight, ()) else ""


def _saliency(file: Sidecar, key: str, shape: tuple[int, ...], by: str) -> list[Tensor]:
    """Factors of a tensor's saliency, each with as many dimensions as the tensor: of rows and columns, or the whole."""
    if file.about is None:
        plain = file.plain(key)
        return [plain if plain.dim() == len(shape) else plain.reshape((1,) * len(shape))]
    weight, (rows, columns) = _found(file, key, by), _STATISTICS[by]
    found = [file.mean(weight, rows).reshape(-1, *(1,) * (len(shape) - 1))] if rows else []
    if shape[1:]:
        found.append(file.mean(weight, columns)[: shape[1]].reshape(1, -1, *(1,) * (len(shape) - 2)))
    return found


def _scaled(saliency: Tensor, file: Sidecar) -> Tensor:
    """A plain saliency as it is; the root of a measured one, of mean 1, so that the tensor keeps its mean weight."""
    if file.about is None:
        return saliency
    root = saliency.sqrt()
    mean = float(root.mean())
    return (root / mean if mean else root + 1).float()


def _log_ratio(saliencies: tuple[Tensor, ...], centred: bool) -> Tensor:
    """`log(s_b / s_a)`, or `log s` of one; 0 where both are 0, limited where one is, of mean 0 if it is centred."""
    import torch

    first, *others = saliencies
    ratio = first.double().log_() if not others else others[0].double().log_().sub_(first.double().log_())
    if not others:  # against the mean of what is not 0
        known = int(torch.count_nonzero(first))
        ratio -= ratio.nan_to_num(neginf=0.0).sum() / max(known, 1)
    limited = ratio.nan_to_num_(nan=0.0, posinf=_MOST, neginf=-_MOST).clamp_(-_MOST, _MOST)
    return (limited.sub_(limited.mean()) if centred else limited).float()


def _power(log: Tensor, strength: float) -> Tensor:
    """`exp(strength log)`, within what fp32 can hold as a product of two."""
    import torch

    if log.numel() <= _PIECE:
        return log.double().mul_(strength).clamp_(-40, 40).exp_().float()
    flat = log.reshape(-1)
    parts = [part.double().mul_(strength).clamp_(-40, 40).exp_().float() for part in torch.split(flat, _PIECE)]
    return torch.cat(parts).reshape(log.shape)


def open_tensor_weights(
    spec: MethodSpec,
    saliency: Mapping[str, Any],
    act: Mapping[str, Reference],
    models: Mapping[str, Checkpoint],
    names: Mapping[str, str],
) -> TensorWeights | None:
    """The files that a merge's settings name; `None` where they name none.

    Args:
        spec: the method, bound to its models.
        saliency: the setting.
        act: the setting.
        models: model name to opened file.
        names: of tensors that are treated as others are, to the names of those.

    Raises:
        ConfigError: a weight that cannot be a tensor, or a file that does not say what is asked of it.
        CheckpointError: a file that cannot be used, or belongs to another model.
    """
    if not saliency and not act:
        return None
    for weight in (*([MOVED] if saliency else []), *act):
        _check_weight(spec, weight)
    if saliency and MOVED in act:
        raise ConfigError(f"act.{MOVED}: saliency moves {MOVED} already; leave one of the two out")
    by = saliency.get("by", CHOICES["by"][0])
    files = {name: _opened(f"saliency.{name}", saliency[name], models, by) for name in FILES if name in saliency}
    for name, file in files.items():
        _check_model(f"saliency.{name}", file, models.get(name))
    _check_pair(files)
    acts = {weight: _opened(f"act.{weight}", reference, models, by) for weight, reference in act.items()}
    bounds = {weight: (spec.weights[weight].least, spec.weights[weight].most) for weight in act}
    centred = saliency.get("centre", CHOICES["centre"][0]) == "key"
    return TensorWeights(files, by, centred, acts, STRENGTH in method_spec(spec.name).weights, bounds, names)


def _check_weight(spec: MethodSpec, weight: str) -> None:
    if weight not in spec.weights:
        raise ConfigError(f"act.{weight}: {spec.name} has no weight '{weight}'; it has {', '.join(spec.weights)}")
    if weight not in spec.tensors:
        able = ", ".join(name for name in spec.weights if name in spec.tensors)
        way = f"give it to {able}" if able else "make it a step, and go from A to its result by weighted_sum"
        raise ConfigError(f"{spec.name}'s {weight} is one number for a whole tensor, which no saliency divides; {way}")


def _opened(name: str, reference: Reference, models: Mapping[str, Checkpoint], by: str) -> Sidecar:
    try:
        file = Sidecar(user_path(reference["path"]))
        if reference["sha256"] and file.sha256 != reference["sha256"]:
            raise CheckpointError(
                f"{file.path} is not the recipe's file (SHA-256 {file.sha256[:10]}, not {reference['sha256'][:10]})"
            )
        _check_fits(file, models["a"], by)
    except CheckpointError as error:
        raise CheckpointError(str(error), subject=name) from error
    return file


def _check_fits(file: Sidecar, model: Checkpoint, by: str) -> None:
    if file.about is not None and file.about.architecture != model.architecture.name:
        found = printable(file.about.architecture)
        raise CheckpointError(f"{file.path}: measured on {found}, and the models are {model.architecture.name}")
    known = [key for key in file.statistics if key in model.shapes]
    if not known:
        raise CheckpointError(f"{file.path}: none of its weights is in model A ({model.path.name}); measure it again")
    if file.about is not None and not any(_found(file, key, by) for key in known):
        if by == CHOICES["by"][3]:
            raise CheckpointError(f"{file.path}: is measured, not plain; leave  by=plain  out")
        way = {
            "response": "draw with cfg_scale above 1, or, as for Flux, give  saliency.by=activation",
            "gradient": "measure it with --gradients",
        }.get(by, "")
        raise CheckpointError(f"{file.path}: holds no {by}; {way or 'measure it again'}")
    for key in known:
        _check_shape(file, key, model.shapes[key], by)


def _check_shape(file: Sidecar, key: str, shape: tuple[int, ...], by: str) -> None:
    if file.about is None:
        own = file.shape(key)
        fits = len(own) == len(shape) and all(size in (1, wanted) for size, wanted in zip(own, shape, strict=True))
        if not fits and math.prod(own) != 1:
            raise CheckpointError(f"{file.path}: '{printable(key)}' is {list(own)}, which does not fit {list(shape)}")
    elif _found(file, key, by):
        rows, columns = _STATISTICS[by]
        found = [file.channels(key, statistic) for statistic in (rows, columns) if statistic]
        wanted = [size for size, statistic in zip(shape, (rows, columns), strict=False) if statistic]
        if len(shape) < 2 or found != wanted:
            raise CheckpointError(f"{file.path}: '{printable(key)}' has {found} channels, the weight {list(shape)}")


def _check_model(name: str, file: Sidecar, model: Checkpoint | None) -> None:
    if model is not None and model.reordered:
        raise CheckpointError(
            f"{file.path}: belongs to {model.path.name} as it is, and rebasin puts its neurons in another order; write "
            "that model once with  bayes-merger rebasin  and measure it",
            subject=name,
        )
    if file.about is None or model is None or model.computed:
        return
    if file.about.model != model.sha256():
        raise CheckpointError(
            f"{file.path}: measured on another model ({printable(file.about.model[:10])}), not on "
            f"{model.path.name} ({model.sha256()[:10]}); measure that one",
            subject=name,
        )


_ALIKE = ("prompts", "seeds", "size", "steps", "sampler", "cfg_scale", "clip_skip", "dtype")


def _check_pair(files: Mapping[str, Sidecar]) -> None:
    """Refuse two files that cannot be compared."""
    if len(files) < 2:
        return
    one, other = (files[name] for name in FILES)
    if one.about is None or other.about is None:
        if (one.about is None) != (other.about is None):
            raise ConfigError("saliency: one file is measured and the other plain; give two of a kind")
        return
    drawn = [_drawn(file.about.runs) for file in (one, other) if file.about]
    if one.about.bands != other.about.bands or drawn[0] != drawn[1]:
        raise ConfigError(
            f"saliency: {one.path.name} and {other.path.name} were not measured alike; give both the same payloads, "
            "seeds, bands and settings"
        )


def _drawn(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted(repr([run.get(name) for name in _ALIKE]) for run in runs)
