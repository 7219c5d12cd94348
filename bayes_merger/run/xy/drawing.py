"""The cells of a grid drawn: each distinct merge made once and in place, each picture kept under a key of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from bayes_merger.atomic import folder_atomically, sweep_folders
from bayes_merger.checkpoints.checkpoint import check_all_unchanged
from bayes_merger.config import RunConfig
from bayes_merger.errors import TrialFailed
from bayes_merger.imaging.pipelines.pipeline import DrawnImage
from bayes_merger.merging.engine.live import LiveMerge
from bayes_merger.run.draw import Drawer, loaded
from bayes_merger.run.existing import judge_pictures
from bayes_merger.run.judging import save_pictures
from bayes_merger.run.payloads import path_of
from bayes_merger.run.pictures import add_texts
from bayes_merger.run.prompt_files import PromptFiles, find_files
from bayes_merger.run.versions import versions_here
from bayes_merger.run.xy.grid import Cell, Grid, Merge, in_order
from bayes_merger.scoring.scorer import Scorer

_SETTINGS = ("dtype", "attention", "compile", "max_batch", "prediction_type", "config", "text_encoder_3")
"""Of the generator: those that may change a picture."""


@dataclass
class Pictures:
    """Where the pictures of a grid's cells lie.

    Attributes:
        folder: of all of them.
        failed: key of a cell that could not be drawn -> why.
        points: key of a cell that scorers have judged -> the mean of its pictures' points.
    """

    folder: Path
    keys: dict[tuple[str, int], str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    points: dict[str, float] = field(default_factory=dict)

    def key(self, cell: Cell) -> str:
        """Under which a cell's pictures are kept: equal cells have the same."""
        return self.keys[cell.merge.key, id(cell.payloads)]

    def paths(self, cell: Cell) -> list[Path]:
        """A cell's pictures, in the order of its payloads; none where it could not be drawn."""
        folder = self.folder / self.key(cell)
        names = (f"{one.name}-{index}.png" for one in cell.payloads for index in range(one.batch_size))
        return [folder / name for name in names] if folder.is_dir() else []


def judge(grid: Grid, pictures: Pictures, scorers: Mapping[str, Scorer]) -> list[str]:
    """Give the cells points.

    Args:
        grid: whose pictures are drawn.
        pictures: where they are.
        scorers: who judges, by name; none that asks a person.

    Returns:
        Why some were not judged, a line each.
    """
    paths = {pictures.key(cell): pictures.paths(cell) for cell in grid.cells.values()}
    judged = {one.path: one for one in judge_pictures([path for some in paths.values() for path in some], scorers)}
    for key, some in paths.items():
        points = [judged[path].points for path in some]
        known = [one for one in points if one is not None]
        if known and len(known) == len(points):
            pictures.points[key] = fmean(known)
    return list(dict.fromkeys(one.wrong for one in judged.values() if one.wrong))


Told = Callable[[int, int], None]
"""Told how many distinct cells there are now, and how many there will be."""


def draw_grid(grid: Grid, config: RunConfig, folder: Path, told: Told) -> Pictures:
    """Draw what is not there yet.

    Args:
        grid: the cells.
        config: the settings of a run, of which the generator and the folders of what prompts name count.
        folder: where the pictures are kept, each cell's in a folder named by its key.
        told: how far it is.

    Returns:
        Where the pictures are.

    Raises:
        ConfigError: a payload or a setting that makes no sense.
        CheckpointError: a file that cannot be used, or that changed.
    """
    found = Pictures(folder)
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in grid.every:
        groups.setdefault(cell.merge.loaded, []).append(cell)
    files = {group: _files(config, cells) for group, cells in groups.items()}
    for group, cells in groups.items():
        found.keys |= _keys(cells, config, files[group])
    todo = {group: _todo(cells, found) for group, cells in groups.items()}
    _sweep(folder, set(found.keys.values()))
    total = len(set(found.keys.values()))
    done = total - sum(map(len, todo.values()))
    told(done, total)
    for group, cells in groups.items():
        if not todo[group]:
            continue
        with _drawer(config, cells, files[group]) as drawer:
            for cell, key in _in_order(todo[group], drawer, found):
                try:
                    _keep(folder / key, drawer.draw(cell.payloads), cell)
                except TrialFailed as error:
                    found.failed[key] = str(error)
                done += 1
                told(done, total)
    return found


def _files(config: RunConfig, cells: Sequence[Cell]) -> PromptFiles:
    payloads = {id(cell.payloads): cell.payloads for cell in cells}
    model = cells[0].merge.checkpoints["a"]
    every = [payload for some in payloads.values() for payload in some]
    return find_files(every, model, path_of(config.loras), path_of(config.embeddings))


def _keys(cells: Iterable[Cell], config: RunConfig, files: PromptFiles) -> dict[tuple[str, int], str]:
    same = [
        files.hashes(),
        versions_here(config.generator.device),
        {n: getattr(config.generator, n) for n in _SETTINGS},
    ]
    keys: dict[tuple[str, int], str] = {}
    for cell in cells:
        if (place := (cell.merge.key, id(cell.payloads))) not in keys:
            data = [cell.merge.key, [payload.to_json() for payload in cell.payloads], same]
            keys[place] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:24]
    return keys


def _todo(cells: Iterable[Cell], found: Pictures) -> dict[str, Cell]:
    """The distinct cells that have no pictures yet, by key."""
    distinct = {found.key(cell): cell for cell in cells}
    return {key: cell for key, cell in distinct.items() if not (found.folder / key).is_dir()}


def _sweep(folder: Path, keys: set[str]) -> None:
    """Put away what a process that died left half written."""
    for name in {path.name.split(".")[1] for path in folder.glob(".*.*")} & keys:
        sweep_folders(folder / name)


@contextmanager
def _drawer(config: RunConfig, cells: Sequence[Cell], files: PromptFiles) -> Iterator[Drawer]:
    models = cells[0].merge.checkpoints
    payloads = [payload for some in {id(c.payloads): c.payloads for c in cells}.values() for payload in some]
    with loaded(config, models["a"], payloads, files, vae=models.get("vae"), offload=None) as drawer:
        yield drawer


def _in_order(todo: Mapping[str, Cell], drawer: Drawer, found: Pictures) -> Iterator[tuple[Cell, str]]:
    """The cells in the order in which least is written, each once the live model is its merge."""
    live: tuple[str, LiveMerge] | None = None
    words = ""
    for merge in in_order(cell.merge for cell in todo.values()):
        own = [(cell, key) for key, cell in todo.items() if cell.merge.key == merge.key]
        if live is None or live[0] != merge.kind:
            live = None  # its models leave the memory before those of the next come
            live = merge.kind, LiveMerge(merge.checkpoints, merge.recipe)
        try:
            _become(merge, live[1], drawer)
        except TrialFailed as error:
            found.failed |= dict.fromkeys((key for _, key in own), str(error))
            continue
        if words != merge.words_key:
            drawer.pipeline.text_encoder_changed()
            words = merge.words_key
        yield from own


def _become(merge: Merge, live: LiveMerge, drawer: Drawer) -> None:
    check_all_unchanged(merge.checkpoints.values())
    live.regroup(merge.recipe.elements)
    live.apply(merge.recipe.weights, drawer.pipeline.destinations())


def _keep(folder: Path, images: Sequence[DrawnImage], cell: Cell) -> None:
    with folder_atomically(folder) as written:
        for path in save_pictures(written, images, cell.payloads):
            add_texts(path, {"Recipe": cell.merge.recipe.digest})
