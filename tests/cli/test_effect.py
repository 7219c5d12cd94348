"""``effect``: what is measured of two models, drawn; and what it refuses."""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bayes_merger.checkpoints.opening import open_checkpoint
from tests import sidecars
from tests.user_folder import command, make_workplace, start


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path) -> Path:
    return make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)


@pytest.fixture(scope="module")
def models(tiny_a: Path, tiny_b: Path) -> list[str]:
    return ["experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}"]


WANTED = ["--of", "OUT11:", "--of", "elements:OUT11", "--of", "OUT11:out_layers:0.5", "--of", "IN00:", "--most", "4"]


@pytest.fixture(scope="module")
def measured(workplace: Path, models: list[str]) -> Path:
    result = command(workplace, "effect", *models, *WANTED, "--out", "looked")
    assert result.returncode == 0, result.stderr
    assert any(line.startswith("not drawn, less is to be expected there") for line in result.stdout.splitlines())
    return workplace / "looked"


def test_the_tables_have_every_entry_and_say_what_was_drawn(measured: Path) -> None:
    with (measured / "effect.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    drawn = [line for line in lines if line["status"] == "drawn"]
    assert len(drawn) == 4
    for line in drawn:
        assert 0 <= float(line["changed"]) <= 100
        assert float(line["changed_error"]) >= 0
        assert line["redness"]
    left = [float(line["relative_norm"]) * float(line["ratio"]) for line in lines if line["status"] == "not drawn"]
    assert max(left) <= min(float(line["relative_norm"]) * float(line["ratio"]) for line in drawn)
    assert [line["entry"] for line in json.loads((measured / "effect.json").read_text(encoding="utf-8"))] == [
        line["entry"] for line in lines
    ]


def test_each_drawn_entry_moves_between_before_after_and_difference(measured: Path) -> None:
    moving = sorted((measured / "moving").iterdir())
    assert len(moving) == 4
    with Image.open(moving[0]) as picture:
        assert getattr(picture, "n_frames", 1) == 3
    with Image.open(measured / "heat.png") as picture:
        assert picture.format == "PNG"
    with Image.open(measured / "checker.png") as sheet:  # model A and four entries beside each other
        assert sheet.size == (5 * (128 + 6) + 6, 2 * 128 + 16 + 6 + 6)
        shown = sheet.crop((6, 6, 134, 134)).tobytes()
        pictures = [Image.open(measured / "pictures" / "model A" / f"tiny-{index}.png") for index in (0, 1)]
        assert shown in [p.convert("RGB").resize((128, 128), Image.Resampling.NEAREST).tobytes() for p in pictures]


@pytest.mark.slow
def test_a_picture_is_that_of_a_merge_made_alone_bit_for_bit(
    workplace: Path, models: list[str], tiny_sd1_config: Path
) -> None:
    result = command(workplace, "effect", *models, "--of", "OUT11:in_layers:0.25", "--of", "M00:", "--out", "two")
    assert result.returncode == 0, result.stderr
    for begin, rule in (("OUT11_in_layers_0_25-", "OUT11:in_layers:0.25"), ("M00-", "M00::1")):
        (name,) = [folder.name for folder in (workplace / "two" / "pictures").glob(f"{begin}*")]
        made = f"{name}.safetensors"
        merged = command(workplace, "merge", *models[1:], "alpha=0", f"elements={rule}", "--out", made)
        assert merged.returncode == 0, merged.stderr
        settings = ["payloads=[tiny]", f"generator.config={tiny_sd1_config}", "generator.device=cpu", f"out={name}"]
        drawn = command(workplace, "payload", "draw", made, *settings)
        assert drawn.returncode == 0, drawn.stderr
        for index in (0, 1):
            with (
                Image.open(workplace / "two" / "pictures" / name / f"tiny-{index}.png") as one,
                Image.open(workplace / name / f"tiny-{index}.png") as two,
            ):
                assert one.tobytes() == two.tobytes()


def test_models_that_are_equal_have_nothing_to_draw(workplace: Path, tiny_a: Path) -> None:
    same = ["experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_a}"]
    result = command(workplace, "effect", *same, "--of", "OUT11:", "--out", "none")
    assert result.returncode == 2
    assert result.stderr == "error: effect: the models are equal in all of OUT11\n"
    assert not (workplace / "none").exists()


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--of", "OUT11:nothing_like_it"], "no tensor has 'nothing_like_it' in its name"),
        (["--of", "OUT99:"], "'OUT99' is not a block of sd1"),
        (["--of", "OUT11:ff:much"], "ratio 'much' is not a number"),
        (["--of", "OUT11:", "--of", "OUT11:"], "--of: OUT11 is asked for twice; leave one out"),
        (["--of", "blocks", "--most", "0"], "--most: 0 is too small; give 1 or more"),
        (["--out", "payloads"], "--out: payloads is there already; give another name, or go on with  --resume"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    workplace: Path, models: list[str], words: list[str], said: str
) -> None:
    result = command(workplace, "effect", *models, *(words if "--out" in words else [*words, "--out", "never"]))
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (workplace / "never").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=slerp"], "error: method: effect takes numbers of B as they are; leave method out\n"),
        (["elements=OUT11:ff:1"], "error: elements: effect takes numbers of B as they are; leave elements out\n"),
        (
            ["--resume", "--out", "payloads"],
            "error: --resume: payloads holds no effect to go on with (about.json: no such file); give another --out\n",
        ),
    ],
)
def test_what_is_no_part_of_b_in_a_is_refused(workplace: Path, models: list[str], words: list[str], said: str) -> None:
    out = [] if "--out" in words else ["--out", "never"]
    result = command(workplace, "effect", *models, *words, *out)
    assert (result.returncode, result.stderr) == (2, said)
    assert not (workplace / "never").exists()


@pytest.mark.slow
def test_after_a_kill_what_was_drawn_is_not_drawn_again(workplace: Path, models: list[str], measured: Path) -> None:
    process = start(workplace, "effect", *models, *WANTED, "--out", "killed")
    kept = workplace / "killed" / "measured"
    while process.poll() is None and not (kept.is_dir() and any(kept.glob("*.json"))):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    assert not (workplace / "killed" / "effect.csv").exists()
    result = command(workplace, "effect", *models, *WANTED, "--out", "killed", "--resume")
    assert result.returncode == 0, result.stderr
    assert f"{len(left)} of 4 entries were drawn before" in result.stderr
    assert {name: (kept / name).stat().st_mtime_ns for name in left} == left
    for name in ("effect.csv", "effect.json"):
        assert (workplace / "killed" / name).read_bytes() == (measured / name).read_bytes()


@pytest.mark.slow
def test_what_is_finished_is_written_again_without_drawing_and_may_grow(workplace: Path, models: list[str]) -> None:
    two, out = ["--of", "OUT11:", "--of", "M00:"], ["--out", "grown", "--resume"]
    first = command(workplace, "effect", *models, *two, *out)
    assert first.returncode == 0, first.stderr
    table = (workplace / "grown" / "effect.csv").read_bytes()
    (workplace / "grown" / "effect.csv").unlink()
    again = command(workplace, "effect", *models, *two, *out)
    assert (again.returncode, again.stderr) == (0, "")
    assert (workplace / "grown" / "effect.csv").read_bytes() == table
    broken = next((workplace / "grown" / "measured").iterdir())
    broken.write_text('{"payloads": ["tiny"], "measures": {"changed": [NaN]}}', encoding="utf-8")
    more = command(workplace, "effect", *models, *two, "--of", "IN00:", *out)
    assert more.stderr == "1 of 3 entries were drawn before\n"
    other = command(workplace, "effect", *models, "seed=7", *two, *out)
    assert other.returncode == 2
    assert other.stderr.startswith("error: --resume: grown was measured otherwise: payloads.0.seed: ")
    assert len(other.stderr.splitlines()) == 1


@pytest.mark.slow
def test_activations_say_which_of_too_many_are_drawn(
    workplace: Path, models: list[str], tiny_a: Path, tiny_b: Path
) -> None:
    """One input channel of one layer alone is fed anything: the layer's difference there is all that counts."""
    with open_checkpoint(tiny_a) as a:
        sha256, shapes = a.sha256(), dict(a.shapes)
    key = "model.diffusion_model.output_blocks.11.0.in_layers.2.weight"
    width = shapes[key][1]
    only_first = torch.zeros(2, width)
    only_first[:, 0] = 4.0
    fed = {f"{key}|in_sq": only_first}
    sidecars.measured(workplace / "a.act.safetensors", {key: shapes[key]}, model=sha256, change=fed)
    words = ["--of", "OUT11:in_layers.2.weight", "--of", "OUT11:out_layers.3.weight", "--most", "1"]
    result = command(workplace, "effect", *models, *words, "--activations", "a.act.safetensors", "--out", "fed")
    assert result.returncode == 0, result.stderr
    lines = json.loads((workplace / "fed" / "effect.json").read_text(encoding="utf-8"))
    one, two = load_file(tiny_a)[key].double(), load_file(tiny_b)[key].double()
    expected = float((two - one)[:, 0].norm() / one[:, 0].norm())
    assert lines[0]["promise"] == pytest.approx(expected, rel=1e-5)
    assert lines[0]["promise"] != pytest.approx(lines[0]["relative_norm"], rel=1e-3)
    assert lines[1]["promise"] == lines[1]["relative_norm"]
    drawn = [line["promise"] for line in lines if line["status"] == "drawn"]
    assert drawn == [max(line["promise"] for line in lines)]
    swapped = ["experiment=tiny", f"model_a={tiny_b}", f"model_b={tiny_a}"]
    other = command(workplace, "effect", *swapped, "--activations", "a.act.safetensors", "--out", "never")
    assert other.returncode == 2
    assert "a.act.safetensors was measured on another model" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [["fork", "begun", "forked", "optimiser=random"], ["resume", "narrow", "n_iters=2"]])
def test_a_study_keeps_what_a_table_has_frozen_without_the_table(
    workplace: Path, models: list[str], tiny_a: Path, tiny_b: Path, words: list[str]
) -> None:
    hashes = []
    for path in (tiny_a, tiny_b):
        with open_checkpoint(path) as model:
            hashes.append(model.sha256())
    rows = [f"{block},{block}:,1,{block},,drawn,{size},0.1,weighted_sum,{','.join(hashes)}"
            for block, size in (("OUT11", 5), ("M00", 5), ("IN00", 0.25))]  # fmt: skip
    head = "entry,rule,ratio,block,part,status,changed,changed_error,method,model_a,model_b"
    table = workplace / "table.csv"
    table.write_text("\n".join([head, *rows]), encoding="utf-8")
    short = ["init_points=3", "n_iters=1", "final.images=0", "final.save=false"]
    planned = command(workplace, "run", *models, "space.from_effect=table.csv", "--cfg")
    said = "frozen because of table.csv: IN00 at 0.5, with 2.4% of the effect (changed)"
    assert planned.stdout.endswith(f"OUT10.alpha, OUT11.alpha\n# {said}\n")
    assert "# searched: 25 numbers: BASE.alpha, IN01.alpha," in planned.stdout
    begun = command(workplace, "run", *models, *short, f"name={words[1]}", "space.from_effect=table.csv")
    assert begun.returncode == 0, begun.stderr
    assert said in begun.stdout.splitlines()
    table.unlink()
    result = command(workplace, *words)
    assert result.returncode == 0, result.stderr
    for name in [word for word in words[1:3] if "=" not in word]:
        assert f"  {said}\n" in command(workplace, "show", name).stdout
        assert f"note: {said}\n" in command(workplace, "plan", name).stdout
        shown = json.loads(command(workplace, "show", name, "--json").stdout)
        assert all(trial["weights"]["alpha"]["IN00"] == 0.5 for trial in shown["trials_list"])
