"""Recipes on the command line: LoRAs, several steps, what a merged file says of itself, and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.cli import main
from tests.command_line import planned, refused
from tests.merging.tiny_models import FIRST, UNET, VAE, write_model

KEY = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"

STEPS = """
models: {base: a.safetensors, other: b.safetensors, style: style.safetensors}
steps:
  - {name: mix, a: base, b: other, alpha: {default: 0.25, IN00: look}}
  - {name: final, a: mix, b: style, alpha: search}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models, a LoRA for them and a recipe, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in ((1, "a"), (2, "b")):
        write_model(tmp_path / f"{name}.safetensors", seed, torch.float32)
    lora = {f"{NAME}.lora_up.weight": torch.ones(6, 1), f"{NAME}.lora_down.weight": torch.ones(1, 7)}
    save_file(lora | {"lora_unet_strange.lora_up.weight": torch.ones(1, 1)}, tmp_path / "style.safetensors")
    (tmp_path / "steps.yaml").write_text(STEPS)
    return tmp_path


def test_a_lora_is_merged_by_block_and_its_coverage_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["model_a=a.safetensors", "model_b=style.safetensors", "alpha=1", "IN01.alpha=0.5"]
    data = planned(capsys, *settings)
    assert data["notes"][0].endswith("1 do not and have no effect: lora_unet_strange")
    assert "1 layers fit model A" in data["notes"][0]
    assert data["models"]["b"]["dtypes"] == data["models"]["a"]["dtypes"]
    assert main(["merge", *settings, "--out", "out.safetensors"]) == 0
    assert "1 do not and have no effect: lora_unet_strange" in capsys.readouterr().err
    a, merged = load_file("a.safetensors"), load_file("out.safetensors")
    torch.testing.assert_close(merged[KEY], a[KEY] + 0.5)
    assert all(torch.equal(merged[key], tensor) for key, tensor in a.items() if key != KEY)


def test_a_merge_becomes_a_lora_and_the_lora_the_merge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5"]
    assert main(["merge", *pair, "--as-lora", "rank=full", "--out", "lora.safetensors"]) == 0
    assert main(["merge", *pair, "--out", "out.safetensors"]) == 0
    again = ["model_a=a.safetensors", "model_b=lora.safetensors", "alpha=1", "--out", "again.safetensors"]
    assert main(["merge", *again]) == 0
    out, applied = load_file("out.safetensors"), load_file("again.safetensors")
    torch.testing.assert_close(applied[KEY], out[KEY], rtol=0, atol=1e-6)
    torch.testing.assert_close(applied[FIRST], out[FIRST], rtol=0, atol=1e-6)
    capsys.readouterr()
    assert main(["merge", *pair, "--as-lora", "rank=1", "--out", "lora.safetensors", "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert "rank 1" in printed
    assert "relative error" in printed
    assert "tensors that factors cannot hold" in printed


def test_a_recipe_in_steps_takes_its_open_numbers_from_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["steps.yaml", "look=0.5", "final_alpha=0", "IN01.final_alpha=0.125", "OUT00.mix_alpha=1"]
    assert main(["merge", *settings, "--out", "out.safetensors"]) == 0
    a, b, merged = load_file("a.safetensors"), load_file("b.safetensors"), load_file("out.safetensors")
    torch.testing.assert_close(merged[FIRST], torch.lerp(a[FIRST], b[FIRST], 0.5))
    torch.testing.assert_close(merged[KEY], torch.lerp(a[KEY], b[KEY], 0.25) + 0.125)
    late = UNET + "output_blocks.0.0.in_layers.2.weight"
    assert torch.equal(merged[late], b[late])
    assert torch.equal(merged[VAE], a[VAE])
    data = planned(capsys, *settings)
    assert data["keys"][KEY]["weights"] == {"alpha": 0.125}
    assert [step["name"] for step in data["steps"]] == ["mix"]
    assert data["steps"][0]["keys"][FIRST]["weights"] == {"alpha": 0.5}
    assert main(["plan", *settings]) == 0
    shown = capsys.readouterr().out
    assert "step mix: weighted_sum" in shown
    assert "step final: weighted_sum" in shown


def test_a_merged_file_shows_its_recipe_and_is_made_again_from_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", "steps.yaml", "look=0.5", "final_alpha=0.75", "--out", "out.safetensors"]) == 0
    capsys.readouterr()
    assert main(["recipe", "out.safetensors"]) == 0
    shown = capsys.readouterr().out
    for words in ("Stable Diffusion 1.x", "style: style.safetensors  SHA-256", "mix: weighted_sum a=base b=other",
                  "alpha=0.25,0.5,0.25", "final: weighted_sum a=mix b=style", "alpha=0.75"):  # fmt: skip
        assert words in shown
    assert main(["recipe", "out.safetensors", "--json"]) == 0
    (folder / "again.json").write_text(capsys.readouterr().out)
    assert json.loads((folder / "again.json").read_text())["steps"][0]["name"] == "mix"
    first = (folder / "out.safetensors").read_bytes()
    for number, source in enumerate(["out.safetensors", "recipe=out.safetensors", "again.json"]):
        out = folder / f"{number}.safetensors"
        assert main(["merge", source, "--out", str(out)]) == 0
        assert out.read_bytes() == first


def test_what_another_program_says_of_its_merge_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told_by = {
        "sd_merge_recipe": json.dumps(
            {"type": "webui", "primary_model_hash": "ab" * 32, "interp_method": "Weighted sum"}
        ),
        "sd_merge_models": json.dumps({"ab" * 32: {"name": "first.safetensors"}}),
    }
    write_model(folder / "theirs.safetensors", 3, metadata=told_by)
    assert main(["recipe", "theirs.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "first.safetensors (ababababab)" in shown
    assert "Weighted sum" in shown
    assert main(["recipe", "theirs.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sd_merge_recipe"]["type"] == "webui"
    assert "only another program's" in refused(capsys, "merge", "theirs.safetensors", "--out", "x.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["merge", "steps.yaml"], ["recipe steps.yaml: look", "look=0.5"]),
        (["merge", "steps.yaml", "look=1"], ["final_alpha", "BASE", "search"]),
        (["merge", "steps.yaml", "look=x", "final_alpha=1"], ["look", "'x'"]),
        (["merge", "steps.yaml", "look=1", "final_alpha=1,2"], ["final_alpha", "2 numbers"]),
        (["merge", "steps.yaml", "look=1", "final_alhpa=1"], ["final_alhpa", "final_alpha"]),
        (["merge", "steps.yaml", "look=1", "final_alpha=1", "model_style=a.safetensors"], []),
        (["merge", "steps.yaml", "look=1", "final_alpha=1", "model_base=style.safetensors"], ["LoRA", "model A"]),
        (["merge", "steps.yaml", "look=1", "final_alpha=1", "model_style=no.safetensors"], ["model_style", "no.safetensors"]),
        (["merge", "steps.yaml", "look=1", "final_alpha=1", "dtype=fp17"], ["fp17"]),
        (["merge", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["merge", "bad.yaml"], ["bad.yaml", "not valid YAML"]),
        (["merge", "list.yaml"], ["list.yaml", "models:"]),
        (["merge", "a.safetensors"], ["a.safetensors", "no recipe"]),
        (["merge", "bad.json"], ["bad.json", "not a merge recipe"]),
        (["merge", "model_a=style.safetensors", "model_b=a.safetensors"], ["LoRA", "as model A"]),
        (["merge", "model_a=a.safetensors", "model_b=wrong.safetensors"], ["wrong.safetensors", "none of its 1 layers"]),
        (["merge", "model_a=a.safetensors", "model_b=b.safetensors", "--as-lora", "32"], ["--as-lora", "rank=32"]),
        (["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0", "--as-lora", "rank=2"], ["empty"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    arguments: list[str], words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.yaml").write_text("steps: [x\n")
    (folder / "list.yaml").write_text("- a\n")
    (folder / "bad.json").write_text("[1]")
    save_file({"lora_unet_strange.diff": torch.ones(1, 1)}, folder / "wrong.safetensors")
    if not words:
        assert main([*arguments, "--out", "out.safetensors"]) == 0
        return
    errors = refused(capsys, *arguments, "--out", "out.safetensors")
    for word in words:
        assert word in errors
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["nobody", "no.safetensors", "a.safetensors", "broken.safetensors", "alien.safetensors"]
)
def test_a_recipe_that_is_not_there_is_one_line(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(folder / "broken.safetensors", 3, metadata={"bayes_merger.recipe": "{}"})
    write_model(folder / "alien.safetensors", 3, metadata={"sd_merge_recipe": "{"})
    assert name.partition(".")[0] in refused(capsys, "recipe", name)


def test_a_name_from_a_file_does_not_break_the_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"decoder.up_blocks.0.a\nb\x1b[31m.weight": torch.zeros(1)}, "vae.safetensors")
    errors = refused(
        capsys,
        "merge",
        "model_a=a.safetensors",
        "model_b=b.safetensors",
        "vae=vae.safetensors",
        "--out",
        "x.safetensors",
    )
    assert errors.count("\n") == 1
    assert "\x1b" not in errors
    assert r"a\nb\x1b[31m" in errors
    text = "models: {a: a.safetensors}\nsteps:\n  - {name: x, method: n_average, a: a, b: [a], alpha: 1}\n"
    (folder / "odd.yaml").write_text(text)
    assert "b: '['a']' is neither a model" in refused(capsys, "merge", "odd.yaml", "--out", "x.safetensors")
