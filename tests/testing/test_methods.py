"""The shipped contract of a merge method, as a stranger inherits it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.testing.methods import MergeMethodContract

METHOD = """\
from bayes_merger.merging import merge_method

@merge_method
def mine(a, b, *, alpha=0.5):
    "A moved towards B, least where they differ most."
    step = b - a
    return {result}
"""


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MergeMethodContract:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merge_methods").mkdir()

    class Mine(MergeMethodContract):
        method = "mine"

    return Mine()


def write(result: str) -> None:
    Path("merge_methods/mine.py").write_text(METHOD.format(result=result))


def promises_of(contract: MergeMethodContract) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


def test_a_good_method_of_the_working_folder_keeps_the_contract(contract: MergeMethodContract) -> None:
    write("a + alpha * step / (1 + step.abs())")
    assert len(promises_of(contract)) == 12
    for name in promises_of(contract):
        getattr(contract, name)()


@pytest.mark.parametrize(
    ("result", "broken"),
    [
        ("a.add_(step, alpha=alpha)", "test_the_result_is_finite_and_of_the_same_shape_and_the_inputs_are_untouched"),
        ("a", "test_the_result_is_finite_and_of_the_same_shape_and_the_inputs_are_untouched"),
        ("a + alpha * step + 1", "test_identical_models_give_the_model"),
        ("a + alpha * step * (a / (a - a.min())).abs()", "test_zero_constant_opposite_and_tiny_models_are_defined"),
    ],
)
def test_a_broken_promise_is_found(contract: MergeMethodContract, result: str, broken: str) -> None:
    write(result)
    with pytest.raises(AssertionError):
        getattr(contract, broken)()
