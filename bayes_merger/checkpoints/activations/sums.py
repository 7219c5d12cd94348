"""Activations as sums that grow: over the pictures of a run, and over the runs of several files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
            raise ConfigError(f"{sidecar.path}: a plain saliency has no counts; only measured files are merged")
        found = cls(sidecar.about)
        for key, statistics in sidecar.statistics.items():
            found.counts[key] = {c: sidecar.counts(key, c) for c in {COUNT_OF[s] for s in statistics}}
            found.sums[key] = {s: sidecar.banded(key, s) * found.counts[key][COUNT_OF[s]][:, None] for s in statistics}
            if sidecar.has_runs(key):
                found.by_run[key] = sidecar.by_run(key)
        return found

    def add(self, other: Activations) -> None:
        """Add the runs of another file of the same model."""
        import torch

        for key, sums in other.sums.items():
            for own, theirs in ((self.sums, sums), (self.counts, other.counts[key])):
                mine = own.setdefault(key, {})
                for name, tensor in theirs.items():
                    mine[name] = mine[name] + tensor if name in mine else tensor
        runs = len(self.about.runs), len(other.about.runs)
        for key in dict.fromkeys((*self.by_run, *other.by_run)):
            parts = zip((self.by_run.get(key), other.by_run.get(key)), runs, strict=True)
            self.by_run[key] = torch.cat([torch.zeros(n, 2).double() if t is None else t for t, n in parts])
        self.about = replace(self.about, runs=(*self.about.runs, *other.about.runs))

    def save(self, path: Path, *, overwrite: bool = True) -> None:
        """Write a measured file: means in fp32, counts in fp64.

        Raises:
            CheckpointError: it cannot be written.
        """
        entries = []
        for key, sums in self.sums.items():
            counts = self.counts[key]
            means = {s: tensor / counts[COUNT_OF[s]].clamp(min=1)[:, None] for s, tensor in sums.items()}
            if key in self.by_run:
                means[BY_RUN] = self.by_run[key]
            entries += [(f"{key}{MARK}{s}", tuple(t.shape), "F32", t.float()) for s, t in means.items()]
            entries += [(f"{key}{MARK}{c}", tuple(t.shape), "F64", t) for c, t in counts.items()]
        write_checkpoint(path, [TensorEntry(*e) for e in entries], self.about.to_metadata(), replace=overwrite)


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
            one = Activations.of(sidecar)
        finally:
            sidecar.close()
        if total is None:
            total = one
        else:
            _check_alike(total, one, paths[0], path)
            total.add(one)
    if total is None:
        raise ConfigError("activations merge: name the files to merge")
    return total


def _check_alike(total: Activations, other: Activations, first: Path, path: Path) -> None:
    ours, theirs = total.about, other.about
    for what, one, two in (
        ("model", ours.model[:10], theirs.model[:10]),
        ("architecture", ours.architecture, theirs.architecture),
        ("bands", ours.bands, theirs.bands),
        ("statistics", _kinds(total.sums), _kinds(other.sums)),
    ):
        if one != two:
            said = f"{printable(str(two))} in {path} and {printable(str(one))} in {first}"
            raise ConfigError(f"{what}: {said}; only files that were measured alike are merged")
    twice = {run["id"] for run in ours.runs} & {run["id"] for run in theirs.runs}
    if twice:
        names = sorted(printable(str(run.get("payload", run["id"]))) for run in theirs.runs if run["id"] in twice)
        raise ConfigError(f"{path}: the run of {names[0]} is in another of these files too, and would count twice")


def _kinds(sums: Mapping[str, Mapping[str, object]]) -> str:
    return ", ".join(sorted({statistic for own in sums.values() for statistic in own}))
