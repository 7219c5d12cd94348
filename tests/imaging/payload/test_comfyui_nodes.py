"""Graphs of other nodes than ComfyUI's first ones are read as if they were of those."""

from __future__ import annotations

from typing import Any

import pytest

from bayes_merger.imaging.payload.comfyui import read_graph


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


BASE = {
    "4": node("CheckpointLoaderSimple", ckpt_name="x"),
    "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
    "6": node("CLIPTextEncode", text="a ring", clip=["4", 1]),
    "7": node("CLIPTextEncode", text="bad", clip=["4", 1]),
}
SAMPLER = node("KSampler", seed=3, steps=20, cfg=7, sampler_name="euler", scheduler="normal", denoise=1,
               model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0])  # fmt: skip


def with_sampler(**inputs: Any) -> dict[str, Any]:
    return node("KSampler", **SAMPLER["inputs"] | inputs)


def read(**nodes: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    return read_graph(BASE | {"3": SAMPLER} | {name.strip("n"): one for name, one in nodes.items()})


def test_a_sampler_that_is_put_together_of_parts() -> None:
    fields, others = read(
        n3=node("SamplerCustomAdvanced", noise=["20", 0], guider=["21", 0], sampler=["22", 0], sigmas=["23", 0],
                latent_image=["5", 0]),
        n20=node("RandomNoise", noise_seed=219670278747233),
        n21=node("BasicGuider", model=["4", 0], conditioning=["24", 0]),
        n22=node("KSamplerSelect", sampler_name="euler"),
        n23=node("BasicScheduler", scheduler="simple", steps=12, denoise=1.0, model=["4", 0]),
        n24=node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
    )  # fmt: skip
    assert others == []
    assert fields == {
        "prompt": "a ring", "negative_prompt": "", "steps": 12, "cfg_scale": 1.0, "distilled_cfg_scale": 3.5,
        "sampler_name": "euler", "scheduler": "simple", "seed": 219670278747233, "width": 512, "height": 768,
        "batch_size": 1, "rng": "cpu",
    }  # fmt: skip


def test_a_sampler_with_the_steps_in_another_node() -> None:
    fields, others = read(
        n3=node("SamplerCustom", noise_seed=5, cfg=1.5, model=["4", 0], positive=["6", 0], negative=["7", 0],
                sampler=["22", 0], sigmas=["23", 0], latent_image=["5", 0]),
        n22=node("KSamplerSelect", sampler_name="euler_ancestral"),
        n23=node("SDTurboScheduler", steps=2, denoise=1, model=["4", 0]),
    )  # fmt: skip
    assert (fields["seed"], fields["steps"], fields["cfg_scale"], fields["negative_prompt"]) == (5, 2, 1.5, "bad")
    assert others == ["SDTurboScheduler"]


def test_a_loader_of_everything() -> None:
    loader = node("Efficient Loader", ckpt_name="x", clip_skip=-2, lora_name="fur.safetensors", lora_model_strength=0.7,
                  lora_clip_strength=0.5, positive="a ring", negative="bad", empty_latent_width=640,
                  empty_latent_height=448, batch_size=2)  # fmt: skip
    sampler = node("KSampler (Efficient)", **SAMPLER["inputs"] | {
        "model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2], "latent_image": ["1", 3]})  # fmt: skip
    fields, others = read_graph({"1": loader, "2": sampler})
    assert (fields["prompt"], fields["negative_prompt"]) == ("a ring <lora:fur:te=0.5:unet=0.7>", "bad")
    assert (fields["width"], fields["height"], fields["batch_size"], fields["clip_skip"]) == (640, 448, 2, 2)
    assert others == []


@pytest.mark.parametrize(
    ("loras", "tags"),
    [
        (node("LoraLoaderModelOnly", lora_name="fur.safetensors", strength_model=0.8), "<lora:fur:te=0:unet=0.8>"),
        (node("Lora Loader Stack (rgthree)", lora_01="s\\fur.safetensors", strength_01=0.8, lora_02="None",
              strength_02=1), "<lora:fur:te=0.8:unet=0.8>"),
        (node("Power Lora Loader (rgthree)", lora_1={"on": True, "lora": "fur.safetensors", "strength": 0.8},
              lora_2={"on": False, "lora": "no", "strength": 1}), "<lora:fur:te=0.8:unet=0.8>"),
        (node("Power Lora Loader (rgthree)", lora_1={"on": True, "lora": "fur", "strength": 1, "strengthTwo": 0.2},
              lora_2={"on": True, "lora": 7}, lora_3=9), "<lora:fur:te=0.2:unet=1>"),
        (node("CR Apply LoRA Stack", lora_stack=["21", 0]), "<lora:fur:te=0.3:unet=0.8>"),
    ],
)  # fmt: skip
def test_stacks_of_loras_are_tags(loras: dict[str, Any], tags: str) -> None:
    loader = node(loras["class_type"], **loras["inputs"], model=["4", 0], clip=["4", 1])
    stack = node("CR LoRA Stack", switch_1="On", lora_name_1="fur.safetensors", model_weight_1=0.8, clip_weight_1=0.3,
                 switch_2="Off", lora_name_2="no.safetensors", model_weight_2=1, clip_weight_2=1)  # fmt: skip
    fields, others = read(n20=loader, n21=stack, n3=with_sampler(model=["20", 0]))
    assert (fields["prompt"], others) == (f"a ring {tags}", [])


def test_a_node_with_both_sides_hands_on_each() -> None:
    control = node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], image=["9", 0])
    fields, others = read(n20=control, n3=with_sampler(positive=["20", 0], negative=["20", 1]))
    assert (fields["prompt"], fields["negative_prompt"]) == ("a ring", "bad")
    assert others == ["ControlNetApplyAdvanced"]


def test_what_is_zero_says_nothing() -> None:
    fields, _ = read(n20=node("ConditioningZeroOut", conditioning=["6", 0]), n3=with_sampler(negative=["20", 0]))
    assert fields["negative_prompt"] == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (node("StringConcatenate", string_a="a ring", string_b="blue", delimiter=", "), "a ring, blue"),
        (node("ImpactWildcardProcessor", wildcard_text="a {x|y}", populated_text="a x"), "a x"),
        (node("PrimitiveStringMultiline", value="a\nb"), "a\nb"),
    ],
)
def test_words_come_from_other_nodes(text: dict[str, Any], words: str) -> None:
    fields, _ = read(n20=text, n6=node("CLIPTextEncode", text=["20", 0], clip=["4", 1]))
    assert fields["prompt"] == words


def test_what_is_not_read_is_named() -> None:
    advanced = node("KSamplerAdvanced", noise_seed=5, steps=25, cfg=8, sampler_name="euler", scheduler="normal",
                    start_at_step=20, latent_image=["3", 0])  # fmt: skip
    assert read(n11=advanced)[1] == ["KSamplerAdvanced"]
    words = node("CLIPTextEncodeSDXL", text_g="a ring", text_l="photo", clip=["4", 1])
    assert read(n6=words)[1] == ["CLIPTextEncodeSDXL"]
    assert read(n6=node("CLIPTextEncodeSDXL", text_g="a ring", text_l="a ring", clip=["4", 1]))[1] == []


@pytest.mark.parametrize("link", [["99", 0], [], [3], "x", None, {"a": 1}, [["3"], 0]])
def test_parts_that_lead_nowhere(link: Any) -> None:
    parts = dict.fromkeys(("noise", "guider", "sampler", "sigmas"), link)
    fields, _ = read(n3=node("SamplerCustomAdvanced", latent_image=["5", 0], **parts))
    assert (fields["prompt"], fields["width"]) == ("", 512)
