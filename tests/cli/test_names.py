"""Names as file systems allow them, and suffixes as people write them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.merging import open_checkpoint
from tests.command_line import refused
from tests.merging.tiny_models import write_model

ODD = ["~backup.safetensors", "a\nb.safetensors", "ü 模型 [x]=1,2.safetensors", "\x1b[31mred.safetensors", "-q.sft",
       "{v1: a} b.safetensors"]  # fmt: skip
if sys.platform == "linux":
    ODD.append(os.fsdecode(b"\xff\xfe.safetensors"))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for seed, name in ((1, "a"), (2, "b")):
        write_model(tmp_path / f"{name}.safetensors", seed)
    return ["model_a=a.safetensors", "model_b=b.safetensors", "alpha=0.5"]


@pytest.mark.parametrize("name", ODD)
def test_any_name_is_read_written_and_made_again(
    name: str, pair: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(Path(name), 2)
    words = ["model_a=a.safetensors", f"model_b={name}", "alpha=0.5"]
    assert main(["merge", *words, f"--out={name}.safetensors"]) == 0
    assert main(["plan", *words]) == 0
    assert main(["recipe", f"./{name}.safetensors"]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out
    assert main(["merge", f"./{name}.safetensors", "--out", "again.safetensors"]) == 0
    assert main(["merge", *pair, "--out", "plain.safetensors"]) == 0
    with open_checkpoint("plain.safetensors") as plain, open_checkpoint(f"{name}.safetensors") as odd:
        assert all(plain.tensor(key).equal(odd.tensor(key)) for key in plain.shapes)
    assert Path(f"{name}.safetensors").read_bytes() == Path("again.safetensors").read_bytes()


@pytest.mark.parametrize("name", [*ODD, "~no_such_user/x.safetensors"])
def test_a_name_that_is_not_there_is_one_line(name: str, pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    errors = refused(capsys, "merge", pair[0], f"model_b={name}", "alpha=0.5", "--out", "o.safetensors")
    assert errors.startswith("error: model_b: ")
    assert "there is no" in errors


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".gguf", ".CKPT"])
def test_another_format_s_suffix_is_refused_with_the_right_one(
    suffix: str, pair: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    errors = refused(capsys, "merge", *pair, "--out", f"x{suffix}")
    assert errors == f"error: --out: merges are not written as {suffix.lower()} files; write  --out x.safetensors\n"


def test_sft_is_a_file(pair: list[str]) -> None:
    assert main(["merge", *pair, "--out", "x.sft"]) == 0
    assert main(["merge", "x.sft", "--out", "again.safetensors"]) == 0
    assert Path("x.sft").read_bytes() == Path("again.safetensors").read_bytes()


def test_a_dot_in_a_name_is_no_suffix(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["merge", *pair, "--out", "mix_v1.2"])
    assert "note: mix_v1.2 does not end in .safetensors, so it becomes a diffusers folder\n" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders there")
@pytest.mark.parametrize("place", ["p.safetensors", "d/model_index.json", "r.json", "steps.yaml"])
def test_a_pipe_among_files_is_one_line_at_once(
    place: str, pair: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(place).parent.mkdir(exist_ok=True)
    os.mkfifo(place)
    source = place.partition("/")[0]
    words = [pair[0], f"model_b={source}", "alpha=0.5"] if source in ("d", "p.safetensors") else [source]
    assert source in refused(capsys, "merge", *words, "--out", "o.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_ring_of_links_is_one_line(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name, target in (("x", "y"), ("y", "x")):
        Path(f"{name}.safetensors").symlink_to(f"{target}.safetensors")
        Path(name).symlink_to(target)
    for name in ("x.safetensors", "x"):
        assert name in refused(capsys, "merge", pair[0], f"model_b={name}", "alpha=0.5", "--out", "o.safetensors")
        assert "recipe" in refused(capsys, "merge", f"{name}.json", "--out", "o.safetensors")
    refused(capsys, "merge", *pair, "--out", "x")


def test_merge_says_what_is_not_merged_and_can_be_silent(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file("b.safetensors")
    lost = [key for key in tensors if key.endswith("input_blocks.4.0.in_layers.2.weight")]
    kept = {key: tensor for key, tensor in tensors.items() if key not in lost}
    save_file(kept | {f"model_ema.{n}": tensors[lost[0]].clone() for n in range(5)}, "c.safetensors")
    words = [pair[0], "model_b=c.safetensors", "alpha=1.5", "--overwrite", "--out", "o.safetensors"]
    assert main(["merge", *words]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert notes == [
        "note: kept from A, since another model lacks them: model.diffusion_model.input_blocks.4.0.in_layers.2.weight",
        "note: beyond [0, 1], so weighted_sum extrapolates: BASE.alpha = 1.5, IN00.alpha = 1.5, IN01.alpha = 1.5 "
        "and 23 more",
        "note: left out, averages over training, which nothing reads; ema=keep merges them too: "
        "model_ema.0, model_ema.1, model_ema.2 and 2 more",
    ]
    assert main(["merge", *words, "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_what_was_written_is_said(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", *pair[:2], "OUT03.alpha=0.9", "--out", "x.safetensors", "-q"]) == 0
    assert capsys.readouterr().out.endswith(" MB): weighted_sum of a and b, alpha 0.5 to 0.9\n")


@pytest.mark.parametrize(
    ("address", "way_out"),
    [
        ("https://example.org/models/1", "fetch it there and give the file"),
        ("http://example.org/a.safetensors", "fetch it there and give the file"),
        ("user/model", "give a file or folder that is here"),
    ],
)
def test_a_model_of_elsewhere_is_not_fetched(
    address: str, way_out: str, pair: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    errors = refused(capsys, "merge", f"model_a={address}", pair[1], "--out", "x.safetensors")
    assert errors.endswith(f"{address}: models are not downloaded; {way_out}\n")


def test_where_to_write_may_be_given_like_a_setting(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", *pair[:2], "out=x.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("wrote x.safetensors ")


@pytest.mark.parametrize("words", [["help", "rate"], ["rate", "--help"]])
def test_help_of_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:  # argparse's
        main(words)
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: bayes-merger rate")
