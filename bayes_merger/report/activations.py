"""What activations look like: where in a model, and for which prompts, guidance moves something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bayes_merger.checkpoints.activations.levels import ANSWERS, INPUT, Cells, levels
from bayes_merger.checkpoints.activations.names import BY_RUN, measured_alike
from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.architectures import ARCHITECTURES
from bayes_merger.checkpoints.blocks import Architecture
from bayes_merger.errors import CheckpointError, ConfigError, counted, printable
from bayes_merger.report.figures import draw_cells, new_figure, write_plot

_MOST_PROMPTS = 8


def summary(files: Sequence[Sidecar]) -> str:
    """A table of the response (of a plain file: the saliency) of every block; without any, of the size of the input.

    One file: by prompt, with the spread between prompts in percent. Several: by file, and the last against the first.

    Raises:
        CheckpointError: a file of an architecture that is not known.
    """
    architecture, kinds = architecture_of(files), _kinds(files)
    if len(files) == 1:
        columns, cells = _by_prompt(files[0], architecture, kinds)
        extra = ("spread", lambda row: f"{_spread([cells[row, c] for c in columns if (row, c) in cells]):.0%}")
    else:
        columns = _labels(files)
        cells = {
            (row, label): value
            for file, label in zip(files, columns, strict=True)
            for (row, _), value in levels(file, architecture, lambda _: "", kinds).items()
        }
        ratio = f"{columns[-1]} / {columns[0]}"
        extra = (ratio, lambda row: _ratio(cells.get((row, columns[0])), cells.get((row, columns[-1]))))
    rows = [row for row in architecture.blocks if any((row, column) in cells for column in columns)]
    lines = [["block", *columns, extra[0]]]
    lines += [[row, *(_shown(cells.get((row, c))) for c in columns), extra[1](row)] for row in rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    table = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    said = [_about(file) for file in files]
    if len(files) == 1 and files[0].about and len(files[0].about.runs) > _MOST_PROMPTS:
        said.append(f"the first {_MOST_PROMPTS} of its payloads are shown")
    if kinds == INPUT:
        said.append("without guidance there is no response: this is the size of what the layers are fed")
    first, last = files[0].about, files[-1].about
    if first and last and not measured_alike(first, last):
        said.append("they were not measured alike, so that the ratio is not of the models alone")
    return "\n".join([*said, *table])


def heat_map(files: Sequence[Sidecar], path: Path) -> None:
    """A picture of blocks by parts of blocks for each file, and of the last against the first; of one, also by prompt.

    Raises:
        CheckpointError: a file of an architecture that is not known, or without anything to draw.
        ConfigError: the picture cannot be written there.
    """
    architecture, kinds = architecture_of(files), _kinds(files)
    maps = [levels(file, architecture, architecture.part, kinds) for file in files]
    titles = _labels(files)
    if len(files) > 1:
        both = maps[0].keys() & maps[-1].keys()
        maps.append({cell: maps[-1][cell] - maps[0][cell] for cell in both})
        titles.append(f"{titles[-1]} / {titles[0]}")
    else:
        maps.append(_by_prompt(files[0], architecture, kinds)[1])
        titles.append("by prompt, against the mean")
    for cells, title in zip(maps, titles, strict=True):
        if not any(row in architecture.blocks for row, _ in cells):
            raise CheckpointError(f"{title}: there is nothing of the network to draw; give files of the same weights")
    figure = new_figure(1.2 + 3.4 * len(maps), 7)
    for number, (cells, title) in enumerate(zip(maps, titles, strict=True)):
        axes = figure.add_subplot(1, len(maps), number + 1)
        between = number == len(files)
        shown = _centred(cells) if between and len(files) == 1 else cells
        label = "log2 of a ratio" if between else f"log2 of the RMS {'input' if kinds == INPUT else 'response'}"
        draw_cells(axes, shown, title, architecture.blocks, label, centred=between)
    try:
        write_plot(figure, path)
    except OSError as error:
        raise ConfigError(f"--png: {path} cannot be written ({error.strerror}); give another name") from error


def architecture_of(files: Sequence[Sidecar]) -> Architecture:
    """That of measured files; of plain ones, the one that knows most of the names.

    Raises:
        CheckpointError: it is not known, or they differ.
    """
    found = {file.path: _architecture(file) for file in files}
    names = {architecture.name for architecture in found.values()}
    if len(names) > 1:
        each = ", ".join(f"{path} is {architecture.name}" for path, architecture in found.items())
        raise CheckpointError(f"activations of different architectures cannot be compared: {each}")
    return next(iter(found.values()))


def _architecture(file: Sidecar) -> Architecture:
    if file.about is not None:
        if file.about.architecture not in ARCHITECTURES:
            name = printable(file.about.architecture)
            raise CheckpointError(f"{file.path}: architecture '{name}' is unknown; measure it again")
        return ARCHITECTURES[file.about.architecture]

    def known(architecture: Architecture) -> int:
        return sum(architecture.place(key).role == "block" and architecture.knows(key) for key in file.statistics)

    best = max(ARCHITECTURES.values(), key=known)
    if not known(best):
        raise CheckpointError(f"{file.path}: its tensors have no names that a checkpoint has; name them as weights")
    return best


def _kinds(files: Sequence[Sidecar]) -> tuple[str, ...]:
    """The statistics that are shown, the first that a weight has: the input where a measured file has no answers."""
    measured = [{name for own in file.statistics.values() for name in own} for file in files if file.about]
    return ANSWERS if all(known & {*ANSWERS} for known in measured) else INPUT


def _by_prompt(file: Sidecar, architecture: Architecture, kinds: tuple[str, ...]) -> tuple[list[str], Cells]:
    runs = [] if file.about is None else file.about.runs
    names = [printable(str(run.get("payload", run["id"]))) for run in runs][:_MOST_PROMPTS]
    names = [name if names.count(name) == 1 else f"{name} {number + 1}" for number, name in enumerate(names)]
    found: dict[tuple[str, str], list[float]] = {}
    for key, statistics in file.statistics.items():
        block = architecture.place(key).block
        if block and kinds[0] in statistics and file.has_runs(key):
            for name, square in zip(names, file.shown(key, BY_RUN)[:, int(kinds == ANSWERS)].tolist(), strict=False):
                if square > 0:
                    found.setdefault((block, name), []).append(math.log2(square) / 2)
    if found:
        return names, {cell: sum(values) / len(values) for cell, values in found.items()}
    return ["all"], {(row, "all"): v for (row, _), v in levels(file, architecture, lambda _: "", kinds).items()}


def _centred(cells: Cells) -> Cells:
    rows = {row for row, _ in cells}
    means = {row: [v for (own, _), v in cells.items() if own == row] for row in rows}
    return {(row, column): v - sum(means[row]) / len(means[row]) for (row, column), v in cells.items()}


def _labels(files: Sequence[Sidecar]) -> list[str]:
    """A short name for each file, no two the same."""
    names = [file.path.name.removesuffix(".safetensors").removesuffix(".act") for file in files]
    if len({*names}) < len(names):
        names = [f"{file.path.absolute().parent.name}/{name}" for file, name in zip(files, names, strict=True)]
    labels = [printable(name, longest=20) for name in names]
    return labels if len({*labels}) == len(labels) else [f"{number} {label}" for number, label in enumerate(labels, 1)]


def _about(file: Sidecar) -> str:
    if file.about is None:
        return f"{printable(str(file.path))}: a plain saliency of {len(file.statistics)} weights"
    pictures = sum(run["pictures"] for run in file.about.runs if type(run.get("pictures")) is int)
    return (
        f"{printable(str(file.path))}: {file.about.architecture} {printable(file.about.model[:10])}, "
        f"{len(file.statistics)} weights, {counted(pictures, 'picture')} of "
        f"{counted(len(file.about.runs), 'payload')}, {counted(file.about.bands, 'band')}"
    )


def _shown(value: float | None) -> str:
    return "" if value is None else f"{2**value:.3g}"


def _ratio(first: float | None, last: float | None) -> str:
    return "" if first is None or last is None else f"{2 ** (last - first):.2f}"


def _spread(values: Sequence[float]) -> float:
    """Standard deviation between prompts, as a share of their mean."""
    numbers = [2**value for value in values]
    mean = sum(numbers) / max(len(numbers), 1)
    return math.sqrt(sum((n - mean) ** 2 for n in numbers) / len(numbers)) / mean if mean else 0.0
