"""``xy``: grids of two models, drawn; and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bayes_merger.imaging.payload.pictures import texts_of
from bayes_merger.merging import MergeRecipe
from tests.user_folder import command, make_workplace


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_sd1_config: Path) -> Path:
    return make_workplace(tmp_path_factory.mktemp("workplace"), tiny_sd1_config)


@pytest.fixture(scope="module")
def models(tiny_a: Path, tiny_b: Path) -> list[str]:
    return ["experiment=tiny", f"model_a={tiny_a}", f"model_b={tiny_b}"]


AXES = ["x=elements=|OUT11::1|OUT11:in_layers:0.25, M00::1", "y=method=weighted_sum,slerp", "z=seed=1,2"]


@pytest.fixture(scope="module")
def drawn(workplace: Path, models: list[str]) -> Path:
    result = command(workplace, "xy", *models, *AXES, "--out", "grid")
    assert result.returncode == 0, result.stderr
    written = "grid-1.png, grid-1.webp, grid-2.png, grid-2.webp, grid.html, pictures/"
    told = "12 cells, 6 distinct merges; what they do not merge stays model A, alpha=NUMBER changes that"
    assert result.stdout == f"{told}\nwrote grid: {written}\n"
    return workplace / "grid"


def data_of(page: Path) -> dict[str, list[dict[str, int]]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_equal_cells_are_drawn_once(drawn: Path) -> None:
    folders = list((drawn / "pictures").iterdir())
    # two seeds of: model A, which the first cells of weighted_sum are too, and slerp's; two merges by each method
    assert len(folders) == 2 * 6
    data = data_of(drawn / "grid.html")
    assert (len(data["cells"]), len(data["pictures"]), len(data["recipes"])) == (12, 12, 6)
    first = data["cells"][0]
    assert first["picture"] == first["unmerged"]


def test_a_sheet_has_what_web_uis_read(drawn: Path) -> None:
    for suffix in ("png", "webp"):
        text = texts_of(drawn / f"grid-2.{suffix}")["parameters"]
        assert text.startswith("a (red:1.2) ring\nSteps: 2, Sampler: Euler, ")
        assert "Seed: 2, " in text
        assert text.endswith('Y Type: method, Y Values: "weighted_sum | slerp", Z Type: seed, Z Values: "2"')
    with Image.open(drawn / "grid-1.png") as one, Image.open(drawn / "grid-2.png") as two:
        assert one.size == two.size
        assert one.width > 3 * 160


def test_a_cell_is_the_merge_of_its_recipe_written_and_drawn_bit_for_bit(
    workplace: Path, drawn: Path, tiny_sd1_config: Path
) -> None:
    data = data_of(drawn / "grid.html")
    pictures = {texts_of(path)["Recipe"]: path.parent for path in drawn.glob("pictures/*/tiny-0.png")
                if "Seed: 1," in texts_of(path)["parameters"]}  # fmt: skip
    for number in (1, 4):  # a merge of each method
        text = str(data["recipes"][data["cells"][number]["recipe"]])
        (workplace / "cell.json").write_text(text)
        merged = command(workplace, "merge", "cell.json", "--out", f"cell{number}.safetensors")
        assert merged.returncode == 0, merged.stderr
        settings = ["payloads=[tiny]", "payloads.tiny.seed=1", f"generator.config={tiny_sd1_config}"]
        alone = command(workplace, "payload", "draw", f"cell{number}.safetensors", *settings, "generator.device=cpu",
                        f"out=alone{number}")  # fmt: skip
        assert alone.returncode == 0, alone.stderr
        own = pictures[MergeRecipe.from_json(json.loads(text)).digest]
        for index in (0, 1):
            with (
                Image.open(own / f"tiny-{index}.png") as one,
                Image.open(workplace / f"alone{number}" / f"tiny-{index}.png") as two,
            ):
                assert one.tobytes() == two.tobytes()


@pytest.mark.slow
def test_another_model_a_is_a_pipeline_of_its_own(
    workplace: Path, models: list[str], tiny_a: Path, tiny_b: Path, tiny_sd1_config: Path
) -> None:
    axes = [f"x=model_a={tiny_a},{tiny_b}", "y=alpha=GRAD_V|0", "z=replace=ring,disc"]
    result = command(workplace, "xy", models[0], models[2], *axes, "payloads.tiny.batch_size=1", "--out", "two")
    assert result.returncode == 0, result.stderr
    settings = [f"generator.config={tiny_sd1_config}", "payloads=[tiny]", "payloads.tiny.batch_size=1"]
    alone = command(workplace, "payload", "draw", str(tiny_b), *settings, "generator.device=cpu", "out=b")
    assert alone.returncode == 0, alone.stderr
    drawn = [Image.open(path).tobytes() for path in (workplace / "two" / "pictures").glob("*/*.png")]
    # by two prompts: A, its merge with B; B, its merge with itself
    assert len(drawn) == 2 * 4
    assert Image.open(workplace / "b" / "tiny-0.png").tobytes() in drawn


@pytest.mark.slow
def test_a_grid_that_was_stopped_goes_on_and_may_grow(workplace: Path, models: list[str], drawn: Path) -> None:
    copied = workplace / "stopped"
    shutil.copytree(drawn, copied)
    first, *others = sorted((copied / "pictures").iterdir())
    before = {path: path.stat().st_mtime_ns for path in others}
    first.rename(copied / "pictures" / f".{first.name}.999999999.tmp")  # killed while it was written
    refused = command(workplace, "xy", *models, *AXES, "--out", "stopped")
    assert refused.returncode == 2
    assert "is there already; add  --resume  to go on there" in refused.stderr
    longer = [*AXES[:2], "z=seed=1,2,3"]
    assert command(workplace, "xy", *models, *longer, "--out", "stopped", "--resume").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in others} == before
    assert len(list((copied / "pictures").iterdir())) == 3 * 6


@pytest.mark.slow
def test_a_merge_that_overflows_is_a_cell_with_its_reason_and_others_have_their_points(
    workplace: Path, models: list[str]
) -> None:
    words = [*models, "scorers=redness", "dtype=fp16", "x=OUT11.alpha=0,1e9"]
    result = command(workplace, "xy", *words, "--out", "over")
    assert result.returncode == 0, result.stderr
    assert re.match(r"not drawn, 1 of 2 cells: merge: '.*' holds infinity", result.stderr)
    page = (workplace / "over" / "grid.html").read_text()
    assert "holds infinity" in page
    points = re.findall(r'aria-label="OUT11.alpha 0: ([\d.]+) points"', page)
    scored = command(workplace, "score", "over/pictures", "--scorers", "redness", "--json")
    assert [f"{sum(row['points'] for row in json.loads(scored.stdout)) / 2:.2f}"] == points


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x=OUT05.gamma=0,1"], "the merge method has no weight 'gamma'"),
        (["x=OUT99.alpha=0,1"], "unknown block 'OUT99'"),
        (["x=elements=OUT11:nothing_like_it:1"], "no tensor has 'nothing_like_it' in its name"),
        (["x=model_b=nowhere.safetensors"], "nowhere.safetensors"),
        (["x=method=weighted_sum,wieghted_sum"], "wieghted_sum"),
        (["x=steps=2,many"], "steps"),
        (["x=sampler=Euler,Oiler"], "Oiler"),
        (["x=payload=tiny,nobody"], "nobody"),
        (["x=replace=green,red"], "no prompt has 'green'"),
        (["x=alpha=0-1 [50]", "y=seed=1-41 (+1)"], "2,050 cells are more than 2,000; give shorter axes, or add  --yes"),
        (["x=alpha=0,1", "images_per_prompt=2"], "images_per_prompt: is about the trials of a run; here payloads.NAME"),
        (["x=alpha=0,1", "generator.program=webui"], "a web UI draws payloads by itself"),
        (["x=alpha=0,1", "--out", "payloads"], "--out: payloads is there already; add  --resume"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    workplace: Path, models: list[str], words: list[str], said: str
) -> None:
    result = command(workplace, "xy", *models, *(words if "--out" in words else [*words, "--out", "never"]))
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (workplace / "never").exists()
