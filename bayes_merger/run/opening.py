"""What a run says before its first trial: where it draws, how much, when it may be over, and what memory it needs."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import optuna

from bayes_merger.errors import BayesMergerError, counted
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.architectures import drawn
from bayes_merger.imaging.pipelines.device import DTYPES, device_of, dtype_of
from bayes_merger.run.attributes import PAYLOADS, RECIPE, VERSIONS
from bayes_merger.run.final import final_pictures, pictures_per_trial
from bayes_merger.run.folder import RunFolder, load, studies
from bayes_merger.run.needs import judges_bytes, memory_words, model_bytes
from bayes_merger.run.outlook import seconds_for, seconds_left, seconds_of
from bayes_merger.run.progress import ends
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.web_ui import WEB_UIS

_MANY_SCORES = 16  # of a merge, for a person who gives them
_LOOKED_AT = 10  # studies, the newest first, of which one may tell how long pictures take


def opening_lines(
    setup: RunSetup, study: optuna.study.Study, folder: RunFolder, done: int, found: Callable[[str], Any] = shutil.which
) -> Iterator[str]:
    """Device and dtype; trials, pictures and the expected end; what a person will be asked; the memory; an idle card;
    notes on the models.

    Args:
        setup: the run.
        study: as stored.
        folder: where it lies, among others that may tell how long pictures take here.
        done: how many trials are finished.
        found: where a program is, None if it is not installed.
    """
    yield f"drawing {_place(setup)}: {_amount(setup, done)}{_end(setup, study, folder, done)}"
    if setup.rater:
        yield _rating(setup, done)
    if setup.config.generator.program not in WEB_UIS:
        yield _memory(setup)
    if _lies_idle(setup, found):
        yield "there is an NVIDIA card, but this PyTorch has no CUDA: pytorch.org names the one for your system"
    yield from (f"note: {note}" for note in setup.notes)


def _lies_idle(setup: RunSetup, found: Callable[[str], Any]) -> bool:
    """Whether the CPU draws beside an NVIDIA card that nobody has refused."""
    generator = setup.config.generator
    chosen = generator.program in WEB_UIS or generator.device != "auto"
    return not chosen and device_of("auto").type == "cpu" and bool(found("nvidia-smi"))


def _place(setup: RunSetup) -> str:
    """``on cuda (NVIDIA H200) in fp16``."""
    generator = setup.config.generator
    if generator.program in WEB_UIS:
        return f"by the web UI at {generator.address}"
    import torch

    device = device_of(generator.device)
    dtype = str(dtype_of(generator.dtype, device, drawn(setup.base).half)).removeprefix("torch.")
    short = next(name for name, full in DTYPES.items() if full == dtype)
    card = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"on {device}{card} in {short}"


def _memory(setup: RunSetup) -> str:
    from bayes_merger.merging.engine.memory import free_memory  # brings torch

    generator = setup.config.generator
    device = device_of(generator.device)
    size = dtype_of(generator.dtype, device, drawn(setup.base).half).itemsize
    return memory_words(
        model_bytes(setup.base, size),
        judges_bytes(setup.scorers.values()),
        free_memory(device),
        where=str(device),
        workers=setup.config.workers,
    )


def _amount(setup: RunSetup, done: int) -> str:
    """``26 trials of 4 pictures and a final round of 36, 140 in all``."""
    trials, each, last = setup.trials - done, pictures_per_trial(setup), final_pictures(setup)
    more = "more " if done else ""
    final = f" and a final round of {last}, {trials * each + last} in all" if last else f", {trials * each} in all"
    return f"{counted(trials, more + 'trial')} of {counted(each, 'picture')}{final}"


def _rating(setup: RunSetup, done: int) -> str:
    """``you rate 8 pictures of each merge, 640 in all``, and the way to fewer where they are many."""
    trials, each, most = setup.trials - done, pictures_per_trial(setup), "up to " * setup.config.scoring.assist
    if setup.config.scoring.unit == "trial":
        return f"you rate {counted(trials, 'merge')}, each by {counted(each, 'picture')}"
    said = f"you rate {most}{counted(each, 'picture')} of each merge, {most}{trials * each} in all"
    if done or each <= _MANY_SCORES:
        return said
    of_each = max(len(pictures) for payload in setup.payloads for pictures in payload.pictures_of_prompts())
    one = "images_per_prompt=1 draws one of each prompt, " * (of_each > 1 and setup.config.images_budget is None)
    return f"{said}; {one}scoring.unit=trial asks for one number of a merge"


def _end(setup: RunSetup, study: optuna.study.Study, folder: RunFolder, done: int) -> str:
    if left := seconds_left(setup, study, done):
        return f"; {ends(left)}"
    if not (known := _known(setup, study, folder)):
        return "; the first trial will tell how long it takes"
    name, each = known
    left = seconds_for(setup, study, each * _effort(setup.payloads), done)
    return f"; {ends(left)}, if pictures take as long as in {name}"


def _known(setup: RunSetup, study: optuna.study.Study, folder: RunFolder) -> tuple[str, float] | None:
    """A study drawn here with such models, the newest, and its seconds for a unit of effort."""
    for other in studies(folder.path.parent)[:_LOOKED_AT]:
        if other.name == folder.name or other.pointer.is_file():
            continue
        try:
            former = load(other)
            effort = _effort([Payload.from_json(payload) for payload in former.user_attrs.get(PAYLOADS) or ()])
        except BayesMergerError:  # whoever opens it is told
            continue
        took = seconds_of(former)
        if took and effort and _kind(former) == _kind(study):
            return other.name, statistics.median(took) / effort
    return None


def _kind(study: optuna.study.Study) -> tuple[Any, ...]:
    """What makes the time for a picture comparable."""
    known: Any = study.user_attrs
    return known[RECIPE]["architecture"], (known.get(VERSIONS) or {}).get("device")


def _effort(payloads: Any) -> float:
    """Steps of the sampler, each as large as its picture: ``sum of pictures * steps * width * height``."""
    found = 0.0
    for payload in payloads:
        each = payload.steps * payload.width * payload.height
        if payload.hires:
            each += payload.hires.steps * payload.hires.width * payload.hires.height
        found += each * max(len(payload.seeds), 1)
    return found
