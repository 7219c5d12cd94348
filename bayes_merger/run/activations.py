"""The activations of one model, measured while it draws payloads: one file for each payload, then all of them merged.

What was measured before a kill stays in a hidden folder beside the result, so that the same command goes on. The files
are merged in the payloads' order, whoever measured them when: the result has the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bayes_merger.atomic import hidden_name
from bayes_merger.checkpoints.activations.names import About
from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.activations.sums import merged
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.writing import check_no_input, check_out
from bayes_merger.config import RunConfig
from bayes_merger.errors import CheckpointError, ConfigError, counted
from bayes_merger.imaging.activations import recorded
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.t5 import t5_hash
from bayes_merger.imaging.prompts.networks import network_tags
from bayes_merger.paths import user_path
from bayes_merger.run.draw import Drawer, drawer_of
from bayes_merger.run.folder import LOCK
from bayes_merger.run.payloads import path_of
from bayes_merger.run.versions import versions_here

BANDS = 4
"""Of timesteps, unless the user says otherwise: the lowest and the highest differ by a fifth at the median channel."""


def measure(
    config: RunConfig,
    out: Path,
    note: Callable[[str], None],
    *,
    bands: int = BANDS,
    gradients: int = 0,
    overwrite: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a run's payloads with its model A and write the activations.

    Args:
        config: the settings of a run, of which the model, the payloads, the generator and the folders count.
        out: the file.
        note: told what is worth knowing, a line at a time.
        bands: into how many bands of timesteps the statistics are divided.
        gradients: how often the denoiser is probed for each payload, for `gradient` beside the response.
        overwrite: whether the file may be replaced.
        on_step: called as `on_step(done, total)`, counting sampler steps of batches of one payload.

    Raises:
        ConfigError: a payload or a setting that makes no sense, or a prompt that names a LoRA.
        CheckpointError: a file that cannot be used or written.
        TrialFailed: the model draws NaN or a flat colour.
    """
    if not 1 <= bands <= 1000:
        raise ConfigError(f"bands: {bands} bands of timesteps are not possible; give 1 to 1000")
    if not 0 <= gradients <= 10_000:
        raise ConfigError(f"gradients: {gradients} probes of each payload are not possible; give 0 to 10000")
    if config.generator.compile:
        raise ConfigError("activations: a compiled network hides its layers; give  generator.compile=false")
    check_out(out, overwrite=overwrite)
    with open_checkpoint(user_path(config.model_a)) as model:
        check_no_input(out, [model])
    files = []
    with drawer_of(config, on_step) as drawer:
        abouts = [_about(config, drawer, payload, bands, gradients) for payload in drawer.payloads]
        _check(drawer, abouts)
        with _parts_of(out) as parts:
            for payload, about in zip(drawer.payloads, abouts, strict=True):
                files.append(parts / f"{about.runs[0]['id']}.safetensors")
                if _is_whole(files[-1], about):
                    note(f"{payload.name}: measured before")
                    continue
                measure_payload(drawer, payload, about, gradients, files[-1])
                unguided = "" if _is_guided(drawer, payload) else ", without guidance, so of the response nothing"
                note(f"{payload.name}: {counted(payload.batch_size, 'picture')}{unguided}")
            merged(files).save(out, overwrite=overwrite)
            shutil.rmtree(parts, ignore_errors=True)
    return out


@contextmanager
def _parts_of(out: Path) -> Iterator[Path]:
    """The folder of what is measured on the way to a file, for this process alone; gone if there is nothing in it.

    Raises:
        ConfigError: another process measures into it, or it cannot be made.
    """
    parts = out.with_name(f"{hidden_name(out.name)}.parts")
    lock = FileLock(parts / LOCK, timeout=0)
    try:
        parts.mkdir(exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"--out: another process measures into {out}; wait for it, or give another name") from None
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", error)
        raise ConfigError(f"--out: the folder {parts} cannot be made ({why}); give another name") from error
    try:
        yield parts
    finally:
        if not any(parts.glob("*.safetensors")):
            shutil.rmtree(parts, ignore_errors=True)  # still locked: whoever waits finds it as it will be
        lock.release()


def _check(drawer: Drawer, abouts: Sequence[About]) -> None:
    names: dict[str, str] = {}
    kinds = {_is_guided(drawer, payload): payload.name for payload in drawer.payloads}
    if len(kinds) > 1:
        raise ConfigError(
            f"payload {kinds[False]}: has no guidance (cfg_scale 1), and {kinds[True]} has, so that their statistics "
            "are not the same; measure them into two files, or give all a cfg_scale above 1"
        )
    for payload, about in zip(drawer.payloads, abouts, strict=True):
        if any(network_tags(prompt) for prompt in payload.prompts):
            raise ConfigError(
                f"payload {payload.name}: a prompt names a LoRA, which would be measured with the model; leave it out"
            )
        other = names.setdefault(about.runs[0]["id"], payload.name)
        if other != payload.name:
            raise ConfigError(f"payload {payload.name}: draws what {other} draws, and would count twice; leave one out")


def _is_guided(drawer: Drawer, payload: Payload) -> bool:
    """Whether each batch has both halves of guidance."""
    return all(drawer.pipeline.guided_passes(payload))


def _about(config: RunConfig, drawer: Drawer, payload: Payload, bands: int, gradients: int) -> About:
    """What one payload's file says about itself; prompts are not in it, since people share these files."""
    pipeline, t5 = drawer.pipeline, path_of(config.generator.text_encoder_3)
    model = drawer.model.sha256()
    decides = [pipeline.prediction_type, pipeline.zero_snr, t5_hash(t5) if t5 else "", drawer.files.hashes()]
    said: dict[str, Any] = {
        "payload": payload.name,
        "prompts": _digest([payload.prompts, payload.negative_prompts]),
        "seeds": list(payload.seeds),
        "pictures": payload.batch_size,
        "size": [payload.width, payload.height],
        "steps": payload.steps,
        "sampler": f"{payload.sampler_name} {payload.scheduler}",
        "cfg_scale": payload.cfg_scale,
        "clip_skip": payload.clip_skip,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "versions": versions_here(pipeline.device.type),
    }
    if gradients:
        said["gradients"] = gradients
    decides += [model, bands, gradients, payload.to_json() | {"name": "", "importance": 1.0}]
    decides += [said["dtype"], said["versions"]]
    return About(model, drawer.model.architecture.name, bands, ({"id": _digest(decides)[:32], **said},))


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _is_whole(path: Path, about: About) -> bool:
    """Whether a payload was measured before, to the end."""
    try:
        sidecar = Sidecar(path)
    except CheckpointError:
        return False
    sidecar.close()
    return sidecar.about is not None and _ids(sidecar.about.runs) == _ids(about.runs)


def _ids(runs: tuple[Mapping[str, Any], ...]) -> list[str]:
    return [run["id"] for run in runs]


def measure_payload(drawer: Drawer, payload: Payload, about: About, gradients: int, path: Path) -> None:
    """Draw one payload and write its activations.

    Where the memory has not held a batch, it is drawn again in smaller ones: part of it has been counted.

    Args:
        drawer: has the model.
        payload: resolved.
        about: what the file says about itself.
        gradients: as for `measure`.
        path: the file.
    """
    guided, most = _is_guided(drawer, payload), 0
    while drawer.pipeline.max_batch != most:
        most = drawer.pipeline.max_batch
        with recorded(drawer.pipeline, about, guided=guided, gradients=gradients) as found:
            drawer.draw([payload])
    found.save(path)
