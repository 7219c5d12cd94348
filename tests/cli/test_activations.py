"""``activations``: measured, shown, merged, killed and gone on with; and what a merge and a run make of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.hashes import sha256_of
from bayes_merger.checkpoints.shelves import VARIABLE
from tests.user_folder import PAYLOAD, command, make_workplace, start


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path, tiny_a: Path, tiny_b: Path) -> Path:
    folder = make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)
    second = PAYLOAD.replace("tiny:", "second:").replace("ring", "cross")
    (folder / "payloads" / "second.yaml").write_text(second, encoding="utf-8")
    unguided = PAYLOAD.replace("tiny:", "unguided:").replace("cfg_scale: 3", "cfg_scale: 1")
    (folder / "payloads" / "unguided.yaml").write_text(unguided, encoding="utf-8")
    for name, model in (("A", tiny_a), ("B", tiny_b)):
        said = measure(folder, model, f"{name}.act.safetensors", tiny_sd1_config)
        assert said == ["tiny: 2 pictures", "second: 2 pictures"]
    return folder


def arguments(model: Path, out: str, config: Path, payloads: str = "tiny,second") -> list[str]:
    drawn = [f"payloads=[{payloads}]", f"generator.config={config}", "generator.device=cpu"]
    return ["activations", str(model), *drawn, "--out", out, "--bands", "2"]


def measure(folder: Path, model: Path, out: str, config: Path, payloads: str = "tiny,second") -> list[str]:
    result = command(folder, *arguments(model, out, config, payloads))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"wrote {out} (")
    return result.stderr.splitlines()


def refused(folder: Path, *words: str) -> str:
    result = command(folder, *words)
    assert result.returncode == 2, result.stdout + result.stderr
    return result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_same_settings_give_the_same_bytes_and_parts_merge_to_the_whole(
    workplace: Path, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    for out, payloads in (("one.sft", "tiny"), ("two.sft", "second"), ("again.sft", "tiny,second")):
        measure(workplace, tiny_a, out, tiny_sd1_config, payloads)
    whole = (workplace / "A.act.safetensors").read_bytes()
    assert (workplace / "again.sft").read_bytes() == whole
    result = command(workplace, "activations", "merge", "one.sft", "two.sft", "--out", "merged.sft")
    assert result.stdout == "wrote merged.sft: 2 runs of 354 weights\n"
    assert (workplace / "merged.sft").read_bytes() == whole
    said = refused(workplace, "activations", "merge", "one.sft", "one.sft", "--out", "no.sft")
    assert said == "error: one.sft: the run of tiny is in another of these files too, and would count twice"
    assert not (workplace / "no.sft").exists()
    assert "other.sft" not in {path.name for path in workplace.iterdir()}
    assert not list(workplace.glob(".*.parts"))


@pytest.mark.slow
def test_after_a_kill_the_same_command_goes_on(workplace: Path, tiny_a: Path, tiny_sd1_config: Path) -> None:
    process = start(workplace, *arguments(tiny_a, "killed.sft", tiny_sd1_config))
    assert process.stderr.readline() == "tiny: 2 pictures\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (workplace / "killed.sft").exists()
    assert "tiny: measured before" in measure(workplace, tiny_a, "killed.sft", tiny_sd1_config)
    assert (workplace / "killed.sft").read_bytes() == (workplace / "A.act.safetensors").read_bytes()
    assert not list(workplace.glob(".*.parts"))


@pytest.mark.slow
def test_what_is_measured_is_shown_as_a_table_and_a_picture(workplace: Path) -> None:
    result = command(workplace, "activations", "show", "A.act.safetensors", "--png", "a.png")
    first, header, *rows, last = result.stdout.splitlines()
    assert first.startswith("A.act.safetensors: sd1 ")
    assert first.endswith(", 354 weights, 4 pictures of 2 payloads, 2 bands")
    assert header.split() == ["block", "tiny", "second", "spread"]
    assert rows[0].split()[0] == "IN01"
    assert last == "wrote a.png"
    both = command(workplace, "activations", "show", "A.act.safetensors", "B.act.safetensors", "--png", "ab.png")
    assert both.stdout.splitlines()[2].split() == ["block", "A", "B", "B", "/", "A"]
    for name in ("a.png", "ab.png"):
        assert (workplace / name).read_bytes().startswith(b"\x89PNG")


def test_files_are_found_by_name_where_models_are(
    workplace: Path, tmp_path: Path, tiny_a: Path, tiny_b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = (f"model_a={tiny_a}", f"model_b={tiny_b}", "saliency.a=A.act", "saliency.b=B.act", "alpha=0.5")
    result = command(tmp_path, "plan", *merge, f"models_dir={workplace}")
    assert "alpha is moved by the response of B.act.safetensors against A.act.safetensors" in result.stdout
    monkeypatch.setenv(VARIABLE, str(workplace))
    assert command(tmp_path, "activations", "show", "A.act").stdout.startswith(f"{workplace}/A.act.safetensors: sd1 ")
    said = refused(tmp_path, "activations", "show", "C.act")
    assert said.startswith("error: 'C.act': no model is called so; did you mean ")
    both = command(tmp_path, "activations", "merge", "A.act", "B.act", "--out", "no.sft")
    assert both.returncode == 2  # of two models
    assert "B.act.safetensors" in both.stderr


def test_a_prompt_is_not_in_the_file_and_what_was_drawn_is(workplace: Path) -> None:
    sidecar = Sidecar(workplace / "A.act.safetensors")
    assert sidecar.about is not None
    assert "ring" not in str(sidecar.about)
    assert [(run["payload"], run["steps"], run["pictures"]) for run in sidecar.about.runs] == [
        ("tiny", 2, 2),
        ("second", 2, 2),
    ]
    sidecar.close()


def test_a_merge_is_moved_and_its_own_recipe_makes_it_again(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    models = [f"model_a={tiny_a}", f"model_b={tiny_b}", "alpha=0.3", "dtype=fp32"]
    moved = ["saliency.a=A.act.safetensors", "saliency=B.act.safetensors", "strength=1.5", "OUT05.strength=0"]
    for out, more in (("plain.safetensors", []), ("moved.safetensors", moved)):
        assert command(workplace, "merge", *models, *more, "--out", out).returncode == 0
    plain, other = (load_file(workplace / name) for name in ("plain.safetensors", "moved.safetensors"))
    block = "model.diffusion_model.output_blocks.{}.0.in_layers.2.weight"
    assert torch.equal(plain[block.format(5)], other[block.format(5)])
    assert not torch.equal(plain[block.format(6)], other[block.format(6)])
    again = ["merge", "moved.safetensors", f"model_a={tiny_a}", f"model_b={tiny_b}", "--out", "again.safetensors"]
    assert command(workplace, *again).returncode == 0
    assert all(torch.equal(tensor, other[key]) for key, tensor in load_file(workplace / "again.safetensors").items())
    won = ["strength=winner", "saliency.takes=winner"]
    for out, word in zip(("won.safetensors", "taken.safetensors"), won, strict=True):
        written = command(workplace, "merge", *models, *moved[:2], word, "--out", out)
        assert written.stdout.strip().endswith(", alpha 0.3, strength winner"), written.stderr
    shown = command(workplace, "recipe", "won.safetensors").stdout
    assert f"  saliency.a: A.act.safetensors  SHA-256 {sha256_of(workplace / 'A.act.safetensors')[:10]}\n" in shown
    assert "  saliency.takes=winner\n" in shown
    table = "saliency={a: A.act.safetensors, b: B.act.safetensors, takes: winner}"
    assert command(workplace, "merge", *models, table, "--out", "table.safetensors").returncode == 0
    assert (workplace / "table.safetensors").read_bytes() == (workplace / "won.safetensors").read_bytes()
    taken, same, of_a, of_b = (load_file(path) for path in (*(workplace / f"{n}.safetensors" for n in ("won", "taken")),
                                                            tiny_a, tiny_b))  # fmt: skip
    place = block.format(6)
    assert torch.equal(taken[place], same[place])
    assert bool(((taken[place] == of_a[place]) | (taken[place] == of_b[place])).all())
    wrong = refused(workplace, *again[:2], "saliency.a=B.act.safetensors", *again[2:-1], "no.safetensors")
    assert "B.act.safetensors is not the recipe's file (SHA-256 " in wrong
    acted = command(workplace, "plan", *models[:2], "alpha=act:B.act.safetensors")
    assert "alpha is multiplied by the response of B.act.safetensors in " in acted.stdout + acted.stderr


@pytest.mark.parametrize("more", [[], ["--as-lora", "rank=2"]])
def test_a_merge_is_not_written_over_its_file_of_activations(
    workplace: Path, tiny_a: Path, tiny_b: Path, more: list[str]
) -> None:
    kept = (workplace / "B.act.safetensors").read_bytes()
    merge = ["merge", f"model_a={tiny_a}", f"model_b={tiny_b}", "saliency=B.act.safetensors", *more, "--overwrite"]
    said = refused(workplace, *merge, "--out", "B.act.safetensors")
    assert said == "error: B.act.safetensors: is read for what would be written; give another name"
    assert (workplace / "B.act.safetensors").read_bytes() == kept


@pytest.mark.slow
def test_a_recipe_in_steps_has_saliency_in_its_steps(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    recipe: dict[str, Any] = {
        "models": {"a": str(tiny_a), "b": str(tiny_b)},
        "steps": [
            {"name": "mix", "method": "slerp", "a": "a", "b": "b", "alpha": 0.5},
            {
                "name": "gate", "a": "a", "b": "mix", "alpha": 0.7, "strength": "far",
                "saliency": {"b": "B.act.safetensors"},
            },
        ],
    }  # fmt: skip
    (workplace / "steps.yaml").write_text(json.dumps(recipe))
    made = command(workplace, "merge", "steps.yaml", "far=2", "--out", "steps.safetensors")
    assert made.returncode == 0, made.stderr
    assert "alpha is moved by the response of B.act.safetensors in " in made.stderr
    again = command(
        workplace, "merge", "steps.safetensors", f"model_a={tiny_a}", f"model_b={tiny_b}", "--out", "s2.sft"
    )
    assert again.returncode == 0, again.stderr
    assert load_file(workplace / "s2.sft").keys() == load_file(workplace / "steps.safetensors").keys()


@pytest.mark.slow
def test_a_run_searches_one_strength_with_the_blocks_and_its_best_merge_is_written(
    workplace: Path, tiny_a: Path, tiny_b: Path
) -> None:
    files = ["saliency.a=A.act.safetensors", "saliency.b=B.act.safetensors"]
    settings = [f"model_a={tiny_a}", f"model_b={tiny_b}", "name=moved", "init_points=2", "n_iters=1", "final.images=0"]
    result = command(workplace, "run", "experiment=tiny", *settings, *files, "final.save=false")
    assert result.returncode == 0, result.stderr
    data = json.loads(command(workplace, "show", "moved", "--json").stdout)
    strengths = [set(trial["weights"]["strength"].values()) for trial in data["trials_list"]]
    assert all(len(numbers) == 1 for numbers in strengths)
    assert len({number for numbers in strengths for number in numbers}) > 1
    hash = sha256_of(workplace / "B.act.safetensors")[:10]
    assert f"  saliency.b  {workplace / 'B.act.safetensors'}  {hash}\n" in command(workplace, "show", "moved").stdout
    assert command(workplace, "report", "moved").returncode == 0
    page = (workplace / "runs" / "moved" / "report.html").read_text()
    assert "B.act.safetensors" in page
    assert workplace.name not in page  # it is passed on
    saved = command(workplace, "merge", "moved", "--out", "best.safetensors")
    assert saved.returncode == 0, saved.stderr
    for form in ("comfyui", "mecha"):
        assert "which this merge is not" in refused(workplace, "export", "moved", form)
    (workplace / "B.act.safetensors").rename(workplace / "gone")
    gone = refused(workplace, "merge", "moved", "--out", "no.safetensors")
    assert "B.act.safetensors: there is no such file" in gone
    on = ["resume", "moved", "n_iters=2", "final.save=false"]
    plain = ["fork", "moved", "other"], ["worker", "moved"], ["plan", "moved"]
    for said in (gone, refused(workplace, *on), *(refused(workplace, *words) for words in plain)):
        assert said.endswith("; if it has moved, give it with  saliency.b=FILE")
    with safe_open(workplace / "gone", "pt") as file:
        changed = {key: file.get_tensor(key) * 2 for key in file.keys()}  # noqa: SIM118  no mapping
        save_file(changed, workplace / "changed", file.metadata())
    changed_file = refused(workplace, *on, "saliency.b=changed")
    assert "because its scores would not be comparable: activations.saliency.b: '" in changed_file
    gone_on = command(workplace, *on, "saliency.b=gone")
    assert gone_on.returncode == 0, gone_on.stderr
    assert "trial   3" in gone_on.stdout + gone_on.stderr
    forked = command(workplace, "fork", "moved", "narrow", "space.frozen.strength=0", "n_iters=1", "final.save=false")
    assert forked.returncode == 0, forked.stderr
    (workplace / "gone").rename(workplace / "B.act.safetensors")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["payloads=[tiny]"], "the following arguments are required: --out"),
        (["MODEL", "payloads=[tiny]", "--out", "x.sft", "--bands", "0"], "bands: 0 bands of timesteps"),
        (["MODEL", "payloads=[tiny]", "--out", "A.act.safetensors"], "A.act.safetensors exists"),
        (["MODEL", "payloads=[tiny]", "--out", "nowhere/x.sft"], "there is no folder nowhere"),
        (
            ["MODEL", "payloads=[tiny]", "--out", "MODEL", "--overwrite"],
            "is read for what would be written; give another name",
        ),
        (["MODEL", "payloads=[tiny]", "payloads.tiny.prompt=<lora:x:1>", "--out", "x.sft"], "<lora:|names a LoRA"),
        (
            ["MODEL", "payloads=[tiny]", "saliency.b=B.act.safetensors", "--out", "x.sft"],
            "saliency.b: is about a merge",
        ),
        (["MODEL", "payloads=[tiny]", "generator.compile=true", "--out", "x.sft"], "give  generator.compile=false"),
        (["show", "nowhere.sft"], "nowhere.sft: cannot be opened"),
        (["merge", "A.act.safetensors"], "the following arguments are required: --out"),
        (
            ["merge", "A.act.safetensors", "--out", "B.act.safetensors"],
            "B.act.safetensors exists; give another name or",
        ),
        (["show", "A.act.safetensors", "--png", "B.act.safetensors"], "--png: B.act.safetensors is not a PNG; end the"),
        (["show", "A.act.safetensors", "--png", ""], "--png:  is not a PNG; end the name in .png"),
    ],
)
def test_bad_input_is_one_line(workplace: Path, tiny_a: Path, words: list[str], said: str) -> None:
    given = [str(tiny_a) if word == "MODEL" else word for word in words]
    error = refused(workplace, "activations", *given)
    assert any(part in error for part in said.split("|")), error


def test_two_processes_do_not_measure_into_one_file(workplace: Path, tiny_a: Path, tiny_sd1_config: Path) -> None:
    parts = workplace / ".x.sft.parts"
    parts.mkdir()
    with FileLock(parts / ".lock"):
        error = refused(workplace, *arguments(tiny_a, "x.sft", tiny_sd1_config, "tiny"))
        assert error == "error: --out: another process measures into x.sft; wait for it, or give another name"
    (parts / ".lock").unlink()
    parts.rmdir()
    parts.touch()
    error = refused(workplace, *arguments(tiny_a, "x.sft", tiny_sd1_config, "tiny"))
    assert error == "error: --out: the folder .x.sft.parts cannot be made (File exists); give another name"
    parts.unlink()


def test_a_part_that_was_drawn_otherwise_is_measured_anew(workplace: Path, tiny_a: Path, tiny_sd1_config: Path) -> None:
    ids = []
    for out, prediction in (("e.sft", "epsilon"), ("v.sft", "v_prediction")):
        words = arguments(tiny_a, out, tiny_sd1_config, "tiny")
        assert command(workplace, *words, f"generator.prediction_type={prediction}").returncode == 0
        sidecar = Sidecar(workplace / out)
        ids += [run["id"] for run in sidecar.about.runs] if sidecar.about else []
        sidecar.close()
    assert len({*ids}) == 2
    assert not list(workplace.glob(".*.parts"))


def test_payloads_with_and_without_guidance_are_not_drawn_into_one_file(
    workplace: Path, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    error = refused(workplace, *arguments(tiny_a, "x.sft", tiny_sd1_config, "tiny,unguided"))
    assert error.startswith("error: payload unguided: has no guidance (cfg_scale 1), and tiny has, so that their")
    assert not list(workplace.glob("*x.sft*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["merge", "OUT05.alpha=act:B.act.safetensors"], "OUT05.alpha: a file is for all blocks; give  act.alpha=FILE"),
        (["merge", "alpha=act:nowhere"], "act.alpha: nowhere: cannot be opened"),
        (["merge", "saliency.b=A.act.safetensors"], "saliency.b: A.act.safetensors: measured on another model"),
        (
            ["merge", "OUT05.strength=1"],
            "OUT05.strength: there is no strength without a file of activations; give  saliency.b=FILE",
        ),
        (["merge", "saliency=B.act.safetensors", "strength=-1"], "strength of BASE: -1.0 is outside"),
        (["merge", "saliency=B.act.safetensors", "strength=inf"], "strength: weights: 'inf' is not finite"),
        (["merge", "strength=winner"], "saliency: names no file; give  saliency.b=FILE"),
        (
            ["merge", "saliency=B.act.safetensors", "saliency.takes=winner", "strength=2"],
            "strength: there is no strength where saliency takes the winner; leave one of the two out",
        ),
        (["run", "alpha=act:B.act.safetensors"], "alpha: in a run it is  act.alpha=B.act.safetensors"),
        (["run", "OUT05.alpha=act:B.act.safetensors"], "OUT05.alpha: in a run it is  act.alpha=B.act.safetensors"),
        (["run", "saliency.b=B.act.safetensors", "strength=2"], "here it is  space.frozen.strength=1.5, or sali"),
        (["run", "saliency.a=B.act.safetensors"], "saliency.a: B.act.safetensors: measured on another model"),
    ],
)
def test_a_merge_and_a_run_say_how_files_are_given(
    workplace: Path, tiny_a: Path, tiny_b: Path, words: list[str], said: str
) -> None:
    more = {"merge": ["--out", "no.safetensors"], "run": ["experiment=tiny", "name=no"]}[words[0]]
    error = refused(workplace, words[0], f"model_a={tiny_a}", f"model_b={tiny_b}", *words[1:], *more)
    assert said in error
    assert not (workplace / "no.safetensors").exists()
    assert not (workplace / "runs" / "no").exists()


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("alpha: 'act:B.act.safetensors'", "alpha: in a step it is  act: {alpha: B.act.safetensors}"),
        ("saliency: B.act.safetensors, strength: winner", "strength: in a step it is  saliency: {b: FILE, takes: win"),
        (
            "saliency: {b: B.act.safetensors, takes: winner}, strength: 2",
            "there is no strength where saliency takes the winner; leave one of the two out",
        ),
        ("strength: 2", "there is no strength without a file of activations; give  saliency.b=FILE"),
    ],
)
def test_a_step_says_how_files_are_given(workplace: Path, tiny_a: Path, tiny_b: Path, step: str, said: str) -> None:
    text = f"models: {{a: {tiny_a}, b: {tiny_b}}}\nsteps: [{{name: mix, method: weighted_sum, a: a, b: b, {step}}}]\n"
    (workplace / "wrong.yaml").write_text(text)
    assert refused(workplace, "plan", "wrong.yaml").startswith(f"error: recipe wrong.yaml: step mix: {said}")


def test_a_plan_of_steps_names_the_step_of_each_file(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    moved = "method: weighted_sum, a: a, alpha: 0.5, saliency: B.act.safetensors"
    steps = f"{{name: one, b: b, {moved}}}, {{name: two, b: one, {moved}}}, {{name: three, b: two, {moved}}}"
    (workplace / "three.yaml").write_text(f"models: {{a: {tiny_a}, b: {tiny_b}}}\nsteps: [{steps}]\n")
    said = command(workplace, "plan", "three.yaml").stdout
    begins = [line.partition(" by the response")[0] for line in said.splitlines() if " by the response" in line]
    assert begins == [f"note: step {name}: alpha is moved" for name in ("one", "two", "three")]


def test_a_run_of_steps_has_no_strength_where_the_winner_takes_all(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    step = "a: a, b: b, alpha: free, saliency: {b: B.act.safetensors, takes: winner}"
    text = f"models: {{a: {tiny_a}, b: {tiny_b}}}\nsteps: [{{name: mix, method: weighted_sum, {step}}}]\n"
    (workplace / "won.yaml").write_text(text)
    said = refused(workplace, "run", "experiment=tiny", "name=no", "recipe=won.yaml", "space.frozen.mix_strength=2")
    assert (
        said
        == "error: space: mix_strength: there is no strength where saliency takes the winner; leave one of the two out"
    )


def test_a_model_and_a_payload_may_have_any_letters_in_their_names(
    workplace: Path, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    model = workplace / "a=1, ü 'x'.safetensors"
    model.symlink_to(tiny_a)
    (workplace / "payloads" / "one, ü.yaml").write_text(PAYLOAD.replace("tiny:", "'one, ü=1':"), encoding="utf-8")
    chosen = ['payloads="one, ü",second', f"generator.config={tiny_sd1_config}", "generator.device=cpu"]
    drawn = command(workplace, "activations", model.name, *chosen, "--out", "1=ü.sft")
    assert drawn.stderr.splitlines() == ["one, ü=1: 2 pictures", "second: 2 pictures"]
    assert command(workplace, "activations", "show", "1=ü.sft").stdout.startswith("1=ü.sft: sd1 ")
    drawn = command(workplace, "payload", "draw", model.name, *chosen)
    assert drawn.returncode == 0, drawn.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shwo", "A.act.safetensors"], "activations: no 'shwo'; did you mean show?"),
        (
            ["mrege", "A.act.safetensors", "B.act.safetensors", "--out=x"],
            "activations: no 'mrege'; did you mean merge?",
        ),
        (["show", "A.act.safetensors", "--pgn=x"], "unrecognized arguments: --pgn=x; did you mean --png?"),
        (["--out=x"], "the following arguments are required: model; see  bayes-merger activations --help"),
    ],
)
def test_a_misspelt_word_is_told(workplace: Path, words: list[str], said: str) -> None:
    assert refused(workplace, "activations", *words) == f"error: {said}"


@pytest.mark.slow
def test_a_grid_is_of_strengths_and_of_files(workplace: Path, tiny_a: Path, tiny_b: Path) -> None:
    models = ["experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}", "alpha=0.5"]
    axes = ["x=strength=0,2", "y=saliency.by=response,activation"]
    made = command(workplace, "xy", *models, "saliency=B.act.safetensors", *axes, "--out", "strengths")
    assert made.stdout.startswith("4 cells, 4 distinct merges"), made.stderr
    made = command(workplace, "xy", *models, "x=alpha=act:A.act.safetensors,act:B.act.safetensors", "--out", "files")
    assert made.stdout.startswith("2 cells, 2 distinct merges"), made.stderr
