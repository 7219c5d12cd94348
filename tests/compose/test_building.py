"""What a study names is called only if the user's own files or ours name it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bayes_merger import compose
from bayes_merger.errors import ConfigError


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of somebody's study, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return compose.compose_run(["model_a=a", "model_b=b", "scorers=[laion,manual]"])


def with_scorer(stored: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {**stored, "scorers": {"x": settings}}


def test_ours_may_be_named(stored: dict[str, Any]) -> None:
    assert compose.changed(stored, []) == stored
    assert compose.changed(stored, ["optimiser=lhs"])["optimiser"]["rows"] == 70


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "scorer",
    [
        {"_target_": "os.system", "command": "touch hacked"},
        {"_target_": "bayes_merger.scoring.AestheticScorer", "tower": {"_target_": "torch.load", "f": "x"}},
        {"_target_": "bayes_merger.scoring.AestheticScorer", "tower": [{"a": {"_target_": "builtins.eval"}}]},
        {"_target_": "bayes_merger.scoring.ClipScorer", "_args_": [{"_target_": "builtins.eval"}]},
        {"_target_": "${oc.env:HOME}"},
        {"_target_": 3},
    ],
)
def test_a_name_from_a_study_is_not_called(scorer: dict[str, Any], stored: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"put a scorers/x\.yaml with  _target_: .* into the working folder"
    ) as caught:
        compose.changed(with_scorer(stored, **scorer), [])
    assert len(str(caught.value)) < 400


def test_nor_is_an_optimiser_s(stored: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"optimiser\._target_: 'os\.system' .*put a conf/optimiser/NAME\.yaml"):
        compose.changed({**stored, "optimiser": {"_target_": "os.system"}}, [])
    assert compose.changed({**stored, "optimiser": {"_target_": "os.system"}}, ["optimiser=tpe"])


@pytest.mark.parametrize(("key", "value"), [("viewer", "rm -rf {}"), ("ledger", "/home/me/.bashrc")])
def test_a_command_or_a_file_to_write_is_not_taken_from_a_study(key: str, value: str, stored: dict[str, Any]) -> None:
    stored["scorers"]["manual"][key] = value
    with pytest.raises(ConfigError, match=rf"scorers\.manual\.{key}: '{value}' .*put a scorers/manual\.yaml"):
        compose.changed(stored, [])
    Path("scorers").mkdir()
    Path("scorers/manual.yaml").write_text(
        f"manual:\n  _target_: bayes_merger.scoring.ManualScorer\n  {key}: '{value}'\n", encoding="utf-8"
    )
    assert compose.changed(stored, [])["scorers"]["manual"][key] == value


@pytest.mark.parametrize(
    ("key", "value"), [("address", "http://10.0.0.9:7860"), ("models_folder", "/home/me"), ("workflow", "/tmp/w.json")]
)
def test_a_web_ui_is_not_taken_from_a_study(key: str, value: str, stored: dict[str, Any]) -> None:
    stored["generator"][key] = value
    with pytest.raises(ConfigError, match=rf"generator\.{key}: '{value}' .*put a conf/generator/NAME\.yaml"):
        compose.changed(stored, [])
    assert compose.changed(stored, [f"generator.{key}=mine"])["generator"][key] == "mine"


def test_ratings_in_the_working_folder_may_be_named(stored: dict[str, Any]) -> None:
    stored["scorers"]["manual"]["ledger"] = "mine/ratings.jsonl"
    assert compose.changed(stored, []) == stored
    for other in ("../ratings.jsonl", "/home/me/ratings.jsonl", "conf/config.yaml"):
        stored["scorers"]["manual"]["ledger"] = other
        with pytest.raises(ConfigError, match="is a file to write"):
            compose.changed(stored, [])


def test_a_file_of_the_user_s_own_may_name_it_by_a_variable(
    stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATINGS", "/somewhere/ratings.jsonl")
    Path("scorers").mkdir()
    Path("scorers/manual.yaml").write_text(
        "manual: {_target_: x.Y, ledger: '${oc.env:RATINGS}', viewer: '${a.b} {}'}\n"
    )
    stored["scorers"]["manual"]["ledger"] = "/somewhere/ratings.jsonl"
    assert compose.changed(stored, []) == stored


def test_what_the_user_s_own_files_name_is_called(stored: dict[str, Any]) -> None:
    for name, text in (("conf/optimiser/mine.yaml", "_target_: optuna.samplers.TPESampler\n"), ("scorers/x.yaml", "x: {_target_: bright.Bright}\n")):  # fmt: skip
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text(text, encoding="utf-8")
    settings = with_scorer(stored, _target_="bright.Bright") | {"optimiser": {"_target_": "optuna.samplers.TPESampler"}}
    assert compose.changed(settings, []) == settings


def test_text_of_a_study_is_not_resolved_when_it_is_built(stored: dict[str, Any]) -> None:
    built = compose.build(
        "x", {"_target_": "builtins.dict", "a": "${oc.env:HOME}", "b": [{"_target_": "builtins.list"}]}
    )
    assert built == {"a": "${oc.env:HOME}", "b": [[]]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "x: its YAML needs a _target_"),
        ({"_target_": "no_such_module.Thing"}, "x: _target_: nothing is called 'no_such_module.Thing'"),
        ({"_target_": "math.pi"}, "x: _target_: 'math.pi' cannot be called"),
        ({"_target_": "fractions.Fraction", "numerator": "x"}, "x: .*Fraction"),
        ({"_target_": "bayes_merger.scoring.ClipTower", "modell": 1}, "x: .*modell"),
    ],
)
def test_what_cannot_be_built_is_one_line(settings: dict[str, Any], words: str, stored: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=words):
        compose.build("x", settings)


@pytest.mark.parametrize("name", ["mended", "statistics"])
def test_a_file_that_failed_is_read_anew(name: str, stored: dict[str, Any]) -> None:
    file = Path(f"scorers/{name}.py")
    file.parent.mkdir()
    file.write_text("class Mended:\n    pass\n\n\nraise RuntimeError('not yet')\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ConfigError, match="x: RuntimeError: not yet"):
            compose.build("x", {"_target_": f"{name}.Mended"})
    file.write_text("class Mended:\n    number = 3\n", encoding="utf-8")
    assert compose.build("x", {"_target_": f"{name}.Mended"}).number == 3


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "settings", [[], "x", {"payloads": 3}, {"n_iters": "many"}, {"unheard_of": 1}, {"scorers": []}]
)
def test_damaged_settings_are_one_line(settings: Any, stored: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose.changed({**stored, **settings} if isinstance(settings, dict) else settings, [])
    assert len(str(caught.value)) < 300
