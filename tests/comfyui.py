"""ComfyUI as the drawing program sees it: a real HTTP server with its API.

It draws what a model would: noise that depends on the bytes of the model's file, the words, the seed and the size. What
it says is what ComfyUI 0.8 said: a graph is checked before it is queued and refused with 400 and `node_errors`, a queued
one is in the history only once it is done, one that failed is there with `status_str` `error`, and one that equals the
last one is not drawn again: whoever did not name a client is told of no picture.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from bayes_merger.imaging.payload.workflow import choices
from tests.serving import Handler, serving

SAMPLERS = ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_sde", "ddim"]
SCHEDULERS = ["normal", "karras", "simple", "ddim_uniform"]
SAVERS = ("PreviewImage", "SaveImage")
NODES = ("KSampler", "KSamplerAdvanced", "CheckpointLoaderSimple", "UNETLoader", "CLIPTextEncode", "EmptyLatentImage",
         "EmptyImage", "VAEDecode", "LoraLoader", "CLIPSetLastLayer", "CR Note", *SAVERS)  # fmt: skip


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
        others: what other people have queued before it.
        interrupted: what somebody ended while it was drawn.
        clients: who has queued what, None: nobody in particular.
        last: the graph that was drawn last, and what it has `made`.
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
    others: list[str] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    clients: dict[str, str | None] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def listed(self) -> list[str]:
        """Its models, under the names that loaders have."""
        return sorted(path.name for path in self.folder.glob("*.safetensors"))

    def node(self, kind: str) -> dict[str, Any]:
        """What `/object_info` says of a node."""
        if kind not in NODES:
            return {}
        some = {
            "KSampler": {"sampler_name": SAMPLERS, "scheduler": SCHEDULERS},
            "CheckpointLoaderSimple": {"ckpt_name": self.listed()},
            "UNETLoader": {"unet_name": self.listed()},
            "LoraLoader": {"lora_name": ["style.safetensors"]},
        }.get(kind, {})
        required = {name: ["COMBO", {"options": of}] if self.combo else [of, {}] for name, of in some.items()}
        about = {"input": {"required": required}, "input_order": {"required": list(required)}, "name": kind}
        return {kind: {**about, "python_module": "nodes", "category": "loaders", "output_node": kind in SAVERS}}

    def queued(self, body: dict[str, Any]) -> tuple[int, Any]:
        """The answer to `/prompt`."""
        graph = body["prompt"]
        self.asked.append(graph)
        for number, node in graph.items():
            if node["class_type"] not in NODES:
                message = f"Cannot execute because node {node['class_type']} does not exist."
                error = {"type": "invalid_prompt", "message": message, "details": f"Node ID '#{number}'"}
                return 400, {"error": {**error, "extra_info": {}}, "node_errors": {}}
        wrong = {number: found for number, node in graph.items() if (found := self._wrong(graph, node))}
        if wrong:
            error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            return 400, {"error": {**error, "details": "", "extra_info": {}}, "node_errors": wrong}
        number = f"00000000-0000-0000-0000-{len(self.asked):012}"
        if self.forgets:
            self.forgets -= 1
        else:
            self.queue[number] = time.monotonic() + self.delay
        self.clients[number] = body.get("client_id")
        return 200, {"prompt_id": number, "number": len(self.asked), "node_errors": {}}

    def _wrong(self, graph: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any] | None:
        kind, errors = node["class_type"], []
        for name, value in node["inputs"].items():
            known = choices(self.node(kind)[kind], name)
            if known is not None and value not in known:
                about = {"type": "value_not_in_list", "message": "Value not in list"}
                errors.append({**about, "details": f"{name}: '{value}' not in {known}", "extra_info": {}})
            if isinstance(value, list) and value[0] not in graph:
                about = {"type": "exception_during_validation", "message": "Exception when validating node"}
                errors.append({**about, "details": f"'{value[0]}'", "extra_info": {}})
        return {"errors": errors, "dependent_outputs": ["picture"], "class_type": kind} if errors else None

    def line(self) -> dict[str, Any]:
        """The answer to `/queue`: one is drawn, the others wait."""
        entries = [[place, number, {}, {}, []] for place, number in enumerate([*self.others, *self.queue])]
        return {"queue_running": entries[:1], "queue_pending": entries[1:]}

    def work(self) -> None:
        """Draw what is due; others' work is done a piece at every look."""
        if self.others:
            self.others.pop(0)
            return
        for number in [number for number, due in self.queue.items() if due <= time.monotonic()]:
            del self.queue[number]
            graph = self.asked[int(number[-12:]) - 1]
            messages = self.fails.pop(0) if self.fails else None
            if not messages and graph != self.last:
                self.last, self.made = graph, self._drawn(graph, number)
                outputs = self.made
            else:
                outputs = self.made if not messages and self.clients[number] else {}
            status = {"status_str": "error" if messages else "success", "completed": not messages,
                      "messages": messages or [["execution_start", {}], ["execution_success", {}]]}  # fmt: skip
            entry = [0, number, graph, {"create_time": 0}, ["picture"]]
            self.history[number] = {"prompt": entry, "outputs": outputs, "status": status, "meta": {}}

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

    class ComfyUI(Handler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            state.work()
            if parts.path.startswith("/object_info/"):
                self.reply(200, state.node(unquote(parts.path.rpartition("/")[2])))
            elif parts.path.startswith("/history/"):
                number = parts.path.rpartition("/")[2]
                self.reply(200, {number: state.history[number]} if number in state.history else {})
            elif parts.path == "/queue":
                self.reply(200, state.line())
            elif parts.path == "/view":
                query = parse_qs(parts.query)
                found = state.pictures.get(query["filename"][0]) if query["type"] == ["temp"] else None
                self.reply(200 if found else 404, found or b"")
            else:
                self.reply(404, b"404: Not Found")

        def do_POST(self) -> None:
            body = self.body()
            if self.path == "/prompt":
                self.reply(*state.queued(body))
            elif self.path in ("/queue", "/history"):
                for number in body["delete"]:
                    if self.path == "/history":
                        state.history.pop(number, None)
                    elif number != next(iter(state.queue), None) or state.others:  # what is drawn stays
                        state.queue.pop(number, None)
                self.reply(200, b"")
            elif self.path == "/interrupt":
                state.interrupted.append(body["prompt_id"])
                state.queue.pop(body["prompt_id"], None)
                self.reply(200, b"")
            else:
                self.reply(404, b"404: Not Found")

    with serving(ComfyUI) as state.address:
        yield state
