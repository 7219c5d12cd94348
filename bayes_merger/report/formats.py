"""A merge's weights in the forms that other programs take, ready to be pasted or loaded.

The counts: supermerger and model-mixer take 26 numbers for Stable Diffusion 1 and 2 (``BASE``, ``IN00`` ... ``OUT11``)
and 20 for SDXL, older MBW panels one fewer and the base apart. ComfyUI's nodes
(``comfy_extras/nodes_model_merging_model_specific.py``) name parts of the network and give the share of ``model1``.
sd-mecha's recipes are those of ``sd_mecha/serialization.py``, format 0.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayes_merger.checkpoints.blocks import Architecture, weights_to_string
from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe.postprocess import ADJUST, method_weights
from bayes_merger.merging.recipe.recipe import MergeRecipe

PRESETS = "mbwpresets.txt"
"""supermerger's file of presets, in its folder ``scripts``: a name, a tab, the numbers."""

PASTED, PASTED_INTO = ("sd1", "sd2", "sdxl"), " (supermerger, model-mixer)"
"""The architectures whose weights those programs take."""

LONG = {"sdxl": ("IN09", "IN10", "IN11", "OUT09", "OUT10", "OUT11")}
"""Blocks that the 26 numbers of Stable Diffusion 1 have and an architecture has not."""


@dataclass(frozen=True)
class Format:
    """One form of the weights.

    Attributes:
        label: what it is and who takes it.
        text: to be pasted.
    """

    label: str
    text: str


def formats(recipe: MergeRecipe, name: str) -> list[Format]:
    """The weights as text, in every form that people paste.

    Args:
        recipe: the merge.
        name: what a preset is to be called.
    """
    architecture, found = recipe.architecture_blocks, []
    weights = method_weights(recipe.weights)
    pasted = is_pasted(recipe)
    for weight, blocks in weights.items():
        whole, count = weights_to_string(blocks, architecture), len(architecture.blocks)
        base, _, rest = whole.partition(",")
        about = f"{weight}: " if len(weights) > 1 else ""
        found.append(Format(f"{about}{count} numbers, {architecture.blocks[0]} first" + PASTED_INTO * pasted, whole))
        if pasted:
            found.append(Format(f"{about}{count - 1} numbers and base {base} apart (older MBW panels)", rest))
        if architecture.name in LONG:
            found.append(Format(f"{about}26 numbers, as for Stable Diffusion 1", _long(blocks, architecture)))
        if pasted:
            found.append(Format(f"{about}a line of supermerger's {PRESETS}", f"{name}-{weight}\t{whole}"))
    return found


def is_pasted(recipe: MergeRecipe) -> bool:
    """Whether supermerger and model-mixer can do something with the weights; they know no files of activations."""
    moved = recipe.saliency or recipe.act or any(step.saliency or step.act for step in recipe.steps)
    return recipe.architecture in PASTED and not moved


def _long(blocks: Mapping[str, float], architecture: Architecture) -> str:
    """The numbers of SD 1's blocks, 0 for those that the architecture has not; BASE, IN, M, OUT as SD 1 has them."""
    from bayes_merger.checkpoints.architectures import SD1

    return weights_to_string(dict.fromkeys(LONG[architecture.name], 0.0) | dict(blocks), SD1)


def _unet(blocks: int, dot: str) -> tuple[str, ...]:
    steps = (("input_blocks", blocks), ("middle_block", 3), ("output_blocks", blocks))
    return ("time_embed.", "label_emb.", *_numbered(*steps, dot=dot), "out.")


def _numbered(*counts: tuple[str, int], dot: str = ".") -> tuple[str, ...]:
    return tuple(f"{name}.{number}{dot}" for name, count in counts for number in range(count))


_EMBEDDERS = ("pos_embed.", "x_embedder.", "context_embedder.", "y_embedder.", "t_embedder.")
_NODES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sd1": ("ModelMergeSD1", _unet(12, ".")),
    "sd2": ("ModelMergeSD2", _unet(12, ".")),
    "sdxl": ("ModelMergeSDXL", _unet(9, "")),
    "sd3": ("ModelMergeSD3_2B", (*_EMBEDDERS, *_numbered(("joint_blocks", 24)), "final_layer.")),
    "flux": ("ModelMergeFlux1", ("img_in.", "time_in.", "guidance_in", "vector_in.", "txt_in.",
                                 *_numbered(("double_blocks", 19), ("single_blocks", 38)), "final_layer.")),
}  # fmt: skip
"""Architecture -> ComfyUI's node for it, and the node's inputs."""


def comfyui_node(recipe: MergeRecipe) -> dict[str, Any]:
    """The inputs of ComfyUI's block-merge node, in its API's form.

    A node's number is the share of ``model1``, so it is 1 less the weight. Text encoders are merged by nodes of their
    own, whose ratio stands beside it.

    Raises:
        ConfigError: the merge is not one of two models by weighted sum, or ComfyUI has no node for the architecture.
    """
    weights, architecture = _of_two(recipe, "ComfyUI"), recipe.architecture_blocks
    if recipe.architecture not in _NODES:
        raise ConfigError(f"ComfyUI has no block-merge node for {architecture.title}; export the recipe instead")
    node, inputs = _NODES[recipe.architecture]
    shares = {name: round(1.0 - _weight(weights, architecture, name), 4) for name in inputs}
    return {
        "class_type": node,
        "inputs": {"model1": _stem(recipe, "a"), "model2": _stem(recipe, "b"), **shares},
        "clip": {"class_type": "CLIPMergeSimple", "ratio": round(1.0 - _encoder(weights), 4)},
    }


def _weight(weights: Mapping[str, float], architecture: Architecture, name: str) -> float:
    """The weight of a part of the network, by the start of its keys."""
    start = name if name.endswith(".") else f"{name}."
    place = architecture.place(f"model.diffusion_model.{start}0.weight")
    return weights.get(place.slot or "", weights[place.block or "BASE"])


def _encoder(weights: Mapping[str, float]) -> float:
    return next((weights[slot] for slot in ("TE", "CLIP_L", "CLIP_G", "T5") if slot in weights), weights["BASE"])


_MECHA = {"sd1": "sd1-supermerger_blocks", "sdxl": "sdxl-supermerger_blocks"}
"""Architecture -> what sd-mecha calls a dictionary of its blocks."""


def mecha_recipe(recipe: MergeRecipe) -> str:
    """The merge as an sd-mecha recipe.

    Raises:
        ConfigError: the merge is not one of two models by weighted sum, or sd-mecha has no blocks for the architecture.
    """
    weights, architecture = _of_two(recipe, "sd-mecha"), recipe.architecture_blocks
    if recipe.architecture not in _MECHA:
        raise ConfigError(f"sd-mecha has no blocks of {architecture.title}; export the recipe instead")
    numbers = " ".join(f"{block}={float(weights[block])!r}" for block in architecture.blocks)
    models = [f'model "{_escaped(recipe.models[role].path)}"' for role in ("a", "b")]
    # sd-mecha's "literal" gives a plain dictionary the meaning of blocks.
    literal = f'literal &2 model_config="{_MECHA[recipe.architecture]}" merge_space="param"'
    lines = ["version 0.1.0", *models, f"dict {numbers}", literal, 'merge "weighted_sum" &0 &1 alpha=&3']
    return "\n".join(lines)


_OF_THE_FILE = {"dtype", "vae", "options", "compat", "ema"}
"""Settings of a merge that change no number of a weighted sum's networks."""


def _of_two(recipe: MergeRecipe, program: str) -> Mapping[str, float]:
    """The weights of a plain weighted sum of two models.

    Raises:
        ConfigError: it is another merge.
    """
    plain = recipe.changed().keys() <= _OF_THE_FILE and not recipe.steps and ADJUST not in recipe.weights
    if not plain or set(recipe.models) != {"a", "b"}:
        raise ConfigError(
            f"{program} can only be given a weighted sum of two models block by block, which this merge is not; "
            "export the recipe instead, or write the merge to a file"
        )
    return recipe.weights["alpha"]


def _stem(recipe: MergeRecipe, role: str) -> str:
    return recipe.models[role].path.replace("\\", "/").rpartition("/")[2]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
