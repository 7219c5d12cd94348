"""ComfyUI as the drawing program sees it: a real HTTP server with its API.

It draws what a model would: noise that depends on the bytes of the model's file, the words, the seed and the size. The
facts are those of its source: a graph is checked before it is queued and refused with 400 and `node_errors`, a queued
one is in the history only once it is done, and one that failed is there with `status_str` `error`.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

SAMPLERS = ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_sde", "ddim"]
SCHEDULERS = ["normal", "karras", "simple", "ddim_uniform"]


@dataclass
class State:
    """What the server has and does; tests change it.

    Attributes:
        folder: of its models.
        combo: whether inputs are described as since 2025.
        delay: seconds that a picture takes.
        forgets: so many graphs are lost, as when it is started again.
        fails: the messages of the next graphs' histories, one after the other; None draws.
        flat: whether pictures are black.
        asked: every graph that was queued.
        models: the model and its SHA-256, for every picture.
        history: what is done.
        queue: what is not.
        pictures: file name -> PNG.
    """

    folder: Path
    combo: bool = False
    delay: float = 0.0
    forgets: int = 0
    fails: list[list[Any] | None] = field(default_factory=list)
    flat: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    models: list[tuple[str, str]] = field(default_factory=list)
    history: dict[str, Any] = field(default_factory=dict)
    queue: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def listed(self) -> list[str]:
        """Its models, under the names that loaders have."""
        return sorted(path.name for path in self.folder.glob("*.safetensors"))

    def node(self, kind: str) -> dict[str, Any]:
        """What `/object_info` says of a node."""
        choices = {
            "KSampler": {"sampler_name": SAMPLERS, "scheduler": SCHEDULERS},
            "CheckpointLoaderSimple": {"ckpt_name": self.listed()},
            "UNETLoader": {"unet_name": self.listed()},
        }.get(kind)
        if choices is None:
            return {}
        required = {name: ["COMBO", {"options": some}] if self.combo else [some] for name, some in choices.items()}
        return {kind: {"input": {"required": required}, "name": kind}}

    def queued(self, graph: dict[str, Any]) -> tuple[int, Any]:
        """The answer to `/prompt`."""
        self.asked.append(graph)
        wrong = {number: found for number, node in graph.items() if (found := self._wrong(graph, node))}
        if wrong:
            error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            return 400, {"error": error, "node_errors": wrong}
        number = f"00000000-0000-0000-0000-{len(self.asked):012}"
        if self.forgets:
            self.forgets -= 1
        else:
            self.queue[number] = time.monotonic() + self.delay
        return 200, {"prompt_id": number, "number": len(self.asked), "node_errors": {}}

    def _wrong(self, graph: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any] | None:
        known = self.node(node["class_type"]).get(node["class_type"], {}).get("input", {}).get("required", {})
        errors = []
        for name, value in node["inputs"].items():
            choices = known[name][1]["options"] if name in known and self.combo else known.get(name, [None])[0]
            if choices is not None and value not in choices:
                errors.append({"message": "Value not in list", "details": f"{name}: '{value}'"})
            if isinstance(value, list) and value[0] not in graph:
                errors.append({"message": "Linked node is not there", "details": name})
        return {"errors": errors, "class_type": node["class_type"]} if errors else None

    def work(self) -> None:
        """Draw what is due."""
        for number in [number for number, due in self.queue.items() if due <= time.monotonic()]:
            del self.queue[number]
            graph = self.asked[int(number[-12:]) - 1]
            messages = self.fails.pop(0) if self.fails else None
            outputs = {} if messages else self._drawn(graph, number)
            status = {"status_str": "error" if messages else "success", "completed": not messages,
                      "messages": messages or []}  # fmt: skip
            self.history[number] = {"prompt": [0, number, graph], "outputs": outputs, "status": status}

    def _drawn(self, graph: Mapping[str, Any], number: str) -> dict[str, Any]:
        nodes = {node["class_type"]: node["inputs"] for node in graph.values()}
        sampler = nodes.get("KSampler") or nodes["KSamplerAdvanced"]
        model = nodes.get("CheckpointLoaderSimple", {}).get("ckpt_name") or nodes["UNETLoader"]["unet_name"]
        digest = hashlib.sha256((self.folder / model).read_bytes()).hexdigest()
        self.models.append((model, digest))
        words = graph[sampler["positive"][0]]["inputs"]
        key = hashlib.sha256(f"{digest} {words} {sampler}".encode()).digest()
        size = next(node["inputs"] for node in graph.values() if node["class_type"].startswith("Empty"))
        shape = (size["height"] // 8, size["width"] // 8, 3)
        noise = np.random.default_rng(list(key)).integers(0, 1 if self.flat else 256, shape)
        data = io.BytesIO()
        picture = Image.fromarray(noise.astype(np.uint8), "RGB").resize((size["width"], size["height"]))
        picture.save(data, format="PNG")
        name = f"ComfyUI_temp_{number[-5:]}_.png"
        self.pictures[name] = data.getvalue()
        saver = next(key for key, node in graph.items() if node["class_type"] == "PreviewImage")
        return {saver: {"images": [{"filename": name, "subfolder": "", "type": "temp"}]}}


@contextmanager
def comfyui(folder: Path) -> Iterator[State]:
    """A server whose models lie in `folder`, running."""
    state = State(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            state.work()
            if parts.path.startswith("/object_info/"):
                self._reply(200, state.node(parts.path.rpartition("/")[2]))
            elif parts.path.startswith("/history/"):
                number = parts.path.rpartition("/")[2]
                self._reply(200, {number: state.history[number]} if number in state.history else {})
            elif parts.path == "/queue":
                self._reply(200, {"queue_running": [[0, number] for number in state.queue], "queue_pending": []})
            elif parts.path == "/view":
                query = parse_qs(parts.query)
                found = state.pictures.get(query["filename"][0]) if query["type"] == ["temp"] else None
                self._reply(200 if found else 404, found or b"")
            else:
                self._reply(404, b"404: Not Found")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/prompt":
                self._reply(*state.queued(body["prompt"]))
            elif self.path in ("/queue", "/history"):
                for number in body["delete"]:
                    (state.queue if self.path == "/queue" else state.history).pop(number, None)
                self._reply(200, b"")
            else:
                self._reply(404, b"404: Not Found")

        def _reply(self, status: int, data: Any) -> None:
            content = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(BrokenPipeError):  # nobody waited for it
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
