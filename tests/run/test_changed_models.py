"""A model's file that changes while a search goes on: noticed before the next trial, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.user_folder import command, make_workplace

# A scorer is the only code of the person's own in a run, and so can stand for the one who changes a file meanwhile.
MEDDLER = """\
import os
import shutil
from pathlib import Path

from redness import Redness


class Meddler(Redness):
    calls = 0

    def score(self, images):
        self.calls += 1
        if self.calls == 2 and (how := os.environ.get("MEDDLE")):
            model = Path(os.environ["MEDDLED"])
            if how == "replaced":
                shutil.copyfile("a.safetensors", "new")
                os.replace("new", model)
            elif how == "overwritten":
                model.write_bytes(Path("a.safetensors").read_bytes())
            elif how == "cut short":
                os.truncate(model, model.stat().st_size // 2)
            else:
                model.unlink()
        return super().score(images)
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("how", "changed"),
    [
        ("replaced", "b.safetensors"),
        ("overwritten", "b.act"),
        ("replaced", "b.act"),
        ("overwritten", "b.safetensors"),
        ("cut short", "b.safetensors"),
        ("deleted", "b.safetensors"),
    ],
)
def test_it_ends_the_run_with_one_line_and_resume_goes_on_when_it_is_put_back(
    how: str,
    changed: str,
    tmp_path: Path,
    tiny_sd1_config: Path,
    tiny_a: Path,
    tiny_b: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_workplace(tmp_path / "work", tiny_sd1_config)
    (folder / "scorers" / "meddler.py").write_text(MEDDLER, encoding="utf-8")
    (folder / "scorers" / "meddler.yaml").write_text("meddler:\n  _target_: meddler.Meddler\n", encoding="utf-8")
    for name, model in (("a", tiny_a), ("b", tiny_b)):
        shutil.copyfile(model, folder / f"{name}.safetensors")
        os.utime(folder / f"{name}.safetensors", (1e9, 1e9))
    save_file({"model.diffusion_model.input_blocks.1.0.in_layers.2.weight": torch.tensor(0.5)}, folder / "b.act")
    shutil.copyfile(folder / changed, folder / "kept")
    models = ("model_a=a.safetensors", "model_b=b.safetensors", "act.alpha=b.act")
    settings = ("scorers=[meddler]", "init_points=3", "n_iters=0", "final.rescore=0", "final.images=0", "name=x")
    monkeypatch.setenv("MEDDLE", how)
    monkeypatch.setenv("MEDDLED", changed)
    result = command(folder, "run", "experiment=tiny", *models, *settings)
    words = "is gone" if how == "deleted" else "has changed since it was opened"
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert f"{changed}: {words}" in result.stderr
    assert "bayes-merger resume x" in result.stderr
    assert not list(folder.glob("runs/x/best/*.safetensors"))
    monkeypatch.delenv("MEDDLE")
    shutil.copyfile(folder / "kept", folder / changed)
    result = command(folder, "resume", "x")
    assert result.returncode == 0, result.stderr
    shown = json.loads(command(folder, "show", "x", "--json").stdout)
    states = [trial["state"] for trial in shown["trials_list"]]
    assert states.count("complete") == 3
    assert len(states) == 4  # the one that was under way
