"""Quantised files: scaled fp8 is read as the numbers that it means, in every room; everything else is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.cli import main
from bayes_merger.errors import CheckpointError
from tests.command_line import refused
from tests.folders import write_file, write_folder
from tests.merging.tiny_models import FIRST, TEXT, UNET, VAE, tensors_of, write_model

MATRIX = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LAYER = MATRIX.removesuffix(".weight")
E4M3 = torch.float8_e4m3fn


def scaled(tensor: Tensor, *, by_rows: bool = False, dtype: torch.dtype = E4M3) -> tuple[Tensor, Tensor]:
    """The codes and the factor, which is far from 1."""
    largest = tensor.float().abs()
    factor = (largest.amax(1, keepdim=True) if by_rows else largest.max()) / 400
    return (tensor.float() / factor).to(dtype), factor


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("dtype", [E4M3, torch.float8_e5m2])
@pytest.mark.parametrize("form", ["number", "vector of one", "rows", "column"])
def test_scaled_fp8_is_number_times_factor(name: str, dtype: torch.dtype, form: str, tmp_path: Path) -> None:
    codes, factor = scaled(tensors_of(1)[MATRIX], by_rows=form in ("rows", "column"), dtype=dtype)
    shape = {"number": (), "vector of one": (1,), "rows": (6,), "column": (6, 1)}[form]
    change = {
        MATRIX: codes,
        f"{LAYER}.{name}": factor.reshape(shape),
        f"{LAYER}.scale_input": torch.ones(()),
        f"{LAYER}.input_scale": torch.ones(()),
        f"{LAYER}.comfy_quant": torch.zeros(20, dtype=torch.uint8),
        f"{UNET}scaled_fp8": torch.zeros(0, dtype=dtype),
    }
    with open_checkpoint(write_model(tmp_path / "m.safetensors", 1, change=change)) as model:
        assert model.architecture.name == "sd1"
        assert (change.keys() & model.shapes.keys()) == {MATRIX}
        assert (model.dtypes[MATRIX], model.stored[MATRIX], model.computed) == (
            "F32",
            "F8_E5M2" if dtype != E4M3 else "F8_E4M3",
            True,
        )
        assert torch.equal(model.tensor(MATRIX), codes.float() * factor)
        assert torch.equal(model.tensor(FIRST), tensors_of(1)[FIRST])
        assert not model.has_parts  # fmt: skip


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_matrix_of_one_row_has_one_factor(shape: tuple[int, ...], tmp_path: Path) -> None:
    name = f"{UNET}own.weight"
    change = {name: torch.tensor([[1.0, 2.0]]).to(E4M3), f"{UNET}own.scale_weight": torch.full(shape, 3.0)}
    save_file(change, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as model:
        assert model.tensor(name).tolist() == [[3.0, 6.0]]


def test_a_marker_alone_changes_nothing_but_is_gone(tmp_path: Path) -> None:
    codes = tensors_of(1)[MATRIX].to(E4M3)
    change = {MATRIX: codes, f"{UNET}scaled_fp8": torch.zeros(2, dtype=E4M3)}
    with open_checkpoint(write_model(tmp_path / "m.safetensors", 1, change=change)) as model:
        assert f"{UNET}scaled_fp8" not in model.shapes
        assert torch.equal(model.tensor(MATRIX).float(), codes.float())
        assert not model.computed


def of_fp8(tensors: Mapping[str, Tensor], name: str = "weight_scale") -> dict[str, Tensor]:
    """Every matrix in scaled fp8."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found[key] = tensor.clone()
        if tensor.dim() == 2 and key.endswith(".weight") and "embed" not in key:
            found[key], found[key.removesuffix("weight") + name] = scaled(tensor)
    return found


@pytest.mark.parametrize("room", ["a", "b", "c", "vae", "base of a LoRA"])
def test_wherever_a_model_stands_its_factors_count(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vae = "first_stage_model.decoder.mid.attn_1.q.weight"
    for seed, name in enumerate("abc", start=1):
        write_model(Path(f"{name}.safetensors"), seed, torch.float32, change={vae: torch.randn(4, 4)})
    lora = {f"{LAYER.replace(UNET, 'diffusion_model.')}.{end}": torch.ones(s) for end, s in (("lora_A.weight", (1, 7)), ("lora_B.weight", (6, 1)))}  # fmt: skip
    save_file(lora, "lora.safetensors")
    changed = {"vae": "v", "base of a LoRA": "a"}.get(room, room)
    save_file(of_fp8(load_file("a.safetensors" if changed == "v" else f"{changed}.safetensors")), "fp8.safetensors")
    meant = {key: open_checkpoint("fp8.safetensors").tensor(key).clone() for key in (MATRIX, TEXT, vae)}
    save_file(load_file("a.safetensors" if changed == "v" else f"{changed}.safetensors") | meant, "meant.safetensors")

    def merged(given: str) -> dict[str, Tensor]:
        names = {name: f"{name}.safetensors" for name in "abc"} | {changed: given}
        words = ["dtype=fp32", f"model_a={names['a']}"]
        if room == "base of a LoRA":
            words += ["model_b=lora.safetensors", "alpha=0.5"]
        elif room == "c":
            words += [f"model_{name}={names[name]}" for name in "bc"] + ["method=add_difference", "alpha=1"]
        else:
            words += [f"model_b={names['b']}", "alpha=0.5", *([f"vae={given}"] if room == "vae" else [])]
        assert main(["merge", *words, "--out", "out.safetensors", "--overwrite"]) == 0
        return load_file("out.safetensors")

    found, wanted = merged("fp8.safetensors"), merged("meant.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(tensor, wanted[key], atol=1e-6) for key, tensor in found.items())


def test_parts_of_a_folder_may_be_scaled(tmp_path: Path) -> None:
    folder, file = write_folder(tmp_path / "f", "flux"), write_file(tmp_path / "f.safetensors", "flux")
    for part in ("transformer", "text_encoder_2"):
        weights = next((folder / part).glob("*.safetensors"))
        save_file(of_fp8(load_file(weights)), weights)
    with open_checkpoint(folder) as ours, open_checkpoint(file) as theirs:
        assert ours.shapes.keys() == theirs.shapes.keys()
        for key in ours.shapes:
            assert torch.allclose(ours.tensor(key).float(), theirs.tensor(key), rtol=0.07, atol=0.01), key


def test_model_a_in_scaled_fp8_needs_a_dtype_and_is_told_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("b.safetensors"), 2)
    save_file({key: t.to(E4M3) for key, t in tensors_of(1).items()}, "a.safetensors")
    pair = ["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5"]
    out = ["--out", "out.safetensors"]
    assert "is in F8_E4M3; give one of fp16, bf16, fp32, fp8_e4m3fn" in refused(capsys, *pair, *out)
    assert main([*pair, "dtype=fp8_e4m3fn", *out]) == 0
    assert load_file("out.safetensors")[MATRIX].dtype == E4M3


U8 = torch.zeros(6, 4, dtype=torch.uint8)
QUANTISED: dict[str, dict[str, Tensor | None]] = {
    "bitsandbytes' nf4": {
        MATRIX: U8, f"{MATRIX}.absmax": torch.ones(6), f"{MATRIX}.quant_map": torch.ones(16),
        f"{MATRIX}.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
    },
    "bitsandbytes' int8": {MATRIX: U8.to(torch.int8), f"{LAYER}.SCB": torch.ones(6)},
    "integers \\(I8\\) with factors": {MATRIX: U8.to(torch.int8), f"{LAYER}.weight_scale": torch.ones(6, 1)},
    "integers \\(U8\\)": {MATRIX: U8},
    "integers \\(I8\\)": {MATRIX: U8.to(torch.int8)},
    "SVDQuant": {MATRIX: None, f"{LAYER}.qweight": U8, f"{LAYER}.wscales": torch.ones(6)},
    "GPTQ or AWQ": {MATRIX: None, f"{LAYER}.qweight": U8.to(torch.int32), f"{LAYER}.qzeros": U8.to(torch.int32)},
    "quanto": {MATRIX: None, f"{MATRIX}._data": torch.zeros(6, 7).to(E4M3), f"{MATRIX}._scale": torch.ones(6, 1)},
    "nvfp4": {MATRIX: U8, f"{LAYER}.weight_scale": torch.ones(6, 1).to(E4M3), f"{LAYER}.weight_scale_2": torch.ones(())},
    "fp8 in blocks": {MATRIX: torch.zeros(6, 7).to(E4M3), f"{LAYER}.weight_scale_inv": torch.ones(1, 1)},
    "factors of F32\\[2, 2\\]": {MATRIX: torch.zeros(6, 7).to(E4M3), f"{LAYER}.weight_scale": torch.ones(2, 2)},
    "fp8 with factors of an unknown kind": {MATRIX: torch.zeros(6, 7).to(E4M3), f"{LAYER}.scale": torch.ones(6, 1)},
    "factors of F32\\[1, 7\\]": {MATRIX: torch.zeros(6, 7).to(E4M3), f"{LAYER}.weight_scale": torch.ones(1, 7)},
    "factors of F32\\[1, 6\\]": {MATRIX: torch.zeros(6, 6).to(E4M3), f"{LAYER}.weight_scale": torch.ones(1, 6)},
    "fp8 with two factors": {
        MATRIX: torch.zeros(6, 7).to(E4M3), f"{LAYER}.scale_weight": torch.ones(1), f"{LAYER}.weight_scale": torch.ones(1)
    },
    **{
        f"unknown kind \\('{re.escape(name)}": {MATRIX: torch.zeros(6, 7).to(E4M3), name: torch.ones(1)}
        for name in (f"{MATRIX}.scale", f"{MATRIX}._scale", f"{LAYER}._scale", f"{LAYER}.scales", f"{LAYER}.dequant_scale")
    },
    "integers \\(I32\\)": {MATRIX: U8.to(torch.int32), f"{LAYER}.scales": torch.ones(6, 1), f"{LAYER}.biases": torch.ones(6, 1)},
    "DFloat11": {MATRIX: None, f"{LAYER}.encoded_exponent": U8},
    "HQQ": {MATRIX: None, f"{LAYER}.W_q": U8},
    "ModelOpt": {f"{LAYER}.weight_quantizer._amax": torch.ones(())},
}  # fmt: skip


@pytest.mark.parametrize("title", QUANTISED)
def test_other_quantised_files_are_refused_by_name(title: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.safetensors", 1, change=QUANTISED[title])
    with pytest.raises(
        CheckpointError, match=f"m.safetensors: quantised as .*{title}.*, which is not read; give"
    ) as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("room", ["model_a", "model_b", "model_c", "vae"])
def test_they_are_refused_wherever_they_stand(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("ok.safetensors"), 1)
    write_model(Path("nf4.safetensors"), 2, change=QUANTISED["bitsandbytes' nf4"])
    Path("model.gguf").write_bytes(b"GGUF" + bytes(200))
    for bad, words in (
        ("nf4.safetensors", "quantised as bitsandbytes' nf4"),
        ("model.gguf", "a quantised model in GGUF"),
    ):
        given = {"model_a": "ok.safetensors", "model_b": "ok.safetensors", "model_c": "ok.safetensors", room: bad}
        words_of = [f"{name}={file}" for name, file in given.items()]
        said = refused(capsys, "merge", *words_of, "method=add_difference", "alpha=1", "--out", "out.safetensors")
        assert words in said
        assert room in said
        assert not Path("out.safetensors").exists()


def test_a_part_of_a_folder_that_is_quantised_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sd1")
    weights = next((folder / "unet").glob("*.safetensors"))
    save_file(load_file(weights) | {"conv_in.weight.absmax": torch.ones(2)}, weights)
    with pytest.raises(CheckpointError, match=r"unet.*quantised as bitsandbytes' nf4"):
        open_checkpoint(folder)


def test_whole_numbers_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    change = {
        "counter": torch.zeros(3, dtype=torch.uint16),
        "cond_stage_model.spiece_model": torch.zeros(9, dtype=torch.uint8),
    }
    with open_checkpoint(write_model(tmp_path / "m.safetensors", 1, change=change)) as model:
        assert model.dtypes["counter"] == "U16"
        assert model.tensor("counter").dtype == torch.uint16
        assert model.architecture.name == "sd1"
        assert VAE in model.shapes
