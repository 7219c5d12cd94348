"""Which parameters of a run's space change nothing, and what a study that goes on has of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bayes_merger import compose
from bayes_merger.demo import model_path
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.idle import about_idle, with_stored_idle, without_idle
from bayes_merger.run.setup import RunSetup
from bayes_merger.setups import make_setup

DEMO = ("BASE", "IN00", "IN03", "IN06", "IN07", "IN08", "IN09", "IN10", "IN11", "M00", "OUT00", "OUT01", "OUT02")
"""The blocks in which the demo's models are equal, as its README says."""


@contextmanager
def set_up(*overrides: str, models: tuple[str, ...] = ("model_a=${demo:a}", "model_b=${demo:b}")) -> Iterator[RunSetup]:
    given = ["payloads=[demo]", "scorers=[demo_aesthetic]", "generator.config=${demo:config}"]
    settings = compose.compose_run([*models, *given, *overrides])
    setup = make_setup(compose.validate(settings), settings, RunFolder(Path("runs/none")))
    try:
        yield setup
    finally:
        setup.close()


def test_the_demo_s_models_are_equal_in_thirteen_blocks() -> None:
    with set_up() as setup:
        space = without_idle(setup).space
    assert space.idle == tuple(f"{block}.alpha" for block in DEMO)
    assert len(space.parameters) == 13
    assert about_idle(space) == (
        "13 of 26 weights change nothing: the models are equal there (BASE, IN00, IN03, IN06-IN11, M00, OUT00-OUT02)"
    )


def test_a_number_for_several_blocks_is_idle_where_all_of_them_are() -> None:
    with set_up("space=thirds") as setup:
        space = without_idle(setup).space
    assert about_idle(space).startswith("11 of 26 weights")
    assert [parameter.name for parameter in space.parameters] == [
        "IN00.alpha", "IN03.alpha", "OUT03.alpha", "OUT06.alpha", "OUT09.alpha"
    ]  # fmt: skip


def test_two_weights_are_told_apart() -> None:
    with set_up(f"model_c={model_path('c')}", "method=sum_twice") as setup:
        text = about_idle(without_idle(setup).space)
    assert "26 of 52 weights" in text
    assert "alpha: BASE, IN00, IN03, IN06-IN11, M00, OUT00-OUT02; beta: BASE, IN00" in text


def test_whoever_wants_to_searches_them_all_the_same() -> None:
    with set_up("space.idle=keep") as setup:
        assert without_idle(setup).space == setup.space


def test_numbers_that_are_no_weights_of_blocks_stay(tmp_path: Path) -> None:
    with set_up("adjust=[0,0,0,0,0,warm,0,0]", "elements=['IN00::nothing','IN01::something']") as setup:
        names = [parameter.name for parameter in without_idle(setup).space.parameters]
    assert names[-2:] == ["something", "warm"]
    assert "nothing" not in names


def test_steps_of_a_recipe_have_idle_weights_of_their_own(tmp_path: Path) -> None:
    recipe = tmp_path / "steps.yaml"
    recipe.write_text(
        f"models: {{a: {model_path('a')}, b: {model_path('b')}, c: {model_path('c')}}}\n"
        "steps:\n"
        "  - {name: mix, a: a, b: b, alpha: search}\n"
        "  - {name: end, method: add_difference, a: mix, b: b, c: c, alpha: {default: 0.3, M00-OUT02: idle, IN01: look}}\n"
    )
    with set_up(f"recipe={recipe}", models=()) as setup:
        space = without_idle(setup).space
    assert len(space.idle) == 13 + 4
    assert space.parameters[-1].name == "look"


@pytest.mark.parametrize("names", [[], ["IN03.alpha"], ["IN03.alpha", "OUT07.alpha"]])
def test_a_study_keeps_the_space_that_it_was_begun_with(names: list[str]) -> None:
    with set_up() as setup:
        begun = setup.space.without_idle(names)
        stored: dict[str, Any] = {"design": {"space": begun.to_json(), "rows": []}}
        assert with_stored_idle(setup, stored).space == begun
