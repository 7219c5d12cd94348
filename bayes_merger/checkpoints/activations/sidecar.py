"""Reading a file of activations, measured or plain: checked whole when it is opened, read weight by weight."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_merger.checkpoints.activations.names import BY_RUN, COUNT_OF, MARK, METADATA, About, read_about
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.header import FLOATS
from bayes_merger.checkpoints.single_file import as_model, open_stored
from bayes_merger.errors import CheckpointError, nearest, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_BATCH = 2**20  # numbers that are looked at together
_OF_A_MODEL = "a model is measured first:  bayes-merger activations MODEL"
_MOST = 3.4e38  # in fp32, as which they are used and written again


class Sidecar:
    """An opened file of activations; it is closed with the last that uses it, or before.

    Attributes:
        path: of the file.
        about: what a measured file says about itself; `None` of a plain one.
        statistics: weight's name -> the names of its statistics; of a plain file, weights without any.

    Args:
        path: of the file.

    Raises:
        CheckpointError: it cannot be read, or is no file of activations; the text begins with the path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known_shares: dict[str, Tensor] = {}
        stored = open_stored(path)
        # names of a plain file's tensors may be those of another program, as a model's
        self._file = stored if METADATA in stored.metadata else as_model(stored)
        self._closing = weakref.finalize(self, self._file.close)
        try:
            self.about = read_about(self._file.metadata)
            self.statistics = self._measured() if self.about else self._plain()
            for keys in self._batches([key for key, dtype in self._file.dtypes.items() if dtype in FLOATS]):
                self._check(keys)
            if self.about:
                self._check_counts(self.statistics)
        except CheckpointError as error:
            self.close()
            raise CheckpointError(f"{path}: {error}") from error

    @property
    def file(self) -> Checkpoint:
        """The file, opened."""
        return self._file

    def close(self) -> None:
        """Close the file."""
        self._closing()

    @cached_property
    def sha256(self) -> str:
        """Of the file, in hex."""
        return self._file.sha256()

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a plain file's tensor."""
        return self._file.shapes[key]

    def channels(self, key: str, statistic: str) -> int:
        """How many channels a weight's statistic has."""
        return self._file.shapes[f"{key}{MARK}{statistic}"][1]

    def plain(self, key: str) -> Tensor:
        """A plain file's tensor, which broadcasts to the weight called `key`."""
        return self._file.tensor(key)

    def banded(self, key: str, statistic: str) -> Tensor:
        """A weight's statistic, `(bands or 1, channels)` in fp64."""
        return self._file.tensor(f"{key}{MARK}{statistic}").double()

    def counts(self, key: str, count: str) -> Tensor:
        """The count of places that a weight's statistics were taken over, `(bands or 1,)` in fp64."""
        return self._file.tensor(f"{key}{MARK}{count}").double()

    def mean(self, key: str, statistic: str) -> Tensor:
        """A weight's statistic over all bands, `(channels,)` in fp64."""
        return self._shares(key, COUNT_OF[statistic]) @ self.banded(key, statistic)

    def _shares(self, key: str, count: str) -> Tensor:
        """Of the places that a weight's statistics were taken over, how many lie in each band; several have one."""
        name = f"{key}{MARK}{count}"
        if name not in self._known_shares:
            counts = self.counts(key, count)
            self._known_shares[name] = counts / counts.sum()
        return self._known_shares[name]

    def has_runs(self, key: str) -> bool:
        """Whether a weight has `by_run`, which other programs may leave out."""
        return f"{key}{MARK}{BY_RUN}" in self._file.shapes

    def by_run(self, key: str) -> Tensor:
        """Mean squares of a weight's input and of its response in every run, `(runs, 2)` in fp64."""
        return self.banded(key, BY_RUN)

    def shown(self, key: str, statistic: str = "") -> NDArray[np.floating]:
        """What `plain`, `mean` or `by_run` say, as an array of numpy in fp64, for who only looks at it.

        Args:
            key: the weight's name.
            statistic: of a measured file, or `by_run`; of a plain file nothing.
        """
        import numpy as np

        numbers = self._file.array(f"{key}{MARK}{statistic}" if statistic else key).astype(np.float64)
        if statistic not in COUNT_OF:
            return numbers
        counts = self._file.array(f"{key}{MARK}{COUNT_OF[statistic]}").astype(np.float64)
        means: NDArray[np.floating] = counts / counts.sum() @ numbers
        return means

    def _plain(self) -> dict[str, tuple[str, ...]]:
        for key, dtype in self._file.dtypes.items():
            if MARK in key:
                raise CheckpointError(
                    f"'{printable(key)}' is a statistic, and no metadata tells of what; measure it again"
                )
            if dtype not in FLOATS:
                raise CheckpointError(
                    f"'{printable(key)}' is {dtype}; a saliency is a tensor of floating-point numbers; {_OF_A_MODEL}"
                )
        return dict.fromkeys(self._file.keys(), ())

    def _measured(self) -> dict[str, tuple[str, ...]]:
        assert self.about is not None
        found: dict[str, list[str]] = {}
        for name in self._file.shapes:
            key, mark, statistic = name.rpartition(MARK)
            if not mark or statistic not in (*COUNT_OF, *COUNT_OF.values(), BY_RUN):
                raise CheckpointError(f"'{printable(name)}' is no statistic; {nearest(statistic, COUNT_OF)}")
            if statistic in COUNT_OF:
                found.setdefault(key, []).append(statistic)
        if not found:
            raise CheckpointError("it has no statistics; measure it again")
        for key, statistics in found.items():
            for statistic in statistics:
                self._check_shapes(key, statistic, self.about)
        return {key: tuple(statistics) for key, statistics in found.items()}

    def _check_shapes(self, key: str, statistic: str, about: About) -> None:
        shapes = self._file.shapes
        name, count = f"{key}{MARK}{statistic}", f"{key}{MARK}{COUNT_OF[statistic]}"
        if count not in shapes:
            raise CheckpointError(f"'{printable(name)}' lacks its count '{printable(count)}'; measure it again")
        shape, bands = shapes[name], shapes[count]
        if len(shape) != 2 or bands != shape[:1] or bands[0] not in (1, about.bands) or not shape[1]:
            wanted = f"({about.bands}, channels) and its count ({about.bands},)"
            raise CheckpointError(f"'{printable(name)}' is {list(shape)} and its count {list(bands)}, not {wanted}")
        runs = shapes.get(f"{key}{MARK}{BY_RUN}")
        if runs is not None and runs != (len(about.runs), 2):
            raise CheckpointError(
                f"'{printable(key)}{MARK}{BY_RUN}' is {list(runs)}, and there are {len(about.runs)} runs"
            )
        for part in (name, count, f"{key}{MARK}{BY_RUN}"):
            if (dtype := self._file.dtypes.get(part, "F32")) not in FLOATS:
                raise CheckpointError(f"'{printable(part)}' is {dtype}; it must be floating point")

    def _check_counts(self, statistics: Mapping[str, Sequence[str]]) -> None:
        names = {f"{key}{MARK}{COUNT_OF[own]}": f"{key}{MARK}{own}" for key in statistics for own in statistics[key]}
        for count, statistic in names.items():  # several have the same one
            if not float(self._file.array(count).sum(dtype="float64")) > 0:
                raise CheckpointError(
                    f"'{printable(statistic)}' was taken over nothing: its count is 0; measure it again"
                )

    def _batches(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Tensors that are looked at together: one by one would take longer than reading them."""
        for _, alike in groupby(keys, self._file.dtypes.__getitem__):
            batch, size = [], 0
            for key in alike:
                batch.append(key)
                size += math.prod(self._file.shapes[key])
                if size > _BATCH:
                    yield batch
                    batch, size = [], 0
            if batch:
                yield batch

    def _check(self, keys: Sequence[str]) -> None:
        """Refuse numbers that no statistic has."""
        import numpy as np

        flat = [self._file.array(key).reshape(-1) for key in keys]
        numbers = np.concatenate(flat) if len(flat) > 1 else flat[0]
        if not numbers.size:
            return
        low, high = float(numbers.min()), float(numbers.max())
        if low >= 0 and high <= _MOST:
            return
        if len(keys) > 1:  # which one is it?
            for key in keys:
                self._check([key])
        elif not (math.isfinite(low) and math.isfinite(high)):
            raise CheckpointError(f"'{printable(keys[0])}' holds NaN or infinity; measure it again")
        elif low < 0:
            what = f"'{printable(keys[0])}' holds {low:g}; statistics and saliencies are not negative"
            raise CheckpointError(what if self.about else f"{what}; {_OF_A_MODEL}")
        else:
            raise CheckpointError(f"'{printable(keys[0])}' holds {high:g}, more than fp32 holds; measure it again")
