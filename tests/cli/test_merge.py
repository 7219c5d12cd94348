"""``merge`` and ``plan``: they mean the same by the same arguments, on every architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.architectures import SD1, SDXL
from bayes_merger.cli import main
from tests.command_line import planned, refused
from tests.merging.tiny_models import UNET, VAE, write_model
from tests.real_keys import fact_shapes, needs_facts

KEY = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
HEAD = UNET + "out.2.weight"
FIRST = UNET + "input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    a, b = (write_model(tmp_path / f"{name}.safetensors", seed, torch.float32) for seed, name in ((1, "a"), (2, "b")))
    return [f"model_a={a}", f"model_b={b}"]


def share(merged: dict[str, torch.Tensor], folder: Path, key: str) -> float:
    """How much of B a merged tensor holds."""
    a, b = load_file(folder / "a.safetensors")[key].double(), load_file(folder / "b.safetensors")[key].double()
    return round(float(((merged[key] - a) * (b - a)).sum() / ((b - a) ** 2).sum()), 4)


def test_the_finer_setting_wins_wherever_it_stands(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "elements=IN01:attn2:0.9",
        "OUT.alpha=0.8",
        "IN00-IN02.alpha=0.7",
        "base_alpha=0.6",
        "alpha=0.5",
        "block_24_alpha=0.4",
    ]
    keys = planned(capsys, *pair, *settings)["keys"]
    assert {name: (about["weights"]["alpha"], about["says"]) for name, about in keys.items() if name in (KEY, FIRST, HEAD, TEXT)} == {
        KEY: (0.9, ["'IN01:attn2:0.9'"]),
        FIRST: (0.7, ["IN00"]),
        HEAD: (0.8, ["OUT"]),
        TEXT: (0.6, ["BASE"]),
    }  # fmt: skip
    assert main(["merge", *pair, *settings, "--out", str(tmp_path / "out.safetensors")]) == 0
    merged = load_file(tmp_path / "out.safetensors")
    assert {key: share(merged, tmp_path, key) for key in (KEY, FIRST, HEAD, TEXT)} == {
        KEY: 0.9,
        FIRST: 0.7,
        HEAD: 0.8,
        TEXT: 0.6,
    }


def test_a_base_and_one_number_fewer_make_a_weight_string(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = ",".join(str(number) for number in range(1, 26))
    whole = planned(capsys, *pair, f"alpha=0.5,{text}")
    assert planned(capsys, *pair, f"alpha={text}", "base_alpha=0.5")["groups"] == whole["groups"]
    assert "25 numbers for sd1" in refused(capsys, "plan", *pair, f"alpha={text}")


def test_17_numbers_are_the_block_weights_of_a_lora(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    key = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    base = load_file(tmp_path / "a.safetensors")[key]
    save_file({f"{layer}.diff": torch.ones(base.shape)}, tmp_path / "style.safetensors")
    numbers = ",".join(str(number / 4) for number in range(17))  # IN01 is the second
    words = [pair[0], f"model_b={tmp_path / 'style.safetensors'}", "dtype=fp32"]
    assert main(["merge", *words, f"alpha={numbers}", "--out", str(tmp_path / "styled.safetensors")]) == 0
    capsys.readouterr()
    torch.testing.assert_close(load_file(tmp_path / "styled.safetensors")[key], base.float() + 0.25)
    assert "17 numbers for sd1" in refused(capsys, "plan", *pair, f"alpha={numbers}")


def test_a_preset_is_a_weight_string(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    keys = planned(capsys, *pair, "alpha=grad_v", "base_alpha=0.5")["keys"]
    assert [keys[key]["weights"]["alpha"] for key in (TEXT, FIRST, HEAD)] == [0.5, 1, 1]
    assert keys[UNET + "middle_block.0.in_layers.2.weight"]["weights"]["alpha"] == 0
    assert planned(capsys, *pair, "alpha=GRAD_V")["keys"][TEXT]["weights"]["alpha"] == 0
    assert "alpha: 'GRAD_X' is not a preset; did you mean GRAD_V" in refused(capsys, "plan", *pair, "alpha=GRAD_X")
    assert "'nan' is not finite" in refused(capsys, "plan", *pair, "alpha=nan")


def test_a_division_of_one_s_own_is_kept_in_the_file_and_rebuilt_from_it(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("ATTN: ['*.attn2.']\nTEXT: cond_stage_model.\nREST: [model.diffusion_model.]\n")
    settings = [f"blocks={tmp_path / 'own.yaml'}", "alpha=0,0.1,0.2,0.3", "TIME.alpha=0.4"]
    groups = planned(capsys, *pair, *settings)["groups"]
    assert [(g["block"], g["weights"], g["says"]) for g in groups if g["action"] == "merge"] == [
        ("ATTN", {"alpha": 0.1}, ["ATTN"]),
        ("TEXT", {"alpha": 0.2}, ["TEXT"]),
        ("REST", {"alpha": 0.3}, ["REST"]),
        ("REST", {"alpha": 0.4}, ["TIME"]),
    ]
    assert main(["merge", *pair, *settings, "--out", str(tmp_path / "out.safetensors")]) == 0
    from bayes_merger.merging import open_checkpoint

    with open_checkpoint(tmp_path / "out.safetensors") as written:
        recipe = json.loads(written.metadata["bayes_merger.recipe"])
    for name, model in recipe["models"].items():
        model["path"] = str(tmp_path / f"{name}.safetensors")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe | {"dtype": "fp32"}))
    assert main(["merge", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "again.safetensors")]) == 0
    first, again = load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert share(again, tmp_path, KEY) == 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["elements=IN01:atn2:0.5"], ["atn2", "attn2"]),
        (["elements=IN99:attn2:0.5"], ["IN99", "did you mean"]),
        (["elements=IN01:attn2"], ["IN01:attn2", "BLOCKS:ELEMENTS:RATIO"]),
        (["elements=IN01:attn2:face"], ["face", "face=0.5"]),
        (["elements=IN01:attn2:face", "face=x"], ["face", "'x'"]),
        (["elements=IN01:attn2:face", "fcae=1"], ["face"]),
        (["elements=IN01:attn2:0.5", "compat=supermeger"], ["supermerger"]),
        (["IN99.alpha=0.5"], ["IN99"]),
        (["IN01.alhpa=0.5"], ["alhpa", "alpha"]),
        (["IN01.alpha=nan"], ["IN01.alpha"]),
        (["VAE.alpha=0.5"], ["VAE.alpha has no effect", "vae=merge"]),
        (["model_c=x.safetensors"], ["model_c"]),
        (["blocks=nowhere.yaml"], ["nowhere.yaml"]),
        (["blocks={folder}/bad.yaml"], ["bad.yaml", "YAML"]),
        (["blocks={folder}/list.yaml"], ["not a block"]),
        (["blocks={folder}/a.safetensors"], ["a.safetensors", "encoding"]),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line_in_both_commands(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: list[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("A: [x\n")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    filled = [text.replace("{folder}", str(tmp_path)) for text in settings]
    for command in (["plan"], ["merge", "--out", str(tmp_path / "out.safetensors")]):
        errors = refused(capsys, *command, *pair, *filled)
        for word in words:
            assert word in errors
    assert not (tmp_path / "out.safetensors").exists()


def test_a_plan_tells_dtypes_rules_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_model(tmp_path / "a.safetensors", 1, change={FIRST: torch.ones(8, 4, 3, 3)})
    b = write_model(tmp_path / "b.safetensors", 2, change={TEXT: None})
    data = planned(capsys, f"model_a={a}", f"model_b={b}", "alpha=1.5", "elements=IN01:attn2:0.1,IN01:attn:0.2")
    assert data["missing"] == [TEXT]
    assert data["keys"][TEXT] == {"action": "keep", "block": "TE", "weights": {}, "says": ["not in B"]}
    assert data["rules"] == [{"rule": "IN01:attn2:0.1", "tensors": 1}, {"rule": "IN01:attn:0.2", "tensors": 1}]
    notes = "\n".join(data["notes"])
    for words in (
        f"A has 1 tensors in F32 among F16: {FIRST}",
        "'IN01:attn2:0.1' decides nothing",
        "extrapolates",
        TEXT,
    ):
        assert words in notes
    assert 0 < data["working_memory"] < 1e6
    assert data["bytes"] == pytest.approx(a.stat().st_size, rel=0.5)
    assert main(["plan", f"model_a={a}", f"model_b={b}"]) == 0
    shown = capsys.readouterr().out
    assert "OUT11" in shown
    assert "not in B" in shown
    assert main(["plan", f"model_a={a}", f"model_b={b}", "--keys"]) == 0
    assert f"{KEY}  IN01  alpha 0.5  IN01" in capsys.readouterr().out


def test_a_plan_says_nothing_of_the_dtypes_of_marks_and_of_a_model_that_a_lora_is_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = {"v_pred": torch.zeros(0), VAE: torch.ones(5, 4, 3, 3)}
    a = write_model(tmp_path / "a.safetensors", 1, change=mixed)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    factors = {f"{name}.lora_up.weight": torch.ones(6, 1), f"{name}.lora_down.weight": torch.ones(1, 7)}
    save_file(factors, tmp_path / "l.safetensors")
    notes = planned(capsys, f"model_a={a}", f"model_b={tmp_path / 'l.safetensors'}", f"vae={a}")["notes"]
    assert [note for note in notes if "among" in note] == [f"A has 1 tensors in F32 among F16: {VAE} ..."]


def test_a_plan_shows_where_two_merges_differ(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bayes_merger.merging import MergeRecipe, ModelRef

    blocks = dict.fromkeys(SD1.blocks, 0.5) | {"OUT11": 0.25}
    models = {name: ModelRef(f"elsewhere/{name}.safetensors", "0" * 64) for name in "ab"}
    other = MergeRecipe(models=models, weights={"alpha": blocks}, architecture="sd1", dtype="bf16", vae="b")
    (tmp_path / "other.json").write_text(json.dumps(other.to_json()))
    arguments = ["plan", *pair, "elements=IN01:attn2:0.9", "--diff", str(tmp_path / "other.json")]
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["settings"] == {"dtype": ["fp32", "bf16"], "vae": ["a", "b"]}
    vae = "first_stage_model.decoder.conv_in.weight"
    assert set(data["keys"]) == {KEY, HEAD, UNET + "output_blocks.11.0.in_layers.2.weight", vae}
    assert [data["keys"][KEY][side]["weights"]["alpha"] for side in ("here", "there")] == [0.9, 0.5]
    assert [data["keys"][vae][side]["action"] for side in ("here", "there")] == ["keep", "copy"]
    assert main(arguments) == 0
    assert "4 of 44 tensors differ" in capsys.readouterr().out
    assert main([*arguments, "--keys"]) == 0
    assert f"{KEY}  alpha 0.9  alpha 0.5" in capsys.readouterr().out
    # a third model of the other merge lies beside its recipe
    (tmp_path / "elsewhere").mkdir()
    write_model(tmp_path / "elsewhere" / "c.safetensors", 3, torch.float32)
    three = replace(other, method="add_difference", models=models | {"c": ModelRef("c.safetensors", "")})
    (tmp_path / "elsewhere" / "other.json").write_text(json.dumps(three.to_json()))
    assert main(["plan", *pair, "--diff", str(tmp_path / "elsewhere" / "other.json")]) == 0


def test_a_difference_of_plans_needs_no_torch_and_reads_no_tensor(pair: list[str], tmp_path: Path) -> None:
    from bayes_merger.merging import MergeRecipe, ModelRef

    models = {name: ModelRef(f"elsewhere/{name}.safetensors", "0" * 64) for name in "ab"}
    other = MergeRecipe(models=models, weights={"alpha": dict.fromkeys(SD1.blocks, 0.5)}, architecture="sd1")
    (tmp_path / "other.json").write_text(json.dumps(other.to_json()))
    program = (
        "import sys; from bayes_merger.cli import main; "
        "code = main(['plan', *sys.argv[1:], 'alpha=0.3', 'elements=IN01:attn2:0.9']); "
        "print('torch' in sys.modules, code)"
    )
    given = ["--diff", str(tmp_path / "other.json"), *pair]
    done = subprocess.run([sys.executable, "-c", program, *given], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False 0\n")


def tiny(name: str, path: Path, value: float) -> Path:
    """A checkpoint with all the names of a real one, and two numbers a side."""
    tensors = {key: torch.full([min(n, 2) for n in shape], float(value)) for key, shape in fact_shapes(name).items()}
    ids = {key: torch.arange(2)[None] for key in tensors if key.endswith("position_ids")}
    prediction = {key: None for key in tensors if key in ("v_pred", "ztsnr") or key.startswith("edm_vpred")}
    save_file({key: tensor for key, tensor in (tensors | ids).items() if key not in prediction}, path)
    return path


@needs_facts
def test_sdxl_is_merged_with_20_numbers_and_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tiny("sdxl", tmp_path / "a.safetensors", 0), tiny("sdxl", tmp_path / "b.safetensors", 1)
    numbers = [i / 32 for i in range(20)]
    pair = [f"model_a={a}", f"model_b={b}"]
    settings = [
        "alpha=" + ",".join(map(str, numbers)),
        "CLIP_G.alpha=0.75",
        "LABEL.alpha=0.875",
        "elements=M00:attn2:1",
    ]
    assert main(["merge", *pair, *settings, "--out", str(tmp_path / "out.safetensors")]) == 0
    merged = load_file(tmp_path / "out.safetensors")
    wanted = dict(zip(SDXL.blocks, numbers, strict=True))
    assert len(merged) == 1680 + 248 + 196 + 390 + 1
    for key, tensor in merged.items():
        place = SDXL.place(key)
        if place.role == "vae":
            assert tensor.max() == 0, key
        elif place.role == "block":
            number = {"CLIP_G": 0.75, "LABEL": 0.875}.get(place.slot or "", wanted[place.block or ""])
            number = 1.0 if place.block == "M00" and "attn2" in key else number
            assert tensor.numel() == 0 or tensor.min() == tensor.max() == number, key
    capsys.readouterr()
    assert "can be merged but not yet drawn" in refused(capsys, "run", *pair, "payloads=[portrait]", "scorers=[laion]")


@needs_facts
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_transformers_are_merged(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tiny(name, tmp_path / "a.safetensors", 0), tiny(name, tmp_path / "b.safetensors", 1)
    block, key = {
        "sd3": ("IN07", "joint_blocks.7.x_block.mlp.fc1.bias"),
        "flux": ("S07", "single_blocks.7.linear1.bias"),
    }[name]
    settings = ["alpha=0.25", f"{block}.alpha=0.5", "T5.alpha=0", "OUT.alpha=1", "vae=merge"]
    assert main(["merge", f"model_a={a}", f"model_b={b}", *settings, "--out", str(tmp_path / "out.safetensors")]) == 0
    merged = load_file(tmp_path / "out.safetensors")
    assert merged[UNET + key].unique().tolist() == [0.5]
    assert merged[UNET + "final_layer.linear.bias"].unique().tolist() == [1]
    assert merged["text_encoders.t5xxl.transformer.shared.weight"].unique().tolist() == [0]
    vae = "vae" if name == "flux" else "first_stage_model"
    assert merged[f"{vae}.decoder.conv_in.bias"].unique().tolist() == [0.25]
