"""``effect``: what is measured of two models, drawn; and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.user_folder import command, make_workplace


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path) -> Path:
    return make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)


@pytest.fixture(scope="module")
def models(tiny_a: Path, tiny_b: Path) -> list[str]:
    return ["experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}"]


@pytest.fixture(scope="module")
def measured(workplace: Path, models: list[str]) -> Path:
    wanted = [
        "--of",
        "OUT11:",
        "--of",
        "elements:OUT11",
        "--of",
        "OUT11:out_layers:0.5",
        "--of",
        "IN00:",
        "--most",
        "4",
    ]
    result = command(workplace, "effect", *models, *wanted, "--out", "looked")
    assert result.returncode == 0, result.stderr
    assert any(line.startswith("not drawn, the models differ less there") for line in result.stdout.splitlines())
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


def test_a_picture_is_that_of_a_merge_made_alone_bit_for_bit(
    workplace: Path, models: list[str], tiny_sd1_config: Path
) -> None:
    result = command(workplace, "effect", *models, "--of", "OUT11:in_layers:0.25", "--of", "M00:", "--out", "two")
    assert result.returncode == 0, result.stderr
    for name, rule in (("000-OUT11_in_layers_0_25", "OUT11:in_layers:0.25"), ("001-M00_", "M00::1")):
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
    assert result.stderr == "error: effect: the models are equal in all of OUT11:\n"
    assert not (workplace / "none").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--of", "OUT11:nothing_like_it"], "no tensor has 'nothing_like_it' in its name"),
        (["--of", "OUT99:"], "'OUT99' is not a block of sd1"),
        (["--of", "OUT11:ff:much"], "ratio 'much' is not a number"),
        (["--of", "OUT11:", "--of", "OUT11:"], "--of: OUT11: is asked for twice; leave one out"),
        (["--of", "blocks", "--most", "0"], "--most: 0 is too small; give 1 or more"),
        (["--out", "payloads"], "--out: payloads is there already; give another name"),
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
