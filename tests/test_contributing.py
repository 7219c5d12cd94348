"""CONTRIBUTING.md, step by step, as a newcomer does it: what it says to write is written, what it says to run is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bayes_merger
from bayes_merger import demo
from tests.user_folder import command

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^( *)```(\w+)(?: ([^\n]+))?\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def recipe(title: str) -> list[tuple[str, str, str]]:
    """The fenced blocks under a heading: language, what follows it, and the text."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    assert section, title
    numbers = re.findall(r"^(\d)\. ", section, flags=re.MULTILINE)
    assert numbers == [str(number + 1) for number in range(len(numbers))]
    assert len(numbers) <= 5, "at most five steps"
    return [(found[2], found[3] or "", textwrap.dedent(found[4])) for found in BLOCK.finditer(section)]


def run(arguments: list[str], folder: Path, package: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def bayes_merger_says(words: list[str], folder: Path) -> str:
    """What a command prints; it runs in this process, where all that it needs is imported already."""
    result = command(folder, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    return str(result.stdout)


def follow(title: str, folder: Path) -> list[str]:
    """Carry a recipe out in a working folder, but for its tests; what each of its commands printed."""
    printed = []
    for language, name, text in recipe(title):
        if language == "console":
            for line in text.strip().splitlines():
                words = shlex.split(line)
                assert words[0] == "bayes-merger"
                printed.append(bayes_merger_says(words[1:], folder))
        else:
            write(folder / name, text)
    return printed


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """An empty working folder, but for two models, and one small picture in the place of the demo's sixteen."""
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "demo.yaml").write_text("ring: {prompt: a ring, steps: 2, width: 64, height: 64}\n")
    for name in ("a", "b"):
        (tmp_path / f"{name.upper()}.safetensors").symlink_to(demo.MODELS / f"{name}.safetensors")
    return tmp_path


def test_a_merge_method_of_one_s_own(workplace: Path) -> None:
    planned, _ = follow("Add a merge method", workplace)
    assert "halfway" in planned
    assert "unmeasured" in planned
    assert (workplace / "halfway.safetensors").is_file()
    key = "model.diffusion_model.output_blocks.5.0.in_layers.2.weight"
    a, b = (load_file(demo.model_path(name))[key].float() for name in ("a", "b"))
    step = b - a
    expected = a + 0.3 * step / (1 + step.abs())
    torch.testing.assert_close(
        load_file(workplace / "halfway.safetensors")[key].float(), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
def test_a_scorer_of_one_s_own(workplace: Path) -> None:
    (searched,) = follow("Add a scorer", workplace)
    assert "3/3" in searched
    assert "(brightness " in searched


@pytest.mark.slow
def test_an_optimiser_of_one_s_own(workplace: Path) -> None:
    (searched,) = follow("Add an optimiser", workplace)
    assert "3/3" in searched


@pytest.mark.slow
def test_a_sampler_of_one_s_own(workplace: Path) -> None:
    follow("Add an optimiser", workplace)
    (workplace / "conf" / "optimiser" / "mine.yaml").write_text("_target_: centre.Centre\n")
    given = ["experiment=demo", "optimiser=mine", "name=around", "init_points=2", "n_iters=1", "final.images=0"]
    bayes_merger_says(["run", *given], workplace)
    assert "Centre" in bayes_merger_says(["show", "around"], workplace)


@pytest.mark.slow
def test_a_payload_of_one_s_own(workplace: Path) -> None:
    (searched,) = follow("Add a payload", workplace)
    assert "3/3" in searched
    assert len(list((workplace / "runs" / "fox" / "images" / "0000").glob("fox-*.png"))) == 2


@pytest.mark.slow
def test_their_contracts_hold(tmp_path: Path) -> None:
    for title in ("Add a merge method", "Add a scorer", "Add an optimiser"):
        for language, name, text in recipe(title):
            if language != "console":
                write(tmp_path / name, text)
    tests = sorted(path.name for path in tmp_path.glob("test_*.py"))
    assert tests == ["test_brightness.py", "test_centre.py", "test_halfway.py"]
    contract = run([sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests], tmp_path)
    assert all(f"{name}::" in contract.stdout for name in tests), contract.stdout


@pytest.mark.slow
def test_an_architecture(tmp_path: Path) -> None:
    package = tmp_path / "checkout"
    source = Path(bayes_merger.__file__).parent
    shutil.copytree(source, package / "bayes_merger", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for folder in ("conf", "payloads", "scorers"):
        shutil.copytree(ROOT / folder, package / folder)
    shutil.copy(ROOT / "pyproject.toml", package)
    for _, name, text in recipe("Add an architecture"):
        file, how, anchor = re.fullmatch(r"(\S+) (before|after|replace): (.+)", name).groups()  # type: ignore[union-attr]
        path = package / file
        before = path.read_text()
        assert before.count(anchor) == 1, anchor
        new = {
            "before": f"{text}\n\n{anchor}",
            "after": f"{anchor}\n{textwrap.indent(text, '    ') if not text.startswith(' ') else text}".rstrip("\n"),
            "replace": text.rstrip("\n"),
        }[how]
        path.write_text(before.replace(anchor, new))
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        keys = ["toy_in.weight", *(f"toy_layers.{layer}.weight" for layer in range(3))]
        save_file({key: torch.randn(4, 4) for key in keys}, tmp_path / f"{name}.safetensors")
    arguments = ["merge", "model_a=a.safetensors", "model_b=b.safetensors", "alpha=0,1,0.5,0", "--out", "m.safetensors"]
    run([sys.executable, "-m", "bayes_merger", *arguments], tmp_path, package)
    a, b, merged = (load_file(tmp_path / f"{name}.safetensors") for name in ("a", "b", "m"))
    assert torch.equal(merged["toy_in.weight"], a["toy_in.weight"])
    assert torch.equal(merged["toy_layers.0.weight"], b["toy_layers.0.weight"])
    torch.testing.assert_close(merged["toy_layers.1.weight"], (a["toy_layers.1.weight"] + b["toy_layers.1.weight"]) / 2)
