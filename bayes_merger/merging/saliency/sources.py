"""What the opened files of activations of a merge make of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.merging.method import Numbers
from bayes_merger.merging.saliency.settings import FILES, MOVED, STRENGTH
from bayes_merger.merging.saliency.weights import MovedWeight, ScaledWeight, TensorWeight, WonWeight, as_matrix

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS: Mapping[str, tuple[str, str]] = {
    "response": ("guided_out", "guided_in"),
    "activation": ("", "in_sq"),
    "gradient": ("gradient_out", "gradient_in"),
}
"""What a saliency is the product of: a statistic per row, and one per column."""

RATIO = 6.0
"""The largest logarithm of a ratio that is believed; of two numbers of which one is 0 it is this."""

_PIECE = 2**14  # numbers whose powers one thread takes: at their ends torch's have other last bits


_Powers: TypeAlias = "tuple[Tensor, Tensor]"


@dataclass
class TensorWeights:
    """What activations make of the weights of a merge.

    Attributes:
        saliency: model to its opened file, of those that move alpha; with two, B's against A's, and each alone against
            its mean.
        by: what is salient in a measured file.
        centred: whether the mean of each tensor's log odds stays where the block's number puts it.
        wins: whether the more salient model takes a place altogether.
        acts: weight to the opened file that multiplies it.
        passed: whether the method itself takes the strength.
        bounds: weight to where the method is defined.
        names: of tensors that are treated as others are, to the names of those.
        notes: what is worth knowing of the files, one line each.
    """

    saliency: Mapping[str, Sidecar]
    by: str
    centred: bool
    wins: bool
    acts: Mapping[str, Sidecar]
    passed: bool
    bounds: Mapping[str, tuple[float, float]]
    names: Mapping[str, str]
    notes: tuple[str, ...] = ()
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
        strength, width = 1.0 if self.wins else numbers.get(STRENGTH, 0.0), math.prod(shape[1:])
        moved = WonWeight if self.wins else MovedWeight
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
                made[name] = moved(width, odds * (number / (1 - number)), against)
        return made

    def limited(self, key: str, shape: tuple[int, ...]) -> int:
        """How many of a tensor's channels differ between the files by more than a ratio is believed."""
        files = self._sources_of(key).get(MOVED, ()) if self.saliency else ()
        parts = [_saliency(file, self._owner(key), shape, self.by) for file in files]
        ratios = [_log_ratio(pair, centred=False) for pair in zip(*parts, strict=True)]
        return sum(int((ratio.abs() >= RATIO).sum()) for ratio in ratios)

    def _sources_of(self, key: str) -> Mapping[str, tuple[Sidecar, ...]]:
        """The files that have something to say of a tensor, by the weight that they change."""
        known = self._sources.get(key)
        if known is not None:
            return known
        owner = self._owner(key)
        found: dict[str, tuple[Sidecar, ...]] = {
            name: (file,) for name, file in self.acts.items() if found_in(file, owner, self.by)
        }
        files = tuple(self.saliency.values())
        if files and all(found_in(file, owner, self.by) for file in files):
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
        if weight not in self.acts and FILES[1] not in self.saliency:  # of A alone: more of A where it is larger
            made = tuple(-log for log in made)
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


def found_in(file: Sidecar, key: str, by: str) -> str:
    """The weight in a file whose saliency a tensor takes: its own, or of a bias that of the rows; empty for none."""
    if file.about is None:
        return key if key in file.statistics else ""
    rows, columns = STATISTICS.get(by, ("?", "?"))
    if {*filter(None, (rows, columns))} <= {*file.statistics.get(key, ())}:
        return key
    weight = f"{key.removesuffix('bias')}weight" if key.endswith(".bias") else ""
    return weight if rows and rows in file.statistics.get(weight, ()) else ""


def _saliency(file: Sidecar, key: str, shape: tuple[int, ...], by: str) -> list[Tensor]:
    """Factors of a tensor's saliency, each with as many dimensions as the tensor: of rows and columns, or the whole."""
    if file.about is None:
        plain = file.plain(key)
        if plain.dim() != len(shape):
            return [plain.reshape((1,) * len(shape))]
        return [plain[:, : shape[1]] if shape[1:] else plain]
    weight, (rows, columns) = found_in(file, key, by), STATISTICS[by]
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
    """`log(s_b / s_a)`, or `log s` of one; 0 where both or all are 0, limited where one is, of mean 0 if centred."""
    import torch

    *of_a, saliency = (saliency.double() for saliency in saliencies)  # fp8 has hardly any operations
    ratio = saliency.log()  # not in place: of fp64 that would be the file's own memory
    if of_a:
        ratio -= of_a[0].log()
    elif known := int(torch.count_nonzero(saliency)):  # against the mean of what is not 0
        ratio -= ratio.nan_to_num(neginf=0.0).sum() / known
    else:
        ratio.zero_()
    limited = ratio.nan_to_num_(nan=0.0, posinf=RATIO, neginf=-RATIO).clamp_(-RATIO, RATIO)
    return (limited.sub_(limited.mean()) if centred else limited).float()


def _power(log: Tensor, strength: float) -> Tensor:
    """`exp(strength log)`, within what fp32 can hold as a product of two."""
    import torch

    if log.numel() <= _PIECE:
        return log.double().mul_(strength).clamp_(-40, 40).exp_().float()
    flat = log.reshape(-1)
    parts = [part.double().mul_(strength).clamp_(-40, 40).exp_().float() for part in torch.split(flat, _PIECE)]
    return torch.cat(parts).reshape(log.shape)
