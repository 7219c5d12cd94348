"""What ComfyUI's editor saves, subgraphs and all -> the graph that it sends to its server.

The editor's format has links in a list, values without names and nodes that are only there to be looked at:
https://docs.comfy.org/specs/workflow_json. It is read here as the editor itself does before it sends it,
https://github.com/Comfy-Org/ComfyUI_frontend/blob/main/src/utils/executionUtil.ts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bayes_merger.errors import ConfigError, printable

EXPORT = "save it by Workflow > Export (API)"
"""What to do with a workflow that is not understood."""

_SAMPLER = ("steps", "cfg", "sampler_name", "scheduler")
_SIZE = ("width", "height", "batch_size")
_NAMES: Mapping[str, Sequence[str]] = {
    "KSampler": ("seed", *_SAMPLER, "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", *_SAMPLER, "start_at_step", "end_at_step",
                         "return_with_leftover_noise"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "CLIPLoader": ("clip_name", "type", "device"),
    "DualCLIPLoader": ("clip_name1", "clip_name2", "type", "device"),
    "TripleCLIPLoader": ("clip_name1", "clip_name2", "clip_name3"),
    "VAELoader": ("vae_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": ("width", "height", "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l"),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "FluxGuidance": ("guidance",),
    "ModelSamplingSD3": ("shift",),
    "ModelSamplingFlux": ("max_shift", "base_shift", "width", "height"),
    "EmptyLatentImage": _SIZE,
    "EmptySD3LatentImage": _SIZE,
    "LatentUpscale": ("upscale_method", "width", "height", "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "SaveImage": ("filename_prefix",),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "SamplerCustom": ("add_noise", "noise_seed", "cfg"),
    "StringConcatenate": ("string_a", "string_b", "delimiter"),
    **{f"Primitive{kind}": ("value",) for kind in ("Int", "Float", "String", "StringMultiline", "Boolean")},
}  # fmt: skip
"""The values of ComfyUI's own nodes, in the order in which the editor saves them."""

_CONTROLS = ("fixed", "increment", "decrement", "randomize")
"""What becomes of a seed after a picture, which the editor saves behind it."""

_TO_LOOK_AT = ("Note", "MarkdownNote", "Reroute", "PrimitiveNode", "SetNode", "GetNode")
_MUTED, _BYPASSED = _OFF = 2, 4
_INSIDE, _OUTSIDE = -10, -20  # the ends of links that lead out of a subgraph and into it
_MOST = 5000  # nodes
_DEEPEST = 20  # subgraphs in each other
_LONGEST = 200  # nodes that only hand on, one behind the other


def is_of_editor(data: Any) -> bool:
    """Whether this is what the editor saves."""
    return isinstance(data, Mapping) and isinstance(data.get("nodes"), list)


def graph_of_editor(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The graph as it goes to the server, and the kinds of nodes whose values have no names here.

    Raises:
        ConfigError: it is damaged, or has nodes that only the editor can take apart.
    """
    try:
        definitions = data.get("definitions") or {}
        subgraphs = {one["id"]: one for one in definitions.get("subgraphs") or ()}
        nodes = list(islice(_Level(data, subgraphs).flat(), _MOST + 1))
        if len(nodes) > _MOST:
            raise ConfigError(f"has more than {_MOST} nodes; {EXPORT}")
        graph: dict[str, Any] = {}
        unnamed = set()
        for level, node in nodes:
            if not level.leaves_out(node):
                kind, inputs = str(node["type"]), dict(_values(node))
                unnamed |= {kind} if node.get("widgets_values") and not inputs else set()
                inputs |= level.linked(node)
                graph[level.number(node)] = {"class_type": kind, "inputs": inputs}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"is a damaged workflow of ComfyUI's editor; {EXPORT}") from error
    if groups := [
        node["class_type"] for node in graph.values() if node["class_type"].startswith(("workflow>", "workflow/"))
    ]:
        raise ConfigError(f"has the group node {printable(repr(groups[0]), longest=60)}; {EXPORT}")
    return graph, sorted(unnamed)


@dataclass(frozen=True)
class _Found:
    """What a link leads to: `[number, slot]` of a node, or a value."""

    value: Any


@dataclass
class _Level:
    """The workflow, or one subgraph in it as some node uses it."""

    data: Mapping[str, Any]
    subgraphs: Mapping[str, Mapping[str, Any]]
    outer: _Level | None = None
    node: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 0

    def __post_init__(self) -> None:
        if self.depth > _DEEPEST:
            raise ConfigError(f"has subgraphs more than {_DEEPEST} deep in each other; {EXPORT}")
        self.nodes = {node["id"]: node for node in self.data["nodes"]}
        self.links = dict(map(_link, self.data.get("links") or ()))
        self.kept = {node["widgets_values"][0]: node for node in self.nodes.values()
                     if node["type"] == "SetNode" and isinstance(node.get("widgets_values"), list)}  # fmt: skip
        self._inner: dict[Any, _Level] = {}

    def number(self, node: Mapping[str, Any]) -> str:
        """As the editor numbers the nodes of subgraphs: `3:5` is node 5 of the one that node 3 is."""
        return f"{self.outer.number(self.node)}:{node['id']}" if self.outer else str(node["id"])

    def flat(self) -> Iterator[tuple[_Level, Mapping[str, Any]]]:
        """All nodes, and behind those that are subgraphs the ones in these."""
        for node in self.nodes.values():
            yield self, node
            if node["type"] in self.subgraphs and node.get("mode") not in _OFF:
                yield from self.inner(node).flat()

    def leaves_out(self, node: Mapping[str, Any]) -> bool:
        """Whether a node is not sent to the server."""
        return node.get("mode") in _OFF or node["type"] in {*_TO_LOOK_AT, *self.subgraphs}

    def linked(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a node that something is linked to."""
        found = ((str(given["name"]), self.source(given.get("link"))) for given in node.get("inputs") or ())
        return {name: source.value for name, source in found if source is not None}

    def inner(self, node: Mapping[str, Any]) -> _Level:
        """The subgraph that a node is."""
        if node["id"] not in self._inner:
            definition = self.subgraphs[node["type"]]
            self._inner[node["id"]] = _Level(definition, self.subgraphs, self, node, self.depth + 1)
        return self._inner[node["id"]]

    def source(self, link: Any) -> _Found | None:
        """Where a link begins, behind all nodes that only hand on; None where nothing is."""
        level: _Level | None = self
        for _ in range(_LONGEST):
            if level is None or link not in level.links:
                return None
            origin, slot, _, _ = level.links[link]
            if origin == _INSIDE:
                name = level.data["inputs"][slot]["name"]
                given = dict(_values(level.node, level.data))
                level, node = level.outer, level.node
                link = next((one.get("link") for one in node.get("inputs") or () if one["name"] == name), None)
                if link is None:
                    return _Found(given[name]) if name in given else None
                continue
            node = level.nodes[origin]
            if node["type"] == "PrimitiveNode":
                return _Found(node["widgets_values"][0])
            if node["type"] in self.subgraphs and node.get("mode") not in _OFF:
                level = level.inner(node)
                link = next((key for key, one in level.links.items() if one[2:] == (_OUTSIDE, slot)), None)
            elif node["type"] in _TO_LOOK_AT or node.get("mode") == _BYPASSED:
                link = _handed_on(node, slot, level.kept)
            elif node.get("mode") == _MUTED:
                return None
            else:
                return _Found([level.number(node), slot])
        raise ConfigError(f"has links that lead in a ring; {EXPORT}")


def _link(link: Any) -> tuple[Any, tuple[Any, Any, Any, Any]]:
    """Number -> from which node and output, to which node and input; a list in the workflow, named in subgraphs."""
    if isinstance(link, Mapping):
        return link["id"], (link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"])
    return link[0], (link[1], link[2], link[3], link[4])


def _handed_on(node: Mapping[str, Any], slot: int, kept: Mapping[str, Mapping[str, Any]]) -> Any:
    """The link whose end a node hands on at one of its outputs."""
    if node["type"] == "GetNode":
        node = kept.get(node["widgets_values"][0], {})
    inputs = node.get("inputs") or []
    if node.get("mode") != _BYPASSED:
        return inputs[0].get("link") if inputs else None
    kind = node["outputs"][slot].get("type")
    first = [given for given in (*inputs[slot : slot + 1], *inputs) if given.get("type") == kind]
    return first[0].get("link") if first else None


def _values(node: Mapping[str, Any], subgraph: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Any]]:
    """The values of a node by their names; none where these are not known."""
    values, kind = node.get("widgets_values") or [], node.get("type")
    if isinstance(values, Mapping):
        yield from values.items()
    elif rows := [value for value in values if isinstance(value, Mapping) and "lora" in value]:  # rgthree's loader
        yield from ((f"lora_{place}", row) for place, row in enumerate(rows, 1))
    else:
        described = [given["widget"]["name"] for given in node.get("inputs") or () if given.get("widget")]
        names = _proxies(node, len(values)) or described if subgraph else _NAMES.get(str(kind), described)
        kept = _less_controls(names, values)
        if kind in _NAMES or subgraph or len(names) >= len(kept):
            yield from zip(names, kept, strict=False)


def _proxies(node: Mapping[str, Any], count: int) -> list[str]:
    """The names of a subgraph's values: its own, in some versions with those of its nodes between them."""
    proxies = [(str(number), name) for number, name in (node.get("properties") or {}).get("proxyWidgets") or ()]
    return [name if number == "-1" else "" for number, name in proxies if number == "-1" or count == len(proxies)]


def _less_controls(names: Sequence[str], values: Sequence[Any]) -> list[Any]:
    """Values without what becomes of seeds."""
    kept: list[Any] = []
    for value in values:
        behind_seed = 0 < len(kept) <= len(names) and names[len(kept) - 1].endswith("seed")
        if not (behind_seed and isinstance(value, str) and value in _CONTROLS):
            kept.append(value)
    return kept
