"""A web UI as the drawing program sees it: a real HTTP server with the API of A1111's.

It draws what a model would: noise that depends on the bytes of the model's file, the words, the seed and the size. The
facts were seen there or are those of its source: a setting that its own file does not have stays as a request sets it,
a checkpoint that is not in the list is silently replaced by the loaded one, an unknown sampler is refused with 404 (Forge: drawn
as DPM++ 2M), an unknown LoRA is left out, errors are 500 with `error` and `errors` (Forge: `message`), a grid comes first where `return_grid` is on, and what was interrupted is
handed out as far as it was drawn.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.serving import Handler, serving

SAMPLERS = [
    {"name": "Euler", "aliases": ["k_euler"], "options": {}},
    {"name": "DPM++ 2M", "aliases": ["k_dpmpp_2m"], "options": {"scheduler": "karras"}},
    {"name": "Restart", "aliases": ["restart"], "options": {}},
]
SCHEDULERS = [{"name": name.lower(), "label": name, "aliases": None} for name in ("Automatic", "Karras")]
UPSCALERS = [{"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4}
             for name in ("None", "Lanczos")]  # fmt: skip
STYLES = [{"name": "ink", "prompt": "in ink", "negative_prompt": ""}]
STILL = {"skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
         "job_timestamp": "0", "job_no": 0, "sampling_step": 1, "sampling_steps": 2}  # fmt: skip


@dataclass
class State:
    """What the server has and does; tests change it.

    Attributes:
        folder: of its models.
        options: its settings.
        api: whether it was started with `--api`.
        auth: `USER:PASSWORD`, empty: none.
        trouble: of the next drawings, one after the other: status and body; None draws.
        grid: whether pictures come with a grid before them.
        delay: seconds that a drawing takes.
        file: the settings that its own file of them has.
        drawn_with: the settings of every drawing, but for the model.
        answer: overrides of the answer to `txt2img`.
        state: what `progress` says, where it is not as usual.
        asked: every body that was sent to `txt2img`.
        models: title and SHA-256 of the model of every drawing.
        listed: the files that the last refresh has found.
        begun: called when a drawing has been taken.
        busy: another's drawing that it is at, while ours wait.
        task: of the drawing that it is at, as it was told.
        headless: whether it was started with `--nowebui`, and says nothing of tasks.
        interrupted: the tasks that were ended early.
        loras: those that it has, name -> alias.
        new_loras: those that lie in its folder since it looked.
        refuses: paths that it does not have, as older ones.
    """

    folder: Path
    options: dict[str, Any] = field(
        default_factory=lambda: {"emphasis": "Original", "randn_source": "GPU", "font": "x"}
    )
    api: bool = True
    auth: str = ""
    trouble: list[tuple[int, Any] | None] = field(default_factory=list)
    grid: bool = False
    delay: float = 0.0
    file: set[str] = field(default_factory=set)
    drawn_with: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    models: list[tuple[str, str]] = field(default_factory=list)
    listed: dict[str, Path] = field(default_factory=dict)
    begun: Callable[[], Any] = int
    busy: str = ""
    task: str = ""
    headless: bool = False
    interrupted: list[str] = field(default_factory=list)
    loras: dict[str, str] = field(default_factory=dict)
    new_loras: dict[str, str] = field(default_factory=dict)
    refuses: tuple[str, ...] = ()
    address: str = ""

    def refresh(self) -> None:
        """List the folder, under the titles that A1111 gives."""
        self.listed = {path.name: path for path in sorted(self.folder.glob("*.safetensors"))}

    def draw(self, asked: dict[str, Any]) -> tuple[int, Any]:
        """The answer to `txt2img`."""
        self.asked.append(asked)
        self.task = self.busy or asked["force_task_id"]
        self.begun()
        time.sleep(self.delay)
        if self.trouble and (trouble := self.trouble.pop(0)):
            return trouble
        if asked["sampler_name"] not in [sampler["name"] for sampler in SAMPLERS]:
            return 404, {"error": "HTTPException", "detail": "Sampler not found", "body": "", "errors": ""}
        title = asked["override_settings"]["sd_model_checkpoint"]
        override = {name: value for name, value in asked["override_settings"].items() if name != "sd_model_checkpoint"}
        self.drawn_with.append({**self.options, **override})
        self.options |= {name: value for name, value in override.items() if name not in self.file}
        path = self.listed.get(title) or next(iter(self.listed.values()))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.models.append((title, digest))
        seeds = [asked["seed"] + index for index in range(asked["batch_size"] * asked["n_iter"])]
        texts = [
            f"{asked['prompt']}\nSteps: {asked['steps']}, Seed: {seed}, Model hash: {digest[:10]}" for seed in seeds
        ]
        pictures = [_picture(digest, asked, seed, text) for seed, text in zip(seeds, texts, strict=True)]
        info = {
            "all_seeds": seeds,
            "sd_model_name": path.stem,
            "index_of_first_image": int(self.grid),
            "infotexts": [texts[0]] * self.grid + texts,
            **self.info,
        }
        images = [_picture("grid", asked, 0, "")] * self.grid + pictures
        return 200, {"images": images, "parameters": asked, "info": json.dumps(info), **self.answer}


def _picture(digest: str, asked: dict[str, Any], seed: int, text: str) -> str:
    key = hashlib.sha256(f"{digest} {asked['prompt']} {asked['steps']} {seed}".encode()).digest()
    noise = np.random.default_rng(list(key)).integers(0, 256, (asked["height"] // 8, asked["width"] // 8, 3))
    small = Image.fromarray(noise.astype(np.uint8), "RGB")
    info, data = PngInfo(), io.BytesIO()
    info.add_text("parameters", text)
    small.resize((asked["width"], asked["height"])).save(data, format="PNG", pnginfo=info)
    return base64.b64encode(data.getvalue()).decode()


@contextmanager
def web_ui(folder: Path) -> Iterator[State]:
    """A server whose models lie in `folder`, running."""
    state = State(folder)
    state.refresh()

    class WebUI(Handler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            models = [
                {"title": name, "model_name": file.stem, "hash": None, "sha256": None, "filename": str(file)}
                for name, file in state.listed.items()
            ]
            loras = [{"name": name, "alias": alias, "path": "", "metadata": {}} for name, alias in state.loras.items()]
            self._send(None if path in state.refuses else {
                "/sdapi/v1/loras": loras,
                "/sdapi/v1/upscalers": UPSCALERS,
                "/sdapi/v1/latent-upscale-modes": [{"name": "Latent"}],
                "/sdapi/v1/prompt-styles": STYLES,
                "/sdapi/v1/options": state.options,
                "/sdapi/v1/samplers": SAMPLERS,
                "/sdapi/v1/schedulers": SCHEDULERS,
                "/sdapi/v1/sd-models": models,
                "/sdapi/v1/progress": {"progress": 0.5, "eta_relative": 1.0, "state": {**STILL, **state.state}},
            }.get(path))  # fmt: skip

        def do_POST(self) -> None:
            body, path = self.body(), urlsplit(self.path).path
            if path == "/sdapi/v1/refresh-checkpoints":
                state.refresh()
                self._send({})
            elif path == "/sdapi/v1/refresh-loras":
                state.loras |= state.new_loras
                self.reply(200, None)
            elif path == "/sdapi/v1/options" and self._welcome():
                state.options |= body
                state.file |= body.keys()
                self._send({})
            elif path == "/sdapi/v1/interrupt":
                state.interrupted.append(state.task)
                self._send({})
            elif path == "/internal/progress" and not state.headless:
                self._send({"active": body["id_task"] == state.task, "queued": False, "completed": False})
            elif path == "/sdapi/v1/txt2img" and self._welcome():
                self.reply(*state.draw(body))
            else:
                self._send(None)

        def _welcome(self) -> bool:
            expected = f"Basic {base64.b64encode(state.auth.encode()).decode()}"
            return state.api and (not state.auth or self.headers["Authorization"] == expected)

        def _send(self, data: Any) -> None:
            if data is None or not state.api:
                self.reply(404, {"detail": "Not Found"})
            elif not self._welcome():
                self.reply(401, {"detail": "Incorrect username or password"})
            else:
                self.reply(200, data)

    with serving(WebUI) as state.address:
        yield state
