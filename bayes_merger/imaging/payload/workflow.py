"""A payload as a graph that ComfyUI draws: the user's own workflow, or a plain one, with the payload's fields put in.

A graph is what ComfyUI's `Save (API)` writes, and what it takes:
https://github.com/comfyanonymous/ComfyUI/blob/master/script_examples/basic_api_example.py
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.imaging.payload.comfyui import FOLLOWED, KSAMPLERS, UNWANTED, Graph, graph_of, is_graph
from bayes_merger.imaging.payload.comfyui_editor import EXPORT, graph_of_editor, is_of_editor
from bayes_merger.imaging.payload.fields import fields_that_count, put_on, read_fields, style_names
from bayes_merger.imaging.payload.payload import Payload
from bayes_merger.imaging.payload.values import check_name, shown
from bayes_merger.imaging.pipelines.schedulers import AUTOMATIC, SAMPLERS, proper_names
from bayes_merger.imaging.prompts.networks import without_tags

PLAIN: Mapping[str, Any] = {
    "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ""}},
    "prompt": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": ""}},
    "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": ""}},
    "size": {"class_type": "EmptyLatentImage", "inputs": {"width": 0, "height": 0, "batch_size": 1}},
    "sampler": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model", 0], "positive": ["prompt", 0], "negative": ["negative", 0], "latent_image": ["size", 0],
            "seed": 0, "steps": 0, "cfg": 0.0, "sampler_name": "", "scheduler": "", "denoise": 1.0,
        },
    },
    "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["model", 2]}},
    "picture": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
}  # fmt: skip
"""Where no workflow is given: text to picture, as in ComfyUI's own first example."""

LOADERS = {"CheckpointLoaderSimple": "ckpt_name", "CheckpointLoader": "ckpt_name", "UNETLoader": "unet_name"}
"""Nodes that load the model that is merged, and which input names its file."""

_SAVERS = ("SaveImage", "PreviewImage")
_CUSTOM = ("SamplerCustom", "KSampler (Efficient)", "KSampler SDXL (Eff.)")
_TEXTS = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "string", "value", "prompt")
_COMFYUI_S_OWN = ("nodes", "comfy_extras.")  # its modules with nodes
_LARGEST = 8 << 20  # bytes of a workflow
_OURS = {
    "Euler": "euler", "Euler a": "euler_ancestral", "Heun": "heun", "LMS": "lms", "DPM2": "dpm_2",
    "DPM2 a": "dpm_2_ancestral", "DPM++ 2S a": "dpmpp_2s_ancestral", "DPM++ SDE": "dpmpp_sde", "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M SDE": "dpmpp_2m_sde", "DPM++ 2M SDE Heun": "dpmpp_2m_sde_heun", "DPM++ 3M SDE": "dpmpp_3m_sde",
    "DPM fast": "dpm_fast", "DPM adaptive": "dpm_adaptive", "DDIM": "ddim", "DDPM": "ddpm", "UniPC": "uni_pc",
    "LCM": "lcm", "HeunPP2": "heunpp2", "IPNDM": "ipndm", "IPNDM V": "ipndm_v", "DEIS": "deis",
    "Res multistep": "res_multistep", "UniPC BH2": "uni_pc_bh2", "ER SDE": "er_sde", "Euler CFG++": "euler_cfg_pp",
    "Euler a CFG++": "euler_ancestral_cfg_pp",
}  # fmt: skip
"""A1111's names of samplers -> ComfyUI's."""

_SCHEDULES = {
    "Uniform": "normal", "Karras": "karras", "Exponential": "exponential", "Simple": "simple",
    "SGM Uniform": "sgm_uniform", "Beta": "beta", "DDIM": "ddim_uniform", "KL Optimal": "kl_optimal",
    "Linear Quadratic": "linear_quadratic",
}  # fmt: skip
_AUTOMATIC = {"DDIM": "DDIM", "DPM++ 3M SDE": "Exponential", "DPM++ SDE": "Karras", "DPM++ 2S a": "Karras",
              "DPM2 a": "Karras"}  # fmt: skip
"""What A1111 takes by itself for samplers that are not drawn here; of those that are, `SAMPLERS` knows it."""

_SQUARE = re.compile(r"(?<!\\)[\[\]]")
_WORDS = re.compile(r"\b(BREAK|AND)\b")


def payload_for_comfyui(name: str, mapping: Mapping[str, Any], styles: Path | None = None) -> Payload:
    """A payload that ComfyUI draws, from the fields of a payload file.

    Args:
        name: what the payload is called.
        mapping: field -> value; only `prompt` is required.
        styles: the `styles.csv` that has the styles in it.

    Raises:
        ConfigError: an unknown field, a wrong type, a number out of range, or what ComfyUI's samplers do not do.
    """
    what = f"payload {printable(str(name), longest=60)}"
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{what}: expected fields such as `prompt: ...`, got {shown(mapping)}")
    try:
        check_name(name)
        if mapping.get("enable_hr"):
            raise ConfigError("enable_hr: ComfyUI has no such field; put the second pass into generator.workflow")
        values = read_fields(fields_that_count(mapping))
        for field, usual, why in _NOT_THERE:
            if values.pop(field, usual) != usual:
                raise ConfigError(f"{field}: {why}; remove it")
        put_on(style_names(mapping), styles, values)
        return Payload(name=name, **values, passed_on={})
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error


_NOT_THERE: tuple[tuple[str, Any, str], ...] = (
    ("rng", "cpu", "ComfyUI's noise is the CPU's"),
    ("emphasis", "Original", "ComfyUI has its own way to weigh words"),
    ("subseed_strength", 0.0, "ComfyUI's sampler has no variations"),
    ("subseed", -1, "ComfyUI's sampler has no variations"),
    ("eta_noise_seed_delta", 0, "ComfyUI's sampler has no such seed"),
)
"""Fields, their value at rest, and why they cannot have another one."""


def check_words(field: str, words: str) -> None:
    """Refuse what A1111 understands and ComfyUI would draw as if it were words.

    Raises:
        ConfigError: naming it.
    """
    if found := _WORDS.search(words):
        raise ConfigError(f"{field}: {found[0]} is a word like others to ComfyUI; write the prompt without it")
    if without_tags(words) != words:
        raise ConfigError(f"{field}: <...:NAME:1> are words to ComfyUI; put a LoraLoader into generator.workflow")
    if _SQUARE.search(words):
        raise ConfigError(
            f"{field}: square brackets are words to ComfyUI, no weights or changes on the way; write (a:0.9), or \\[ "
            "for the bracket itself"
        )


def comfy_names(payload: Payload) -> tuple[str, str]:
    """ComfyUI's names of a payload's sampler and schedule; those that A1111 does not have stay as they are."""
    sampler, schedule = proper_names(payload.sampler_name, payload.scheduler)
    if schedule == AUTOMATIC:
        known = SAMPLERS.get(sampler)
        schedule = _AUTOMATIC.get(sampler) or (next(iter(known.schedules)) if known else "Uniform")
    return _OURS.get(sampler, sampler), _SCHEDULES.get(schedule, schedule)


def choices(about: Any, name: str) -> list[str] | None:
    """What an input of a node may be: a list, or since 2025 the `options` of a `COMBO`.

    Args:
        about: what `/object_info` says of the node.
        name: of the input.

    Returns:
        None: it may be anything, or there is no such input.
    """
    try:
        inputs = about["input"]
        kind, *more = {**inputs.get("optional", {}), **inputs["required"]}[name]
        found = kind if isinstance(kind, list) else more[0]["options"]
        return [choice for choice in found if isinstance(choice, str)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


class Workflow:
    """A graph, and the places in it that a payload's fields go to.

    Attributes:
        loader: the kind of the node that loads the model.
        picture: the number of the node that gives the picture.
        digest: of the graph.

    Args:
        graph: as ComfyUI's API takes it.

    Raises:
        ConfigError: one of these places is not found.
    """

    def __init__(self, graph: Mapping[str, Any] = PLAIN) -> None:
        self._graph = graph
        found = graph_of(graph)
        sampler = found.first_sampler()
        if sampler is None:
            raise ConfigError(f"has no KSampler that begins with an empty picture{_others(found)}")
        self._sampler, size = sampler, found.empty(sampler)
        assert size is not None
        self._size = size
        inputs = found.nodes[sampler]["inputs"]
        loaders = [n for n, node in found.upwards(inputs.get("model"), ("model",)) if node["class_type"] in LOADERS]
        if not loaders:
            raise ConfigError(f"has no {' or '.join(LOADERS)} before its sampler")
        self._model = loaders[-1]
        self._wanted = _texts(found, inputs.get("positive"), FOLLOWED)
        self._unwanted = _texts(found, inputs.get("negative"), UNWANTED)
        if self._wanted is None:
            raise ConfigError("has no text before its sampler's `positive`")
        savers = [number for number, node in found.nodes.items() if node["class_type"] in _SAVERS]
        saved = [number for number in savers if found.nodes[number]["class_type"] == _SAVERS[0]]
        if 1 not in (len(saved), len(savers)):
            raise ConfigError(f"has {len(savers)} nodes {' or '.join(_SAVERS)}; leave one, whose pictures are judged")
        (self.picture,) = saved if len(saved) == 1 else savers
        self._looked_at = [number for number in savers if number != self.picture]
        self._goes_on = list(_going_on(found, sampler))
        self.loader: str = found.nodes[self._model]["class_type"]
        self.digest = hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def read(cls, path: Path) -> Workflow:
        """The workflow in a file.

        Raises:
            ConfigError: it cannot be read, is no graph of the API, or has no place for a payload.
        """
        try:
            if path.stat().st_size > _LARGEST:
                raise ConfigError(f"has more than {_LARGEST >> 20} MiB")
            data = json.loads(path.read_bytes())
            if is_of_editor(data):
                data, unnamed = graph_of_editor(data)
                if unnamed:
                    kind = printable(repr(unnamed[0]), longest=60)
                    raise ConfigError(f"is the editor's format, which does not name the values of {kind}; {EXPORT}")
            if not is_graph(data):
                raise ConfigError(f"is no workflow; {EXPORT.replace('it', 'one', 1)}")
            return cls(data)
        except (ConfigError, OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"generator.workflow: {path} {_why(error)}") from error

    @property
    def kinds(self) -> list[str]:
        """The kinds of its nodes."""
        return sorted({str(node["class_type"]) for node in graph_of(self._graph).nodes.values()})

    def check_nodes(self, known: Mapping[str, Any]) -> None:
        """Whether a ComfyUI has what it is made of: before the first merge is, since ComfyUI says it only afterwards.

        Args:
            known: kind of a node -> what `/object_info` says of it; None where there is no such node.

        Raises:
            ConfigError: naming the node, or the file that one of ComfyUI's own loaders is to load.
        """
        for number, node in graph_of(self._graph).nodes.items():
            kind = node["class_type"]
            about = known[kind]
            if not isinstance(about, Mapping):
                raise ConfigError(f"has no node {printable(repr(kind))}; install it there, or leave it out")
            if "Loader" not in kind or not str(about.get("python_module")).startswith(_COMFYUI_S_OWN):
                continue  # nodes of others may take more than they list
            for name, value in node["inputs"].items():
                found = None if (number, name) == (self._model, LOADERS[self.loader]) else choices(about, name)
                if found is not None and isinstance(value, str) and value not in found:
                    what = printable(repr(value), longest=100)
                    others = nearest(value, found) if found else "there is no such file"
                    raise ConfigError(f"has no {name} {what} for node {number} ({kind}); {others}")

    def check(self, payload: Payload) -> None:
        """Whether a payload can be drawn by it.

        Raises:
            ConfigError: words that ComfyUI takes for others, or for which there is no place.
        """
        for field, words in (("prompt", payload.prompts), ("negative_prompt", payload.negative_prompts)):
            for text in words:
                check_words(field, text)
        if self._unwanted in (None, self._wanted) and any(payload.negative_prompts):
            raise ConfigError("negative_prompt: generator.workflow has no place for it; remove it")

    def filled(self, payload: Payload, index: int, file: str) -> dict[str, Any]:
        """The graph that draws one picture.

        Args:
            payload: resolved.
            index: which of its pictures.
            file: of the model, as ComfyUI lists it.
        """
        graph: dict[str, Any] = copy.deepcopy(dict(self._graph))
        for preview in self._looked_at:  # pictures on the way, which are not judged
            del graph[preview]
        sampler, schedule = comfy_names(payload)
        for part in (self._sampler, *self._goes_on):
            graph[part]["inputs"] |= _share(graph[part]["inputs"], payload.steps)
        inputs = graph[self._sampler]["inputs"]
        inputs |= {"steps": payload.steps, "cfg": payload.cfg_scale, "sampler_name": sampler, "scheduler": schedule,
                   KSAMPLERS[graph[self._sampler]["class_type"]]: payload.seeds[index]}  # fmt: skip
        for other in self._goes_on:  # the same way from noise to picture, of which it draws the rest
            graph[other]["inputs"] |= {"steps": payload.steps, "scheduler": schedule}
        graph[self._size]["inputs"] |= {"width": payload.width, "height": payload.height, "batch_size": 1}
        graph[self._model]["inputs"][LOADERS[self.loader]] = file
        sides = {self._unwanted: payload.negative_prompts[index], self._wanted: payload.prompts[index]}
        for number, words in sides.items():
            if number is not None:
                _say(graph, number, words)
                if payload.clip_skip > 1:
                    _skip(graph, number, payload.clip_skip)
        saved = graph[self.picture]  # a preview leaves nothing in ComfyUI's folder of pictures
        graph[self.picture] = {"class_type": "PreviewImage", "inputs": {"images": saved["inputs"].get("images")}}
        return graph


def _share(inputs: Mapping[str, Any], steps: int) -> dict[str, int]:
    """The steps at which a sampler begins and ends, so that it draws the same part of a picture of other steps."""
    before = inputs.get("steps")
    found = {name: inputs[name] for name in ("start_at_step", "end_at_step") if isinstance(inputs.get(name), int)}
    if not isinstance(before, int):
        return {}
    return {name: round(at * steps / before) for name, at in found.items() if 0 < at < before}  # others are its ends


def _others(graph: Graph) -> str:
    """What a graph draws with instead."""
    kinds = (printable(str(node["class_type"]), longest=60) for node in graph.nodes.values())
    other = next((kind for kind in kinds if kind.startswith(_CUSTOM)), None)
    return f", but {other}; put a KSampler in its place" if other else ""


def _going_on(graph: Graph, sampler: str) -> Iterator[str]:
    """The samplers that go on with what one leaves half drawn, as that of a refiner does."""
    waiting = {
        number: node["inputs"].get("latent_image")
        for number, node in graph.nodes.items()
        if number != sampler and node["inputs"].get("add_noise") == "disable"
    }
    found = [sampler]
    for before in found:  # it grows
        after = [number for number, link in waiting.items() if link == [before, 0] and number not in found]
        found += after
        yield from after


def _texts(graph: Graph, link: Any, names: tuple[str, ...]) -> str | None:
    """The node that holds the words of a conditioning."""
    for number, node in graph.upwards(link, names):
        if any(isinstance(node["inputs"].get(name), str) for name in _TEXTS):
            return number
    return None


def _say(graph: dict[str, Any], number: str, words: str) -> None:
    inputs = graph[number]["inputs"]
    plain = words.replace("\\[", "[").replace("\\]", "]")
    inputs |= {name: plain for name in _TEXTS if isinstance(inputs.get(name), str)}


def _skip(graph: dict[str, Any], number: str, layers: int) -> None:
    """End the text encoder of a text some layers earlier."""
    inputs = graph[number]["inputs"]
    if "clip" in inputs:
        earlier = f"{number} clip"
        last = {"clip": inputs["clip"], "stop_at_clip_layer": -layers}
        graph[earlier] = {"class_type": "CLIPSetLastLayer", "inputs": last}
        inputs["clip"] = [earlier, 0]


def _why(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    return f"cannot be read ({getattr(error, 'strerror', None) or 'it is no JSON'})"
