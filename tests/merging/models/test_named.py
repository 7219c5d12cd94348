"""Settings that name models and files of activations, wherever a merge may have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.merging.models.named import with_paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("A.safetensors", "A.act.safetensors", "B.act.safetensors"):
        (tmp_path / name).touch()
    return tmp_path


def test_files_of_activations_are_found_by_name_in_every_form(folder: Path) -> None:
    a, b = str(folder / "A.act.safetensors"), str(folder / "B.act.safetensors")
    known = {"path": "elsewhere/A.act", "sha256": "1"}  # a study's
    given = {
        "model_a": "A",
        "saliency.a": "A.act",
        "saliency": {"a": "A.act", "b": known, "by": "response"},
        "act.alpha": "B.act.safetensors",
        "act": {"alpha": "B.act", "OUT05.alpha": "A.act"},
        "alpha": "act:A.act",
        "name": "A.act",
    }
    assert with_paths(given, str(folder)) == {
        "model_a": str(folder / "A.safetensors"),
        "saliency.a": a,
        "saliency": {"a": a, "b": known, "by": "response"},
        "act.alpha": b,
        "act": {"alpha": b, "OUT05.alpha": a},
        "alpha": f"act:{a}",
        "name": "A.act",
    }
    assert with_paths({"saliency": "B.act"}, str(folder)) == {"saliency": b}


def test_so_are_those_of_steps_whose_other_words_stay(folder: Path) -> None:
    a = str(folder / "A.act.safetensors")
    step = {"name": "A", "method": "weighted_sum", "a": "A", "vae": "A", "alpha": 0.5}
    recipe = {
        "models": {"a": "A"},
        "steps": [{**step, "saliency": {"b": "A.act"}}, {**step, "act": {"alpha": "A.act"}}],
    }
    assert with_paths({"recipe": recipe}, str(folder))["recipe"] == {
        "models": {"a": str(folder / "A.safetensors")},
        "steps": [{**step, "saliency": {"b": a}}, {**step, "act": {"alpha": a}}],
    }


def test_a_misspelt_name_is_told_with_its_setting(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'C\.act': no model is called so; did you mean (A\.act|B\.act)") as told:
        with_paths({"saliency.a": "C.act"}, str(folder))
    assert told.value.subject == "saliency.a"
