"""``rebasin``: what it says, and the one line for what it cannot do."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bayes_merger.cli import main
from tests.command_line import refused
from tests.folders import write_file
from tests.merging.rebasin.models import scrambled
from tests.user_folder import command, make_workplace, start


def data_of(file: Path) -> bytes:
    """The bytes of a file's tensors."""
    whole = file.read_bytes()
    return whole[8 + int.from_bytes(whole[:8], "little") :]


QUERIES = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
MIDDLE = "model.diffusion_model.middle_block.0.in_layers.2.weight"


def test_it_says_how_much_moved_and_that_nothing_is_to_be_gained(
    tmp_path: Path, tiny_a: Path, tiny_sd1_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, order = scrambled(tiny_a, tiny_sd1_config, tmp_path / "lost.safetensors")
    out, config = tmp_path / "out.safetensors", ["--config", str(tiny_sd1_config)]
    assert main(["rebasin", str(tiny_a), str(lost), *config]) == 0
    assert capsys.readouterr().out.endswith(", then 1.0000\nnothing was written\n")
    assert main(["rebasin", str(tiny_a), str(lost), "--out", str(out), *config]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"B: {order.moved():,} of its 4,560 ")
    assert first.endswith(", then 1.0000")
    assert second == f"wrote {out}; it draws what B draws"
    assert "--overwrite" in refused(capsys, "rebasin", str(tiny_a), str(lost), "--out", str(out), *config)
    before = out.read_bytes()
    assert data_of(out) == data_of(tiny_a)
    assert main(["rebasin", str(tiny_a), str(out), "--out", str(tmp_path / "no.safetensors"), *config]) == 0
    said, nothing = capsys.readouterr().out.splitlines()
    assert said.startswith("B: its 4,560 ")
    assert said.endswith("in the order of those of A already (likeness of the weights 1.0000); nothing is to be gained")
    assert nothing == "nothing was written"
    assert not (tmp_path / "no.safetensors").exists()
    assert out.read_bytes() == before


def test_a_model_with_the_decoder_of_a_vae_alone_is_aligned(
    tmp_path: Path, tiny_a: Path, tiny_sd1_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part.safetensors"
    kept = {key: t for key, t in load_file(tiny_a).items() if not key.startswith("first_stage_model.encoder.")}
    save_file(kept, part)
    lost, _ = scrambled(part, tiny_sd1_config, tmp_path / "lost.safetensors")
    out = tmp_path / "out.safetensors"
    align = ["rebasin", str(tiny_a), str(lost), "--out", str(out), "--config", str(tiny_sd1_config)]
    assert main(align) == 0, capsys.readouterr().err
    assert data_of(out) == data_of(part)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_a: Path) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_file(folder / "xl.safetensors", "sdxl")
    write_file(folder / "flux.safetensors", "flux")
    write_file(folder / "other.safetensors", "sd1")
    lora = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{lora}.lora_up.weight": torch.ones(8, 1), f"{lora}.lora_down.weight": torch.ones(1, 8)},
        folder / "lora.safetensors",
    )
    tensors = load_file(tiny_a)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file(tensors | {first: torch.ones(8, 9, 3, 3).half()}, folder / "inpainting.safetensors")
    save_file({key: t for key, t in tensors.items() if "middle_block" not in key}, folder / "part.safetensors")
    save_file({key: t for key, t in tensors.items() if key != QUERIES}, folder / "without.safetensors")
    save_file(tensors | {MIDDLE: torch.full_like(tensors[MIDDLE], torch.nan)}, folder / "nan.safetensors")
    save_file(tensors | {MIDDLE: tensors[MIDDLE].float().sign() * 3e38}, folder / "large.safetensors")
    (folder / "text.safetensors").write_text("no model")
    return folder


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "without",
            f"without.safetensors: lacks the tensor '{QUERIES}', without which it does not work; give a whole model",
        ),
        ("none", "there is no such file"),
        ("text", "text.safetensors"),
        ("lora", "lora.safetensors: a LoRA, which has no neurons of its own; give a whole checkpoint"),
        (
            "flux",
            "flux.safetensors: a Flux checkpoint; the neurons of Stable Diffusion 1, 2 and XL can be put in order",
        ),
        ("xl", "xl.safetensors is a Stable Diffusion XL checkpoint and a.safetensors is a Stable Diffusion 1.x"),
        ("inpainting", "inpainting.safetensors is a Stable Diffusion 1.x checkpoint for inpainting and a.safe"),
        ("part", "part.safetensors: a checkpoint with parts of its U-Net missing"),
        ("nan", f"tensor '{MIDDLE}' holds NaN"),
        ("large", ": the weights are too large to be compared; one of these models is broken"),
        ("other", "give two models of one size"),
    ],
)
def test_models_that_cannot_be_aligned_are_one_line(
    files: Path, tiny_a: Path, tiny_sd1_config: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    out = files / "out.safetensors"
    arguments = [str(tiny_a), str(files / f"{name}.safetensors"), "--out", str(out), "--config", str(tiny_sd1_config)]
    assert said in refused(capsys, "rebasin", *arguments)
    if name != "nan":  # which a merge finds as it writes
        models = [f"model_a={tiny_a}", f"model_b={files / name}.safetensors"]
        given = ["rebasin.b.to=a", f"rebasin.b.config={tiny_sd1_config}"]
        assert said in refused(capsys, "merge", *models, *given, "--out", str(out))
    assert not out.exists()


def test_a_merge_takes_no_rebasin_that_is_no_table(tiny_a: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"model_a={tiny_a}", f"model_b={tiny_a}"]
    said = refused(capsys, "merge", *models, "rebasin=a", "--out", "x.safetensors")
    assert "rebasin is 'a'; name a model, and the one whose order it takes, like  rebasin.b=a" in said


def test_a_config_of_another_size_and_places_that_do_not_exist(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["rebasin", str(tiny_a), str(tiny_b)]
    assert "give the diffusers folder" in refused(capsys, *models, "--out", str(tmp_path / "x.safetensors"))
    assert "there is no folder" in refused(capsys, *models, "--out", str(tmp_path / "no" / "x.safetensors"))
    assert "only  --by activations  draws" in refused(capsys, *models, "payloads=x", "--out", str(tmp_path / "x.st"))
    (tmp_path / "config").mkdir()
    config = ["--config", str(tmp_path / "config")]
    assert "config" in refused(capsys, *models, "--out", str(tmp_path / "x.safetensors"), *config)


def search(folder: Path, name: str, a: Path, *b: str) -> str:
    few = ["init_points=2", "n_iters=0", "final.images=0", f"model_a={a}"]
    result = command(folder, "run", "experiment=tiny", f"name={name}", *few, *b)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_run_searches_with_b_in_the_order_of_a_and_its_best_merge_is_made_again(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> None:
    folder = make_workplace(tmp_path, tiny_sd1_config)
    search(folder, "lost", tiny_a, f"model_b={tiny_b}", "rebasin.b=a")
    assert command(folder, "merge", "lost", "--out", "again.safetensors").returncode == 0
    assert (folder / "again.safetensors").read_bytes() == (folder / "runs" / "lost" / "best.safetensors").read_bytes()
    assert "rebasin: b in the order of a, by weights" in command(folder, "recipe", "again.safetensors").stdout


@pytest.mark.slow
def test_a_scrambled_b_gives_the_same_pictures_and_its_study_goes_on(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> None:
    folder = make_workplace(tmp_path, tiny_sd1_config)
    scrambled(tiny_b, tiny_sd1_config, folder / "lost.safetensors")
    table = "model_b={rebasin: lost.safetensors, to: a}"
    search(folder, "lost", tiny_a, table)
    search(folder, "known", tiny_a, f"model_b={tiny_b}", "rebasin.b=a")
    # B and the scrambled B are one model in A's order
    scores = [[trial["value"] for trial in json.loads(command(folder, "show", name, "--json").stdout)["trials_list"]]
              for name in ("lost", "known")]  # fmt: skip
    assert scores[0] == scores[1]
    gone_on = command(folder, "resume", "lost", table, "n_iters=1")
    assert gone_on.returncode == 0, gone_on.stderr
    changed = command(folder, "resume", "lost", "model_b={rebasin: lost.safetensors, to: c}")
    assert "model_b: says to: c, and rebasin.b says to: a; leave one out" in changed.stderr
    added = command(folder, "resume", "known", f"model_b={{rebasin: {tiny_b}, to: a, by: activations}}")
    assert (added.returncode, added.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_by_activations_a_scrambled_model_comes_back_and_merges_recall_it(
    tmp_path: Path,
    tiny_a: Path,
    tiny_sd1_config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(make_workplace(tmp_path, tiny_sd1_config))
    scrambled(tiny_a, tiny_sd1_config, tmp_path / "lost.safetensors")
    drawing = ["payloads=tiny", "payloads.tiny.steps=8", "generator.device=cpu"]
    table = f"{{rebasin: lost.safetensors, to: a, by: activations, config: {tiny_sd1_config}}}"
    merge = ["merge", f"model_a={tiny_a}", f"model_b={table}", "alpha=0.5", "--out", "merged.safetensors"]
    said = refused(capsys, *merge)
    assert "lost.safetensors: no order by activations is known for it and a.safetensors; find it once with  " in said
    align = ["rebasin", str(tiny_a), "lost.safetensors", "--by", "activations", "--config", str(tiny_sd1_config)]
    assert main([*align, *drawing, "--out", "found.safetensors"]) == 0, capsys.readouterr().err
    a, found = load_file(tiny_a), load_file("found.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in a.items())
    capsys.readouterr()
    assert main(merge) == 0
    assert "note: lost.safetensors: 4,162 of its 4,560 neurons" in capsys.readouterr().err
    merged = load_file("merged.safetensors")
    assert all(torch.equal(merged[key], tensor) for key, tensor in a.items() if key in merged)
    assert main(["plan", *merge[1:-2]]) == 0
    assert "change places, into the order of those of a.safetensors; likeness of the" in capsys.readouterr().out
    assert "names a LoRA, which would change both" in refused(
        capsys, *align, *drawing, "payloads.tiny.prompt=<lora:x:1>", "--out", "no.safetensors"
    )


@pytest.mark.slow
def test_a_kill_leaves_nothing_of_what_was_drawn(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workplace(tmp_path / "work", tiny_sd1_config)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    align = ["rebasin", str(tiny_a), str(tiny_b), "--by", "activations", "--config", str(tiny_sd1_config)]
    process = start(folder, *align, "payloads=tiny", "payloads.tiny.steps=100", "generator.device=cpu")
    assert ": the order of its neurons is looked for in 2 pictures, drawn with " in process.stderr.readline()
    assert process.stderr.readline().startswith("note: this ends about ")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.slow
def test_a_run_finds_an_order_by_activations_and_a_grid_the_same(
    tmp_path: Path, tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(cache))
    folder = make_workplace(tmp_path, tiny_sd1_config)
    scrambled(tiny_a, tiny_sd1_config, folder / "lost.safetensors")
    drawing = ["experiment=tiny", "payloads.tiny.steps=8"]

    def models(file: Path) -> list[str]:
        return [f"model_a={tiny_a}", f"model_b={{rebasin: {file}, to: a, by: activations}}"]

    grid = command(folder, "xy", *models(folder / "lost.safetensors"), *drawing, "x=alpha=0.25,1", "--out", "grid")
    assert grid.returncode == 0, grid.stderr
    looking = ": the order of its neurons is looked for in 2 pictures, drawn with a.safetensors and then with "
    before, _, after = grid.stderr.partition("note: lost.safetensors: 4,162 of its 4,560 neurons")
    assert f"note: lost.safetensors{looking}lost.safetensors\nnote: this ends about " in before
    assert after
    pictures = {Image.open(path).tobytes() for path in (folder / "grid" / "pictures").rglob("*.png")}
    assert len(pictures) == 2  # of one payload, for both cells: B is A in A's order
    said = search(folder, "apart", tiny_a, *models(tiny_b)[1:], *drawing[1:])
    assert said.startswith(f"b.safetensors{looking}b.safetensors\nthis ends about ")
    assert "of its 4,560 neurons" in (folder / "runs" / "apart" / "log.txt").read_text()
    stored = command(folder, "resume", "apart", "n_iters=1")
    assert stored.returncode == 0, stored.stderr
    for file in (cache / "orders").iterdir():
        file.unlink()
    lost = command(folder, "resume", "apart", "n_iters=2")
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)
    assert "no order by activations is known for it and a.safetensors" in lost.stderr
