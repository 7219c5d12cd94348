"""Arguments as shells and habits write them: dashes, quotes, places."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.cli.arguments import as_settings, without_dashes, without_quotes
from tests.command_line import refused
from tests.merging.tiny_models import write_model


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--model_a=A.safetensors", "model_a=A.safetensors"),
        ("--model-a=my-model.safetensors", "model_a=my-model.safetensors"),
        ("-seed=3", "seed=3"),
        ("--space.frozen.IN00-IN03=0.5", "space.frozen.IN00-IN03=0.5"),
        ("--payloads.my-own.prompt=a=b\nc", "payloads.my-own.prompt=a=b\nc"),
        ("--cfg=job", "--cfg=job"),
        ("--multirun", "--multirun"),
        ("-x", "-x"),
        ("--=3", "--=3"),
        ("-q.sft", "-q.sft"),
        ("--größe=3", "größe=3"),
    ],
)
def test_dashes_before_a_setting_are_taken_off(typed: str, meant: str) -> None:
    assert without_dashes(typed) == meant
    assert as_settings([typed]) == [meant]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("'space.ranges.IN00=[0.2,0.8]'", "space.ranges.IN00=[0.2,0.8]"),
        ("'payloads.p.prompt=it's'", "payloads.p.prompt=it's"),
        ("prompt='x'", "prompt='x'"),
        ("'a name'", "'a name'"),
        ("'=x'", "'=x'"),
        ("'", "'"),
    ],
)
def test_quotes_that_a_shell_hands_on_are_taken_off(typed: str, meant: str) -> None:
    assert without_quotes(typed) == meant


def test_merge_takes_settings_with_dashes_and_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in ((1, "a"), (2, "b")):
        write_model(tmp_path / f"{name}.safetensors", seed)
    words = ["--model_a=a.safetensors", "'model_b=b.safetensors'", "--alpha=0.25"]
    assert main(["merge", *words, "--out=dashes.safetensors"]) == 0
    plain = [word.strip("-'") for word in words]
    assert main(["merge", *plain, "--out", "plain.safetensors"]) == 0
    assert Path("dashes.safetensors").read_bytes() == Path("plain.safetensors").read_bytes()
    capsys.readouterr()
    assert "--overwrit" in refused(capsys, "merge", *words, "--out=plain.safetensors", "--overwrit=1")
    assert "unknown setting 'alhpa'" in refused(capsys, "merge", *words, "--alhpa=1", "--out=x.safetensors")


def test_the_best_trial_may_be_named_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "merge", "X", "--trial", "best", "--out", "x.safetensors", "--runs", str(tmp_path))
    assert "no study 'X'" in said
    said = refused(capsys, "merge", "X", "--trial", "last", "--out", "x.safetensors")
    assert "--trial: 'last' is not the number of a trial; leave it out for the best" in said
