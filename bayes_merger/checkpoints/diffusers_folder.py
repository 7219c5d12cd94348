"""Diffusers folders as models: their tensors under the names and in the layout of a single file, without conversion.

A folder has a part per network (``unet/``, ``vae/``, ``text_encoder/``, ...), each with its tensors in one file or in
several with an index. ``Naming`` says where each of them belongs; a tensor of the single file is a sequence of spans of
theirs, read in place when it is requested.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bayes_merger.checkpoints.architectures import unsupported
from bayes_merger.checkpoints.checkpoint import Checkpoint, torch_dtypes
from bayes_merger.checkpoints.kinds import ModelKind
from bayes_merger.checkpoints.naming import INDEX, PARTS, Counterpart, Naming
from bayes_merger.checkpoints.networks import TensorNames, network_of
from bayes_merger.checkpoints.prediction import EDM, EDM_V, ZERO_SNR, V, predicted_by, prediction_metadata
from bayes_merger.checkpoints.single_file import open_file
from bayes_merger.documents import read_document
from bayes_merger.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", "fp16", "bf16", "fp32", "ema", "non_ema")  # in order of preference
_SCHEDULER = "scheduler/scheduler_config.json"
_SIGMAS = {"sigma_max": 80.0, "sigma_min": 0.002}  # diffusers' own defaults for EDM's schedule
_LONGEST = 200  # characters in a file name, well below what any system allows
_JSON_LIMIT = 2**26  # bytes: the index of the largest part is a tenth of a megabyte


class TensorSlice(NamedTuple):
    """A contiguous span of a tensor's numbers.

    Attributes:
        file: that holds it.
        name: of the tensor.
        begin: the first of them, in the order of the file.
        length: how many.
    """

    file: Checkpoint
    name: str
    begin: int
    length: int


@dataclass(frozen=True)
class _Assembly:
    """What a tensor of the single file is made of."""

    stretches: tuple[TensorSlice, ...]
    transposed: bool
    numbers: tuple[float, ...] = ()


class DiffusersFolder(Checkpoint):
    """An opened diffusers folder.

    Args:
        path: the folder.
        parts: part to its tensors' names, each with the opened file that it is in; the files are closed with this.

    Raises:
        CheckpointError: the architecture is unknown, or some of the tensors are.
    """

    def __init__(self, path: Path, parts: Mapping[str, Mapping[str, Checkpoint]]) -> None:
        self._parts = {part: tuple(dict.fromkeys(names.values())) for part, names in parts.items()}
        _check_known(parts)
        naming = Naming.of({part: {n: f.shapes[n] for n, f in names.items()} for part, names in parts.items()})
        self._made: dict[str, _Assembly] = {}
        entries: dict[str, tuple[str, tuple[int, ...]]] = {}
        for part, names in parts.items():
            for found, stack in _placed(naming, part, names):
                entries[found.key] = names[stack[0]].dtypes[stack[0]], found.shape(_shapes(stack, names))
                self._made[found.key] = _Assembly(tuple(_stretches(found, stack, names)), found.transposed)
        settings = _read_scheduler(path)
        self._prediction = predicted_by(settings)
        for mark, numbers in _marks(path, naming.family, settings).items():
            entries[mark] = ("F32", (len(numbers),)) if numbers else ("I64", (0,))
            self._made[mark] = _Assembly((), False, numbers)
        first = next(iter(self._parts.values()))[0]  # every part of a folder that we wrote says how it was made
        in_parts = all(file.has_parts for files in self._parts.values() for file in files)
        super().__init__(
            path,
            entries,
            {**first.metadata, **prediction_metadata(self._prediction)},
            self._read_whole,
            self._close_all,
            read_part=self._read_stretches if in_parts else None,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        said = (self.path / INDEX, self.path / _SCHEDULER)
        return (*(file.path for files in self._parts.values() for file in files), *(f for f in said if f.is_file()))

    @property
    def prediction(self) -> str:
        """What its scheduler says, else its files."""
        return self._prediction or super().prediction

    @property
    def notes(self) -> tuple[str, ...]:
        """Which of several variants of a part is read."""
        names = [f"{part}/{files[0].path.name}" for part, files in self._parts.items()]
        variants = [name for name in names if _variant_of(name)]
        return (f"{self.path.name}: a variant is read, {', '.join(variants)}",) if variants else ()

    def sha256(self) -> str:
        """The SHA-256 of the hashes of all files that are read and their names, in hex."""
        if not self._sha256:
            lines = [
                f"{file.path.relative_to(self.path).as_posix()} {file.sha256()}\n"
                for files in self._parts.values()
                for file in files
            ]
            self._sha256 = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
        return self._sha256

    def release(self) -> None:
        """Release the memory of what was read of all files."""
        for files in self._parts.values():
            for file in files:
                file.release()

    def _close_all(self) -> None:
        for files in self._parts.values():
            for file in files:
                file.close()

    def _read_whole(self, key: str) -> Tensor:
        import torch

        made, shape = self._made[key], self.shapes[key]
        if not made.stretches:
            return torch.tensor(made.numbers, dtype=torch_dtypes()[self.dtypes[key]])
        if made.transposed:
            return made.stretches[0].file.tensor(made.stretches[0].name).t().contiguous()
        pieces = [_flat(stretch) for stretch in made.stretches]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).view(shape)

    def _read_stretches(self, key: str, begin: int, out: Tensor) -> None:
        made = self._made[key]
        if made.transposed:
            out.copy_(self._read_whole(key).flatten()[begin : begin + out.numel()])
            return
        place = 0
        for stretch in made.stretches:
            first = max(begin - place, 0)
            done = place + first - begin
            count = min(stretch.length - first, out.numel() - done)
            if count > 0:
                stretch.file.read_part(stretch.name, stretch.begin + first, out[done : done + count])
            place += stretch.length


def _check_known(parts: Mapping[str, Mapping[str, Checkpoint]]) -> None:
    """Refuse the public networks that are not merged here, by name."""
    for part in ("unet", "transformer"):
        shapes = {name: file.shapes[name] for name, file in parts.get(part, {}).items()}
        if title := network_of(TensorNames(shapes)):
            raise unsupported(ModelKind(title, title))


def _flat(stretch: TensorSlice) -> Tensor:
    whole = stretch.file.tensor(stretch.name).flatten()
    return whole[stretch.begin : stretch.begin + stretch.length]


def _placed(
    naming: Naming, part: str, files: Mapping[str, Checkpoint]
) -> Iterator[tuple[Counterpart, tuple[str, ...]]]:
    """The tensors of the single file that a part holds, each with those of the part that it is made of."""
    found: dict[str, tuple[str, ...]] = {}
    for name in files:
        counterpart = naming.counterpart(part, name)
        if counterpart is None:
            continue
        stack = counterpart.stack or (name,)
        lacking = next((other for other in stack if other not in files), None)
        if lacking is not None:
            raise CheckpointError(f"{part} has '{name}' and lacks '{lacking}'; download it again")
        if found.setdefault(counterpart.key, stack) != stack:
            raise CheckpointError(
                f"{part} has '{found[counterpart.key][0]}' and '{name}', which are the same tensor; download it again"
            )
        shapes, dtypes = _shapes(stack, files), [files[other].dtypes[other] for other in stack]
        if not counterpart.fits(shapes) or len(set(dtypes)) > 1:
            each = ", ".join(f"{dtype}{list(shape)}" for dtype, shape in zip(dtypes, shapes, strict=True))
            raise CheckpointError(f"{part}'s '{name}' cannot be {each}, given the tensors beside it; download it again")
        if name == stack[0]:
            yield counterpart, stack


def _shapes(names: Sequence[str], files: Mapping[str, Checkpoint]) -> list[tuple[int, ...]]:
    return [files[name].shapes[name] for name in names]


def _stretches(found: Counterpart, stack: Sequence[str], files: Mapping[str, Checkpoint]) -> Iterator[TensorSlice]:
    for name in stack:
        count = math.prod(files[name].shapes[name])
        halves = ((count // 2, count - count // 2), (0, count // 2)) if found.swapped else ((0, count),)
        for begin, length in halves:
            yield TensorSlice(files[name], name, begin, length)


def open_folder(path: Path) -> DiffusersFolder:
    """Open a diffusers folder.

    Args:
        path: the folder, with each part in a sub-folder.

    Raises:
        CheckpointError: a part cannot be read, or the model cannot be merged; the text begins with the path.
    """
    with ExitStack() as opened:
        parts: dict[str, dict[str, Checkpoint]] = {}
        for part in PARTS:
            if files := _files_of(path, part):
                parts[part] = _tensors_of(files, opened)
        if not parts:
            raise CheckpointError(
                f"{path}: {_named(path)}a diffusers folder without weights in {' or '.join(PARTS[:2])}; "
                "download it again, with its files, unless it is of a network that has other parts"
            )
        try:
            found = DiffusersFolder(path, parts)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {_named(path)}{error}") from error
        opened.pop_all()
    return found


def has_weights(path: Path) -> bool:
    """Whether a folder holds weights of the network, and not only settings."""
    return any(_files_of(path, part) for part in PARTS[:2])


@contextmanager
def open_part(path: Path) -> Iterator[dict[str, Checkpoint]]:
    """The tensors of a part of a diffusers folder, each with the opened file that it is in; none if it holds none.

    Raises:
        CheckpointError: a file cannot be read.
    """
    with ExitStack() as opened:
        yield _tensors_of(_files_of(path.parent, path.name), opened)


def _tensors_of(files: Mapping[Path, Collection[str] | None], opened: ExitStack) -> dict[str, Checkpoint]:
    """The names of a part's tensors, each with the opened file that it is in."""
    found: dict[str, Checkpoint] = {}
    for path, names in files.items():
        file = opened.enter_context(open_file(path))
        for name in file.shapes if names is None else names:
            if name not in file.shapes:
                raise CheckpointError(f"{path}: lacks '{name}', which its index lists; download it again")
            found[name] = file
    return found


def _named(path: Path) -> str:
    """The pipeline a folder is for, if it says so."""
    try:
        name = _read_json(path / INDEX).get("_class_name")
    except CheckpointError:
        return ""
    return f"({name}) " if isinstance(name, str) and name.isidentifier() else ""


def _files_of(folder: Path, part: str) -> dict[Path, Collection[str] | None]:
    """The weight files of a part and the tensors to take from each, ``None`` for all.

    Safetensors go before pickles, plain names before variants, and one file before several of the same name.
    """
    place = folder / part
    if not place.is_dir():
        return {}
    for suffix in ("safetensors", "bin"):
        for variant in _VARIANTS:
            for stem in _STEMS:
                dotted = f".{variant}" if variant else ""
                whole = place / f"{stem}{dotted}.{suffix}"
                if whole.is_file():
                    return {whole: None}
                for index in (f"{stem}.{suffix}.index{dotted}.json", f"{stem}{dotted}.{suffix}.index.json"):
                    if (place / index).is_file():
                        return _files_in(place / index)
    if any(file.suffix in (".safetensors", ".bin") for file in place.iterdir()):
        raise CheckpointError(f"{place}: none of its weight files has a diffusers name, like {_STEMS[0]}.safetensors")
    return {}


def _files_in(index: Path) -> dict[Path, Collection[str] | None]:
    """The files that an index names, all of them beside it, and the tensors in each."""
    table = _read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError(f"{index}: has no weight_map; download it again")
    found: dict[str, list[str]] = {}
    for tensor, name in table.items():
        found.setdefault(name, []).append(tensor)
    for name in sorted(found):
        if Path(name).name != name or name in ("", ".", "..") or len(name) > _LONGEST:
            raise CheckpointError(f"{index}: names the file {name[:80]!r}, which cannot be beside it; do not trust it")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: lists {name}, which does not exist; download it again")
    return {index.parent / name: found[name] for name in sorted(found)}


def _variant_of(name: str) -> str:
    return next((variant for variant in _VARIANTS if variant and f".{variant}." in name), "")


def _read_scheduler(path: Path) -> Mapping[str, Any]:
    file = path / _SCHEDULER
    return _read_json(file) if file.is_file() else {}


def _marks(path: Path, family: str, scheduler: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """The tensors by which single files say what the model predicts, and their numbers."""
    kind = predicted_by(scheduler)
    if kind == EDM_V:
        return {f"edm_vpred.{end}": (_number(scheduler, end, usual),) for end, usual in _SIGMAS.items()}
    if kind == EDM:
        vae = _read_json(path / "vae" / "config.json")
        return {f"edm_{end}": _statistics(path, vae, f"latents_{end}") for end in ("mean", "std")}
    if kind != V:
        return {}
    # only Stable Diffusion XL's files are known to say the first, so its absence says nothing in others
    marks: dict[str, tuple[float, ...]] = {"v_pred": ()} if family == "sdxl" else {}
    return {**marks, ZERO_SNR: ()} if scheduler.get("rescale_betas_zero_snr") is True else marks


def _number(settings: Mapping[str, Any], name: str, usual: float) -> float:
    value = settings.get(name, usual)
    return float(value) if isinstance(value, int | float) else usual


def _statistics(path: Path, vae: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = vae.get(name)
    if not isinstance(values, list) or not values or not all(isinstance(value, int | float) for value in values):
        raise CheckpointError(f"its scheduler is for EDM, and vae/config.json has no {name}; download it again")
    return tuple(map(float, values))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = read_document(path, largest=_JSON_LIMIT)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; download it again") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: is not a table of settings; download it again")
    return data
