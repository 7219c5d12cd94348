"""A1111's or Forge's web UI as the program that draws, over its HTTP API.

The API is that of https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/api/api.py, started with
`--api`. Nothing but the address that the user gave is asked: no redirect is followed, no proxy used, and what comes
back is of limited size and time.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import io
import json
import math
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed, nearest, one_line, printable
from bayes_merger.imaging.payload.passed_on import Request
from bayes_merger.imaging.payload.payload import Payload

if TYPE_CHECKING:
    from PIL.Image import Image

CREDENTIALS = "BAYES_MERGER_WEBUI_AUTH"
"""Environment variable: `USER:PASSWORD` of the web UI's `--api-auth`; it is never stored or shown."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each further attempt to reach a web UI that does not answer: it may be starting again."""

_LARGEST = 256 << 20  # bytes of an answer
_MOST_PIXELS = 8192 * 8192
_CONNECTING = 10.0  # seconds
_CHUNK = 1 << 16

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


class _Unreachable(Exception):
    """Nobody answers, or the answer breaks off."""


@dataclass(frozen=True)
class Answer:
    """What the web UI said.

    Attributes:
        status: of HTTP.
        data: the JSON; None where it is none.
    """

    status: int
    data: Any


@dataclass(frozen=True)
class DrawnThere:
    """A picture and the web UI's own text about it."""

    image: Image
    parameters: str


class WebUI:
    """A running web UI.

    Args:
        address: such as `http://127.0.0.1:7860`.
        timeout: seconds that one answer may take.
        pauses: seconds before each further attempt.
        waiting: told, once, when it does not answer and is waited for.

    Raises:
        ConfigError: that is no such address.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        *,
        pauses: Sequence[float] = PAUSES,
        waiting: Callable[[str], None] = lambda text: None,
    ) -> None:
        try:
            parts = urllib.parse.urlsplit(address)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            parts, self._host = urllib.parse.urlsplit(""), ""
        if parts.username or parts.password:
            raise ConfigError(
                f"generator.address: holds a password, which would be stored; put USER:PASSWORD into {CREDENTIALS}"
            )
        if parts.scheme not in ("http", "https") or not self._host or parts.query or parts.fragment:
            raise ConfigError(
                f"generator.address: {printable(repr(address))} is no address of a web UI; give one like "
                "http://127.0.0.1:7860"
            )
        if not 0 < timeout < math.inf:
            raise ConfigError(f"generator.timeout: {timeout} is no time; give seconds, such as 600")
        self.address = address
        self._secure, self._path = parts.scheme == "https", parts.path.rstrip("/")
        self._timeout, self._pauses, self._waiting = timeout, pauses, waiting
        secret = os.environ.get(CREDENTIALS, "")
        token = base64.b64encode(secret.encode()).decode()
        self._headers = {"Accept": "application/json", **({"Authorization": f"Basic {token}"} if secret else {})}

    def check(self, payloads: Sequence[Payload]) -> dict[str, Any]:
        """Whether it runs and knows the payloads' samplers.

        Returns:
            What makes its pictures comparable: its settings that change what is drawn.

        Raises:
            ConfigError: it does not run, its API is off, it wants a password, or a sampler is unknown to it.
        """
        try:
            options = self.ask("/sdapi/v1/options", attempts=1)
        except BayesMergerError as error:
            raise ConfigError(f"generator.address: {error}") from error
        samplers = self._names("/sdapi/v1/samplers", ("name",))
        schedules = self._names("/sdapi/v1/schedulers", ("label", "name"))
        for payload in payloads:
            try:
                _check_sampler(payload, samplers, schedules)
            except ConfigError as error:
                raise ConfigError(f"payload {payload.name}: {error}") from error
        if not isinstance(options, Mapping):
            raise ConfigError(f"generator.address: {self.address} is no web UI of A1111 or Forge")
        return {name: options[name] for name in OPTIONS if name in options}

    def _names(self, path: str, keys: Sequence[str]) -> list[str]:
        """What the entries of a list are called, empty where the web UI is too old to have it."""
        answer = self._answered("GET", path, None)
        entries = answer.data if answer.status == 200 and isinstance(answer.data, list) else []
        values = (entry.get(key) for entry in entries if isinstance(entry, Mapping) for key in keys)
        return [value for value in values if isinstance(value, str)]

    def files(self) -> dict[str, str]:
        """The models that it knows: name of the file -> title.

        Raises:
            BayesMergerError: it does not answer.
        """
        listed = self.ask("/sdapi/v1/sd-models")
        models = [model for model in listed if isinstance(model, Mapping)] if isinstance(listed, list) else []
        return {re.split(r"[\\/]", str(model.get("filename")))[-1]: str(model.get("title")) for model in models}

    def title_of(self, file: str) -> str:
        """The title of a model whose file is new in its folder.

        Raises:
            BayesMergerError: it does not see the file, so that its folder is another one.
        """
        self.ask("/sdapi/v1/refresh-checkpoints", {})
        found = self.files().get(file)
        if found is None:
            raise BayesMergerError(
                f"generator.models_folder: the web UI at {self.address} does not list {file}, which lies there; give "
                "the folder that it reads models from, like .../models/Stable-diffusion"
            )
        return found

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
        answer = self._answered("POST", "/sdapi/v1/txt2img", request.body(title))
        if answer.status == 422:
            raise BayesMergerError(f"{request}: the web UI does not take it: {_reason(answer)}")
        if answer.status >= 500:
            raise TrialFailed(f"{request}: the web UI cannot draw it: {_reason(answer)}")
        data = self._good(answer, "/sdapi/v1/txt2img")
        try:
            return _drawn(data, request, file.rpartition(".")[0])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BayesMergerError(
                f"{request}: the web UI's answer is not that of txt2img ({one_line(error)})"
            ) from error

    def steps(self) -> tuple[int, int]:
        """How many steps of what it draws now are done, and of how many; zeros where it does not say."""
        try:
            state = self._once("GET", "/sdapi/v1/progress?skip_current_image=true", None, 5.0).data["state"]
            return int(state["sampling_step"]), int(state["sampling_steps"])
        except (_Unreachable, KeyError, TypeError, ValueError):
            return 0, 0

    def ask(self, path: str, body: Any = None, *, attempts: int = 0) -> Any:
        """The JSON behind a path; with a body it is posted.

        Raises:
            BayesMergerError: no answer, or one that says no.
        """
        return self._good(self._answered("GET" if body is None else "POST", path, body, attempts), path)

    def _good(self, answer: Answer, path: str) -> Any:
        if answer.status == 200:
            return answer.data
        if answer.status == 401:
            raise BayesMergerError(f"the web UI at {self.address} wants another USER:PASSWORD than {CREDENTIALS} holds")
        if answer.status == 404 and path.startswith("/sdapi/"):
            raise BayesMergerError(f"{self.address} has no {path}; start the web UI with  --api")
        if 300 <= answer.status < 400:
            raise BayesMergerError(
                f"{self.address} sends elsewhere, which is not followed; give the web UI's own address"
            )
        raise BayesMergerError(f"the web UI at {self.address} answers {path} with {answer.status}: {_reason(answer)}")

    def _answered(self, method: str, path: str, body: Any, attempts: int = 0) -> Answer:
        """An answer, with patience: what is asked can be asked again."""
        pauses = list(self._pauses[: attempts - 1] if attempts else self._pauses)
        told = False
        while True:
            try:
                return self._once(method, path, body, self._timeout)
            except TimeoutError as error:
                raise BayesMergerError(
                    f"the web UI at {self.address} has not answered {path} for {self._timeout:g} s; is it stuck? "
                    "generator.timeout=SECONDS waits longer"
                ) from error
            except _Unreachable as error:
                if not pauses:
                    raise BayesMergerError(
                        f"no web UI answers at {self.address} ({error}); start it with  --api, or give "
                        "generator.address"
                    ) from error
                if not told:
                    self._waiting(f"the web UI at {self.address} does not answer ({error}); waiting for it")
                told = True
                time.sleep(pauses.pop(0))

    def _once(self, method: str, path: str, body: Any, timeout: float) -> Answer:
        """One request on a connection of its own.

        Raises:
            TimeoutError: it was taken and not answered in time.
        """
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=min(timeout, _CONNECTING))
        try:
            try:
                connection.connect()
                connection.sock.settimeout(timeout)
            except OSError as error:  # a time-out too: nobody is there
                raise _Unreachable(one_line(error) or type(error).__name__) from error
            data = None if body is None else json.dumps(body).encode()
            headers = self._headers | ({"Content-Type": "application/json"} if data is not None else {})
            try:
                connection.request(method, self._path + path, data, headers)
                response = connection.getresponse()
                return Answer(response.status, _json(_bounded(response, time.monotonic() + timeout)))
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException) as error:
                raise _Unreachable(one_line(error) or type(error).__name__) from error
        finally:
            connection.close()


def _bounded(response: http.client.HTTPResponse, until: float) -> bytes:
    parts, size = [], 0
    while part := response.read1(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > _LARGEST:
            raise BayesMergerError(f"the web UI's answer has more than {_LARGEST >> 20} MiB; is that a web UI?")
        if time.monotonic() > until:
            raise TimeoutError
    return b"".join(parts)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _reason(answer: Answer) -> str:
    """What went wrong there, in a line: of A1111's own error, or of FastAPI's."""
    data = answer.data if isinstance(answer.data, Mapping) else {}
    words = [data.get("error"), data.get("errors") or data.get("detail")]
    return printable(one_line(": ".join(str(word) for word in words if word) or "no reason given"), longest=300)


def _check_sampler(payload: Payload, samplers: Sequence[str], schedules: Sequence[str]) -> None:
    """Web UIs draw an unknown sampler or schedule with their default one, and do not say so."""
    if payload.scheduler != "Automatic" and payload.scheduler not in schedules:
        raise ConfigError(
            f"scheduler: the web UI has no {payload.scheduler!r}; {nearest(payload.scheduler, schedules)}"
        )
    name = payload.sampler_name
    ends = [f" {schedule}" for schedule in schedules if name.endswith(f" {schedule}")]
    if name not in samplers and not any(name.removesuffix(end) in samplers for end in ends):
        raise ConfigError(f"sampler_name: the web UI has no {name!r}; {nearest(name, samplers)}")


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
    return [DrawnThere(_opened(picture, request), str(text)) for picture, text in zip(pictures, texts, strict=True)]


def _opened(encoded: str, request: Request) -> Image:
    from PIL import Image

    try:
        data = base64.b64decode(encoded.rpartition(",")[2], validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            picture = image.convert("RGB")
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BayesMergerError(f"{request}: the web UI sent no picture ({one_line(error)})") from error
    if all(len(set(band.getextrema())) == 1 for band in picture.split()):
        raise TrialFailed(f"{request}: one flat colour {picture.getpixel((0, 0))}")
    return picture
