"""A run of a recipe in several steps: what is open is searched, what is given stays, and all is rebuilt from the study."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.cli import main
from bayes_merger.compose import compose_run, validate
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.merging import SD1
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.models.lora.layers import layers_of
from bayes_merger.merging.recipe.step_file import read_steps
from bayes_merger.run.spaces import make_space, make_steps_space
from tests.user_folder import command, make_workplace

KEY = "model.diffusion_model.output_blocks.5.1.transformer_blocks.0.attn1.to_out.0.weight"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"

STEPS = """
models: {{one: {a}, two: {b}, style: style.safetensors}}
steps:
  - {{name: fixed, a: one, b: two, alpha: 0.25}}
  - {{name: mix, a: fixed, b: two, alpha: {{default: look, BASE: 0, OUT00-OUT11: search, TE: 0.125}}}}
  - {{name: final, a: mix, b: style, alpha: strength, elements: 'OUT05:attn1.to_out:face'}}
"""


@pytest.fixture
def workplace(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = make_workplace(tmp_path / "work", tiny_sd1_config)
    monkeypatch.chdir(folder)
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(tiny_a).items()}
    layer = next(layer for layer in layers_of(shapes) if layer.weight == KEY)
    out, into = layer.shape
    lora = {
        f"{layer.name}.lora_up.weight": torch.full((out, 1), 0.5),
        f"{layer.name}.lora_down.weight": torch.ones(1, into),
    }
    save_file(lora, folder / "style.safetensors")
    (folder / "steps.yaml").write_text(STEPS.format(a=tiny_a, b=tiny_b))
    return folder


def test_what_a_recipe_leaves_open_is_searched(workplace: Path) -> None:
    config = validate(compose_run(["experiment=tiny", "recipe=steps.yaml", "space.ranges.look=[0.2,0.6]"]))
    assert Path(config.model_b).name == "b.safetensors"
    space = make_steps_space(config, read_steps(config.recipe), SD1)
    assert [p.name for p in space.parameters] == [
        *(f"OUT{i:02d}.mix_alpha" for i in range(12)), "look", "strength", "face",
    ]  # fmt: skip
    assert [(p.low, p.high) for p in space.parameters][12] == (0.2, 0.6)
    weights = space.assemble({p.name: p.low + 0.1 for p in space.parameters})
    assert weights["fixed_alpha"] == dict.fromkeys(SD1.blocks, 0.25)
    assert {weights["mix_alpha"][block] for block in ("IN00", "IN11", "M00")} == {0.2 + 0.1}
    assert (weights["mix_alpha"]["BASE"], weights["mix_alpha"]["OUT11"], weights["mix_alpha"]["TE"]) == (0, 0.1, 0.125)
    assert weights["final_alpha"]["face"] == weights["final_alpha"]["IN05"] == 0.1
    assert space.values_of(weights) == {p.name: p.low + 0.1 for p in space.parameters}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["space.frozen.IN00.mix_alpha=0.5"], ["IN00.mix_alpha", "the recipe sets"]),
        (["space.frozen.fixed_alpha=0.5"], ["fixed_alpha", "the recipe sets"]),
        (["space.groups=[[M00.mix_alpha,OUT00.mix_alpha]]"], ["M00.mix_alpha", "OUT00.mix_alpha"]),
        (["space.ranges.lok=[0,1]"], ["lok"]),
        (["model_a=a.safetensors"], ["model_a", "recipe.models"]),
        (["method=slerp"], ["method", "recipe"]),
        (["elements=OUT05:attn1:0.5"], ["elements", "recipe"]),
        (["recipe.models.style=nowhere.safetensors"], ["model_style", "nowhere.safetensors"]),
    ],
)
def test_a_mistake_is_one_line(
    workplace: Path, capfd: pytest.CaptureFixture[str], settings: list[str], words: list[str]
) -> None:
    assert main(["run", "experiment=tiny", "recipe=steps.yaml", *settings]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    for word in words:
        assert word in errors
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[x", ["steps.yaml", "YAML"]),
        ("- a", ["steps.yaml", "models:"]),
        ("models: {a: x, b: y}\nsteps: [{name: m, a: a, b: c}]", ["step m", "'c'"]),
        ("models: {a: tiny_a, b: tiny_b}\nsteps: [{name: m, a: a, b: b, alpha: 0.5}]", ["no number open", "search"]),
        ("models: {a: style.safetensors, b: tiny_b}\nsteps: [{name: m, a: a, b: b, alpha: x}]", ["LoRA"]),
    ],
)
def test_a_recipe_that_makes_no_sense_is_one_line(
    workplace: Path, tiny_a: Path, tiny_b: Path, capfd: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    Path("steps.yaml").write_text(text.replace("tiny_a", str(tiny_a)).replace("tiny_b", str(tiny_b)))
    assert main(["run", "experiment=tiny", "recipe=steps.yaml"]) == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1, errors
    for word in words:
        assert word in errors


RUN = ("run", "experiment=tiny", "recipe=steps.yaml", "init_points=3", "n_iters=1", "final.images=1", "final.rescore=1")


@pytest.mark.slow
def test_a_run_of_a_recipe_is_rebuilt_from_the_study_alone(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    result = command(workplace, *RUN, "name=steps")
    assert result.returncode == 0, result.stderr
    assert "model one" in result.stdout
    assert "model two" in result.stdout
    Path("steps.yaml").unlink()
    assert main(["merge", "steps", "--out", "again.safetensors"]) == 0
    best, again = load_file("runs/steps/best.safetensors"), load_file("again.safetensors")
    assert all(torch.equal(best[key], again[key]) for key in best)
    shown = json.loads(command(workplace, "show", "steps", "--json").stdout)
    assert shown["method"] == "weighted_sum, then weighted_sum, then weighted_sum"
    weights = shown["best"]["weights"]
    assert set(weights) == {"fixed_alpha", "mix_alpha", "final_alpha"}
    a, b = load_file(tiny_a), load_file(tiny_b)
    mixed = torch.lerp(
        torch.lerp(a[FIRST].float(), b[FIRST].float(), 0.25), b[FIRST].float(), weights["mix_alpha"]["IN00"]
    )
    assert torch.equal(best[FIRST], mixed.half())
    mixed = torch.lerp(torch.lerp(a[KEY].float(), b[KEY].float(), 0.25), b[KEY].float(), weights["mix_alpha"]["OUT05"])
    torch.testing.assert_close(best[KEY], (mixed + 0.5 * weights["final_alpha"]["face"]).half())
    texts = Path("runs/steps/best/weights.txt").read_text()
    assert "mix_alpha (BASE, IN00" in texts


@pytest.mark.slow
def test_a_run_of_a_recipe_goes_on_without_its_file_and_the_recipe_stays(workplace: Path) -> None:
    assert command(workplace, *RUN, "name=steps").returncode == 0
    Path("steps.yaml").unlink()
    again_result = command(workplace, "resume", "steps", "n_iters=2", "final.images=0")
    assert again_result.returncode == 0, again_result.stderr
    changed = command(workplace, "resume", "steps", "recipe.steps=[]")
    assert changed.returncode == 2


def test_adjustments_with_a_name_are_searched() -> None:
    config = RunConfig(model_a="a", model_b="b", adjust=["0,0,0,2,light,0,0,-light2"])
    with pytest.raises(ConfigError, match="adjust"):
        make_space(config, method_spec("weighted_sum"), SD1)
    config = replace(config, adjust="0,0,0,2,light,0,0,1", space={"ranges": {"light": [-3, 4]}})
    space = make_space(config, method_spec("weighted_sum"), SD1)
    assert [(p.name, p.low, p.high) for p in space.parameters][26:] == [("light", -3, 4)]
    values = {p.name: 0.5 for p in space.parameters} | {"light": -2.5}
    weights = space.assemble(values)
    assert weights["adjust"] == {"IN": 0, "OUT": 0, "OUT2": 0, "CONT": 2, "BRI": -2.5, "COL1": 0, "COL2": 0, "COL3": 1}
    assert space.values_of(weights) == values
    with pytest.raises(ConfigError, match="'IN00' is the name of something else"):
        make_space(replace(config, adjust={"BRI": "IN00"}), method_spec("weighted_sum"), SD1)


@pytest.mark.slow
def test_a_lora_a_division_a_vae_and_adjustments_take_part_in_a_plain_run(
    workplace: Path, tiny_a: Path, tiny_b: Path
) -> None:
    Path("own.yaml").write_text("ATTN: ['*.attn1.', '*.attn2.']\nREST: [model.diffusion_model.]\n")
    settings = (
        "init_points=3",
        "n_iters=0",
        "final.images=1",
        "final.rescore=1",
        "name=lora",
        "blocks=own.yaml",
        "channels=pad",
        "clip=soft",
        "adjust=0,0,0,0,light,0,0,0",
        f"vae={tiny_b}",
    )
    result = command(workplace, "run", "experiment=tiny", f"model_a={tiny_a}", "model_b=style.safetensors", *settings)
    assert result.returncode == 0, result.stderr
    shown = json.loads(command(workplace, "show", "lora", "--json").stdout)
    weights = shown["best"]["weights"]["alpha"]
    light = shown["best"]["weights"]["adjust"]["BRI"]
    assert set(weights) == {"BASE", "ATTN", "REST"}
    best, a, b = load_file("runs/lora/best.safetensors"), load_file(tiny_a), load_file(tiny_b)
    torch.testing.assert_close(best[KEY], (a[KEY].float() + 0.5 * weights["ATTN"]).half())
    assert torch.equal(best[FIRST], a[FIRST])
    bias = "model.diffusion_model.out.2.bias"
    wanted = a[bias].float() + 0.02 * light * torch.tensor([0, -1, 1 / 3, 2 / 3])
    torch.testing.assert_close(best[bias], wanted.half())
    vae = "first_stage_model.decoder.conv_in.weight"
    assert torch.equal(best[vae], b[vae])
    assert main(["merge", "lora", "--out", "again.safetensors"]) == 0
    again = load_file("again.safetensors")
    assert all(torch.equal(again[key], best[key]) for key in best)
    assert "for supermerger's adjust:" in Path("runs/lora/best/weights.txt").read_text()
