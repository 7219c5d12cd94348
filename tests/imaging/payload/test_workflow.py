"""Payloads as graphs for ComfyUI: the plain one, and workflows of the user's own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging import Payload, resolve
from bayes_merger.imaging.payload.workflow import PLAIN, Workflow, comfy_names, payload_for_comfyui

FIELDS = {"prompt": "a ring", "sampler_name": "Euler", "steps": 3, "cfg_scale": 4, "seed": 7, "batch_size": 2}


def payload(**fields: Any) -> Payload:
    return resolve([payload_for_comfyui("p", {**FIELDS, **fields})], 0)[0]


def own(**changes: Any) -> dict[str, Any]:
    """A workflow as people have them: SDXL's texts, a LoRA, and a picture that is saved."""
    return {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "old.safetensors"}},
        "9": {"class_type": "LoraLoader", "inputs": {"model": ["4", 0], "clip": ["4", 1], "lora_name": "fur"}},
        "6": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"clip": ["9", 1], "text_g": "x", "text_l": "x"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["9", 1], "text": ["8", 0]}},
        "8": {"class_type": "PrimitiveString", "inputs": {"value": "bad"}},
        "5": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 8, "height": 8, "batch_size": 4}},
        "3": {
            "class_type": "KSamplerAdvanced",
            "inputs": {"model": ["9", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
                       "noise_seed": ["10", 0], "start_at_step": 0},
        },
        "10": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
        "11": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "12": {"class_type": "SaveImage", "inputs": {"images": ["11", 0], "filename_prefix": "mine"}},
        **changes,
    }  # fmt: skip


def test_the_plain_graph_is_filled_and_itself_untouched() -> None:
    before = copy.deepcopy(dict(PLAIN))
    graph = Workflow().filled(payload(negative_prompt=r"a \[b\]", width=64, height=128), 1, "m.safetensors")
    assert graph["model"]["inputs"] == {"ckpt_name": "m.safetensors"}
    assert graph["prompt"]["inputs"] == {"clip": ["model", 1], "text": "a ring"}
    assert graph["negative"]["inputs"]["text"] == "a [b]"
    assert graph["size"]["inputs"] == {"width": 64, "height": 128, "batch_size": 1}
    sampler = {"seed": 8, "steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    assert graph["sampler"]["inputs"].items() >= sampler.items()
    assert before == PLAIN


def test_a_workflow_of_one_s_own_keeps_what_no_payload_says() -> None:
    graph = Workflow(own()).filled(payload(negative_prompt="dull", clip_skip=2), 0, "sub/m.safetensors")
    assert graph["4"]["inputs"] == {"ckpt_name": "sub/m.safetensors"}
    assert graph["6"]["inputs"] == {"clip": ["6 clip", 0], "text_g": "a ring", "text_l": "a ring"}
    assert graph["6 clip"] == {
        "class_type": "CLIPSetLastLayer", "inputs": {"clip": ["9", 1], "stop_at_clip_layer": -2},
    }  # fmt: skip
    assert graph["8"]["inputs"] == {"value": "dull"}
    assert graph["3"]["inputs"].items() >= {"noise_seed": 7, "cfg": 4.0, "start_at_step": 0}.items()
    assert graph["5"]["inputs"]["batch_size"] == 1
    assert graph["9"]["inputs"]["lora_name"] == "fur"
    assert graph["12"] == {"class_type": "PreviewImage", "inputs": {"images": ["11", 0]}}


def test_previews_on_the_way_are_not_judged_where_a_picture_is_saved() -> None:
    workflow = Workflow(own(preview={"class_type": "PreviewImage", "inputs": {"images": ["11", 0]}}))
    graph = workflow.filled(payload(), 0, "m")
    assert workflow.picture == "12"
    assert [number for number, node in graph.items() if node["class_type"] == "PreviewImage"] == ["12"]


def test_a_sampler_that_goes_on_with_what_the_first_leaves_has_the_same_steps_and_schedule() -> None:
    def sampler(latent: str, **more: Any) -> dict[str, Any]:
        links = {"model": ["9", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": [latent, 0]}
        settings = {"steps": 25, "scheduler": "simple", "sampler_name": "ddim", "cfg": 8.0, "noise_seed": 4}
        return {"class_type": "KSamplerAdvanced", "inputs": {**links, **settings, **more}}

    refiner = sampler("3", add_noise="disable", start_at_step=20)
    other = sampler("3", add_noise="disable", start_at_step=20)  # another end of the same picture
    third = sampler("21", add_noise="disable", start_at_step=25)
    again = sampler("20", add_noise="enable", start_at_step=10)  # a pass of its own, which keeps its settings
    graph = Workflow(own(**{"20": refiner, "21": other, "22": third, "30": again})).filled(
        payload(steps=30, scheduler="Karras"), 0, "m"
    )
    assert graph["3"]["inputs"].items() >= {"steps": 30, "scheduler": "karras"}.items()
    changed = {"steps": 30, "scheduler": "karras", "start_at_step": 24}  # its share of them, as 20 of 25
    assert graph["20"]["inputs"] == {**refiner["inputs"], **changed}
    assert graph["21"]["inputs"] == {**other["inputs"], **changed}
    assert graph["22"]["inputs"] == {**third["inputs"], "steps": 30, "scheduler": "karras"}
    assert graph["30"]["inputs"] == again["inputs"]


@pytest.mark.parametrize(
    ("steps", "end", "expected"),
    [(25, 20, 16), (20, 20, 20), (25, 10000, 10000), (["9", 0], 20, 20), (25, ["9", 0], ["9", 0])],
)
def test_a_refiner_keeps_its_share_where_a_payload_has_other_steps(steps: Any, end: Any, expected: Any) -> None:
    graph = own()
    graph["3"]["inputs"] |= {"steps": steps, "end_at_step": end}
    assert Workflow(graph).filled(payload(steps=20), 0, "m")["3"]["inputs"]["end_at_step"] == expected


@pytest.mark.parametrize(
    ("name", "schedule", "expected"),
    [
        ("Euler a", "Automatic", ("euler_ancestral", "normal")),
        ("DPM++ 2M Karras", "Automatic", ("dpmpp_2m", "karras")),
        ("DPM++ 2M", "Automatic", ("dpmpp_2m", "karras")),
        ("DPM++ SDE", "Automatic", ("dpmpp_sde", "karras")),
        ("DDIM", "Automatic", ("ddim", "ddim_uniform")),
        ("dpmpp_3m_sde_gpu", "Exponential", ("dpmpp_3m_sde", "exponential")),
        ("Euler", "SGM Uniform", ("euler", "sgm_uniform")),
        ("res_2s", "bong_tangent", ("res_2s", "bong_tangent")),
    ],
)
def test_samplers_have_comfyui_s_names(name: str, schedule: str, expected: tuple[str, str]) -> None:
    assert comfy_names(payload(sampler_name=name, scheduler=schedule)) == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"enable_hr": True}, "enable_hr: .* generator.workflow"),
        ({"emphasis": "No norm"}, "emphasis: ComfyUI has its own way"),
        ({"rng": "nv"}, "rng: ComfyUI's noise is the CPU's; remove it"),
        ({"subseed": 3, "subseed_strength": 0.5}, "subseed_strength: "),
        ({"restore_faces": True}, "restore_faces"),
        ({"stepps": 3}, "unknown field 'stepps'; did you mean steps"),
        ({"steps": 0}, "steps"),
        ({"prompt": ""}, "no prompt"),
    ],
)
def test_fields_that_comfyui_does_not_have(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^payload p: {said}"):
        payload(**fields)
    assert payload(enable_hr=False, restore_faces=False, emphasis="Original", rng="cpu", subseed=-1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("a BREAK b", "BREAK is a word like others"),
        ("a AND b", "AND is a word like others"),
        ("[a:b:0.5]", r"square brackets .* write \(a:0.9\)"),
        ("a [b", "square brackets"),
        ("a <lora:fur:1>", "put a LoraLoader into generator.workflow"),
    ],
)
def test_words_that_comfyui_would_draw_otherwise(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^prompt: .*{said}"):
        Workflow().check(payload(prompt=words))
    with pytest.raises(ConfigError, match=f"^negative_prompt: .*{said}"):
        Workflow().check(payload(negative_prompt=words))
    Workflow().check(payload(prompt=r"(a:1.2) ((b)) \[c\] embedding:d BREAKFAST < e >"))


def without(graph: dict[str, Any], number: str) -> dict[str, Any]:
    return {key: node for key, node in graph.items() if key != number}


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (without(own(), "3"), "has no KSampler that begins with an empty picture"),
        (without(own(), "5"), "has no KSampler that begins with an empty picture"),
        (without(own(), "4"), "has no CheckpointLoaderSimple or .* before its sampler"),
        (without(own(), "6"), "has no text before its sampler's `positive`"),
        (without(own(), "12"), "has 0 nodes SaveImage or PreviewImage; leave one"),
        (own(a={"class_type": "SaveImage", "inputs": {}}), "has 2 nodes SaveImage or PreviewImage"),
        (
            own(**{"3": {"class_type": "SamplerCustomAdvanced", "inputs": {}}}),
            "has no KSampler .*, but SamplerCustomAdv",
        ),
        ({"nodes": [], "links": []}, r"is no workflow; save one by Workflow > Export \(API\)"),
        ({"prompt": "x"}, "is no workflow"),
        ([1], "is no workflow"),
        ({"3": {"class_type": ["KSampler"], "inputs": {"model": {"a": 1}}}}, "has no KSampler"),
    ],
)
def test_files_that_are_no_workflow(tmp_path: Path, graph: Any, said: str) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps(graph))
    with pytest.raises(ConfigError, match=rf"^generator.workflow: .*w\.json {said}"):
        Workflow.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000])
def test_files_that_are_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        Workflow.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Workflow.read(tmp_path / "none.json")


def test_links_in_a_circle_end_and_words_without_a_place_are_said() -> None:
    with pytest.raises(ConfigError, match="has no CheckpointLoaderSimple"):
        Workflow(own(**{"9": {"class_type": "LoraLoader", "inputs": {"model": ["9", 0]}}}))
    zeroed = own(**{"7": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}})
    Workflow(zeroed).check(payload())
    assert Workflow(zeroed).filled(payload(), 0, "m")["6"]["inputs"]["text_g"] == "a ring"
    with pytest.raises(ConfigError, match=r"^negative_prompt: generator\.workflow has no place for it"):
        Workflow(zeroed).check(payload(negative_prompt="dull"))
