"""Elemental rules in a run: searched, stored, and rebuilt from the study alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.cli import main
from bayes_merger.compose import compose_run, validate
from bayes_merger.config import RunConfig
from bayes_merger.errors import ConfigError
from bayes_merger.merging import SD1
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.saliency.settings import strengthened
from bayes_merger.run.spaces import make_space
from tests.checkpoint_files import KEY
from tests.user_folder import command, make_workplace

RULES = "OUT05:attn1.to_out:face, TE:mlp:0.5"


@pytest.fixture
def workplace(tmp_path: Path, tiny_sd1_config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_workplace(tmp_path / "work", tiny_sd1_config)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "given", [f"elements={RULES}", f"elements=['{RULES}']", "elements=[OUT05:attn1.to_out:face, TE:mlp:0.5]"]
)
def test_rules_are_given_as_a_text_or_a_list(workplace: Path, given: str) -> None:
    config = validate(compose_run(["experiment=tiny", "model_a=a", "model_b=b", given]))
    assert ",".join(config.elements).replace(" ", "") == RULES.replace(" ", "")


def test_a_name_and_the_slots_that_rules_speak_of_are_searched() -> None:
    spec = method_spec("weighted_sum")
    config = RunConfig(model_a="a", model_b="b", elements=[RULES])
    assert [p.name for p in make_space(config, spec, SD1).parameters][26:] == ["face"]
    config = replace(
        config, space={"frozen": {"TE": {"alpha": 0.0}}, "ranges": {"OUT.alpha": [0.2, 0.4], "face": [0.1, 0.9]}}
    )
    space = make_space(config, spec, SD1)
    assert [(p.name, p.low, p.high) for p in space.parameters][26:] == [("OUT.alpha", 0.2, 0.4), ("face", 0.1, 0.9)]
    assert space.fixed == {"TE.alpha": 0.0}
    with pytest.raises(ConfigError, match="BLOCKS:ELEMENTS:RATIO"):
        make_space(replace(config, elements=["OUT05:attn1"]), spec, SD1)


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ({}, [(0.0, 4.0, 26)]),
        ({"ranges": {"strength": [0, 2]}}, [(0.0, 2.0, 26)]),
        ({"ranges": {"OUT11.strength": [0, 2]}}, [(0.0, 4.0, 1)] * 25 + [(0.0, 2.0, 1)]),
        ({"ranges": {"OUT11": {"strength": [0, 2]}}}, [(0.0, 4.0, 1)] * 25 + [(0.0, 2.0, 1)]),
        ({"frozen": {"strength": 1.5}}, []),
        ({"groups": [["BASE.strength", "M00.strength"]]}, [(0.0, 4.0, 2)] + [(0.0, 4.0, 1)] * 24),
    ],
)
def test_all_blocks_have_one_strength_unless_a_rule_is_about_some(rules: dict[str, Any], found: list[Any]) -> None:
    spec = strengthened(method_spec("weighted_sum"), {"b": "B.act"})
    space = make_space(RunConfig(model_a="a", model_b="b", space=rules), spec, SD1)
    strengths = [p for p in space.parameters if p.drives[0].endswith(".strength")]
    assert [(p.low, p.high, len(p.drives)) for p in strengths] == found


@pytest.mark.parametrize(
    "rules",
    [
        {"frozen": {"strength": 2}},
        {"ranges": {"OUT05": {"strength": [0, 1]}}},
        {"frozen_params": {"base_strength": 1}},
        {"groups": [["IN00.strength", "IN01.strength"]]},
    ],
)
@pytest.mark.parametrize(
    ("saliency", "said"),
    [
        ({"b": "B.act", "takes": "winner"}, "there is no strength where saliency takes the winner; leave one of the"),
        ({}, "there is no strength without a file of activations; give  saliency.b=FILE"),
    ],
)
def test_a_rule_about_a_strength_that_is_not_there_is_refused(
    rules: dict[str, Any], saliency: dict[str, str], said: str
) -> None:
    spec = strengthened(method_spec("weighted_sum"), saliency)
    config = RunConfig(model_a="a", model_b="b", space=rules, saliency=saliency)
    with pytest.raises(ConfigError, match=f"^space: [a-zA-Z0-9_.]*strength: {said}"):
        make_space(config, spec, SD1)


def test_a_number_may_be_called_strength() -> None:
    config = RunConfig(model_a="a", model_b="b", elements=["OUT05:attn1:strength"], space={"frozen": {"strength": 0.5}})
    space = make_space(config, method_spec("weighted_sum"), SD1)
    assert space.fixed == {"strength.alpha": 0.5}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("elements=OUT05:atn1:0.5", ["atn1", "attn1"]),
        ("elements=OUT5:attn1:0.5", ["OUT5", "did you mean"]),
        ("elements=OUT05:attn1", ["BLOCKS:ELEMENTS:RATIO"]),
        ("elements=VAE::0.5", ["VAE::0.5", "merged"]),
        ("compat=x", ["compat", "supermerger"]),
        ("space.frozen.VAE=0.5", ["VAE", "vae=merge"]),
    ],
)
def test_a_mistake_is_one_line(
    workplace: Path, tiny_a: Path, tiny_b: Path, capfd: pytest.CaptureFixture[str], setting: str, words: list[str]
) -> None:
    assert main(["run", "experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}", setting]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    for word in words:
        assert word in errors
    assert not (workplace / "runs").exists()


@pytest.mark.slow
def test_a_run_searches_a_name_and_its_trials_are_rebuilt_from_the_study_alone(
    workplace: Path, tiny_a: Path, tiny_b: Path
) -> None:
    models = (f"model_a={tiny_a}", f"model_b={tiny_b}")
    settings = (
        "init_points=4",
        "n_iters=1",
        "final.images=1",
        "name=faces",
        f"elements={RULES}",
        "space.frozen.TIME=0.5",
    )
    result = command(workplace, "run", "experiment=tiny", *models, *settings)
    assert result.returncode == 0, result.stderr
    assert "even mix" in result.stdout
    shown = json.loads(command(workplace, "show", "faces", "--json").stdout)
    faces = [row["weights"]["alpha"]["face"] for row in shown["trials_list"]]
    assert faces[:3] == [0, 1, 0.5]
    assert len(set(faces)) > 3
    assert {row["weights"]["alpha"]["TIME"] for row in shown["trials_list"]} == {0.5}
    number, weights = shown["best"]["trial"], shown["best"]["weights"]["alpha"]
    assert main(["merge", "faces", "--trial", str(number), "--out", "again.safetensors"]) == 0
    best, again = load_file("runs/faces/best.safetensors"), load_file("again.safetensors")
    assert all(torch.equal(best[key], again[key]) for key in best)
    a, b = load_file(tiny_a)[KEY].float(), load_file(tiny_b)[KEY].float()
    assert torch.equal(best[KEY], torch.lerp(a, b, weights["face"]).half())
    texts = Path("runs/faces/best/weights.txt").read_text()
    assert f"OUT05:attn1.to_out:{weights['face']:.4g}\nTE:mlp:0.5" in texts
    assert "TIME.alpha = 0.5" in texts

    assert command(workplace, "resume", "faces", "n_iters=2", "final.images=0").returncode == 0
    changed = command(workplace, "resume", "faces", "elements=OUT05::0.5")
    assert changed.returncode == 2
    assert "elements" in changed.stderr
