"""Scorers of one's own: classes and plain functions."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bayes_merger.compose import build_scorers
from bayes_merger.errors import ConfigError
from bayes_merger.scoring import FunctionScorer, ImageToScore, score_images
from tests.scoring.pictures import judged

OWN = """
def redness(picture, times=1.0):
    return times * picture.getpixel((0, 0))[0]

class Bare:
    def score(self, images):
        return [0.0 for _ in images]

def build(name, importance=1.0):
    from bayes_merger.scoring import FormulaScorer
    return FormulaScorer(name, "contrast", importance=importance)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the working folder's ``scorers/``, with a name that no other test has."""
    monkeypatch.chdir(tmp_path)
    Path("scorers").mkdir()
    Path("scorers/own_functions_and_classes.py").write_text(OWN)
    return "own_functions_and_classes"


def test_a_function_of_a_picture_is_a_scorer(module: str) -> None:
    given = {"_target_": f"{module}.redness", "times": 0.5, "importance": 2, "scale": [0, 255]}
    (scorer,) = build_scorers({"red": given}).values()
    assert isinstance(scorer, FunctionScorer)
    assert (scorer.name, scorer.importance, scorer.scale) == ("red", 2.0, (0.0, 255.0))
    red = ImageToScore("p", 0, 1, "", Image.new("RGB", (2, 2), (200, 0, 0)), None, "x")
    assert scorer.score([red, red]) == [100.0, 100.0]


OTHERS = """
def by_prompt(picture, prompt):
    return float(len(prompt))

def by_default(picture, prompt=""):
    return float(len(prompt))

def by_three(picture, prompt, seed):
    return 1.0

async def later(picture):
    return 1.0
"""


def test_a_function_of_a_picture_and_its_prompt_is_a_scorer(module: str) -> None:
    Path("scorers/functions_of_prompts.py").write_text(OTHERS)
    seen = ImageToScore("p", 0, 1, "a ring", Image.new("RGB", (2, 2)), None, "x")
    for name in ("by_prompt", "by_default"):
        (scorer,) = build_scorers({name: {"_target_": f"functions_of_prompts.{name}"}}).values()
        assert scorer.score([seen]) == [6.0]
    for name, words in (("by_three", "takes picture, prompt, seed; it is given a picture, or"), ("later", "is async")):
        with pytest.raises(ConfigError, match=f"scorer {name}: its function {words}"):
            build_scorers({name: {"_target_": f"functions_of_prompts.{name}"}})


def test_what_a_scorers_files_lack_is_said_before_the_run(module: str) -> None:
    with pytest.raises(ConfigError, match=r"scorers\.x: its YAML needs a _target_"):
        build_scorers({"x": {"target": f"{module}.redness"}})
    for line in ("from .own_functions_and_classes import redness", "from scorers.own_functions import redness"):
        Path("scorers/importing_others.py").write_text(f"{line}\n")
        with pytest.raises(ConfigError, match="imports another file of its folder as of a package; write  from FILE"):
            build_scorers({"x": {"_target_": "importing_others.redness"}})


def test_a_function_that_takes_a_name_builds_one(module: str) -> None:
    (scorer,) = build_scorers({"made": {"_target_": f"{module}.build", "importance": 3}}).values()
    assert (type(scorer).__name__, scorer.name, scorer.importance) == ("FormulaScorer", "made", 3.0)


def test_a_class_that_takes_no_name_is_told_what_it_is_given(module: str) -> None:
    with pytest.raises(ConfigError, match=r"scorers\.x: Bare takes no name=, which every scorer is given; inherit"):
        build_scorers({"x": {"_target_": f"{module}.Bare"}})


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("statistics.py", "statistics.redness"),  # an installed module has the name
        ("my-scorer.py", "my-scorer.redness"),
        ("plain.py", "scorers.plain.redness"),
    ],
)
def test_a_file_of_one_s_own_is_meant_whatever_it_is_called(
    file: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scorers").mkdir()
    (tmp_path / "scorers" / file).write_text("def redness(picture):\n    return 7.0\n")
    built = build_scorers({"redness": {"_target_": target}})
    assert score_images(built["redness"], [judged()])[0].value == 7.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import not_there\n", "_target_: 'broken_one.S' needs not_there, which is not installed"),
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_line(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scorers").mkdir()
    (tmp_path / "scorers" / "broken_one.py").write_text(text)
    with pytest.raises(ConfigError, match=f"^scorers.s: {said}$"):
        build_scorers({"s": {"_target_": "broken_one.S"}})
