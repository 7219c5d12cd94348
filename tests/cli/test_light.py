"""What only looks starts at once: no command that reads a study loads what draws, or what writes databases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bayes_merger.testing.studies import make_study

COMMANDS = ("show", "show s", "show s --csv", "report s", "compare s 0 1", "history s", "export s")
HEAVY = ("torch", "diffusers", "transformers", "matplotlib", "sqlalchemy", "hydra")


def test_looking_is_light(tmp_path: Path) -> None:
    make_study(tmp_path / "s", 12, drawn=2)
    code = f"""
import sys
from bayes_merger.cli import main
for command in {COMMANDS!r}:
    assert main([*command.split(), "--runs", {str(tmp_path)!r}]) == 0
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    assert not loaded, (command, loaded)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
