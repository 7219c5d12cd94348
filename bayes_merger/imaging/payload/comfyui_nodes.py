"""Nodes that say in other words what ComfyUI's `KSampler`, `CLIPTextEncode` and `LoraLoader` say.

Samplers put together of parts (https://github.com/comfyanonymous/ComfyUI/blob/master/comfy_extras/nodes_custom_sampler.py),
and the most common nodes of extensions: Efficiency Nodes, rgthree, Comfyroll.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Nodes = Mapping[str, Mapping[str, Any]]
"""Number -> `class_type` and `inputs`."""

_PARTS = ("noise", "guider", "sampler", "sigmas")
_SAMPLERS = ("SamplerCustomAdvanced", "SamplerCustom", "KSampler (Efficient)", "KSampler SDXL (Eff.)")
_NAMES = {"noise_seed": "seed", "conditioning": "positive"}
_LOADER = "Efficient Loader"
_LORA = re.compile(r"lora_(?:name_)?0*(\d+)")


def plain_nodes(nodes: Nodes) -> Nodes:
    """The nodes of a graph, those that are known by other names among them as ComfyUI's own."""
    plain: dict[str, Mapping[str, Any]] = {}
    for number, node in nodes.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in _SAMPLERS:
            plain[number] = {"class_type": "KSampler", "inputs": _of_parts(inputs, nodes)}
        elif kind == _LOADER:
            plain |= _of_loader(number, inputs)
        elif kind in ("ConditioningZeroOut", "StringConcatenate"):
            parts = [inputs.get(name, "") for name in ("string_a", "delimiter", "string_b")]
            whole = all(isinstance(part, str) for part in parts)
            plain[number] = {"class_type": "PrimitiveString", "inputs": {"value": "".join(parts)}} if whole else node
        else:
            plain[number] = node
    loaders = {number for number, node in nodes.items() if node["class_type"] == _LOADER}
    return {number: {**node, "inputs": _relinked(node["inputs"], loaders)} for number, node in plain.items()}


def _of_parts(inputs: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
    """The inputs of a sampler and of the nodes that it is put together of."""
    links = (inputs.get(part) for part in _PARTS)
    numbers = [str(link[0]) for link in links if isinstance(link, list) and link]
    whole = {key: value for number in numbers if number in nodes for key, value in nodes[number]["inputs"].items()}
    given: dict[str, Any] = {"cfg": 1.0, **whole, **inputs}
    return {_NAMES.get(name, name): value for name, value in given.items()}


def _of_loader(number: str, inputs: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A checkpoint, a LoRA, two prompts and an empty picture in one node."""
    checkpoint, lora, last = f"{number} checkpoint", number, f"{number} layers"
    strengths = {"strength_model": inputs.get("lora_model_strength"), "strength_clip": inputs.get("lora_clip_strength")}
    named = {} if inputs.get("lora_name") in (None, "None") else {"lora_name": inputs["lora_name"], **strengths}
    size = {"width": "empty_latent_width", "height": "empty_latent_height", "batch_size": "batch_size"}
    texts = {
        f"{number} {side}": {"class_type": "CLIPTextEncode", "inputs": {"text": inputs.get(side), "clip": [last, 0]}}
        for side in ("positive", "negative")
    }
    return {
        checkpoint: {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": inputs.get("ckpt_name")}},
        lora: {"class_type": "LoraLoader", "inputs": {
            **named, "model": [checkpoint, 0], "clip": [checkpoint, 1], "lora_stack": inputs.get("lora_stack")}},
        last: {"class_type": "CLIPSetLastLayer", "inputs": {
            "stop_at_clip_layer": inputs.get("clip_skip"), "clip": [lora, 1]}},
        **texts,
        f"{number} size": {"class_type": "EmptyLatentImage", "inputs": {
            name: inputs.get(field) for name, field in size.items()}},
    }  # fmt: skip


def _relinked(inputs: Mapping[str, Any], loaders: set[str]) -> dict[str, Any]:
    """Inputs with the second to fourth output of loaders as the nodes that stand for them."""

    def of(value: Any) -> Any:
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in loaders and value[1] in (1, 2, 3):
            return [f"{value[0]} {('positive', 'negative', 'size')[value[1] - 1]}", 0]
        return value

    return {name: of(value) for name, value in inputs.items()}


def loras_of(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The LoRAs that a node loads: file, strength in the network, in the text encoders; None is the usual one."""
    if isinstance(name := inputs.get("lora_name"), str):
        yield name, inputs.get("strength_model"), inputs.get("strength_clip", 0)
    for key, value in inputs.items():
        found = _LORA.fullmatch(key)
        if not found:
            continue
        place = found[1]
        if isinstance(value, Mapping) and isinstance(value.get("lora"), str) and value.get("on"):
            unet, text = value.get("strength"), value.get("strengthTwo")
            yield value["lora"], unet, unet if text is None else text
        elif isinstance(value, str) and value != "None" and inputs.get(f"switch_{place}", "On") == "On":
            given = [inputs.get(f"{name}_{number}") for name in ("model_weight", "model_str", "lora_wt", "strength")
                     for number in (place, f"0{place}")]  # fmt: skip
            unet = next((one for one in given if one is not None), None)
            given = [inputs.get(f"{name}_{place}") for name in ("clip_weight", "clip_str")]
            yield value, unet, next((one for one in given if one is not None), unet)
