"""``payload``: from a web UI's picture to pictures of one's own, and what is wrong with a payload."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bayes_merger.cli import main
from tests.command_line import refused

TEXT = (
    "a [red:blue:0.5] ring\nNegative prompt: blurry\nSteps: 2, Sampler: Euler a, Schedule type: Automatic, CFG scale: 4.0, "
    "Seed: 7, Size: 64x64, ADetailer model: face.pt, RNG: CPU"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    info = PngInfo()
    info.add_text("parameters", TEXT)
    Image.new("RGB", (8, 8)).save("ring.png", pnginfo=info)
    return tmp_path


def imported(capsys: pytest.CaptureFixture[str], *files: str) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["payload", "import", *files]) == 0
    said = capsys.readouterr()
    return said.out, said.err


@pytest.mark.slow
def test_a_web_uis_picture_is_drawn_with_ones_own_model(
    here: Path, tiny_a: Path, tiny_sd1_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = imported(capsys, "ring.png", "ring.png")
    assert err == "note: ring: left out: ADetailer model\nnote: ring_2: left out: ADetailer model\n"
    assert list(yaml.safe_load(out)) == ["ring", "ring_2"]
    (here / "payloads").mkdir()
    (here / "payloads" / "mine.yaml").write_text(out)
    assert main(["payload", "check", "payloads=[mine]", "payloads.ring.batch_size=3"]) == 0
    assert capsys.readouterr().out == (
        "ring: 3 pictures of 64x64, 2 steps of Euler a Uniform, seed 7\n  a [red:blue:0.5] ring\n"
        "ring_2: 1 picture of 64x64, 2 steps of Euler a Uniform, seed 7\n  a [red:blue:0.5] ring\n"
    )
    draw = ["payload", "draw", str(tiny_a), "payloads=[mine]", f"generator.config={tiny_sd1_config}", "out=new/drawn"]
    for _ in range(2):
        assert main(draw) == 0
    said = capsys.readouterr()
    names = ["ring-0.png", "ring_2-0.png", "ring-0-1.png", "ring_2-0-1.png"]
    assert said.out.split() == [f"new/drawn/{name}" for name in names]
    assert said.err.startswith("2 pictures in ")
    pictures = [Image.open(here / "new" / "drawn" / name) for name in names]
    assert len({picture.tobytes() for picture in pictures}) == 1
    assert (
        pictures[0].info["parameters"].startswith("a [red:blue:0.5] ring\nNegative prompt: blurry\nSteps: 2, Sampler: ")
    )


@pytest.mark.slow
def test_files_of_every_web_ui_are_imported_together_and_drawn(
    here: Path, tiny_a: Path, tiny_sd1_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    sampling = {"seed": 7, "steps": 2, "cfg": 4, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    graph = {
        "3": {"class_type": "KSampler", "inputs": sampling | node},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red ring", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    }
    info = PngInfo()
    info.add_text("prompt", json.dumps(graph))
    Image.new("RGB", (8, 8)).save("comfyui.png", pnginfo=info)
    plain = "a red ring\nNegative prompt: blurry\nSteps: 2, Sampler: Euler, {}CFG scale: 4, Seed: 7, Size: 64x64, {}"
    for name, text in (
        ("forge.jpg", plain.format("Schedule type: Uniform, ", "Model: x, RNG: CPU, Version: f2.0.1v1.10.1")),
        ("civitai.webp", plain.format("", "Created Date: 2024-12-22T01:01:01.02Z, Civitai metadata: {}")),
    ):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
        Image.new("RGB", (8, 8)).save(name, exif=exif)
    asked = {"prompt": "a red ring", "negative_prompt": "blurry", "steps": 2, "cfg_scale": 4, "seed": 7, "width": 64}
    settings = {"height": 64, "sampler_index": "k_euler", "styles": [], "override_settings": {"randn_source": "CPU"}}
    Path("request.json").write_text(json.dumps(asked | settings))
    out, _ = imported(capsys, "ring.png", "forge.jpg", "civitai.webp", "comfyui.png", "request.json")
    (here / "payloads").mkdir()
    (here / "payloads" / "mine.yaml").write_text(out)
    generator = [f"generator.config={tiny_sd1_config}", "generator.max_batch=1"]  # in a batch last bits differ by place
    assert main(["payload", "draw", str(tiny_a), "payloads=mine", *generator, "out=drawn"]) == 0
    drawn = {file.stem: Image.open(file).tobytes() for file in (here / "drawn").iterdir()}
    assert sorted(drawn) == ["civitai-0", "comfyui-0", "forge-0", "request-0", "ring-0"]
    assert drawn["forge-0"] == drawn["comfyui-0"] == drawn["request-0"]  # the same words, steps and noise of the CPU
    assert len(set(drawn.values())) == 3  # Civitai's picture has NVIDIA's noise


def test_what_is_wrong_is_one_line(here: Path, tiny_a: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "payloads").mkdir()
    (here / "payloads" / "bad.yaml").write_text("prompt: a <lora:fur:1>\nwidth: 64\nheight: 64\n")
    (here / "payloads" / "worse.yaml").write_text("prompt: a AND b\n")
    (here / "empty.txt").write_text("")
    (here / "odd.json").write_text('{"a": 1}')
    (here / "plain.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for arguments, words in (
        (["impart"], "no 'impart'; did you mean import"),
        (["check", "payloads=[worse]"], "AND (composable diffusion)"),
        (["check", "payloads=[none]"], "no 'none'"),
        (["check", "bad"], "'bad' is no setting"),
        (["check", "payloads=[bad]", "images_per_prompt=2"], "images_per_prompt: is about the trials of a run"),
        (["check", "payloads=[bad]", "images_budget=20"], "images_budget: is about the trials of a run"),
        (["draw", "payloads=[bad]"], "takes the model"),
        (["draw", str(tiny_a), "payloads=[bad]"], "<lora:fur:...>: no folder of LoRAs is given; set  loras=FOLDER"),
        (["draw", str(tiny_a), "payloads=[bad]", "out=odd.json"], "odd.json is no folder"),
        (["draw", "nothing.safetensors", "payloads=[bad]"], "there is no such file"),
        (["draw", "x.safetensors", "payloads=[bad]", "vae=y.safetensors"], "vae: is about a merge, and here one model"),
        (["draw", "x.safetensors", "model_a=y.safetensors"], "model_a: is about a merge, and here one model draws as"),
        (["import"], "the following arguments are required"),
        (["import", "nothing.png"], "nothing.png: cannot be read (No such file or directory)"),
        (["import", "plain.png"], "plain.png: holds no parameters of a web UI"),
        (["import", "odd.json"], "odd.json: is neither a request"),
        (["import", "empty.txt"], "empty.txt: holds no prompt"),
    ):
        assert words in refused(capsys, "payload", *arguments)


def test_help_tells_all_three(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["payload"], ["payload", "--help"]):
        assert main(arguments) == 0
        assert "payload import" in capsys.readouterr().out


def test_the_readme_s_own_payload_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml payloads/mine.yaml\n(.*?)```", readme, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("payloads").mkdir()
    Path("payloads/mine.yaml").write_text(text, encoding="utf-8")
    assert main(["payload", "check", "payloads=mine"]) == 0
    assert "mine: 2 pictures of 512x512, 20 steps" in capsys.readouterr().out
