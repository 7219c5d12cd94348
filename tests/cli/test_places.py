"""Where studies are is understood in both forms by every command; what is proposed can be typed as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.cli.arguments import as_settings
from bayes_merger.compose.changes import check_changeable
from bayes_merger.errors import ConfigError
from bayes_merger.run.folder import RunFolder
from tests.run.fake_run import make_setup, searched


@pytest.mark.parametrize("command", ["show", "recipe", "plan", "worker", "resume", "fork", "merge"])
def test_a_place_is_understood_in_both_forms(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"fork": ["t"], "merge": ["--out", str(tmp_path / "x.safetensors")]}.get(command, [])
    for place in ([f"runs={tmp_path}"], [f"--runs={tmp_path}"], ["--runs", str(tmp_path)]):
        assert main([command, "nothing", *more, *place]) == 2
        assert f"no study 'nothing'; there are no studies in {tmp_path}" in capsys.readouterr().err


def test_a_study_elsewhere_is_shown_with_commands_that_find_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched(make_setup(init_points=3, n_iters=0), tmp_path / "my runs" / "s")
    assert main(["show", "s", f"runs={tmp_path / 'my runs'}"]) == 0
    assert f"bayes-merger merge s runs='{tmp_path}/my runs' --out s.safetensors" in capsys.readouterr().out


def test_places_as_settings() -> None:
    assert as_settings(["x", "--runs", "a b", "--storage=c.db", "n_iters=3"]) == [
        "x", "runs=a b", "storage=c.db", "n_iters=3"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="--runs: needs a value"):
        as_settings(["x", "--runs"])


def test_a_fork_is_proposed_quoted_and_only_where_it_can_be() -> None:
    with pytest.raises(ConfigError, match=r"bayes-merger fork 'a b' NEW 'space.groups=\[\[IN00,IN01\]\]'"):
        check_changeable("a b", {"space": {"groups": []}}, ["space.groups=[[IN00,IN01]]"])
    with pytest.raises(ConfigError, match=r"start anew with  bayes-merger run") as found:
        check_changeable("x", {}, ["payloads.p.prompt=other words"])
    assert "bayes-merger fork" not in str(found.value)


def test_a_study_that_cannot_be_read_is_shown_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "broken")
    folder.make()
    folder.database.write_bytes(b"SQLite format 3" + bytes(200))
    assert main(["show", f"runs={tmp_path}"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("broken: ")
    assert "no studies" not in said.out
