"""A1111's or Forge's web UI as the program that draws, over its HTTP API.

The API is that of https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/api/api.py, started with
`--api`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed, nearest, one_line, printable
from bayes_merger.imaging.payload.fields import style_names
from bayes_merger.imaging.payload.passed_on import SAME_SAMPLER, SAME_SCHEDULE, Request
from bayes_merger.imaging.payload.payload import Payload
from bayes_merger.imaging.server import DrawnThere, Server, Unreachable, opened, reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

OPTIONS = (
    "CLIP_stop_at_last_layers", "always_discard_next_to_last_sigma", "beta_dist_alpha", "beta_dist_beta",
    "cache_fp16_weight", "comma_padding_backtrack", "ddim_discretize", "emphasis", "enable_quantization",
    "eta_ancestral", "eta_ddim", "eta_noise_seed_delta", "forge_additional_modules", "forge_unet_storage_dtype",
    "fp8_storage", "hires_fix_use_firstpass_conds", "jpeg_quality", "pad_cond_uncond", "pad_cond_uncond_v0",
    "randn_source", "rho", "s_churn", "s_min_uncond", "s_min_uncond_all", "s_noise", "s_tmax", "s_tmin",
    "samples_format", "sd_noise_schedule", "sd_vae", "sd_vae_decode_method", "sdxl_clip_l_skip", "sdxl_crop_left",
    "sdxl_crop_top", "sgm_noise_multiplier", "sigma_max", "sigma_min", "skip_early_cond", "tiling",
    "token_merging_ratio", "token_merging_ratio_hr", "uni_pc_order", "uni_pc_skip_type", "uni_pc_variant",
    "upcast_attn", "use_downcasted_alpha_bar", "use_old_clip_g_load_and_normalization",
    "use_old_emphasis_implementation", "use_old_hires_fix_width_height", "use_old_karras_scheduler_sigmas",
    "use_old_scheduling",
)  # fmt: skip
"""The web UI's settings that change what it draws."""

LATER_OPTIONS = (
    "enable_batch_seeds", "extra_networks_default_multiplier", "face_restoration", "forge_try_reproduce",
    "no_dpmpp_sde_batch_determinism", "sd3_enable_t5", "sd_hypernetwork", "sd_unet", "uni_pc_lower_order_final",
)  # fmt: skip
"""Likewise; those that studies of older versions do not have."""

_LORA = re.compile(r"<(?:lora|lyco):([^:>]+)")
_MODEL = "sd_model_checkpoint"
_LOOKING = 5.0  # seconds that it may take to say how far it is


class WebUI(Server):
    """A running web UI of A1111's kind."""

    called = "the web UI"
    start = "start it with  --api"
    missing = "start the web UI with  --api"
    reads = "the folder that it reads models from, like .../models/Stable-diffusion"
    at_once = 1000
    _settings: Sequence[str] = ()
    _samplers: Sequence[str] = ()
    _schedules: Sequence[str] = ()
    _usual: Mapping[str, Any] | None = None
    _touched: frozenset[str] = frozenset()

    def look(self) -> dict[str, Any]:
        """Its settings that change what is drawn."""
        options = self._options()
        self._settings = list(options)
        self._samplers = self._names("/sdapi/v1/samplers", ("name",))
        self._schedules = self._names("/sdapi/v1/schedulers", ("label", "name"))
        return {name: options[name] for name in (*OPTIONS, *LATER_OPTIONS) if name in options}

    def _options(self) -> Mapping[str, Any]:
        options = self.ask("/sdapi/v1/options", attempts=1)
        if not isinstance(options, Mapping):
            raise BayesMergerError(f"{self.address} is no web UI of A1111 or Forge")
        return options

    def check_payload(self, payload: Payload) -> None:
        """Whether it has what the payload names: it leaves out what it does not know, or draws with its own instead."""
        given = payload.passed_on or {}
        self._check_schedule("scheduler", payload.scheduler)
        name, samplers = payload.sampler_name, self._samplers
        ends = [f" {schedule}" for schedule in self._schedules if name.endswith(f" {schedule}")]
        if not any(name.removesuffix(end) in samplers for end in ends):
            _check("sampler_name", name, samplers)
        if given.get("enable_hr"):
            _check("hr_sampler_name", given.get("hr_sampler_name") or SAME_SAMPLER, [SAME_SAMPLER, *samplers])
            self._check_schedule("hr_scheduler", given.get("hr_scheduler") or SAME_SCHEDULE)
            if upscaler := given.get("hr_upscaler"):
                lists = [self._names(f"/sdapi/v1/{path}", ("name",)) for path in ("upscalers", "latent-upscale-modes")]
                if all(lists):  # some web UIs have the first alone
                    _check("hr_upscaler", upscaler, [*lists[0], *lists[1]])
        for setting in given.get("override_settings") or ():
            _check("override_settings", setting, self._settings)
        if (styles := style_names(given)) and self._has(path := "/sdapi/v1/prompt-styles"):
            for style in styles:
                _check("styles", style, self._names(path, ("name",)))
        self._check_loras({*payload.prompts, str(given.get("hr_prompt") or "")})

    def _check_schedule(self, field: str, name: object) -> None:
        if name not in ("Automatic", SAME_SCHEDULE):
            _check(field, name, self._schedules)

    def _check_loras(self, prompts: Iterable[str]) -> None:
        """Whether it has the LoRAs of some prompts: without one it draws as if it were not named."""
        wanted = sorted({name for prompt in prompts for name in _LORA.findall(prompt)})
        path, keys = "/sdapi/v1/loras", ("name", "alias")
        if not wanted or not self._has(path):
            return
        if not set(wanted) <= set(self._names(path, keys)):
            self.answered("POST", "/sdapi/v1/refresh-loras", {})  # as it does itself before it draws
        known = self._names(path, keys)
        for name in wanted:
            _check("prompt", name, known, what="LoRA ")

    def _has(self, path: str) -> bool:
        return self.answered("GET", path, None).status == 200

    def _names(self, path: str, keys: Sequence[str]) -> list[str]:
        """What the entries of a list are called, empty where the web UI is too old to have it."""
        answer = self.answered("GET", path, None)
        entries = answer.data if answer.status == 200 and isinstance(answer.data, list) else []
        values = (entry.get(key) for entry in entries if isinstance(entry, Mapping) for key in keys)
        return [value for value in values if isinstance(value, str)]

    def files(self) -> dict[str, str]:
        """The models that it knows: name of the file -> title."""
        listed = self.ask("/sdapi/v1/sd-models")
        models = [model for model in listed if isinstance(model, Mapping)] if isinstance(listed, list) else []
        return {re.split(r"[\\/]", str(model.get("filename")))[-1]: str(model.get("title")) for model in models}

    def refresh(self) -> None:
        """Make it read its folder again."""
        self.ask("/sdapi/v1/refresh-checkpoints", {})

    def draw(self, request: Request, file: str, title: str) -> list[DrawnThere]:
        """The pictures of a request.

        Args:
            request: what is drawn.
            file: the model's, without its folder.
            title: of the model.

        Raises:
            TrialFailed: it could not draw them: out of memory, NaN, or another error of its own; or a flat colour.
            BayesMergerError: it does not answer, or drew with another model, seed or number of pictures.
        """
        task = f"task(bayes-merger-{uuid4().hex})"
        try:
            body = self._complete(request.body(title)) | {"force_task_id": task}
            answer = self.answered("POST", "/sdapi/v1/txt2img", body)
        except BaseException:  # Ctrl-C too
            self._end(task)
            raise
        if answer.status == 422:
            raise BayesMergerError(f"{request}: the web UI does not take it: {reason_of(answer)}")
        if answer.status >= 500:
            raise TrialFailed(f"{request}: the web UI cannot draw it: {reason_of(answer)}")
        data = self.good(answer, "/sdapi/v1/txt2img")
        if self._interrupted():
            raise TrialFailed(f"{request}: the web UI cannot draw it: it was interrupted")
        try:
            return _drawn(data, request, file.rpartition(".")[0])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BayesMergerError(
                f"{request}: the web UI's answer is not that of txt2img ({one_line(error)})"
            ) from error

    def leave(self) -> None:
        """Put back the settings that requests have changed for good."""
        usual = self._usual or {}
        with suppress(BayesMergerError):
            now = self._options() if self._touched else {}
            known = [name for name in sorted(self._touched) if usual.get(name) is not None]
            if changed := {name: usual[name] for name in known if now.get(name) != usual[name]}:
                self.ask("/sdapi/v1/options", changed, attempts=1)

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request that says all settings that any has said so far.

        A1111 puts a setting back after a request only if its own file of settings has it; otherwise it stays, and
        would be drawn with from then on.
        """
        if self._usual is None:
            self._usual = self._options()
        usual = {name: self._usual[name] for name in self._touched - {_MODEL} if name in self._usual}
        self._touched |= body["override_settings"].keys()
        return {**body, "override_settings": {**usual, **body["override_settings"]}}

    def steps(self) -> tuple[int, int]:
        """How many steps of what it draws now are done, and of how many; zeros where it does not say."""
        state = self._state()
        step, steps = state.get("sampling_step"), state.get("sampling_steps")
        return (step, steps) if isinstance(step, int) and isinstance(steps, int) else (0, 0)

    def _end(self, task: str) -> None:
        """Let nothing be drawn for nobody. It ends whatever it draws: that has to be ours, which it says by its task.

        What waits there for others' work stays; so does what is drawn where only the API was started (`--nowebui`),
        which does not tell.
        """
        with suppress(Unreachable, TimeoutError, BayesMergerError):
            asked = {"id_task": task, "live_preview": False}
            found = self.once("POST", "/internal/progress", asked, _LOOKING).data
            if isinstance(found, Mapping) and found.get("active") is True:
                self.once("POST", "/sdapi/v1/interrupt", {}, _LOOKING)

    def _interrupted(self) -> bool:
        """Whether somebody there ended the last drawing early: half-drawn pictures are handed out like others."""
        state = self._state()
        return any(state.get(name) is True for name in ("interrupted", "skipped", "stopping_generation"))

    def _state(self) -> Mapping[str, Any]:
        """Of what it draws now, or drew last; empty where it does not say."""
        try:
            state = self.once("GET", "/sdapi/v1/progress?skip_current_image=true", None, _LOOKING).data["state"]
        except (Unreachable, TimeoutError, KeyError, TypeError):
            return {}
        return state if isinstance(state, Mapping) else {}


def _check(field: str, name: object, known: Sequence[str], *, what: str = "") -> None:
    if name not in known:
        raise ConfigError(f"{field}: the web UI has no {what}{printable(repr(name))}; {nearest(str(name), known)}")


def _drawn(data: Mapping[str, Any], request: Request, model: str) -> list[DrawnThere]:
    """The pictures of an answer, checked to be those that were asked for."""
    info = json.loads(data["info"])
    if (name := info.get("sd_model_name")) not in (None, model):
        raise BayesMergerError(f"{request}: the web UI drew with {printable(str(name))}, not with {model}")
    wanted = [request.payload.seeds[index] for index in request.indices]
    if list(info["all_seeds"]) != wanted:
        raise BayesMergerError(f"{request}: the web UI drew seeds {printable(str(info['all_seeds']))}, not {wanted}")
    first = int(info.get("index_of_first_image") or 0)  # a grid may come before them
    pictures, texts = data["images"][first : first + len(wanted)], info["infotexts"][first : first + len(wanted)]
    if not len(pictures) == len(texts) == len(wanted):
        raise BayesMergerError(f"{request}: the web UI drew {len(pictures)} pictures, not {len(wanted)}")
    return [DrawnThere(_decoded(picture, request), str(text)) for picture, text in zip(pictures, texts, strict=True)]


def _decoded(encoded: str, request: Request) -> Image:
    try:
        data = base64.b64decode(encoded.rpartition(",")[2], validate=True)
    except binascii.Error as error:
        raise BayesMergerError(f"{request}: the web UI sent no picture ({one_line(error)})") from error
    return opened(data, request)
