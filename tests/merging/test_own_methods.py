"""Merge methods in the working folder: a file is enough, and what is wrong with it is one line that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bayes_merger.cli import main
from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS, Cost, method_spec
from bayes_merger.merging.method import own_sources
from tests.merging.tiny_models import write_model
from tests.processes import Process, program

HEAD = "from bayes_merger.merging import merge_method\n"
GENTLE = f"""{HEAD}
@merge_method
def gentle_sum(a, b, *, alpha=0.5):
    "A moved towards B, least where they differ most."
    step = b - a
    return a + alpha * step / (1 + step.abs())
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merge_methods").mkdir()
    return tmp_path


def write(text: str, name: str = "mine.py") -> None:
    Path("merge_methods", name).write_text(text)


def print_sources(methods: list[str]) -> None:
    print(json.dumps(own_sources(methods)))


def models() -> list[str]:
    return [f"model_{name}={write_model(Path(f'{name}.safetensors'), seed)}" for seed, name in enumerate("ab")]


def test_merge_plan_and_help_know_it_and_say_where_it_comes_from(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(GENTLE)
    given = [*models(), "method=gentle_sum"]
    with Process(program, "merge", *given, "--out", "ab.safetensors") as merge:
        _, said = merge.communicate()
    assert said == "note: the merge method 'gentle_sum' comes from merge_methods/mine.py\n"
    assert Path("ab.safetensors").exists()
    assert main(["plan", *given]) == 0
    assert "about 1 s on one core (unmeasured)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["merge", "--help"])
    assert "gentle_sum                 models a, b; alpha" in capsys.readouterr().out
    assert not list(Path("merge_methods").glob("__pycache__"))


def test_it_is_gone_in_another_folder(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(GENTLE)
    assert "gentle_sum" in METHODS
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))
    assert "gentle_sum" not in METHODS
    monkeypatch.chdir(here)
    assert method_spec("gentle sum").cost == Cost(100, 12, measured=False)


def test_its_file_is_part_of_what_makes_scores_comparable(here: Path) -> None:
    write(GENTLE)
    before = own_sources(["gentle_sum", "slerp"])
    assert list(before) == ["gentle_sum"]
    write(GENTLE.replace("1 + step", "2 + step"))
    with Process(print_sources, ["gentle_sum"]) as later:
        said, _ = later.communicate()
    assert json.loads(said).keys() == before.keys()
    assert json.loads(said) != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1 +\n", r"mine\.py, line 1: invalid syntax"),
        ("import no_such_thing\n", r"mine\.py, line 1: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("import sys\nsys.exit(0)\n", r"mine\.py, line 2: SystemExit: 0"),
        ("x = 1\n", r"mine\.py: has no function under @merge_method; add one, or name it _mine\.py"),
        (f"{HEAD}@merge_method\ndef slerp(a, b, *, alpha=0.5): ...\n", "shares a name with 'slerp' of bayes-merger"),
        (f"{HEAD}@merge_method\ndef lerp(a, b, *, alpha=0.5): ...\n", "shares a name with 'weighted_sum'"),
        (f"{HEAD}@merge_method\ndef mine(x, y, *, alpha=0.5): ...\n", "its models are called x, y; call them a, b"),
        (f"{HEAD}@merge_method\ndef mine(a, b=1, *, alpha=0.5): ...\n", "a and b have no default"),
        (f"{HEAD}@merge_method\ndef mine(a, b, *, alpha): ...\n", "weight 'alpha' has no default; write  alpha"),
        (f"{HEAD}@merge_method\ndef mine(a, b, *, alpha: float = 1): ...\n", "weight 'alpha' has the default 1; write"),
        (f"{HEAD}@merge_method\ndef mine(a, b, *, alpha=True): ...\n", "'alpha' has the default True"),
        (f"{HEAD}@merge_method\ndef mine(a, b, *, alpha=0.5, how='x'): ...\n", "'x' is not one of its choices"),
        (f"{HEAD}@merge_method\ndef mine(a, b, *, clip=0.5): ...\n", "'clip' is a setting of every merge"),
        (f"{HEAD}@merge_method\ndef mine(a, b): ...\n", "has no weight to search"),
        (f"{HEAD}@merge_method\ndef mine(a, b, **alpha): ...\n", r"takes '\*\*alpha'"),
        (f"{HEAD}@merge_method(search={{'beta': (0, 1)}})\ndef mine(a, b, *, alpha=0.5): ...\n", "no keyword 'beta'"),
        (f"{HEAD}@merge_method(bounds={{'alpha': (1, 2)}})\ndef mine(a, b, *, alpha=0.5): ...\n", "the default 0.5 of"),
        (f"{HEAD}@merge_method(prepare=len)\ndef mine(a, b, *, alpha=0.5): ...\n", "prepare= and the keyword 'prepared'"),
        (f"{HEAD}@merge_method(fast=True)\ndef mine(a, b, *, alpha=0.5): ...\n", "TypeError.* 'fast'"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_one_line_that_names_it_and_leaves_nothing_behind(here: Path, text: str, said: str) -> None:
    write(text)
    for _ in range(2):  # it is not forgotten after the first time
        with pytest.raises(ConfigError, match=said) as caught:
            method_spec("weighted_sum")
        assert str(caught.value).startswith("merge_methods/mine.py")
        assert "\n" not in str(caught.value)
    Path("merge_methods/mine.py").unlink()
    assert method_spec("lerp").name == "weighted_sum"
    assert "mine" not in METHODS


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("a.reshape(-1)[:1]", r"returned torch\.float32 \[1\] for models of torch\.float32 \["),
        ("a.double()", r"returned torch\.float64 \["),
        ("None", "returned NoneType for models of"),
        ("a @ b @ a @ b @ None", "TypeError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_method_does_wrong_while_it_merges_is_one_line_too(
    here: Path, capsys: pytest.CaptureFixture[str], result: str, said: str
) -> None:
    write(f"{HEAD}\n@merge_method\ndef mine(a, b, *, alpha=0.5):\n    return {result}\n")
    assert main(["merge", *models(), "method=mine", "--out", "ab.safetensors"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: merge_methods/mine.py: merge method 'mine'")
    with pytest.raises(ConfigError, match=said):
        METHODS["mine"](torch.zeros(2, 2), torch.ones(2, 2), alpha=0.5)
    assert not Path("ab.safetensors").exists()


def test_files_that_begin_with_an_underscore_are_not_run(here: Path) -> None:
    write("raise SystemExit", "_notes.py")
    assert method_spec("slerp").name == "slerp"
