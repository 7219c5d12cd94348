"""Settings of the merge method that a run does not search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.cli import main
from bayes_merger.merging import METHODS
from tests.checkpoint_files import KEY
from tests.user_folder import command, make_workplace


@pytest.fixture
def workplace(tmp_path: Path, tiny_sd1_config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_workplace(tmp_path / "work", tiny_sd1_config)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_a_run_and_the_merges_rebuilt_from_it_have_the_methods_options(
    workplace: Path, tiny_a: Path, tiny_b: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = (f"model_a={tiny_a}", f"model_b={tiny_b}")
    settings = ("method=nuslerp", "options.vectors=rows", "init_points=4", "n_iters=0", "final.images=0", "name=rows")
    result = command(workplace, "run", "experiment=tiny", *models, *settings)
    assert result.returncode == 0, result.stderr
    assert main(["merge", "rows", "--trial", "3", "--out", "again.safetensors"]) == 0
    again = load_file("again.safetensors")
    a, b = load_file(tiny_a)[KEY].float(), load_file(tiny_b)[KEY].float()
    capfd.readouterr()
    assert main(["show", "rows", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["trials_list"]
    alpha = rows[3]["weights"]["alpha"]["OUT05"]
    assert torch.equal(again[KEY], METHODS["nuslerp"](a, b, alpha=alpha, vectors="rows").half())
    assert not torch.equal(again[KEY], METHODS["nuslerp"](a, b, alpha=alpha).half())
    assert main(["resume", "rows", "options.vectors=tensor"]) == 2


def test_an_option_that_the_method_has_not_is_one_line(
    workplace: Path, tiny_a: Path, tiny_b: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = (f"model_a={tiny_a}", f"model_b={tiny_b}")
    assert main(["run", "experiment=tiny", *models, "method=nuslerp", "options.vectors=row"]) == 2
    assert capfd.readouterr().err == "error: vectors: 'row' is unknown; give one of tensor, rows\n"
    assert main(["run", "experiment=tiny", *models, "options.vote=sum"]) == 2
    assert "weighted_sum has no option 'vote'" in capfd.readouterr().err
