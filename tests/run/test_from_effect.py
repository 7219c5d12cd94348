"""``space.from_effect``: what is frozen where, what is refused, and what a study keeps of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from bayes_merger import compose
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.demo import model_path
from bayes_merger.errors import ConfigError
from bayes_merger.run.effect.narrowing import narrowed
from bayes_merger.run.effect.table import as_csv, read_block_effects
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.idle import without_idle
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.spaces import make_space
from bayes_merger.search.space.from_effect import about_effect, as_asked, read_from_effect
from bayes_merger.setups import make_setup

SIZES = {"IN01": 4.0, "IN02": 3.0, "OUT07": 2.0, "OUT10": 0.6, "OUT03": 0.4}


@pytest.fixture(scope="module")
def hashes() -> dict[str, str]:
    found: dict[str, str] = {}
    names: tuple[Literal["a", "b"], ...] = ("a", "b")
    for name in names:
        with open_checkpoint(model_path(name)) as model:
            found[name] = model.sha256()
    return found


def line(hashes: dict[str, str], block: str, size: float | None, **more: Any) -> dict[str, Any]:
    measures = {} if size is None else {"changed": 10 * size, "changed_error": 1.0, "distance": size,
                                        "distance_error": 0.1, "demo_clip": -1 / size, "demo_clip_error": None}  # fmt: skip
    status = "identical" if size is None else "drawn"
    return {
        "entry": block, "rule": f"{block}:", "ratio": 1.0, "block": block, "part": "", "status": status, **measures,
        "method": "weighted_sum", "model_a": hashes["a"], "model_b": hashes["b"], **more,
    }  # fmt: skip


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(lines) if path.suffix == ".json" else as_csv(lines), encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path, hashes: dict[str, str]) -> Path:
    equal = [line(hashes, "M00", None)]
    parts = [line(hashes, "OUT07", 9.0, part="attn2"), line(hashes, "OUT07", 9.0, ratio=0.5)]
    return write(tmp_path / "effect.csv", [*(line(hashes, *pair) for pair in SIZES.items()), *equal, *parts])


@contextmanager
def set_up(*overrides: str) -> Iterator[RunSetup]:
    given = ["payloads=[demo]", "scorers=[demo_aesthetic]", "generator.config=${demo:config}"]
    settings = compose.compose_run(["model_a=${demo:a}", "model_b=${demo:b}", *given, *overrides])
    setup = make_setup(compose.validate(settings), settings, RunFolder(Path("runs/none")))
    try:
        yield setup
    finally:
        setup.close()


def frozen(*overrides: str) -> dict[str, float]:
    with set_up(*overrides) as setup:
        space = narrowed(setup).space
        searched = {name for parameter in space.parameters for name in parameter.drives}
        assert len(searched) + len(space.fixed) == 26
        return dict(space.fixed)


def test_what_does_least_is_frozen_as_long_as_the_others_have_nine_tenths_of_the_effect(table: Path) -> None:
    assert frozen(f"space.from_effect={table}") == {"OUT03.alpha": 0.5, "OUT10.alpha": 0.5}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("keep=0.95",), {"OUT03.alpha": 0.5}),
        (("keep=1",), {}),
        (("keep=0.65", "at=0.25"), {"OUT03.alpha": 0.25, "OUT10.alpha": 0.25, "OUT07.alpha": 0.25}),
        (("by=changed",), {"OUT03.alpha": 0.5, "OUT10.alpha": 0.5}),
        (("by=demo_clip",), {"IN01.alpha": 0.5}),  # by their sizes: 2.5, 1.67, 0.5, 0.33, 0.25; both last have 11%
    ],
)
def test_share_place_and_measure_may_be_given(table: Path, more: tuple[str, ...], expected: dict[str, float]) -> None:
    given = [f"space.from_effect.{setting}" for setting in more]
    assert frozen(f"space.from_effect.file={table}", *given) == expected


def test_json_says_the_same(tmp_path: Path, table: Path, hashes: dict[str, str]) -> None:
    lines = [line(hashes, *pair) for pair in SIZES.items()]
    assert read_block_effects(write(tmp_path / "effect.json", lines)).sizes == read_block_effects(table).sizes == SIZES


@pytest.mark.slow
def test_the_middle_is_that_of_the_range_and_a_group_counts_whole(table: Path) -> None:
    assert frozen(f"space.from_effect={table}", "space.ranges.OUT03=[0.2,0.6]") == {
        "OUT03.alpha": 0.4, "OUT10.alpha": 0.5
    }  # fmt: skip
    assert frozen(f"space.from_effect={table}", "space.groups=[[OUT03,OUT07],[OUT10,M00]]") == {
        "OUT10.alpha": 0.5, "M00.alpha": 0.5
    }  # fmt: skip
    assert frozen(f"space.from_effect={table}", "space.groups=[[OUT03,IN05]]") == {"OUT10.alpha": 0.5}


def test_a_rule_of_the_user_s_own_stays(table: Path) -> None:
    assert frozen(f"space.from_effect={table}", "space.frozen.OUT10=1") == {"OUT10.alpha": 1.0, "OUT03.alpha": 0.5}


def test_a_folder_called_like_a_slot_is_no_rule_about_it(table: Path, tmp_path: Path) -> None:
    place = tmp_path / "VAE"
    place.mkdir()
    moved = table.rename(place / "effect.csv")
    assert frozen(f"space.from_effect={moved}") == {"OUT03.alpha": 0.5, "OUT10.alpha": 0.5}


def test_once_looked_up_the_settings_say_it_all(table: Path) -> None:
    with set_up(f"space.from_effect={table}") as setup:
        begun = narrowed(setup)
        table.unlink()
        assert narrowed(begun) is begun
        rules = begun.config.space
        assert without_idle(begun).space.idle[:2] == ("BASE.alpha", "IN00.alpha")
    assert about_effect(rules, begun.space.blocks) == (
        "frozen because of effect.csv: OUT03, OUT10 at 0.5, with 10.0% of the effect (distance)"
    )
    with set_up() as plain:
        again = compose.changed(vars(plain.config) | {"space": json.loads(json.dumps(dict(rules)))}, [])
        assert again["space"]["from_effect"]["frozen"] == {"OUT03.alpha": 0.5, "OUT10.alpha": 0.5}


def test_nothing_is_said_where_nothing_was_asked() -> None:
    assert about_effect({}, []) == about_effect(None, []) == about_effect({"from_effect": "effect.csv"}, []) == ""


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("7", "space.from_effect: 7 is no file; give  space.from_effect=effect.csv"),
        ("{keep: 0.5}", "space.from_effect: {'keep': 0.5} is no file; give  space.from_effect=effect.csv"),
        ("{file: e.csv, kep: 0.5}", "space.from_effect: unknown setting 'kep'; did you mean keep?"),
        ("{file: e.csv, keep: 0}", "space.from_effect.keep: 0 is no share of the effect; give one over 0, at most 1"),
        ("{file: e.csv, keep: much}", "space.from_effect.keep: 'much' is not a number; write one such as 0.5"),
        ("{file: e.csv, by: 7}", "space.from_effect.by: 7 is not the name of a measure"),
        ("{file: e.csv, frozen: [IN00]}", "space.from_effect.frozen: ['IN00'] is no table of names and values"),
        (
            "{file: e.csv, frozen: {IN00: x}}",
            "space.from_effect.frozen: IN00: 'x' is not a number; write one such as 0.5",
        ),
        ("{file: e.csv, frozen: {IN99: 1}}", "frozen: IN99: unknown block 'IN99'"),
        ("nowhere.csv", "space.from_effect: nowhere.csv no such file"),
    ],
)
def test_settings_that_make_no_sense_are_refused(value: str, said: str) -> None:
    with set_up() as setup:
        config = replace(setup.config, space={"from_effect": yaml.safe_load(value)})
        with pytest.raises(ConfigError) as caught:
            narrowed(replace(setup, config=config, space=make_space(config, setup.method, setup.architecture)))
    assert str(caught.value).startswith(said)


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"model_b": "0" * 64}, "is of another model B (0000000000), not of b.safetensors (716c1faf27); measure this pair"),
    ({"method": "slerp"}, "is of method 'slerp', and this run merges by 'weighted_sum'"),
    ({"distance": "NaN"}, "OUT03: distance is 'NaN', which is no number"),
    ({"distance": "lots"}, "OUT03: distance is 'lots', which is no number"),
    ({"block": "OUT99"}, "has a block 'OUT99', which these models have not"),
    ({"block": "\x1b[31mOUT99"}, "has a block '?[31mOUT99', which these models have not"),
    ({"status": "perhaps"}, "has an entry with status 'perhaps', which is unknown"),
    ({"ratio": "whole"}, "OUT03: ratio is 'whole', which is no number"),
    ({"part": "attn2"}, "has no whole block that was drawn; measure them with  bayes-merger effect --of blocks"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("change", "said"), HOSTILE)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, hashes: dict[str, str], change: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "effect.csv", [line(hashes, "OUT03", 0.5) | change])
    with set_up(f"space.from_effect={path}") as setup, pytest.raises(ConfigError) as caught:
        narrowed(setup)
    text = str(caught.value)
    assert text.startswith(f"space.from_effect: {path} {said}")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no table of effects; measure it with  bayes-merger effect"),
        ("entry,block\nOUT03,OUT03\n", "has no column 'part'; measure it with  bayes-merger effect"),
        ("entry,block\nOUT03,OUT03,1,2\n", "has a line with more cells than columns"),
        ('entry,block\n"OUT03,OUT03\n', "is not CSV (unexpected end of data)"),
        ("\0", "its encoding cannot be told"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "effect.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_block_effects(path)
    assert str(caught.value).startswith(said)


def test_a_block_that_is_there_twice_and_lines_of_two_measurements_are_refused(
    tmp_path: Path, hashes: dict[str, str]
) -> None:
    once = line(hashes, "OUT03", 0.5)
    with pytest.raises(ConfigError, match="has OUT03 twice; leave one out"):
        read_block_effects(write(tmp_path / "twice.csv", [once, once]))
    with pytest.raises(ConfigError, match="has lines of different models or methods; give one measurement"):
        read_block_effects(write(tmp_path / "mixed.csv", [once, line(hashes, "OUT04", 0.5, model_a="0" * 64)]))
    with pytest.raises(ConfigError, match="has no measure 'laion'; "):
        read_block_effects(write(tmp_path / "one.csv", [once]), "laion")


def test_a_recipe_in_several_steps_has_no_such_weights(tmp_path: Path, table: Path) -> None:
    recipe = tmp_path / "steps.yaml"
    recipe.write_text(
        f"models: {{a: {model_path('a')}, b: {model_path('b')}}}\nsteps:\n  - {{name: mix, a: a, b: b, alpha: search}}\n"
    )
    given = ["payloads=[demo]", "scorers=[demo_aesthetic]", "generator.config=${demo:config}"]
    settings = compose.compose_run([f"recipe={recipe}", *given, f"space.from_effect={table}"])
    setup = make_setup(compose.validate(settings), settings, RunFolder(Path("runs/none")))
    with pytest.raises(ConfigError, match="a recipe in several steps is searched without it"):
        narrowed(setup)
    setup.close()


def test_what_was_stored_is_read_as_it_was(table: Path) -> None:
    with set_up(f"space.from_effect={table}") as setup:
        rule = narrowed(setup).config.space["from_effect"]
    assert rule == {
        "file": str(table), "by": "", "keep": 0.9, "frozen": {"OUT03.alpha": 0.5, "OUT10.alpha": 0.5},
        "share": pytest.approx(0.1), "measure": "distance",
    }  # fmt: skip
    found = read_from_effect({"from_effect": json.loads(json.dumps(rule))})
    assert found is not None
    assert found.to_json() == rule
    assert (
        as_asked({"from_effect": rule})
        == as_asked({"from_effect": str(table)})
        != as_asked({"from_effect": "other.csv"})
    )
    assert as_asked({"groups": "auto"}) == {"groups": "auto"}
