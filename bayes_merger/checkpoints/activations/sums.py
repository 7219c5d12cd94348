"""Activations as sums that grow: over the pictures of a run, and over the runs of several files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.activations.names import BY_RUN, COUNT_OF, MARK, About
from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.errors import ConfigError, printable

if TYPE_CHECKING:
    from torch import Tensor

Table = dict[str, dict[str, "Tensor"]]
"""Weight's name -> name of a statistic or a count -> tensor."""


@dataclass
class Activations:
    """Sums over places, in fp64.

    Attributes:
        about: what was measured.
        sums: of every statistic, `(bands or 1, channels)`.
        counts: of places, `(bands or 1,)`.
        by_run: mean squares of the input and of the response, `(runs, 2)`.
    """

    about: About
    sums: Table = field(default_factory=dict)
    counts: Table = field(default_factory=dict)
    by_run: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, sidecar: Sidecar) -> Activations:
        """Those of a measured file.

        Raises:
            ConfigError: a plain file, which says nothing of how it came about.
        """
        if sidecar.about is None:
            raise _plain(sidecar)
        found = cls(sidecar.about)
        for key in sidecar.statistics:
            found.sums[key], found.counts[key], by_run = _of_key(sidecar, key)
            if by_run is not None:
                found.by_run[key] = by_run
        return found

    def add(self, other: Activations | Sidecar) -> None:
        """Add the runs of another measurement of the same model; of a file one weight is in memory at a time.

        Raises:
            ConfigError: a plain file, or one with other channels.
        """
        about = other.about
        if about is None:
            raise _plain(other)
        known, runs = len(self.about.runs), len(about.runs)
        for key in dict.fromkeys((*self.sums, *_keys(other))):
            sums, counts, by_run = _of_key(other, key)
            for own, theirs in ((self.sums, sums), (self.counts, counts)):
                mine = own.setdefault(key, {})
                for name, tensor in theirs.items():
                    if name in mine and mine[name].shape != tensor.shape:
                        what = f"'{printable(key)}{MARK}{name}' is {list(tensor.shape)}, not {list(mine[name].shape)}"
                        raise ConfigError(f"{_path(other)}{what} as in the files before; measure it again")
                    mine[name] = mine[name] + tensor if name in mine else tensor
            self._add_runs(key, known, by_run, runs)
        self.about = replace(self.about, runs=(*self.about.runs, *about.runs))

    def _add_runs(self, key: str, known: int, by_run: Tensor | None, runs: int) -> None:
        import torch

        parts = ((self.by_run.get(key), known), (by_run, runs))
        if any(part is not None for part, _ in parts):
            self.by_run[key] = torch.cat([torch.zeros(n, 2).double() if t is None else t for t, n in parts])

    def save(self, path: Path, *, overwrite: bool = True) -> None:
        """Write a measured file: means in fp32, counts in fp64.

        Raises:
            CheckpointError: it cannot be written.
        """
        entries: list[TensorEntry] = []
        for key, sums in self.sums.items():
            counts = self.counts[key]
            for name, total in sums.items():
                mean = partial(_mean, total, counts[COUNT_OF[name]])
                entries.append(TensorEntry(f"{key}{MARK}{name}", tuple(total.shape), "F32", mean))
            for name, count in counts.items():
                entries.append(TensorEntry(f"{key}{MARK}{name}", tuple(count.shape), "F64", count))
            if key in self.by_run:
                squares = self.by_run[key].float()
                entries.append(TensorEntry(f"{key}{MARK}{BY_RUN}", tuple(squares.shape), "F32", squares))
        write_checkpoint(path, entries, self.about.to_metadata(), replace=overwrite)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    return (total / count.where(count > 0, 1)[:, None]).float()


def _plain(sidecar: Activations | Sidecar) -> ConfigError:
    return ConfigError(f"{_path(sidecar)}a plain saliency has no counts; only measured files are merged")


def _path(measured: Activations | Sidecar) -> str:
    return f"{measured.path}: " if isinstance(measured, Sidecar) else ""


def _keys(measured: Activations | Sidecar) -> Iterable[str]:
    return measured.statistics if isinstance(measured, Sidecar) else measured.sums


def _of_key(measured: Activations | Sidecar, key: str) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
    """A weight's sums, its counts, and its runs where they are known."""
    if isinstance(measured, Activations):
        return measured.sums.get(key, {}), measured.counts.get(key, {}), measured.by_run.get(key)
    statistics = measured.statistics.get(key, ())
    counts = {count: measured.counts(key, count) for count in dict.fromkeys(COUNT_OF[s] for s in statistics)}
    sums = {s: measured.banded(key, s) * counts[COUNT_OF[s]][:, None] for s in statistics}
    return sums, counts, measured.by_run(key) if measured.has_runs(key) else None


def merged(paths: Sequence[Path]) -> Activations:
    """The runs of several measured files as those of one; of 0 places in one file only the other counts.

    Raises:
        ConfigError: files of different models, bands or statistics, or a run that is in two of them.
        CheckpointError: a file that cannot be read.
    """
    total: Activations | None = None
    for path in paths:
        sidecar = Sidecar(path)
        try:
            if total is None:
                total = Activations.of(sidecar)
            else:
                _check_alike(total, sidecar, paths[0])
                total.add(sidecar)
        finally:
            sidecar.close()
    if total is None:
        raise ConfigError("activations merge: name the files to merge")
    return total


def _check_alike(total: Activations, other: Sidecar, first: Path) -> None:
    ours, theirs, path = total.about, other.about, other.path
    if theirs is None:
        raise _plain(other)
    for what, one, two in (
        ("model", ours.model[:10], theirs.model[:10]),
        ("architecture", ours.architecture, theirs.architecture),
        ("bands", ours.bands, theirs.bands),
        ("statistics", _kinds(total.sums), _kinds(other.statistics)),
    ):
        if one != two:
            said = f"{printable(str(two))} in {path} and {printable(str(one))} in {first}"
            raise ConfigError(f"{what}: {said}; only files that were measured alike are merged")
    twice = {run["id"] for run in ours.runs} & {run["id"] for run in theirs.runs}
    if twice:
        names = sorted(printable(str(run.get("payload", run["id"]))) for run in theirs.runs if run["id"] in twice)
        raise ConfigError(f"{path}: the run of {names[0]} is in another of these files too, and would count twice")


def _kinds(sums: Mapping[str, Iterable[str]]) -> str:
    return ", ".join(sorted({statistic for own in sums.values() for statistic in own}))
