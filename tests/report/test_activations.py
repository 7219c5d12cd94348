"""What is shown of files of activations, also of those that say less than most."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.errors import CheckpointError
from bayes_merger.report.activations import heat_map, summary
from tests.sidecars import RUN, measured

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
LAST = f"{UNET}output_blocks.5.1.transformer_blocks.0.attn1.to_q.weight"
INPUT: dict[str, torch.Tensor | None] = {
    f"{FIRST}|in_sq": torch.full((2, 4), 9.0),
    f"{FIRST}|by_run": torch.tensor([[16.0, 0.0]]),
}
UNANSWERED: dict[str, torch.Tensor | None] = {
    f"{FIRST}|{name}": None for name in ("guided_in", "guided_out", "guided_n")
}


def test_without_guidance_the_input_is_shown(tmp_path: Path) -> None:
    one = Sidecar(measured(tmp_path / "a.act.safetensors", {FIRST: (4, 4)}, change=INPUT | UNANSWERED))
    said = "without guidance there is no response: this is the size of what the layers are fed"
    assert summary([one]).splitlines()[1:] == [said, "block  fox  spread", " IN01    4      0%"]
    answering = Sidecar(measured(tmp_path / "b.act.safetensors", {FIRST: (4, 4)}, change=INPUT))
    assert summary([one, answering]).splitlines()[2:] == [said, "block  a  b  b / a", " IN01  3  3   1.00"]
    for files in ([one], [one, answering]):
        heat_map(files, tmp_path / "heat.png")
        assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_without_its_runs_is_shown_as_a_whole(tmp_path: Path) -> None:
    answer = {f"{FIRST}|guided_out": torch.full((2, 4), 4.0), f"{FIRST}|by_run": None}
    file = Sidecar(measured(tmp_path / "a.act.safetensors", {FIRST: (4, 4)}, change=answer))
    assert summary([file]).splitlines()[1:] == ["block  all  spread", " IN01    2      0%"]
    heat_map([file], tmp_path / "heat.png")


def test_of_many_payloads_it_is_said_that_the_first_are_shown(tmp_path: Path) -> None:
    runs = [{**RUN, "id": str(number), "payload": f"p{number}"} for number in range(10)]
    change = {f"{FIRST}|by_run": torch.ones(10, 2)}
    file = Sidecar(measured(tmp_path / "a.act.safetensors", {FIRST: (4, 4)}, change=change, runs=runs))
    _, said, header, _ = summary([file]).splitlines()
    assert said == "the first 8 of its payloads are shown"
    assert header.split() == ["block", *(f"p{number}" for number in range(8)), "spread"]


def test_where_there_is_nothing_to_draw_is_said(tmp_path: Path) -> None:
    files = []
    for name, key in (("one", FIRST), ("other", LAST)):
        save_file({key: torch.ones(1, 4)}, tmp_path / f"{name}.safetensors")
        files.append(Sidecar(tmp_path / f"{name}.safetensors"))
    with pytest.raises(CheckpointError, match="other / one: there is nothing of the network to draw"):
        heat_map(files, tmp_path / "heat.png")
    assert not (tmp_path / "heat.png").exists()


def test_two_files_are_shown_without_torch(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        measured(tmp_path / f"{name}.act.safetensors", {FIRST: (4, 4)}, seed)
    program = """
import sys
from bayes_merger.cli import main
a, b, png = sys.argv[1:]
code = main(["activations", "show", a, b, "--png", png])
print(code, "torch" in sys.modules)
"""
    files = [tmp_path / name for name in ("a.act.safetensors", "b.act.safetensors", "heat.png")]
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr  # to import it takes as long as all the rest
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = []
    for folder, size in (("one", 1.0), ("two", 4.0), ("deep/two", 9.0)):
        (tmp_path / folder).mkdir(parents=True)
        answer: dict[str, torch.Tensor | None] = {f"{FIRST}|guided_out": torch.full((2, 4), size)}
        files.append(Sidecar(measured(tmp_path / folder / "x.act.safetensors", {FIRST: (4, 4)}, change=answer)))
    assert summary(files[:2]).splitlines()[2:] == [
        "block  one/x  two/x  two/x / one/x",
        " IN01      1      2           2.00",
    ]
    assert summary(files[1:]).splitlines()[-2:] == [
        "block  1 two/x  2 two/x  2 two/x / 1 two/x", " IN01        2        3               1.50"
    ]  # fmt: skip
    heat_map(files, tmp_path / "heat.png")


def test_files_that_were_not_measured_alike_are_shown_with_a_word(tmp_path: Path) -> None:
    one = Sidecar(measured(tmp_path / "a.act", {FIRST: (4, 4)}))
    other = Sidecar(measured(tmp_path / "b.act", {FIRST: (4, 4)}, runs=[RUN | {"prompts": "q"}]))
    said = "they were not measured alike, so that the ratio is not of the models alone"
    assert said in summary([one, other]).splitlines()
    assert said not in summary([one, one])
