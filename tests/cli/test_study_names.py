"""Every command that takes a study takes the beginning of its name, if no other begins so, and ``-`` for the newest."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from bayes_merger.cli import COMMANDS, main
from bayes_merger.cli.completion import STUDIES
from bayes_merger.testing.studies import make_study

TAKING = {
    "resume": "resume {} n_iters=9",
    "fork": "fork {} other optimiser=tpe",
    "pause": "pause {}",
    "stop": "stop {}",
    "worker": "worker {}",
    "rate": "rate {} --terminal",
    "show": "show {}",
    "report": "report {}",
    "compare": "compare {} 0 1",
    "history": "history {}",
    "export": "export {} weights",
    "merge": "merge {} --out x.safetensors",
    "plan": "plan {}",
    "recipe": "recipe {}",
    "rescore": "rescore {} scorers=contrast",
}
"""Command -> how it is given a study."""

NAMES = ("forest-two", "forest-one", "sea")
"""The studies, the one touched last first."""

OTHERS = {
    "run",
    "serve",
    "diff",
    "effect",
    "xy",
    "payload",
    "score",
    "scorers",
    "models",
    "activations",
    "rebasin",
    "completion",
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three studies."""
    runs = tmp_path_factory.mktemp("names") / "runs"
    for name in NAMES:
        make_study(runs / name, 3)
    gc.collect()  # closes their databases, which are smaller afterwards
    return runs


def test_every_command_is_here() -> None:
    assert set(TAKING) == set(STUDIES)
    assert set(TAKING) | OTHERS == set(COMMANDS)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("command", TAKING)
def test_a_study_may_be_abbreviated(
    command: str,
    studies: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(name: str) -> tuple[int, str]:
        """What the command says of the study of that name, before it or any other command has changed one."""
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        shutil.copytree(studies, "runs")
        for age, each in enumerate(NAMES):
            os.utime(f"runs/{each}/study.db", (1_700_000_000 - age, 1_700_000_000 - age))
        code = main(TAKING[command].format(name).split())
        return code, "".join(capsys.readouterr())

    whole = said("forest-two")
    assert "no study" not in whole[1]
    assert said("forest-t") == whole
    assert said("-") == whole
    assert said("none")[1].startswith("error: no study 'none'; known: ")
    assert said("fore") == (
        2, "error: 'fore': 2 studies begin so (forest-two, forest-one); give more of the name\n"
    )  # fmt: skip
