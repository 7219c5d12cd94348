"""``merge`` and ``plan`` of four and more models: by numbers, and back from the file; every mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.cli import main
from tests.command_line import planned, refused
from tests.merging.tiny_models import FIRST, SHAPES, TEXT, UNET, VAE, write_model

KEY = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
FILES = {
    "a": "a.safetensors",
    "b": "b.safetensors",
    "c": "c.safetensors",
    "d": "my mix=1 (v2).safetensors",
    "e": "e.safetensors",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models a to e, all of whose numbers are 1, 2, 3, 4 and 5."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(FILES.values(), start=1):
        tensors = {key: torch.full(shape, float(number)) for key, shape in SHAPES.items()}
        write_model(tmp_path / name, number, torch.float32, change=tensors)
    return tmp_path


def given(names: str) -> list[str]:
    return [f"model_{name}={FILES[name]}" for name in names]


@pytest.mark.parametrize(("names", "mean"), [("abc", 2.0), ("abcd", 2.5), ("abcde", 3.0)])
def test_the_mean_of_many_models_is_written(folder: Path, names: str, mean: float) -> None:
    assert main(["merge", "method=n_average", *given(names), "--out", "out.safetensors"]) == 0
    merged = load_file("out.safetensors")
    assert merged[FIRST].unique().tolist() == merged[TEXT].unique().tolist() == [mean]
    assert merged[VAE].unique().tolist() == [1]


def test_a_block_and_the_vae_follow_a_further_model(folder: Path) -> None:
    settings = ["method=n_average", "IN00.alpha=0.5", "vae=d"]
    assert main(["merge", *settings, *given("abcde"), "--out", "out.safetensors"]) == 0
    merged = load_file("out.safetensors")
    assert merged[FIRST].unique().tolist() == [2]
    assert merged[TEXT].unique().tolist() == [3]
    assert merged[VAE].unique().tolist() == [4]


def test_a_lora_stands_as_a_further_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(
        {f"{LORA}.lora_up.weight": torch.ones(6, 1), f"{LORA}.lora_down.weight": torch.ones(1, 7)}, "l.safetensors"
    )
    assert main(["merge", "method=n_average", *given("abc"), "model_d=l.safetensors", "--out", "out.safetensors"]) == 0
    merged = load_file("out.safetensors")
    assert merged[FIRST].unique().tolist() == [1.75]
    torch.testing.assert_close(merged[KEY].unique(), torch.tensor([2.0]))


def test_a_merge_of_five_is_made_again_from_its_file_also_when_a_model_has_moved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["method=ties", "density=0.5", "vote=count", "vae=e"]
    assert main(["merge", *settings, *given("abcde"), "--out", "out.safetensors"]) == 0
    first = (folder / "out.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["recipe", "out.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "  d: my mix=1 (v2).safetensors  SHA-256" in shown
    assert "  e: e.safetensors" in shown
    assert main(["merge", "out.safetensors", "--out", "again.safetensors"]) == 0
    assert (folder / "again.safetensors").read_bytes() == first
    (folder / FILES["d"]).rename(folder / "moved.safetensors")
    assert "give it with  model_d=FILE" in refused(capsys, "merge", "out.safetensors", "--out", "no.safetensors")
    # a file's name is told in the merge, so the bytes are the same under the same name only
    (folder / "elsewhere").mkdir()
    (folder / "moved.safetensors").rename(folder / "elsewhere" / FILES["d"])
    moved = f"model_d=elsewhere/{FILES['d']}"
    assert main(["merge", "out.safetensors", moved, "--out", "third.safetensors"]) == 0
    assert (folder / "third.safetensors").read_bytes() == first
    assert planned(capsys, "out.safetensors", moved)["models"]["d"]["path"] == f"elsewhere/{FILES['d']}"
    errors = refused(capsys, "merge", "out.safetensors", "model_d=c.safetensors", "--out", "no.safetensors")
    assert "model_d: c.safetensors is not the recipe's file" in errors


def test_a_plan_says_that_another_merge_has_another_number_of_models(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", "method=n_average", *given("abcde"), "--out", "out.safetensors"]) == 0
    arguments = ["plan", "method=n_average", *given("abcd"), "--diff", "out.safetensors"]
    capsys.readouterr()
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "models: a, b, c, d here, a, b, c, d, e there" in shown
    assert "0 of 44 tensors differ in their weights, and all that are merged in models" in shown
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"models": ["a, b, c, d", "a, b, c, d, e"]}


def test_a_recipe_in_steps_names_further_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "steps.yaml").write_text(
        "models: {a: a.safetensors, b: b.safetensors, c: c.safetensors, w: 'my mix=1 (v2).safetensors'}\n"
        "steps:\n"
        "  - {name: mean, method: n_average, a: a, b: b, c: c, d: w, alpha: look}\n"
        "  - {name: out, a: mean, b: w, alpha: 0.5}\n"
    )
    assert main(["merge", "steps.yaml", "look=1", "--out", "out.safetensors"]) == 0
    assert load_file("out.safetensors")[FIRST].unique().tolist() == [3.25]
    capsys.readouterr()
    assert main(["recipe", "out.safetensors"]) == 0
    assert "mean: n_average a=a b=b c=c d=w" in capsys.readouterr().out
    assert main(["plan", "steps.yaml", "look=1"]) == 0
    assert "step mean: n_average of a, b, c, w" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (given("abcd"), ["model_c: method 'weighted_sum' takes no model C; leave it out", "n_average"]),
        (["method=add_difference", *given("abcd")], ["model_d: method 'add_difference' takes no model D; leave it out"]),
        (["method=n_average", *given("abd")], ["model_d: n_average takes its models in order", "name this one model_c"]),
        (["method=ties", *given("abd")], ["model_c: method 'ties' needs it"]),
        (["method=ties", *given("abc"), "mdoel_d=d.safetensors"], ["'mdoel_d'", "did you mean model_d"]),
        (["method=ties", *given("abcd"), "model_ee=d.safetensors"], ["'model_ee'", "did you mean model_e"]),
        (["method=ties", *given("abcd"), "desnity=1"], ["'desnity'", "did you mean density"]),
        (["method=ties", *given("abc"), "model_d=nothing.safetensors"], ["model_d: nothing.safetensors"]),
        (["method=ties", *given("abcd"), "vae=e"], ["vae: 'e' is unknown; give a, b, c, d, merge"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_in_both_commands(
    settings: list[str], words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["plan"], ["merge", "--out", "out.safetensors"]):
        errors = refused(capsys, *command, *settings)
        for word in words:
            assert word in errors
    assert not (folder / "out.safetensors").exists()


def test_the_help_says_which_methods_take_any_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merge", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "n_average models a, b, (c), (d), ...; alpha" in shown
    assert "ties models a, b, c, (d), ...; alpha, density" in shown
    assert "slerp models a, b, (c); alpha" in shown
