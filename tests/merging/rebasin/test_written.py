"""``merging.rebasin.written``: a model written with the order that it takes, in every form and place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bayes_merger import compose, save_merge
from bayes_merger.api.words import words
from bayes_merger.cli import main
from bayes_merger.errors import ConfigError
from bayes_merger.merging.models.named import with_paths
from bayes_merger.merging.rebasin.written import files_and_orders, steps_with_files, tables_in
from bayes_merger.merging.recipe.step_file import read_steps, recipe_data
from tests.command_line import refused
from tests.merging.rebasin.models import scrambled

WRITTEN = ["model_a=A.safetensors", "payloads=[]"]


@pytest.mark.parametrize(
    "typed",
    [
        {"model_b": "{rebasin: B.safetensors, to: a}"},
        {"model_b": '{"rebasin": "B.safetensors", "to": "a"}'},
        {"model_b.rebasin": "B.safetensors", "model_b.to": "a"},
        {"model_b": "B.safetensors", "model_b.to": "a"},
        {"model_b.to": "a", "model_b": "B.safetensors"},
        {"model_b": "{rebasin: B.safetensors}", "model_b.to": "a"},
    ],
)
def test_every_way_to_type_it_is_one_table(typed: dict[str, str]) -> None:
    assert tables_in({"alpha": "0.5", "models_dir": "{x}", **typed}) == {
        "alpha": "0.5", "models_dir": "{x}", "model_b": {"rebasin": "B.safetensors", "to": "a"},
    }  # fmt: skip
    run = compose.compose_run([*WRITTEN, *(f"{key}={value}" for key, value in typed.items())])
    assert (run["model_b"], run["rebasin"]) == ("B.safetensors", {"b": {"to": "a"}})


def test_names_of_files_are_text_and_further_models_have_orders_too() -> None:
    run = compose.compose_run(
        [*WRITTEN, "model_b=b", "model_d={rebasin: '${x} a, b: [c].safetensors', to: a, config: 'f g'}"]
    )
    assert run["models"] == {"d": "${x} a, b: [c].safetensors"}
    assert run["rebasin"] == {"d": {"to": "a", "config": "f g"}}
    assert words({"model_d": {"rebasin": "D", "to": "a"}}) == ["model_d.rebasin=D", "model_d.to=a"]
    run = compose.compose_run([*WRITTEN, "model_b=b", *words({"model_d": {"rebasin": "D", "to": "a"}})])
    assert (run["models"], run["rebasin"]) == ({"d": "D"}, {"d": {"to": "a"}})


def test_what_is_said_twice_must_agree() -> None:
    table = {"b": {"rebasin": "B", "to": "a", "by": "weights"}}
    assert files_and_orders(table, {"b": "a", "c": "a"}) == (
        {"b": "B"},
        {"b": {"to": "a", "by": "weights"}, "c": "a"},
    )
    with pytest.raises(ConfigError, match=r"^model_b: says to: a, and rebasin\.b says to: c; leave one out$"):
        files_and_orders(table, {"b": "c"})
    with pytest.raises(ConfigError, match=r"^recipe.models.b: says by: weights, and rebasin.b says by: x"):
        files_and_orders(table, {"b": {"by": "x"}}, "recipe.models.{}")
    with pytest.raises(ConfigError, match=r"^rebasin is 7; name a model"):
        files_and_orders(table, 7)


@pytest.mark.parametrize("table", [{"to": "a"}, {"rebasin": ["B"]}, {"rebasin": ""}, {"rebasin": {}}, {}])
def test_a_table_without_a_file_is_one_line(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^model_b: \{.*\} names no file; give  model_b=\{rebasin: FILE, to: a\}$"):
        files_and_orders({"b": table}, {})


def test_a_table_that_is_none_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^model_b: \{'to': 'a'\} names no file"):
        compose.compose_run([*WRITTEN, "model_b={to: a}"])
    for typed in ("{rebasin: [B], to: a}", "{rebasin: 7}", "{rebasin: B, to: null}", "{rebasin: {rebasin: B}}"):
        with pytest.raises(ConfigError, match=r"^model_b: (rebasin|to): .* is no text; a name that looks"):
            compose.compose_run([*WRITTEN, f"model_b={typed}"])
    with pytest.raises(
        ConfigError, match=r"^model_b: line 1: not valid YAML .*; a name with , or : in it needs quotes"
    ):
        tables_in({"model_b": "{rebasin: B: c, d], to: a}"})


def test_an_experiment_has_it_and_the_command_line_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "apart.yaml").write_text("model_b: {rebasin: B, to: a}\n", encoding="utf-8")
    run = compose.compose_run([*WRITTEN, "experiment=apart"])
    assert (run["model_b"], run["rebasin"]) == ("B", {"b": {"to": "a"}})
    other = compose.compose_run([*WRITTEN, "experiment=apart", "model_b=C"])
    assert (other["model_b"], other["rebasin"]) == ("C", {})


def test_a_study_goes_on_with_a_file_that_has_moved() -> None:
    stored = compose.compose_run([*WRITTEN, "model_b={rebasin: B, to: a}"])
    for moved in ("model_b=C", "model_b={rebasin: C, to: a}", "model_b.rebasin=C"):
        again = compose.changed(stored, [moved])
        assert (again["model_b"], again["rebasin"]) == ("C", {"b": {"to": "a"}})
    with pytest.raises(ConfigError, match=r"says to: c, and rebasin\.b says to: a"):
        compose.changed(stored, ["model_b={rebasin: C, to: c}"])


def test_models_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "B.safetensors").touch()
    found = with_paths({"model_b": {"rebasin": "B", "to": "a"}}, str(tmp_path))
    assert found == {"model_b": {"rebasin": str(tmp_path / "B.safetensors"), "to": "a"}}


def steps(b: Any, **more: Any) -> dict[str, Any]:
    return {
        "models": {"a": "A.safetensors", "b": b},
        "steps": [{"name": "mix", "method": "weighted_sum", "a": "a", "b": "b", "alpha": 0.5}],
        **more,
    }


def test_a_recipe_in_steps_has_it_in_both_ways(tmp_path: Path) -> None:
    for data in (steps({"rebasin": "B", "to": "a"}), steps("B", rebasin={"b": "a"})):
        read = read_steps(data)
        assert read.models == {"a": "A.safetensors", "b": "B"}
        assert read.settings.rebasin == {"b": {"to": "a", "by": "weights", "sha256": ""}}
    assert steps_with_files(steps({"rebasin": "B", "to": "a"}))["models"]["b"] == "B"
    with pytest.raises(ConfigError, match=r"^model b: says to: a, and rebasin\.b says to: c"):
        read_steps(steps({"rebasin": "B", "to": "a"}, rebasin={"b": "c"}))
    (tmp_path / "steps.yaml").write_text(json.dumps(steps({"rebasin": "B", "to": "a"})), encoding="utf-8")
    for typed, file in ([], "B"), (["recipe.models.b={rebasin: C, to: a}"], "C"), (["recipe.models.b=C"], "C"):
        run = compose.compose_run(["payloads=[]", f"recipe={tmp_path / 'steps.yaml'}", *typed])
        assert (run["recipe"]["models"]["b"], run["recipe"]["rebasin"]) == (file, {"b": {"to": "a"}})


@pytest.mark.parametrize(
    "models",
    [
        "models: {a: A.ckpt, b: {rebasin: B.ckpt, to: a}}",
        "models:\n  a: A.ckpt\n  b: {rebasin: B.ckpt, to: a}",
        "models: {a: A.ckpt, b: B.ckpt}\nrebasin:\n  b: {to: a}",
        "models: {a: A.ckpt, b: B.ckpt}\nrebasin: {b: {to: a}}",
    ],
)
def test_a_recipe_in_yaml_has_tables_in_brackets(models: str, tmp_path: Path) -> None:
    step = "steps:\n  - {name: no, method: weighted_sum, a: a, b: b, alpha: 0.5}\n"
    (tmp_path / "steps.yaml").write_text(f"{models}\n{step}", encoding="utf-8")
    data = recipe_data(tmp_path / "steps.yaml")
    assert data["models"] == {"a": "A.ckpt", "b": "B.ckpt"}
    assert data["rebasin"] == {"b": {"to": "a"}}
    assert data["steps"][0]["name"] == "no"


@pytest.mark.slow
def test_merges_of_all_spellings_are_the_same_bytes(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, _ = scrambled(tiny_b, tiny_sd1_config, tmp_path / "lost.safetensors")
    written = {"rebasin": str(lost), "to": "a", "config": str(tiny_sd1_config)}
    recipe = steps(written)
    recipe["models"]["a"] = str(tiny_a)
    (tmp_path / "table.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    plain = steps(str(lost), rebasin={"b": {"to": "a", "config": str(tiny_sd1_config)}})
    plain["models"]["a"] = str(tiny_a)
    (tmp_path / "plain.yaml").write_text(json.dumps(plain), encoding="utf-8")
    bare = steps(str(lost))
    bare["models"]["a"] = str(tiny_a)
    (tmp_path / "bare.yaml").write_text(json.dumps(bare), encoding="utf-8")
    table = f"model_b={json.dumps(written)}"
    spellings = [
        [f"model_a={tiny_a}", "alpha=0.5", table],
        [f"model_a={tiny_a}", "alpha=0.5", f"model_b={lost}", "rebasin.b.to=a", f"rebasin.b.config={tiny_sd1_config}"],
        [str(tmp_path / "table.yaml")],
        [str(tmp_path / "plain.yaml")],
        [str(tmp_path / "bare.yaml"), table],
        [str(tmp_path / "bare.yaml"), "rebasin.b.to=a", f"rebasin.b.config={tiny_sd1_config}"],
    ]
    outs = []
    for number, spelling in enumerate(spellings):
        out = tmp_path / f"{number}.safetensors"
        assert main(["merge", *spelling, "--out", str(out), "-q"]) == 0, capsys.readouterr().err
        outs.append(out.read_bytes()[-100_000:])  # steps say so in the header
    assert all(out == outs[0] for out in outs[1:])
    first, again = tmp_path / "0.safetensors", tmp_path / "again.safetensors"

    def from_it(**table: str) -> list[str]:
        words = f"model_b={json.dumps({'rebasin': str(lost), **table})}"
        return ["merge", str(first), f"model_a={tiny_a}", words, "--out", str(again), "-q", "--overwrite"]

    assert main(from_it(to="a")) == 0
    assert again.read_bytes() == first.read_bytes()
    save_merge(again, overwrite=True, model_a=tiny_a, model_b=written, alpha=0.5)
    assert again.read_bytes() == first.read_bytes()
    assert "model_b: says to: c, and rebasin.b says to: a" in refused(capsys, *from_it(to="c"))
    assert "rebasin: a recipe's own settings stay" in refused(capsys, *from_it(config="x"))
