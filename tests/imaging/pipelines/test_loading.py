from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, resolve
from tests.processes import Process

ROOT = Path(__file__).parents[3]
CAT = resolve([Payload("cat", "a cat", steps=2, width=64, height=64, seed=1)], 0)


def changed(source: Path, target: Path, **metadata: str) -> Any:
    """Save `source`'s tensors at `target` after the caller changed them."""

    class Editing:
        def __enter__(self) -> dict[str, torch.Tensor]:
            self.tensors = load_file(source)
            return self.tensors

        def __exit__(self, *_: object) -> None:
            save_file(self.tensors, target, metadata={"format": "pt", **metadata})

    return Editing()


def load(path: Path, config: Path | None, **settings: Any) -> LivePipeline:
    return load_pipeline(path, config=config, device="cpu", **settings)


def test_all_parameters_are_the_files_numbers(pipeline_a: LivePipeline, tiny_a: Path) -> None:
    file = load_file(tiny_a)
    destinations = pipeline_a.destinations()
    assert destinations.keys() == file.keys()
    assert all(torch.equal(destinations[key], tensor.float()) for key, tensor in file.items())


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_writing_into_the_model_never_touches_the_file(
    kind: str, tiny_a: Path, tiny_sd1_config: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{kind}"
    tensors = {key: tensor.float() for key, tensor in load_file(tiny_a).items()}
    if kind == "ckpt":
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    else:
        save_file(tensors, path)
    before = path.read_bytes()
    pipeline = load(path, tiny_sd1_config, dtype="fp32")  # the file's own dtype: nothing needs converting
    again = load(path, tiny_sd1_config, dtype="fp32")
    for destination in pipeline.destinations().values():
        destination.zero_()
    assert path.read_bytes() == before
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in again.destinations().items())


def test_dtypes(tiny_a: Path, tiny_sd1_config: Path) -> None:
    for name, dtype in [("auto", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]:
        pipeline = load(tiny_a, tiny_sd1_config, dtype=name)
        assert {tensor.dtype for tensor in pipeline.destinations().values()} == {dtype}


def test_names_without_text_model_and_flat_vae_attention_are_read(
    pipeline_a: LivePipeline, tiny_a: Path, tiny_sd1_config: Path, tmp_path: Path
) -> None:
    with changed(tiny_a, tmp_path / "nai.safetensors") as tensors:
        for key in list(tensors):
            if ".text_model." in key:
                tensors[key.replace(".text_model.", ".")] = tensors.pop(key)
            elif ".mid.attn_1." in key and tensors[key].dim() == 4:
                tensors[key] = tensors[key][:, :, 0, 0].contiguous()
        tensors["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
        tensors["model_ema.decay"] = torch.tensor(0.5)
    pipeline = load(tmp_path / "nai.safetensors", tiny_sd1_config)
    assert pipeline.draw(CAT)[0].image.tobytes() == pipeline_a.draw(CAT)[0].image.tobytes()
    assert pipeline.destinations()["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (24, 24)


def test_a_missing_tensor_is_named(tiny_a: Path, tiny_sd1_config: Path, tmp_path: Path) -> None:
    with changed(tiny_a, tmp_path / "a.safetensors") as tensors:
        del tensors["model.diffusion_model.out.2.bias"]
    with pytest.raises(CheckpointError, match=r"1 of 1130 tensors are missing, first model.diffusion_model.out.2.bias"):
        load(tmp_path / "a.safetensors", tiny_sd1_config)


@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("first_stage_model.", "has no VAE, .* or vae=FILE"),
        ("cond_stage_model.", "has no text encoder, .* generator.config=FOLDER"),
        ("model.diffusion_model.", "is a VAE alone"),
    ],
)
def test_a_missing_part_is_named(prefix: str, part: str, tiny_a: Path, tiny_sd1_config: Path, tmp_path: Path) -> None:
    with changed(tiny_a, tmp_path / "a.safetensors") as tensors:
        for key in [key for key in tensors if key.startswith(prefix)]:
            del tensors[key]
    with pytest.raises(CheckpointError, match=part):
        load(tmp_path / "a.safetensors", tiny_sd1_config)


def test_a_model_of_unusual_size_needs_its_config(tiny_a: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"shape \(8, 4, 3, 3\), the official config says \(320, 4, 3, 3\).* generator.config="
    ):
        load(tiny_a, None)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        load(tmp_path / "absent.safetensors", None)
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="a web page saved under this name"):
        load(tmp_path / "page.safetensors", None)
    (tmp_path / "page.ckpt").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="a web page saved under this name"):
        load(tmp_path / "page.ckpt", None)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callback": subprocess.Popen}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match=r"carries foreign objects \(.*Popen\)"):
        load(tmp_path / "evil.ckpt", None)


def test_config_trees_that_are_none(tiny_a: Path, tiny_sd1_config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file, which every diffusers folder has"):
        load(tiny_a, tmp_path)
    shutil.copytree(tiny_sd1_config, tmp_path / "tree")
    (tmp_path / "tree" / "vae" / "config.json").write_text("{,}")
    with pytest.raises(ConfigError, match="not JSON"):
        load(tiny_a, tmp_path / "tree")


def test_the_files_marks_say_what_the_model_predicts(tiny_a: Path, tiny_sd1_config: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    with changed(tiny_a, path) as tensors:
        tensors["v_pred"] = tensors["ztsnr"] = torch.zeros(0)
        tensors["ztsnr"] = torch.zeros(0)
    pipeline = load(path, tiny_sd1_config)
    assert (pipeline.prediction_type, pipeline.zero_snr) == ("v_prediction", True)
    assert pipeline.draw(CAT)
    with pytest.raises(ConfigError, match=r"payload cat: .*'LCM' cannot draw a model with zero terminal SNR"):
        pipeline.check([Payload("cat", "a cat", sampler_name="LCM")])
    assert load(path, tiny_sd1_config, prediction_type="epsilon").prediction_type == "epsilon"
    with changed(tiny_a, path, **{"modelspec.prediction_type": "v"}):
        pass
    assert load(path, tiny_sd1_config).prediction_type == "v_prediction"
    with changed(tiny_a, path) as tensors:
        tensors["edm_vpred.sigma_max"] = torch.tensor(80.0)
    with pytest.raises(CheckpointError, match=r"edm_vpred.sigma_max"):
        load(path, tiny_sd1_config)


def test_a_prediction_type_that_is_given_counts(tiny_a: Path, tiny_sd1_config: Path) -> None:
    assert load(tiny_a, tiny_sd1_config).prediction_type == "epsilon"
    assert load(tiny_a, tiny_sd1_config, prediction_type="v_prediction").draw(CAT)


def test_a_config_trees_scheduler_says_what_an_unmarked_model_predicts(
    tiny_a: Path, tiny_sd1_config: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_sd1_config, tmp_path / "tree")
    file = tmp_path / "tree" / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("epsilon", "v_prediction"))
    assert load(tiny_a, tmp_path / "tree").prediction_type == "v_prediction"
    assert load(tiny_a, tmp_path / "tree", prediction_type="epsilon").prediction_type == "epsilon"
    file.write_text(file.read_text().replace("v_prediction", "sample"))
    with pytest.raises(ConfigError, match="prediction_type 'sample' is not one of"):
        load(tiny_a, tmp_path / "tree")


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_loading_and_drawing_open_no_socket_and_write_nothing_to_the_terminal(
    tiny_a: Path, tiny_sd1_config: Path, fresh: bool
) -> None:
    code = f"""
import socket
def refuse(*_, **__): raise RuntimeError("network!")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from bayes_merger.imaging import Payload, load_pipeline, resolve
pipeline = load_pipeline({str(tiny_a)!r}, config={str(tiny_sd1_config)!r}, device="cpu")
payloads = resolve([Payload("cat", "a cat " * 90, steps=2, width=64, height=64)], 0)
print(len(pipeline.draw(payloads)))
"""
    if fresh:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
        said, errors = done.stdout, done.stderr
    else:
        with Process(exec, code, {}) as process:
            said, errors = process.communicate()
    assert (said.strip(), errors) == ("1", "")


def test_our_config_tree_is_a_diffusers_folder() -> None:
    tree = ROOT / "bayes_merger" / "checkpoints" / "configs" / "sd15"
    index = json.loads((tree / "model_index.json").read_text())
    for part in ("unet", "vae", "text_encoder"):
        assert index[part][1] in ("UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel")
        assert json.loads((tree / part / "config.json").read_text())
