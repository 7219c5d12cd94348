"""The example in docs/activations.md: a plain saliency that plain diffusers writes, and a merge that takes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bayes_merger import demo
from tests.user_folder import command

DOC = Path(__file__).resolve().parent.parent / "docs" / "activations.md"


def test_plain_diffusers_writes_a_saliency_that_a_merge_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)[0]
    script = script.replace('"A.safetensors"', repr(str(demo.model_path("a")))).replace("STEPS", "1")
    script = script.replace('"CONFIG"', repr(str(demo.config_dir())))
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "example", "exec"), {})
    models = [f"model_{name}={demo.model_path(name)}" for name in ("a", "b")]
    result = command(tmp_path, "plan", *models, "alpha=act:A.plain.safetensors")
    assert result.returncode == 0, result.stderr
    assert "alpha is multiplied by A.plain.safetensors in 282 of 754 merged tensors" in result.stdout + result.stderr
