"""Workflows as ComfyUI's editor saves them are read as the editor sends them to its server.

What the editor sends was looked at in ComfyUI 0.8.0 (frontend 1.35.9) for each of these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload.comfyui_editor import graph_of_editor
from bayes_merger.imaging.payload.imports import import_file
from bayes_merger.imaging.payload.workflow import Workflow

SUBGRAPH = "bdd86761-15a4-4729-9084-b83c32448910"
LINKS = [
    [1, 4, 0, 3, 0, "MODEL"], [2, 5, 0, 3, 3, "LATENT"], [3, 4, 1, 6, 0, "CLIP"], [4, 6, 0, 3, 1, "CONDITIONING"],
    [5, 4, 1, 7, 0, "CLIP"], [6, 7, 0, 3, 2, "CONDITIONING"], [7, 3, 0, 8, 0, "LATENT"], [8, 4, 2, 8, 1, "VAE"],
    [9, 8, 0, 9, 0, "IMAGE"],
]  # fmt: skip


def slot(name: str, link: int | None, kind: str = "*", *, widget: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link, **({"widget": {"name": name}} if widget else {})}


def node(number: int, kind: str, *values: Any, inputs: Any = (), outputs: Any = (), **more: Any) -> dict[str, Any]:
    return {"id": number, "type": kind, "mode": 0, "inputs": list(inputs), "widgets_values": list(values),
            "outputs": [{"name": name, "type": name} for name in outputs], **more}  # fmt: skip


def first_workflow() -> dict[str, Any]:
    """ComfyUI's default, with a note."""
    sampler = [slot("model", 1), slot("positive", 4), slot("negative", 6), slot("latent_image", 2)]
    nodes = [
        node(4, "CheckpointLoaderSimple", "x.safetensors"),
        node(3, "KSampler", 685468484323813, "randomize", 20, 8, "euler", "normal", 1, inputs=sampler),
        node(8, "VAEDecode", inputs=[slot("samples", 7), slot("vae", 8)]),
        node(9, "SaveImage", "SD1.5", inputs=[slot("images", 9)]),
        node(7, "CLIPTextEncode", "text, watermark", inputs=[slot("clip", 5)]),
        node(5, "EmptyLatentImage", 512, 768, 1),
        node(6, "CLIPTextEncode", "a ring", inputs=[slot("clip", 3)]),
        node(15, "MarkdownNote", "**Prompts**"),
    ]
    return {"nodes": nodes, "links": [*LINKS], "groups": [], "version": 0.4}


def test_the_values_of_nodes_get_their_names() -> None:
    graph, unnamed = graph_of_editor(first_workflow())
    assert unnamed == []
    assert sorted(graph) == ["3", "4", "5", "6", "7", "8", "9"]
    assert graph["3"] == {
        "class_type": "KSampler",
        "inputs": {"seed": 685468484323813, "steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal",
                   "denoise": 1, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0],
                   "latent_image": ["5", 0]},
    }  # fmt: skip
    assert graph["9"]["inputs"] == {"filename_prefix": "SD1.5", "images": ["8", 0]}


def test_nodes_that_only_hand_on_are_left_out() -> None:
    workflow = first_workflow()
    workflow["nodes"] += [
        node(20, "LoraLoader", "fur", 1, 1, inputs=[slot("model", 20, "MODEL"), slot("clip", 21, "CLIP")],
             outputs=["MODEL", "CLIP"], mode=4),
        node(21, "Reroute", inputs=[slot("", 23)], outputs=["CLIP"]),
        node(22, "PrimitiveNode", 33, "fixed", outputs=["INT"]),
        node(23, "PreviewImage", inputs=[slot("images", 27)], mode=2),
        node(24, "SetNode", "net", inputs=[slot("MODEL", 22)]),
        node(25, "GetNode", "net", outputs=["MODEL"]),
    ]  # fmt: skip
    workflow["links"] += [[20, 4, 0, 20, 0], [21, 4, 1, 20, 1], [22, 20, 0, 24, 0], [23, 20, 1, 21, 0],
                          [25, 21, 0, 6, 0], [26, 22, 0, 3, 5], [27, 8, 0, 23, 0], [28, 25, 0, 3, 0]]  # fmt: skip
    sampler, text = workflow["nodes"][1], workflow["nodes"][6]
    sampler["inputs"] = [slot("model", 28), *sampler["inputs"][1:], slot("steps", 26, widget=True)]
    text["inputs"] = [slot("clip", 25)]
    graph, _ = graph_of_editor(workflow)
    assert sorted(graph) == ["3", "4", "5", "6", "7", "8", "9"]
    assert (graph["3"]["inputs"]["steps"], graph["3"]["inputs"]["cfg"]) == (33, 8)
    assert (graph["3"]["inputs"]["model"], graph["6"]["inputs"]["clip"]) == (["4", 0], ["4", 1])


def with_subgraph(values: list[Any], proxies: list[list[str]]) -> dict[str, Any]:
    def link(number: int, origin: int, out: int, target: int, into: int) -> dict[str, Any]:
        return {"id": number, "origin_id": origin, "origin_slot": out, "target_id": target, "target_slot": into}

    def own(*names: str) -> list[dict[str, Any]]:
        return [slot(name, None, widget=True) for name in names]

    sampler = [slot("model", 61), slot("positive", 65), slot("negative", 63), slot("latent_image", 51),
               *own("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")]  # fmt: skip
    size = [slot("width", 72, widget=True), *own("height", "batch_size")]
    definition = {
        "id": SUBGRAPH, "name": "Text to image", "inputs": [{"name": "text"}, {"name": "width"}],
        "outputs": [{"name": "IMAGE"}],
        "nodes": [
            node(4, "CheckpointLoaderSimple", "x.safetensors", inputs=own("ckpt_name")),
            node(6, "CLIPTextEncode", "inner", inputs=[slot("clip", 64), slot("text", 71, widget=True)]),
            node(7, "ConditioningZeroOut", inputs=[slot("conditioning", 66)]),
            node(5, "EmptyLatentImage", 512, 640, 1, inputs=size),
            node(3, "KSampler", 7, "randomize", 20, 1, "euler", "simple", 1, inputs=sampler),
            node(8, "VAEDecode", inputs=[slot("samples", 52), slot("vae", 58)]),
        ],
        "links": [link(61, 4, 0, 3, 0), link(64, 4, 1, 6, 0), link(58, 4, 2, 8, 1), link(65, 6, 0, 3, 1),
                  link(66, 6, 0, 7, 0), link(63, 7, 0, 3, 2), link(51, 5, 0, 3, 3), link(52, 3, 0, 8, 0),
                  link(9, 8, 0, -20, 0), link(71, -10, 0, 6, 1), link(72, -10, 1, 5, 0)],
    }  # fmt: skip
    outer = node(1, SUBGRAPH, *values, inputs=own("text", "width"), properties={"proxyWidgets": proxies})
    return {"nodes": [outer, node(2, "SaveImage", "ComfyUI", inputs=[slot("images", 80)])],
            "links": [[80, 1, 0, 2, 0, "IMAGE"]], "definitions": {"subgraphs": [definition]}}  # fmt: skip


PROXIES = [["-1", "text"], ["-1", "width"], ["3", "seed"], ["3", "control_after_generate"]]


@pytest.mark.parametrize(
    ("values", "proxies", "text", "width"),
    [
        (["a ring", 768], PROXIES, "a ring", 768),
        (["a ring", 768, 7, "fixed"], PROXIES, "a ring", 768),
        ([9, "a ring", 768], [["3", "seed"], ["-1", "text"], ["-1", "width"]], "a ring", 768),
        (["a ring", 768], [], "a ring", 768),
        ([], [], "inner", 512),
    ],
)
def test_a_subgraph_is_its_nodes_with_its_own_values(
    values: list[Any], proxies: list[list[str]], text: str, width: int, tmp_path: Path
) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps(with_subgraph(values, proxies)))
    (one,) = import_file(path)
    assert one.notes == []
    assert one.fields == {
        "prompt": text, "negative_prompt": "", "steps": 20, "cfg_scale": 1, "sampler_name": "euler",
        "scheduler": "simple", "seed": 7, "width": width, "height": 640, "batch_size": 1, "rng": "cpu",
    }  # fmt: skip
    assert Workflow.read(path).picture == "2"
    assert graph_of_editor(json.loads(path.read_text()))[0]["2"]["inputs"]["images"] == ["1:8", 0]


def test_values_without_names_are_not_guessed(tmp_path: Path) -> None:
    workflow = first_workflow()
    workflow["nodes"].append(node(30, "FreeU_V2", 1.3, 1.4, 0.9, 0.2, inputs=[slot("model", None)]))
    assert graph_of_editor(workflow)[1] == ["FreeU_V2"]
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    with pytest.raises(ConfigError, match=r"does not name the values of 'FreeU_V2'; save it by Workflow > Export"):
        Workflow.read(tmp_path / "w.json")
    names = ("b1", "b2", "s1", "s2")
    workflow["nodes"][-1]["inputs"] += [slot(name, None, widget=True) for name in names]
    graph, unnamed = graph_of_editor(workflow)
    assert (graph["30"]["inputs"], unnamed) == ({"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}, [])


def ring_of_reroutes() -> dict[str, Any]:
    workflow = first_workflow()
    workflow["nodes"] += [node(n, "Reroute", inputs=[slot("", n)], outputs=["*"]) for n in (40, 41)]
    workflow["links"] += [[40, 41, 0, 40, 0], [41, 40, 0, 41, 0], [1, 40, 0, 3, 0]]
    return workflow


def subgraphs_in_each_other(*, deep: int, last: str) -> dict[str, Any]:
    """Two of each in the one before it."""
    definitions = [{"id": f"s{n}", "inputs": [], "outputs": [], "links": [],
                    "nodes": [node(i, f"s{n + 1}" if n < deep else last) for i in (1, 2)]}
                   for n in range(deep + 1)]  # fmt: skip
    return {"nodes": [node(1, "s0")], "links": [], "definitions": {"subgraphs": definitions}}


@pytest.mark.parametrize(
    ("workflow", "says"),
    [
        (ring_of_reroutes(), "has links that lead in a ring"),
        (subgraphs_in_each_other(deep=15, last="Note"), "has more than 5000 nodes"),
        (subgraphs_in_each_other(deep=1, last="s0"), "has subgraphs more than 20 deep in each other"),
        ({"nodes": [node(1, "workflow>mine")]}, "has the group node 'workflow>mine'"),
        ({"nodes": [node(1, "KSampler", inputs=[slot("model", 1)])], "links": [[1, 2]]}, "is a damaged workflow"),
        ({"nodes": [{"id": [], "type": "x"}]}, "is a damaged workflow"),
        ({"nodes": [{"id": 1}]}, "is a damaged workflow"),
        ({"nodes": [3]}, "is a damaged workflow"),
        ({"nodes": [], "definitions": {"subgraphs": [4]}}, "is a damaged workflow"),
    ],
)
def test_damaged_and_hostile_workflows_are_one_line(workflow: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{says}.*; save it by Workflow > Export \(API\)$"):
        graph_of_editor(workflow)
