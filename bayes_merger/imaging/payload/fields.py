"""The fields of a payload file: those of AUTOMATIC1111's `txt2img` API, and what of them can be drawn here.

A field that changes nothing (a variation seed of strength 0, settings of a second pass that is off, where to save) is
no obstacle; what would change the picture and cannot be drawn is refused by name. The fields and their defaults are
those of https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/processing.py
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.payload.hires import hires_of
from bayes_merger.imaging.payload.payload import Payload
from bayes_merger.imaging.payload.scripts import check_scripts
from bayes_merger.imaging.payload.styles import styled
from bayes_merger.imaging.payload.values import FIELDS, SECOND_PASS, check_name, checked, plain_value, shown
from bayes_merger.imaging.pipelines.schedulers import check_sampler, same_sampler
from bayes_merger.imaging.prompts.comments import without_comments
from bayes_merger.imaging.prompts.prompt import check_prompt

_OTHER_NAMES = {
    "score_weight": "importance",
    "neg_prompt": "negative_prompt",
    "cfg": "cfg_scale",
    "sampler": "sampler_name",
    "batch_count": "n_iter",
    "sampler_index": "sampler_name",
    "CLIP_stop_at_last_layers": "clip_skip",
    "randn_source": "rng",
    "ensd": "eta_noise_seed_delta",
}
_REGIONS = re.compile(r"\bADD(?:COMM|BASE|COL|ROW)\b")
_ALL = {**FIELDS, **SECOND_PASS}
TEXT_FIELDS = frozenset(name for name in (*_ALL, *_OTHER_NAMES) if _ALL[_OTHER_NAMES.get(name, name)].kind is str)
"""Fields whose values are text to the letter."""

_API_SAMPLER = "Euler"  # sampler_index where nobody has set it; the API goes by sampler_name where there is one

_AT_REST: Mapping[str, tuple[Any, ...]] = {
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "restore_faces": (False,),
    "tiling": (False,),
    "eta": (0,),
    "s_churn": (0,),
    "s_min_uncond": (0,),
    "s_noise": (1,),
    "script_name": ("None", "none"),
    "override_settings": (),
    "refiner_checkpoint": ("None", "none"),
    "infotext": (),
    "hr_checkpoint_name": ("Use same checkpoint",),
    "hr_additional_modules": (["Use same choices"],),
    "firstphase_width": (0,),
    "firstphase_height": (0,),
}
"""Field -> the values at which it changes nothing; to be empty is another one for all."""

_LIKE_NONE = ("", "None", "none")
_DEFAULTED = ("sampler_name", "scheduler", "seed", "subseed")
"""Fields that programs leave empty, or call none, where they mean the default."""

_DEPENDENT = ("s_tmin", "s_tmax", "script_args", "refiner_switch_at")
"""Fields that only matter while another one is not at rest, which is refused."""

_DISTILLED = {"distilled_cfg_scale": "cfg_scale", "hr_distilled_cfg": "hr_cfg"}
"""Forge's fields for models whose guidance is distilled into them, which others do not look at -> the same here."""

_APART = ("enable_hr", "styles", "alwayson_scripts", *_DISTILLED)
"""Fields that are read for themselves."""

_OF_SECOND_PASS = ("hr_checkpoint_name", "hr_additional_modules", "firstphase_width", "firstphase_height")
"""Those of them that only matter with `enable_hr`."""

_ABOUT_FILES = frozenset({
    "save_images", "send_images", "do_not_save_samples", "do_not_save_grid", "comments", "force_task_id",
    "session_hash", "override_settings_restore_afterwards", "disable_extra_networks", "seed_enable_extras",
    "do_not_reload_embeddings",
})  # fmt: skip
"""Fields about the request and its files, or about what is refused where it occurs."""

_COMMENTS = "enable_prompt_comments"
_SETTINGS_AT_REST: Mapping[str, tuple[Any, ...]] = {
    "comma_padding_backtrack": (20,),
    "token_merging_ratio": (0,),
    "sd_vae": ("Automatic", "None"),
    "eta_ancestral": (1,),
    "eta_ddim": (0,),
    "sdxl_crop_top": (0,),
    "sdxl_crop_left": (0,),
    "skip_early_cond": (0,),
    "upcast_attn": (False,),
    "auto_vae_precision": (True,),
    "use_old_emphasis_implementation": (False,),
    "use_old_scheduling": (False,),
    "use_old_karras_scheduler_sigmas": (False,),
    "use_old_hires_fix_width_height": (False,),
    _COMMENTS: (True, False),
}
"""Of `override_settings`: setting of the web UI -> the values at which it changes nothing here."""

_SETTINGS_READ = ("clip_skip", "rng", "emphasis", "eta_noise_seed_delta")
"""Of `override_settings`: the settings of the web UI that are a payload's, by their names here."""

_SETTINGS_ASIDE = ("show_progress", "live_preview", "img2img_", "forge_inference_memory", "forge_async", "forge_pin")
"""Beginnings of settings about how a picture is watched, or made elsewhere."""

SETTINGS_ABOUT_FILES = ("samples_", "grid_", "save_", "return_", "outdir_", "do_not_", "enable_pnginfo")


def own_name(field: str) -> str:
    """A field's name here: `cfg` is `cfg_scale`."""
    return _OTHER_NAMES.get(field, field)


def is_field(name: str) -> bool:
    """Whether a payload file may hold it, whatever it is set to."""
    return own_name(name) in _ALL or name in {*_AT_REST, *_ABOUT_FILES, *_DEPENDENT, *_APART}


def overlaid(fields: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with others laid over them, under whichever name they are given."""
    replaced = {own_name(name) for name in over}
    return {name: value for name, value in fields.items() if own_name(name) not in replaced} | dict(over)


def with_distilled_guidance(payload: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a payload as a model takes them whose guidance is distilled into it.

    Raises:
        ConfigError: guidance of the other kind is asked for, too.
    """
    given = {_DISTILLED[name]: value for name, value in fields.items() if name in _DISTILLED and value is not None}
    for name, value in fields.items():
        if own_name(name) in given and checked(own_name(name), value) != 1:
            raise ConfigError(f"payload {printable(payload, longest=60)}: {name}: is {shown(value)} beside Forge's "
                              "distilled guidance, which is all that this model has; set it to 1")  # fmt: skip
    return overlaid(fields, given)


def payload_from_mapping(name: str, mapping: Mapping[str, Any], styles: Path | None = None) -> Payload:
    """A payload from the fields of a payload file, which are those of A1111's `txt2img` API.

    Args:
        name: what the payload is called.
        mapping: field -> value; only `prompt` is required. `n_iter` multiplies `batch_size`.
        styles: the `styles.csv` that has the styles in it.

    Raises:
        ConfigError: an unknown field, a wrong type, a number out of range, a prompt or sampler that is not supported.
    """
    what = f"payload {printable(str(name), longest=60)}"
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{what}: expected fields such as `prompt: ...`, got {shown(mapping)}")
    try:
        check_name(name)
        return Payload(name=name, **_payload_values(mapping, styles))
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error


def read_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields by their names here; `n_iter` has multiplied `batch_size`.

    Raises:
        ConfigError: a wrong type, a number out of range, one given twice, or no prompt.
    """
    values: dict[str, Any] = {}
    for given, value in _less_default_index(fields).items():
        field = own_name(given)
        read = checked(field, value, given)
        if values.setdefault(field, read) != read:
            raise ConfigError(f"{field} is given twice, the second time as {given}; remove one")
    if not values.get("prompt", "").strip():
        raise ConfigError("no prompt; give it a line  prompt: what to draw")
    values["batch_size"] = checked("batch_size", values.get("batch_size", 1) * values.pop("n_iter", 1))
    return values


def _payload_values(mapping: Mapping[str, Any], styles: Path | None) -> dict[str, Any]:
    values = read_fields(fields_that_count(mapping))
    put_on(style_names(mapping), styles, values)
    leave_comments_out(mapping, values)
    if found := _REGIONS.search(values["prompt"]):
        raise ConfigError(f"prompt: {found[0]} (Regional Prompter) is not supported; remove it")
    check_prompt(values["prompt"])
    check_prompt(values.get("negative_prompt", ""), negative=True)
    second = {field: values.pop(field) for field in SECOND_PASS if field in values}
    first: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Payload)} | values
    if "sampler_name" in values or "scheduler" in values:
        values["sampler_name"], values["scheduler"] = check_sampler(first["sampler_name"], first["scheduler"])
    if _is_truth("enable_hr", mapping.get("enable_hr")):
        values["hires"] = hires_of(second, first)
    return values


def put_on(names: Sequence[str], styles: Path | None, values: dict[str, Any]) -> None:
    """Put some styles around the prompts, those of a second pass too."""
    if not names:
        return
    for prefix in ("", "hr_"):
        pair = values.get(f"{prefix}prompt", ""), values.get(f"{prefix}negative_prompt", "")
        if not prefix or any(pair):
            values[f"{prefix}prompt"], values[f"{prefix}negative_prompt"] = styled(names, styles, *pair)


def leave_comments_out(mapping: Mapping[str, Any], values: dict[str, Any]) -> None:
    """Leave the comments out of all prompts, unless that setting of the web UI is off.

    Raises:
        ConfigError: nothing else is in the prompt.
    """
    settings = mapping.get("override_settings")
    given = settings.get(_COMMENTS) if isinstance(settings, Mapping) else None
    if given is not None and not _is_truth(f"override_settings.{_COMMENTS}", given):
        return
    for field in TEXT_FIELDS & values.keys():
        if field.endswith("prompt"):
            values[field] = without_comments(values[field])
    if not values["prompt"].strip():
        raise ConfigError("prompt: is nothing but a comment (what is behind # is not drawn); give it words")


def with_hashes_drawn(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a picture that is there: a `#` in its words was drawn, it begins no comment."""
    hashes = any("#" in str(value) for name, value in fields.items() if name.endswith("prompt"))
    return {**fields, "override_settings": {_COMMENTS: False}} if hashes else {**fields}


def style_names(mapping: Mapping[str, Any]) -> list[str]:
    """The styles of a payload.

    Raises:
        ConfigError: they are no list of names.
    """
    names = mapping.get("styles") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"styles: expected a list of names, got {shown(names)}")
    return [name for name in names if name not in ("", "None")]


def _is_truth(field: str, value: Any) -> bool:
    value = plain_value(value) if isinstance(value, str) else value
    if value not in (None, True, False, ""):
        raise ConfigError(f"{field}: expected true or false, got {shown(value)}")
    return bool(value)


def fields_that_count(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a payload keeps; those that change nothing are left out.

    Raises:
        ConfigError: a field that is unknown, or that would change the picture and cannot be drawn.
    """
    check_scripts(mapping.get("alwayson_scripts"))
    kept: dict[str, Any] = {}
    off = set(() if _is_truth("enable_hr", mapping.get("enable_hr")) else (*SECOND_PASS, *_OF_SECOND_PASS))
    off |= set() if mapping.get("subseed_strength") else {"subseed", "subseed_strength"}
    for given, value in mapping.items():
        field = str(given)
        if value is None or field in {*_ABOUT_FILES, *_DEPENDENT, *off, *_APART}:
            continue
        if own_name(field) in _DEFAULTED and value in _LIKE_NONE:
            continue
        if own_name(field) in _ALL:
            kept[field] = value
        elif field == "override_settings" and isinstance(value, Mapping):
            kept |= _of_settings(value)
        elif field not in _AT_REST:
            raise ConfigError(f"unknown field {shown(field)}; {nearest(field, {*_ALL, 'score_weight'}, listed=20)}")
        elif not _is_at_rest(value, _AT_REST[field]):
            raise _cannot(field, value, _AT_REST[field])
    return kept


def _less_default_index(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without the other name of the sampler, where it says nothing."""
    index, name = fields.get("sampler_index"), fields.get("sampler_name")
    idle = index is not None and name is not None
    idle = idle and (index == _API_SAMPLER or same_sampler(str(index), str(name)))
    return {field: value for field, value in fields.items() if not (idle and field == "sampler_index")}


def _of_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the web UI that are a payload's, such as clip skip."""
    for key, value in settings.items():
        idle = str(key).startswith((*SETTINGS_ABOUT_FILES, *_SETTINGS_ASIDE))
        at_rest = _SETTINGS_AT_REST.get(key, ())
        if not (own_name(key) in _SETTINGS_READ or idle or _is_at_rest(value, at_rest)):
            raise _cannot(f"override_settings.{printable(str(key))}", value, at_rest)
    return {key: value for key, value in settings.items() if own_name(key) in _SETTINGS_READ and value is not None}


def _cannot(field: str, value: Any, at_rest: tuple[Any, ...]) -> ConfigError:
    rest = "" if not at_rest else f" or set it to {str(at_rest[0]).lower()}"
    return ConfigError(f"{field} is not supported (it is {shown(value)}); remove it{rest}")


def _is_at_rest(value: Any, at_rest: tuple[Any, ...]) -> bool:
    """Whether a value changes nothing; programs write numbers and truth values as text, too."""
    return _is_nothing(value) or value in at_rest or (isinstance(value, str) and plain_value(value) in at_rest)


def _is_nothing(value: Any) -> bool:
    """Whether a value is empty, whatever it is made of."""
    if isinstance(value, Mapping):
        return all(_is_nothing(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_nothing(item) for item in value)
    return value is None or value == ""
