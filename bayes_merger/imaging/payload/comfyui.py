"""ComfyUI's graph -> the fields of a payload that draws the same picture.

The graph is what ComfyUI sends to its server (`class_type` and `inputs` by number), as it writes it into its pictures.
From the sampler that begins with an empty picture, links are followed back to prompts, LoRAs and sizes. A second
sampler that goes on with the enlarged latents is a second pass. What a node does that is not known is said, not
guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from bayes_merger.errors import ConfigError, printable
from bayes_merger.imaging.payload.comfyui_nodes import loras_of, plain_nodes
from bayes_merger.imaging.payload.fields import with_hashes_drawn

KSAMPLERS = {"KSampler": "seed", "KSamplerAdvanced": "noise_seed"}
_UPSCALES = {"nearest-exact": "Latent (nearest-exact)", "bilinear": "Latent", "bicubic": "Latent (bicubic)"}
FOLLOWED = ("conditioning", "positive", "conditioning_1", "conditioning_to", "text", "string", "value", "string_a",
            "text_g", "prompt", "text1", "text_a")  # fmt: skip
UNWANTED = ("negative", *(name for name in FOLLOWED if name != "positive"))
"""What is followed from a sampler's `negative`: nodes with both sides, such as ControlNet's, hand on both."""

_TEXTS = ("populated_text", "text", "text_g", "string", "value", "prompt", "t5xxl", "wildcard_text")
_TWO_ENCODERS = (("text_l", "text_g"), ("clip_l", "t5xxl"))
_BEGUN_WITH = ("pixels", "image", "samples")
_PLAIN_NODES = ("CheckpointLoader", "LoraLoader", "CLIPSetLastLayer", "CLIPTextEncode", "Empty", "VAE", "SaveImage",
                "PreviewImage", "KSampler", "LatentUpscale", "Note", "Primitive", "FluxGuidance", "ModelSampling",
                "UNETLoader", "DualCLIPLoader", "CLIPLoader", "TripleCLIPLoader", "BasicScheduler", "BasicGuider",
                "CFGGuider", "RandomNoise", "Lora Loader Stack", "Power Lora Loader", "LoRA Stacker", "CR LoRA Stack",
                "CR Apply LoRA Stack", "Power Prompt", "ImpactWildcard")  # fmt: skip
_DEEPEST = 200  # links


def is_graph(data: Any) -> bool:
    """Whether this is a graph as ComfyUI sends it."""
    return isinstance(data, Mapping) and any(
        isinstance(node, Mapping) and "class_type" in node for node in data.values()
    )


def read_graph(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of a payload, and what else the graph does.

    Raises:
        ConfigError: no sampler is found that begins with an empty picture.
    """
    graph = Graph(plain_nodes(graph_of(data).nodes))
    first = graph.first_sampler()
    if first is None:
        raise ConfigError("its graph has no KSampler that begins with an empty picture; write the payload by hand")
    return with_hashes_drawn(graph.payload(first)), graph.others()


def graph_of(data: Mapping[str, Any]) -> Graph:
    """The nodes among some data."""
    whole = {str(key): node for key, node in data.items() if isinstance(node, Mapping)}
    kinds = {key: (node.get("class_type"), node.get("inputs")) for key, node in whole.items()}
    return Graph({key: whole[key] for key, (kind, inputs) in kinds.items()
                  if isinstance(kind, str) and isinstance(inputs, Mapping)})  # fmt: skip


@dataclass
class Graph:
    """Nodes and the links between them.

    Attributes:
        nodes: number -> `class_type` and `inputs`.
        used: the numbers of those that were read.
    """

    nodes: Mapping[str, Mapping[str, Any]]
    used: set[str] = field(default_factory=set)

    def first_sampler(self) -> str | None:
        """The number of the sampler that begins with an empty picture."""
        samplers = (number for number, node in self.nodes.items() if node.get("class_type") in KSAMPLERS)
        return next((number for number in samplers if self.empty(number)), None)

    def payload(self, number: str) -> dict[str, Any]:
        """The fields of what a sampler draws."""
        sampler, empty = self.nodes[number], self.empty(number)
        self.used.add(number)
        inputs, size = sampler["inputs"], self.nodes[empty]["inputs"] if empty else {}
        fields = {
            "prompt": self.words(inputs.get("positive")) + self.loras(inputs.get("model")),
            "negative_prompt": self.words(inputs.get("negative"), UNWANTED),
            "steps": self.value(inputs, "steps"),
            "cfg_scale": self.value(inputs, "cfg"),
            "sampler_name": self.value(inputs, "sampler_name"),
            "scheduler": self.value(inputs, "scheduler"),
            "seed": self.value(inputs, KSAMPLERS[sampler["class_type"]]),
            "width": self.value(size, "width"),
            "height": self.value(size, "height"),
            "batch_size": self.value(size, "batch_size"),
            "clip_skip": self.clip_skip(inputs.get("positive")),
            "distilled_cfg_scale": self.distilled_guidance(inputs.get("positive")),
            "rng": "cpu",
            **self.second_pass(number),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def node(self, link: Any) -> tuple[str, Mapping[str, Any]] | None:
        """The node at the other end of a link."""
        if isinstance(link, list) and len(link) == 2 and str(link[0]) in self.nodes:
            return str(link[0]), self.nodes[str(link[0])]
        return None

    def upwards(self, link: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The nodes that are reached by following the first of some inputs that is a link."""
        for _ in range(_DEEPEST):
            found = self.node(link)
            if found is None:
                return
            yield found
            inputs = found[1]["inputs"]
            link = next((inputs[name] for name in names if self.node(inputs.get(name))), None)

    def value(self, inputs: Mapping[str, Any], name: str) -> Any:
        """An input, or what the node holds that it is linked to."""
        value = inputs.get(name)
        for _, node in self.upwards(value, (name, "value", "int", "float", "seed", "string")):
            value = next((v for v in node["inputs"].values() if not isinstance(v, list | dict)), None)
        return value if isinstance(value, str | int | float) else None

    def words(self, link: Any, names: tuple[str, ...] = FOLLOWED) -> str:
        """The prompt that a conditioning is of, with the brackets that are text in ComfyUI."""
        for number, node in self.upwards(link, names):
            self.used.add(number)
            texts = (node["inputs"].get(name) for name in _TEXTS)
            if words := next((text for text in texts if isinstance(text, str) and text), None):
                return words.replace("embedding:", "").replace("[", "\\[").replace("]", "\\]")
        return ""

    def loras(self, link: Any) -> str:
        """The LoRAs of a model, as tags of a prompt."""
        tags = []
        models = [node["inputs"] for _, node in self.upwards(link, ("model",))]
        stacks = (self.upwards(inputs.get("lora_stack"), ("lora_stack",)) for inputs in models)
        for inputs in (*models, *(node["inputs"] for stack in stacks for _, node in stack)):
            for name, *strengths in loras_of(inputs):
                stem = PurePosixPath(PureWindowsPath(name).as_posix()).stem
                unet, text = (self.value({"": 1 if given is None else given}, "") for given in strengths)
                tags.append(f" <lora:{stem}:te={text}:unet={unet}>")
        return "".join(reversed(tags))

    def distilled_guidance(self, link: Any) -> Any:
        """The guidance that Flux is told."""
        nodes = (node["inputs"] for _, node in self.upwards(link, FOLLOWED) if "guidance" in node["inputs"])
        return next((self.value(inputs, "guidance") for inputs in nodes), None)

    def clip_skip(self, link: Any) -> int | None:
        """The layer of the text encoder, counted from 1 as elsewhere."""
        for _, node in self.upwards(link, ("clip", *FOLLOWED)):
            layer = node["inputs"].get("stop_at_clip_layer")
            if isinstance(layer, int):
                return -layer
        return None

    def empty(self, sampler: str) -> str | None:
        """The number of the empty picture that a sampler begins with, if it does so at once."""
        found = self.node(self.nodes[sampler]["inputs"].get("latent_image"))
        if found is None:
            return None
        number, node = found
        inputs = node["inputs"]
        sized = {"width", "height"} <= set(inputs) and not any(name in inputs for name in _BEGUN_WITH)
        return number if sized or str(node.get("class_type")).startswith("Empty") else None

    def second_pass(self, first: str) -> dict[str, Any]:
        """The fields of a second pass over the latents of a sampler, if there is one."""
        for number, node in self.nodes.items():
            path = list(self.upwards(node["inputs"].get("latent_image"), ("samples",)))
            numbers = [number for number, _ in path]
            if node.get("class_type") not in KSAMPLERS or first not in numbers[1:]:
                continue
            self.used.add(number)
            inputs, scale = node["inputs"], path[0][1]["inputs"]
            denoise = self.value(inputs, "denoise")
            steps = self.value(inputs, "steps")
            return {
                "enable_hr": True,
                "hr_upscaler": _UPSCALES.get(str(scale.get("upscale_method")), str(scale.get("upscale_method"))),
                "hr_scale": self.value(scale, "scale_by"),
                "hr_resize_x": self.value(scale, "width"),
                "hr_resize_y": self.value(scale, "height"),
                "denoising_strength": denoise,
                "hr_second_pass_steps": steps,
                "hr_sampler_name": self.value(inputs, "sampler_name"),
                "hr_scheduler": self.value(inputs, "scheduler"),
                "hr_cfg": self.value(inputs, "cfg"),
            }
        return {}

    def others(self) -> list[str]:
        """The kinds of nodes that may do more than a payload says."""
        kinds = {number: printable(str(node.get("class_type")), longest=60) for number, node in self.nodes.items()}
        left = {kind for number, kind in kinds.items() if kind in KSAMPLERS and number not in self.used}
        left |= {kinds[number] for number, node in self.nodes.items() if _says_two_things(node["inputs"])}
        return sorted(left | {kind for kind in kinds.values() if not kind.startswith(_PLAIN_NODES)})


def _says_two_things(inputs: Mapping[str, Any]) -> bool:
    """Whether the text encoders of a model are told different words."""
    return any(inputs.get(one) not in ("", None, inputs.get(other)) for one, other in _TWO_ENCODERS)
