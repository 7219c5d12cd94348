"""Pictures and files of A1111, Forge, ComfyUI and Civitai become payloads; hostile ones become one line."""

from __future__ import annotations

import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import payload_from_mapping
from bayes_merger.imaging.payload.imports import Imported, import_file

A1111 = (
    "a ring, [red:blue:0.5] é\nwith a second line\nNegative prompt: blurry\nSteps: 12, Sampler: DPM++ 2M, Schedule type: "
    'Karras, CFG scale: 6.5, Seed: 42, Size: 512x768, Model hash: 6ce0161689, Model: v1-5, Clip skip: 2, Lora hashes: "fur: '
    'e3f9", ADetailer model: face.pt, Version: v1.10.1'
)
FORGE = (
    "a ring <lora:fur:0.6>\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, "
    "Seed: 9, Size: 896x1152, Model: flux, Module 1: ae, Version: f2.0.1v1.10.1, Diffusion in Low Bits: Automatic"
)
CIVITAI = (
    "a ring\nNegative prompt: blurry\nSteps: 25, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 5, Size: 832x1216, Clip skip: "
    '2, Created Date: 2024-12-22T01:01:01.02Z, Civitai resources: [{"type":"checkpoint","modelName":"A, B [x]"},'
    '{"type":"lora","weight":0.7}], Civitai metadata: {"remixOfId": 3}'
)
COMFY: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 11, "steps": 15, "cfg": 5.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1,
        "model": ["8", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 448, "batch_size": 2}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["12", 0], "clip": ["9", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["9", 0]}},
    "8": {"class_type": "LoraLoader", "inputs": {
        "lora_name": "sub\\fur.safetensors", "strength_model": 0.8, "strength_clip": 0.5, "model": ["4", 0],
        "clip": ["4", 1]}},
    "9": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["8", 1]}},
    "10": {"class_type": "LatentUpscaleBy", "inputs": {
        "upscale_method": "bilinear", "scale_by": 1.5, "samples": ["3", 0]}},
    "11": {"class_type": "KSampler", "inputs": {
        "seed": 11, "steps": 9, "cfg": 5.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.6,
        "model": ["8", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["10", 0]}},
    "12": {"class_type": "PrimitiveString", "inputs": {"value": "a [ring], embedding:style"}},
    "13": {"class_type": "FaceDetailer", "inputs": {}},
}  # fmt: skip
COMFY_FIELDS = {
    "prompt": r"a \[ring\], style <lora:fur:te=0.5:unet=0.8>", "negative_prompt": "blurry", "steps": 15,
    "cfg_scale": 5.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "seed": 11, "width": 640, "height": 448,
    "batch_size": 2, "clip_skip": 2, "rng": "cpu", "enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5,
    "denoising_strength": 0.6, "hr_second_pass_steps": 9, "hr_sampler_name": "euler", "hr_scheduler": "normal",
    "hr_cfg": 5.5,
}  # fmt: skip


def png(path: Path, *, packed: bool = False, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text, zip=packed)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def with_exif(path: Path, tags: dict[int, Any], comment: bytes = b"") -> Path:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    if comment:
        exif.get_ifd(0x8769)[0x9286] = comment
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    return path


def only(path: Path) -> Imported:
    (found,) = import_file(path)
    return found


def refusal(path: Path) -> str:
    """Why a file cannot be imported; empty where it can."""
    try:
        import_file(path)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["png", "packed", "jpg", "webp", "little", "txt"])
def test_parameters_are_read_from_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    if kind in ("png", "packed"):
        path = png(tmp_path / "my ring.png", packed=kind == "packed", parameters=A1111)
    elif kind == "txt":
        path = tmp_path / "my ring.txt"
        path.write_text(A1111, "utf-8")
    else:
        order = "utf-16-le" if kind == "little" else "utf-16-be"
        suffix = "jpg" if kind == "little" else kind
        path = with_exif(tmp_path / f"my ring.{suffix}", {}, b"UNICODE\0" + A1111.encode(order))
    found = only(path)
    assert found.name == "my_ring"
    assert found.notes == ["left out: ADetailer model"]
    assert found.fields == {
        "prompt": "a ring, [red:blue:0.5] é\nwith a second line", "negative_prompt": "blurry", "rng": "nv", "steps": 12,
        "sampler_name": "DPM++ 2M", "scheduler": "Karras", "cfg_scale": 6.5, "seed": 42, "width": 512, "height": 768,
        "clip_skip": 2,
    }  # fmt: skip


def test_forges_and_civitais_parameters_are_read(tmp_path: Path) -> None:
    forge = only(png(tmp_path / "forge.png", parameters=FORGE))
    assert (forge.fields["cfg_scale"], forge.fields["distilled_cfg_scale"]) == (1.0, 3.5)
    assert (forge.fields["scheduler"], forge.notes) == ("Simple", [])
    assert payload_from_mapping("p", forge.fields).prompt == "a ring <lora:fur:0.6>"
    civitai = only(with_exif(tmp_path / "civitai.jpeg", {}, b"UNICODE\0" + CIVITAI.encode("utf-16-be")))
    assert civitai.notes == []
    assert (civitai.fields["sampler_name"], civitai.fields["clip_skip"]) == ("DPM++ 2M Karras", 2)


def test_comfyuis_graph_is_read_from_pictures_and_json(tmp_path: Path) -> None:
    graph = json.dumps(COMFY)
    (tmp_path / "api.json").write_text(json.dumps({"prompt": COMFY, "client_id": "x"}))
    for path in (
        png(tmp_path / "a.png", prompt=graph, workflow='{"nodes": []}'),
        with_exif(tmp_path / "b.webp", {0x0110: f"prompt:{graph}", 0x010F: "workflow:{}"}),
        tmp_path / "api.json",
    ):
        found = only(path)
        assert found.fields == COMFY_FIELDS
        assert found.notes == ["left out: what the node FaceDetailer does"]
    payload = payload_from_mapping("p", COMFY_FIELDS)
    assert payload.hires is not None
    assert (payload.hires.width, payload.hires.sampler_name, payload.hires.scheduler) == (960, "Euler", "Uniform")


def test_what_cannot_be_drawn_is_replaced_or_left_out_and_said(tmp_path: Path) -> None:
    text = (
        "a ring\nSteps: 20, Sampler: DPM fast, Seed: 1, Size: 500x512, Denoising strength: 0.4, Hires upscale: 2, "
        "Hires upscaler: 4x-UltraSharp, Eta: 0.5"
    )
    found = only(png(tmp_path / "x.png", parameters=text))
    assert found.fields == {
        "prompt": "a ring", "negative_prompt": "", "rng": "nv", "steps": 20, "sampler_name": "DPM++ 2M", "seed": 1,
        "width": 496, "height": 512,
    }  # fmt: skip
    assert [note.split(":")[0] for note in found.notes] == ["sampler_name", "left out", "left out"]
    assert "4x-UltraSharp" in "".join(found.notes)
    assert "eta is not supported" in "".join(found.notes)


def test_a_request_of_the_api_is_read(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(
        json.dumps({"prompt": "a", "steps": 9, "sampler_index": "k_euler_a", "override_settings": {}, "mine": 1})
    )
    found = only(tmp_path / "request.json")
    assert found.fields == {"prompt": "a", "steps": 9, "sampler_index": "k_euler_a", "override_settings": {}}
    assert found.notes == ["left out: mine"]


def test_a_picture_made_from_another_one_is_said(tmp_path: Path) -> None:
    found = only(png(tmp_path / "x.png", parameters="a\nSteps: 20, Sampler: Euler, Seed: 1, Denoising strength: 0.4"))
    assert [note.partition(";")[0] for note in found.notes] == ["left out: Denoising strength"]
    found = only(png(tmp_path / "x.png", parameters="a\nSteps: 20, Sampler: Euler, Seed: 1, Denoising strength: 0"))
    assert found.notes == []


def test_an_editor_s_workflow_that_is_not_understood_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"nodes": [{"id": 3, "type": "workflow>mine"}], "links": []}')
    assert refusal(tmp_path / "x.json").endswith("node 'workflow>mine'; save it by Workflow > Export (API)")
    damaged = png(tmp_path / "x.png", workflow='{"nodes": [7]}')
    assert refusal(damaged).endswith("is a damaged workflow of ComfyUI's editor; save it by Workflow > Export (API)")


def test_invokeais_first_pictures_are_read(tmp_path: Path) -> None:
    table = json.dumps({"image": {"prompt": [{"prompt": "a ring", "weight": 1}], "steps": 9}})
    texts: dict[str, Any] = {"sd-metadata": table}
    assert only(png(tmp_path / "x.png", **texts)).fields == {"prompt": "a ring", "steps": 9}
    fields = only(png(tmp_path / "x.png", Dream='"a ring" -s 9 -S 7')).fields
    assert fields == {"prompt": "a ring", "steps": "9", "seed": "7"}


def test_several_prompts_in_one_text(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("a ring, (red:1.2)\n\n# not this\na disc: [blue]\n")
    assert [(one.name, one.fields) for one in import_file(tmp_path / "many.txt")] == [
        ("many-1", {"prompt": "a ring, (red:1.2)"}),
        ("many-2", {"prompt": "a disc: [blue]"}),
    ]
    (tmp_path / "two.txt").write_text(f"{FORGE}\n\n{CIVITAI}\n")
    assert [one.fields["seed"] for one in import_file(tmp_path / "two.txt")] == [9, 5]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no PNG, JPEG or WebP"),
        (b"GIF89a", "is no PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n", "holds no parameters"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * (5 << 20))), "more than 4 MiB"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"zTXt", b"parameters\0\0junk"), "is a damaged picture"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"x\0y") * 101, "more than 100 texts"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"prompt\0" + b"[" * 90_000), "holds no parameters"),
        (b"\xff\xd8\xff\xe1\x00\x0cExif\0\0II*\0", "is a damaged picture"),
        (b"RIFF\0\0\0\0WEBPEXIF\xff\xff\xff\xffMM\0*\0\0\xff\xff", "is a damaged picture"),
    ],
)
def test_hostile_pictures_are_one_line(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=words) as caught:
        import_file(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_pictures_with_random_damage_never_raise_anything_else(tmp_path: Path) -> None:
    sources = [
        png(tmp_path / "a.png", packed=True, parameters=A1111, prompt=json.dumps(COMFY)),
        with_exif(
            tmp_path / "b.jpg", {0x0110: f"prompt:{json.dumps(COMFY)}"}, b"UNICODE\0" + A1111.encode("utf-16-be")
        ),
        with_exif(tmp_path / "c.webp", {}, b"ASCII\0\0\0" + CIVITAI.encode()),
    ]
    draw, path = random.Random(0), tmp_path / "x.png"
    for source in sources:
        whole = source.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(draw.randint(1, 6)):
                damaged[draw.randrange(min(len(damaged), 400))] = draw.randrange(256)
            path.write_bytes(damaged[: draw.randint(1, len(damaged))] if draw.random() < 0.3 else damaged)
            assert "\n" not in refusal(path)


@pytest.mark.parametrize(
    "damage",
    [
        {"3": {"class_type": "KSampler", "inputs": {"latent_image": ["3", 0]}}},
        {"3": {"class_type": "KSampler", "inputs": []}},
        {"5": {"class_type": "EmptyLatentImage", "inputs": {"width": {"x": 1}, "height": [["5", 0], 0]}}},
        {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["6", 0], "clip": ["6", 0]}}},
        {"8": {"class_type": "LoraLoader", "inputs": {"lora_name": "", "model": ["8", 0], "strength_model": "x"}}},
        {"10": {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["10", 0], "scale_by": None}}},
        {"11": "text"},
    ],
)
def test_odd_graphs_are_read_or_refused(damage: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(COMFY | damage))
    refused = refusal(tmp_path / "x.json")
    assert "\n" not in refused
    if not refused:
        payload_from_mapping("p", only(tmp_path / "x.json").fields)


OTHERS: dict[str, dict[str, Any]] = {
    "InvokeAI": {"positive_prompt": "a ring", "negative_prompt": "blurry", "width": 512, "height": 768, "seed": 3,
                 "cfg_scale": 7.5, "steps": 30, "scheduler": "euler_a", "generation_mode": "txt2img"},
    "SwarmUI": {"sui_image_params": {"prompt": "a ring", "negativeprompt": "blurry", "width": 512, "height": 768,
                                     "seed": 3, "cfgscale": 7.5, "steps": 30, "sampler": "euler_ancestral"}},
    "Fooocus": {"prompt": "a ring", "negative_prompt": "blurry", "resolution": "(512, 768)", "seed": "3",
                "guidance_scale": 7.5, "steps": 30, "sampler": "euler_ancestral", "performance": "Speed"},
    "NovelAI": {"prompt": "a ring", "uc": "blurry", "width": 512, "height": 768, "seed": 3, "scale": 7.5, "steps": 30,
                "sampler": "k_euler_ancestral"},
    "Easy Diffusion": {"prompt": "a ring", "negative_prompt": "blurry", "width": 512, "height": 768, "seed": 3,
                       "guidance_scale": 7.5, "num_inference_steps": 30, "sampler_name": "euler_a"},
    "Draw Things": {"c": "a ring", "uc": "blurry", "size": "512x768", "seed": 3, "scale": 7.5, "steps": 30,
                    "sampler": "Euler A"},
    "Civitai": {"meta": {"prompt": "a ring", "negativePrompt": "blurry", "Size": "512x768", "seed": 3, "cfgScale": 7.5,
                         "steps": 30, "sampler": "Euler a"}},
}  # fmt: skip


@pytest.mark.parametrize("program", OTHERS)
def test_what_other_programs_write_is_read(program: str, tmp_path: Path) -> None:
    keyword = {"InvokeAI": "invokeai_metadata", "NovelAI": "Comment"}.get(program, "parameters")
    (tmp_path / "ring.json").write_text(json.dumps(OTHERS[program]))
    texts: dict[str, Any] = {keyword: json.dumps(OTHERS[program])}
    for path in (tmp_path / "ring.json", png(tmp_path / "ring.png", **texts)):
        payload = payload_from_mapping("p", only(path).fields)
        assert (payload.prompt, payload.negative_prompt, payload.sampler_name) == ("a ring", "blurry", "Euler a")
        assert (payload.width, payload.height, payload.seed) == (512, 768, 3)
        assert (payload.steps, payload.cfg_scale) == (30, 7.5)


def test_a_list_of_requests_is_several_payloads(tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text('[{"prompt": "a"}, {"prompt": "b", "steps": "9"}]')
    assert [(one.name, one.fields) for one in import_file(tmp_path / "two.json")] == [
        ("two-1", {"prompt": "a"}),
        ("two-2", {"prompt": "b", "steps": "9"}),
    ]


@pytest.mark.parametrize("kind", ["tEXt", "zTXt"])
def test_utf_8_is_read_where_the_standard_wants_latin_1(kind: str, tmp_path: Path) -> None:
    text = "a ring, é 😀\nSteps: 12, Sampler: Euler".encode()
    data = kind.encode() + b"Parameters\0" + (b"\0" + zlib.compress(text) if kind == "zTXt" else text)
    whole = png(tmp_path / "ring.png").read_bytes()
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "ring.png").write_bytes(whole[:33] + chunk + whole[33:])
    assert only(tmp_path / "ring.png").fields["prompt"] == "a ring, é 😀"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("words", ["a ring, é 😀", "赤い輪"])
def test_a_comment_is_read_in_whatever_encoding_it_is(encoding: str, words: str, tmp_path: Path) -> None:
    text = f"{words}\nSteps: 12, Sampler: Euler"
    path = with_exif(tmp_path / "ring.jfif", {}, b"UNICODE\0" + text.encode(encoding))
    assert only(path).fields["prompt"] == words


def test_a_hash_in_the_words_of_a_picture_was_drawn(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a #1 ring\nSteps: 4, Sampler: Euler, CFG scale: 4, Seed: 1, Size: 64x64")
    one = import_file(tmp_path / "x.txt")[0]
    assert payload_from_mapping("x", one.fields).prompt == "a #1 ring"
