"""Whatever a study's database holds, who reads it is shown the study or told in one line what is wrong."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.config import FinalConfig
from bayes_merger.run.final import decide, fresh_payloads
from bayes_merger.run.progress import StopSignal
from bayes_merger.search.study.storage import backend, put_to_rest
from tests.run.fake_run import evaluator_of, make_setup, searched

ODD = (
    "null", "true", "[]", "{}", '""', '"x"', "-1", "7", "1e400", "NaN", "-Infinity", str(10**400), "[[]]", "[null]",
    '{"a": {"BASE": 1}}', '{"alpha": {"BASE": "x"}}', '["../../../../etc/passwd"]', '"\\u0000\\u202e\\u001b[2J"',
    "[" * 500 + "]" * 500, "yesterday", "{",
)  # fmt: skip
"""Values in the place of JSON that a run wrote; the last two are none."""

COLUMNS = (
    ("study_user_attributes", "value_json", ODD),
    ("trial_user_attributes", "value_json", ODD),
    ("trials", "state", ("RUNNING", "WAITING", "FAIL", "PRUNED", "SLEEPING", None)),
    ("trials", "datetime_start", ("yesterday", None, "0001-01-01 00:00:00.000000", "9999-12-31 23:59:59.999999")),
    ("trials", "datetime_complete", ("yesterday", None, "0001-01-01 00:00:00.000000", 7)),
    ("trials", "number", (-1, 10**9, None)),
    ("trial_values", "value", (None, 1e308, -1e308, "x")),
    ("trial_values", "value_type", ("INF_POS", "INF_NEG", "NAN", None)),
    ("trial_values", "objective", (3, -1)),
    ("trial_params", "param_value", (None, 1e308, -5.0, "x")),
    ("trial_params", "param_name", ("OUT99.alpha", "")),
    ("trial_params", "distribution_json", ("x", "{}", '{"name": "CategoricalDistribution", "attributes": {"choices": ["a", "b"]}}',
     '{"name": "FloatDistribution", "attributes": {"low": 5.0, "high": 9.0, "log": false, "step": null}}')),
    ("study_directions", "direction", ("MINIMIZE", "NOT_SET", "UP")),
    ("studies", "study_name", ("", "another", "a\nb")),
    ("version_info", "schema_version", (1, 99)),
    ("alembic_version", "version_num", ("v0.9.0.a", "v99")),
)  # fmt: skip
"""Table, column, and what stands there instead."""

COMMANDS = (["show"], ["show", "s"], ["show", "s", "--json"], ["recipe", "s"], ["merge", "s", "--out", "x.safetensors"],
            ["fork", "s", "t"], ["resume", "s"])  # fmt: skip


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a final round, as a run leaves it."""
    folder = tmp_path_factory.mktemp("untouched") / "s"
    setup = make_setup(init_points=5, n_iters=4, final=FinalConfig(rescore=2, images=1))
    study, notes = searched(setup, folder)
    study.set_user_attr("final", decide(setup, study, evaluator_of(setup), notes, StopSignal(notes)).to_json())
    study.set_user_attr("max_batch", 2)
    study.set_user_attr("fresh", [[one.to_json() for one in fresh_payloads(setup, part)] for part in (0, 1)])
    put_to_rest(backend(study))
    return folder / "study.db"


def mutants(path: Path) -> Iterator[tuple[str, str, int, object]]:
    """Each place of a database, and something that does not belong there."""
    with closing(sqlite3.connect(path)) as database:
        for table, column, values in COLUMNS:
            key = "key" if table.endswith("user_attributes") else "rowid"
            rows = database.execute(f"SELECT max(rowid) FROM {table} GROUP BY {key} ORDER BY 1").fetchall()
            for (row,), value in itertools.product(rows if key == "key" else rows[-3:], values):
                yield table, column, row, value


def check(path: Path, runs: Path, mutant: tuple[str, str, int, object], capsys: pytest.CaptureFixture[str]) -> None:
    table, column, row, value = mutant
    folder = runs / "s"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / "study.db")
    with closing(sqlite3.connect(folder / "study.db")) as database:
        try:
            with database:
                database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
        except sqlite3.IntegrityError:
            return  # the database itself refuses it
    before = (folder / "study.db").read_bytes()
    for command in COMMANDS:
        capsys.readouterr()
        code = main([*command, f"runs={runs}"])
        said = capsys.readouterr()
        assert code in (0, 2), (command, said.err)
        assert "Traceback" not in said.err
        assert len(said.err.splitlines()) == (command == ["show"] and bool(said.err)) + (code == 2), said.err
        assert "\x1b[2J" not in said.out + said.err
    assert (folder / "study.db").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["study.db"]


def test_a_tampered_study_is_shown_or_refused_in_one_line(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mutant in random.Random(5).sample(list(mutants(untouched)), 6):
        check(untouched, tmp_path / "runs", mutant, capsys)


def test_a_date_that_is_none_hides_no_other_study(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "whole").mkdir(parents=True)
    shutil.copyfile(untouched, tmp_path / "runs" / "whole" / "study.db")
    check(untouched, tmp_path / "runs", ("trials", "datetime_complete", 1, "yesterday"), capsys)
    assert main(["show", f"runs={tmp_path / 'runs'}"]) == 0
    shown = capsys.readouterr()
    assert "whole" in shown.out
    assert "s: " in shown.err or "unreadable" in shown.out


def test_settings_that_are_nothing_or_no_json_are_told(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(untouched)) as database:
        (row,) = database.execute("SELECT rowid FROM study_user_attributes WHERE key = 'config'").fetchone()
    for text in ("null", "yesterday"):
        check(untouched, tmp_path / "runs", ("study_user_attributes", "value_json", row, text), capsys)


def test_a_trial_without_a_number_is_told(untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(untouched, tmp_path / "runs", ("trials", "number", 7, None), capsys)


@pytest.mark.slow
def test_every_tampered_study_is_shown_or_refused_in_one_line(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mutant in mutants(untouched):
        check(untouched, tmp_path / "runs", mutant, capsys)
