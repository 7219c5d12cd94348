"""What TAB completes: in the answer, and in the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bayes_merger.cli import COMMANDS, main
from bayes_merger.cli.completion import LISTS, SHELLS, VALUES, VERBS, _leaves, candidates
from bayes_merger.config import RunConfig

TIMEOUT = 60.0

# A program of its name: it completes, and otherwise says what it was given.
PROGRAM = f"""#!/bin/sh
case $1 in
    completion) exec {sys.executable} -m bayes_merger "$@" ;;
    *) printf '%s\\n' "$@" > given.part; mv given.part given ;;
esac
"""

STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(bayes-merger completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -Uz compinit; compinit -u -D; eval "$(bayes-merger completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "bayes-merger completion fish | source"),
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two studies, a payload, and a web UI's folder with a model."""
    for name in ("forest", "foam-bath"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "study.db").touch()
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "mine.yaml").write_text("prompt: a fox\n")
    (tmp_path / "ui" / "models").mkdir(parents=True)
    (tmp_path / "ui" / "models" / "dream shaper_8.safetensors").touch()
    (tmp_path / "A.safetensors").touch()
    (tmp_path / "given.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAYES_MERGER_MODELS", str(tmp_path / "ui"))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("res", ["resume", "rescore"]),
        ("show fo", ["foam-bath", "forest"]),
        ("show forest ", []),
        ("compare forest fores", ["forest"]),
        ("resume forest n_it", ["n_iters="]),
        ("show --runs elsewhere ", []),
        ("export forest com", ["comfyui"]),
        ("payload ch", ["check"]),
        ("run generator.dev", ["generator.device="]),
        ("run generator.device=c", ["generator.device=cpu", "generator.device=cuda"]),
        ("run preview=t", ["preview=true"]),
        ("run payloads=m", ["payloads=mine"]),
        ("run payloads=mine,mi", []),
        ("run payloads=mine,st", ["payloads=mine,still_life", "payloads=mine,street"]),
        ("run optimiser=struc", ["optimiser=structured"]),
        ("run model_a=d", ["model_a=dream shaper_8"]),
        ("run --model-a=A", ["--model-a=A.safetensors"]),
        ("run model_a=ui/", ["model_a=ui/models/"]),
        ("merge fores", ["forest"]),
        ("merge method=sl", ["method=slerp"]),
        ("run anchors=fores", ["anchors=forest"]),
        ("none ", []),
        ("show $(touch", []),
    ],
)
def test_what_may_stand_there(line: str, found: list[str], workplace: Path) -> None:
    assert sorted(candidates(line.split(" "))) == sorted(found)


def test_bash_is_told_what_it_puts_in_the_place_of_its_last_word(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It divides words at ``=``, and inserts what it is given as it is: a name may hold what it would run."""
    (workplace / "runs" / "fox$(touch hacked);").mkdir()
    (workplace / "runs" / "fox$(touch hacked);" / "study.db").touch()
    (workplace / "runs" / "two\nlines").mkdir()
    (workplace / "runs" / "two\nlines" / "study.db").touch()
    for line, breaks, said in (
        ("bayes-merger run model_a=dr", " =:", "dream\\ shaper_8"),
        ("bayes-merger run model_a=dr", " ", "model_a=dream\\ shaper_8"),
        ("bayes-merger show fox", " =:", "fox\\$\\(touch\\ hacked\\)\\;"),
        ("bayes-merger show two", " =:", ""),
        ("bayes-merger show 'fo", " =:", ""),
    ):
        assert main(["completion", "--line", line, "--breaks", breaks]) == 0
        assert capsys.readouterr().out.strip() == said


def test_a_folder_of_methods_is_not_run(workplace: Path) -> None:
    (workplace / "merge_methods").mkdir()
    (workplace / "merge_methods" / "own.py").write_text("open('hacked', 'w')\n")
    assert "method=ties" in candidates(["run", "method="])
    assert not Path("hacked").exists()


def test_what_it_knows_is_so(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = _leaves(RunConfig)
    assert set(LISTS) < set(settings)
    assert {name for name in VALUES if not name.startswith("space.")} < set(settings)
    for command, verbs in VERBS.items():
        assert command in COMMANDS
        for verb in verbs:
            main([command, *(["forest"] if command == "export" else []), verb])
            assert f"no '{verb}'" not in (said := "".join(capsys.readouterr())), said
            assert f"no form '{verb}'" not in said


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "tcsh" in capsys.readouterr().err
    assert main(["completion"]) == 0
    said = capsys.readouterr().out
    assert all(f"completion {shell}" in said for shell in SHELLS)


def test_it_is_light(workplace: Path) -> None:
    code = """
import sys
from bayes_merger.cli import main
for line in ("show f", "run model_a=", "run payloads=m", "run method=s", "run n_", "merge "):
    assert main(["completion", "--line", "bayes-merger " + line]) == 0
print([name for name in ("torch", "hydra", "optuna", "diffusers", "rich") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


@pytest.mark.sampled(1)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(shell: str, workplace: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    (workplace / "bin").mkdir()
    (workplace / "bin" / "bayes-merger").write_text(PROGRAM)
    (workplace / "bin" / "bayes-merger").chmod(0o755)
    argv, prepare = STARTS[shell]
    path = f"{workplace / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(workplace), "TERM": "dumb", "ZDOTDIR": str(workplace)}
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(argv[0], argv, environment)
    try:
        os.write(terminal, f"{prepare}\r".encode())
        for keys, given in (
            ("bayes-merger show fores\t\r", "show\nforest\n"),
            ("bayes-merger run payloads=mine,str\t\r", "run\npayloads=mine,street\n"),
            ("bayes-merger run model_a=dre\t\r", "run\nmodel_a=dream shaper_8\n"),
            ("bayes-merger run n_it\t9\r", "run\nn_iters=9\n"),
            ("bayes-merger recipe giv\t\r", "recipe\ngiven.txt\n"),
        ):
            assert _type(terminal, keys, workplace / "given") == given
    finally:
        os.close(terminal)  # the shell hangs up
        os.waitpid(process, 0)


def _type(terminal: int, keys: str, until: Path) -> str:
    """Press keys without waiting for what they do, as a person does; what the program was given then."""
    for key in keys:
        os.write(terminal, key.encode())
        _drain(terminal, 0.01)
    end = time.monotonic() + TIMEOUT
    while not until.is_file() and time.monotonic() < end:
        _drain(terminal, 0.1)
    text = until.read_text()
    until.unlink()
    return text


def _drain(terminal: int, seconds: float) -> None:
    """Read what a shell writes, or it would wait."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and select.select([terminal], [], [], left)[0]:
        os.read(terminal, 65536)
