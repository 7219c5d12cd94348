"""Every mistake ends in one clear line and exit code 2, before anything is loaded or written."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.cli import main
from tests.processes import ROOT
from tests.user_folder import make_workplace


@pytest.fixture
def workplace(tmp_path: Path, tiny_sd1_config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_workplace(tmp_path / "work", tiny_sd1_config)
    monkeypatch.chdir(folder)
    return folder


class Foreign:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def make_bad_files(folder: Path, good: Path) -> None:
    (folder / "text.safetensors").write_text("<!DOCTYPE html>")
    (folder / "cut.safetensors").write_bytes(good.read_bytes()[:100_000])
    (folder / "foreign.ckpt").write_bytes(pickle.dumps({"state_dict": Foreign()}))
    torch.save({"state_dict": {"x": Foreign()}}, folder / "foreign_zip.ckpt")
    xl = {
        "model.diffusion_model.label_emb.0.0.weight": torch.zeros(8, 8),
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        "conditioner.embedders.1.model.ln_final.weight": torch.zeros(8),
    }
    save_file(xl, folder / "xl.safetensors")
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    for name, up, down in (
        ("ranks", torch.ones(8, 3), torch.ones(4, 8)),
        ("shape", torch.ones(320, 4), torch.ones(4, 768)),
    ):
        save_file({f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}, folder / f"{name}.safetensors")
    save_file({"lora_unet_nobody.diff": torch.ones(1, 1)}, folder / "strange.safetensors")
    (folder / "loop.yaml").write_text("models: {a: a, b: b}\nsteps: [{name: m, a: m, b: b, alpha: x}]\n")


CASES = {
    "missing file": (["model_b=nothing.safetensors"], ["model_b", "nothing.safetensors"]),
    "not a checkpoint": (["model_b={bad}/text.safetensors"], ["text.safetensors"]),
    "truncated": (["model_b={bad}/cut.safetensors"], ["cut.safetensors"]),
    "foreign objects": (["model_b={bad}/foreign.ckpt"], ["foreign.ckpt", "system"]),
    "foreign objects, zipped": (["model_b={bad}/foreign_zip.ckpt"], ["foreign_zip.ckpt", "system"]),
    "another architecture": (["model_b={bad}/xl.safetensors"], ["xl.safetensors"]),
    "a LoRA with ranks that disagree": (
        ["model_b={bad}/ranks.safetensors"],
        ["model_b", "ranks.safetensors", "[8, 3]", "[4, 8]"],
    ),
    "a LoRA for another size": (
        ["model_b={bad}/shape.safetensors"],
        ["shape.safetensors", "[320, 768]", "another kind"],
    ),
    "a LoRA for another model": (
        ["model_b={bad}/strange.safetensors"],
        ["strange.safetensors", "none of its 1 layers"],
    ),
    "a LoRA as model A": (["model_a={bad}/shape.safetensors"], ["shape.safetensors", "LoRA", "as model A"]),
    "a VAE that is none": (["vae={bad}/strange.safetensors"], ["vae", "strange.safetensors", "no VAE"]),
    "no such VAE": (["vae=nothing.safetensors"], ["vae", "nothing.safetensors"]),
    "a recipe besides models": (["recipe={bad}/loop.yaml"], ["step m", "'m' is neither a model"]),
    "no such recipe": (["recipe=nothing.yaml"], ["nothing.yaml", "no such file"]),
    "clip": (["clip=had"], ["had", "hard or soft"]),
    "adjust": (["adjust=1,2"], ["adjust", "eight numbers"]),
    "blocks": (["blocks=nothing.yaml"], ["nothing.yaml"]),
    "channels": (["channels=pda"], ["pda", "pad"]),
    "eight bits in a run": (["dtype=fp8_e5m2"], ["fp8_e5m2", "for files"]),
    "the same model twice": (["model_b={a}"], ["model_a and model_b", "same"]),
    "unknown block": (["space.frozen={IN99.alpha: 0.5}"], ["IN99"]),
    "unknown method": (["method=wieghted_sum"], ["wieghted_sum", "weighted_sum"]),
    "model that the method needs": (["method=add_difference"], ["model_c"]),
    "model that the method does not take": (["model_d={a}"], ["model_d", "takes no model D", "n_average"]),
    "a gap before a further model": (["method=n_average", "model_d={a}"], ["model_d", "name this one model_c"]),
    "no such further model": (
        ["method=n_average", "model_c={a}", "model_d=nothing.safetensors"],
        ["model_d", "nothing.safetensors"],
    ),
    "a further model that is none": (
        ["method=n_average", "model_c={a}", "models.dd={a}"],
        ["models.dd", "model_d=FILE"],
    ),
    "a further model that is no file": (["method=n_average", "model_c={a}", "models={d: 3}"], ["model_d", "3 is not"]),
    "further models that are no table": (["models=x"], ["models: expected names and values, like {name: value}"]),
    "unknown further model": (["mdoel_d={a}"], ["mdoel_d", "did you mean model_d"]),
    "the VAE of a model that is not there": (["vae=d"], ["vae: 'd'", "a, b"]),
    "unknown payload": (["payloads=[tinny]"], ["tinny", "tiny"]),
    "unknown scorer": (["scorers=[rednes]"], ["rednes", "redness"]),
    "unknown optimiser": (["optimiser=bays"], ["bays", "bayes"]),
    "unknown setting": (["n_iter=5"], ["n_iter", "n_iters"]),
    "unknown setting, deep": (["generator.max_batches=5"], ["max_batches", "max_batch"]),
    "unknown field of a payload": (["payloads.tiny.stepss=3"], ["stepss", "steps"]),
    "wrong type": (["n_iters=many"], ["n_iters: 'many' is not a whole number"]),
    "wrong type, of a fraction": (["pruning.p=little"], ["pruning.p: 'little' is not a number"]),
    "nothing where there must be something": (["method=null"], ["method: null is no value of it; leave the"]),
    "several where one is wanted": (["method=[a]"], ["method: expected one value, got several"]),
    "neither true nor false": (["preview=yess"], ["preview: 'yess' is neither true nor false"]),
    "not a number": (["pruning.p=nan"], ["pruning.p: nan is no number to reckon with"]),
    "a number as an optimiser": (["optimiser=3"], ["optimiser: no '3'; known: bayes"]),
    "a number as a scorer": (["scorers=3"], ["scorers: no '3'"]),
    "an option that the method lacks": (
        ["options={vote: count}"],
        ["weighted_sum has no option 'vote'; there is none"],
    ),
    "blocks of one's own in a table": (["blocks={IN00: 3}"], ["blocks: IN00: 3 is not a list"]),
    "too many workers": (["workers=100000"], ["workers: 100000 is too large; give 1000 or less"]),
    "no pictures at once": (["generator.max_batch=0"], ["generator.max_batch: 0 is too small"]),
    "an unknown prediction": (["generator.prediction_type=v"], ["prediction_type: 'v' is unknown; give epsilon or"]),
    "no such config": (["generator.config=nothing"], ["generator.config: nothing: there is no such file or folder"]),
    "no such wildcards": (["wildcards=nothing"], ["wildcards: nothing: there is no such file or folder"]),
    "no such embeddings": (["embeddings=nothing"], ["embeddings: nothing: there is no such file or folder"]),
    "one step of DDIM": (
        ["payloads.tiny.sampler_name=DDIM", "payloads.tiny.steps=1"],
        ["payload tiny: steps: DDIM would leave the noise of 1 step"],
    ),
    "the path of a payload": (["payloads=/elsewhere/tiny.yaml"], ["by its name, not its path:  payloads=tiny"]),
    "one model": (["model=A"], ["unknown setting 'model'; here it is  model_a=FILE and model_b=FILE"]),
    "low above high": (["space.ranges={IN00.alpha: [0.9, 0.1]}"], ["IN00.alpha", "0.9", "0.1"]),
    "value outside its range": (
        ["space.frozen={IN00.alpha: 0.9}", "space.ranges={IN00.alpha: [0.1, 0.2]}"],
        ["IN00.alpha", "0.9"],
    ),
    "overlap": (["space.groups=[[IN00,IN01],[IN01,IN02]]"], ["IN01"]),
    "group frozen two ways": (["space.groups=[[IN00,IN01]]", "space.frozen={IN00: 0.1, IN01: 0.2}"], ["0.1", "0.2"]),
    "width": (["payloads.tiny.width=60"], ["width", "60"]),
    "LCM with the guidance of others": (
        ["payloads.tiny.sampler_name=lcm", "payloads.tiny.cfg_scale=7"],
        ["payload tiny", "LCM", "cfg_scale 7", "1 to 2"],
    ),
    "unknown sampler": (["payloads.tiny.sampler_name=Euler b"], ["Euler b", "Euler"]),
    "no picture wanted": (["init_points=0"], ["init_points"]),
    "a name that is no folder": (["name=a/b"], ["a/b"]),
    "not an assignment": (["model_a"], ["model_a"]),
    "unknown device": (["generator.device=gpu"], ["gpu"]),
    "a GPU that is not there": (["generator.device=cuda:99"], ["no cuda:99", "device=auto"]),
    "no time": (["time_limit=soon"], ["time_limit", "soon", "2h"]),
    "no patience": (["patience=0"], ["patience", "0"]),
    "unknown test": (["pruning.test=wilcoxn"], ["pruning.test", "wilcoxn", "wilcoxon"]),
    "too few pictures to give up": (["pruning.test=wilcoxon"], ["pruning.test", "2 pictures", "8"]),
    "an objective that is no scorer": (["objectives=[redness,beauty]", "optimiser=tpe"], ["objectives", "beauty"]),
    "a single objective": (["objectives=[redness]", "optimiser=tpe"], ["objectives", "redness"]),
    "objectives and an optimiser of one": (
        ["scorers=[redness,clip]", "objectives=[redness,clip]"],
        ["structured", "one objective", "optimiser=gp"],
    ),
}


def listing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)  # Python's own


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    case: str, workplace: Path, tmp_path: Path, tiny_a: Path, tiny_b: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_bad_files(tmp_path, tiny_a)
    wrong, words = CASES[case]
    overrides = [
        f"model_a={tiny_a}",
        f"model_b={tiny_b}",
        *(text.replace("{bad}", str(tmp_path)).replace("{a}", str(tiny_a)) for text in wrong),
    ]
    before = listing(tmp_path)
    assert main(["run", "experiment=tiny", *overrides]) == 2
    _, errors = capfd.readouterr()
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1, errors
    for word in words:
        assert word in errors
    assert listing(tmp_path) == before
    assert not (workplace / "hacked").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["rnu", "run"]),
        (["run", "experiment=tiny"], ["model_a"]),
        (["run", "experiment=tinny", "model_a={a}", "model_b={b}"], ["tinny", "did you mean tiny"]),
        (["resume", "nobody"], ["nobody"]),
        (["show", "nobody"], ["nobody"]),
        (["merge", "nobody", "--out", "x.safetensors"], ["nobody"]),
        (["merge", "nobody"], ["--out"]),
        (["merge", "model_a={a}", "--out", "x.safetensors"], ["model_b"]),
        (["merge", "model_a={a}", "model_b={b}", "alpha=0.1,0.2,0.3", "--out", "x.safetensors"], ["3 numbers", "26"]),
        (["merge", "model_a={a}", "model_b={b}", "alpah=0.1", "--out", "x.safetensors"], ["alpah", "alpha"]),
        (["merge", "model_a={a}", "model_b={b}", "--out", "{a}"], ["a.safetensors", "another name"]),
        (["merge", "model_a={a}", "model_b={b}", "--out", "no/such/folder/x.safetensors"], ["no/such/folder"]),
        (["merge", "nothing.json", "--out", "x.safetensors"], ["nothing.json"]),
    ],
)
def test_a_mistake_in_another_command_is_one_line(
    arguments: list[str],
    words: list[str],
    workplace: Path,
    tmp_path: Path,
    tiny_a: Path,
    tiny_b: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = listing(tmp_path)
    filled = [text.replace("{a}", str(tiny_a)).replace("{b}", str(tiny_b)) for text in arguments]
    assert main(filled) == 2
    _, errors = capfd.readouterr()
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1, errors
    for word in words:
        assert word in errors
    assert listing(tmp_path) == before


def test_a_full_disk_is_found_at_start_up(
    workplace: Path, tiny_a: Path, tiny_b: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from bayes_merger.compose import compose_run, validate
    from bayes_merger.errors import ConfigError
    from bayes_merger.run.new_folder import new_folder
    from bayes_merger.run.setup import check_space
    from bayes_merger.setups import make_setup

    settings = compose_run(["experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}"])
    config = validate(settings)
    folder = new_folder(config)
    parts = make_setup(config, settings, folder)
    with pytest.raises(ConfigError, match=r"0\.0 GB free"):
        check_space(parts, folder, free=1000)
    assert not folder.path.exists()


def test_a_long_name_neither_fills_the_line_nor_turns_it(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("x" * 50_000, "\u202egnp.sredro\x1b[31m\u2066"):
        assert main([name]) == 2
        assert main(["run", "experiment=tiny", f"model_a={name}", "model_b=b.safetensors"]) == 2
        assert main(["merge", f"model_a={name}", "model_b=b.safetensors", "--out", "x.safetensors"]) == 2
        errors = capfd.readouterr().err
        assert errors.count("\n") == 3
        assert all(line.isprintable() and len(line) < 1100 for line in errors.splitlines())


@pytest.mark.slow
def test_a_process_that_ends_says_nothing_more() -> None:
    pytest.importorskip("triton")  # which complains at the end about what was never freed
    lines = (
        "import torch, triton, sys",
        "sys.argv = ['bayes-merger', 'nonsense']",
        "from bayes_merger.cli import program",
        "program()",
    )
    ended = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("error: no command 'nonsense'")
