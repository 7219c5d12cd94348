"""Figures, importance, formats: from plain data, by hand-made cases."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe.recipe import MergeRecipe
from bayes_merger.report.colours import colour, ink
from bayes_merger.report.convergence import Convergence
from bayes_merger.report.figures import new_figure, write_plot
from bayes_merger.report.formats import comfyui_node, formats, mecha_recipe
from bayes_merger.report.importance import importances
from bayes_merger.report.summary import weights_text
from bayes_merger.report.svg import bars_svg, convergence_svg, network_svg, nice_steps, sparkline

COURSE = Convergence(((0, 4.0), (1, 3.0), (5, 6.0)), ((0, 4.0), (5, 6.0)), (), 1, 0.5, {"model A": 4.0}, 5)


def recipe(architecture: str = "sd1", method: str = "weighted_sum", **weights: float) -> MergeRecipe:
    from bayes_merger.checkpoints.architectures import ARCHITECTURES

    alpha = dict.fromkeys(ARCHITECTURES[architecture].blocks, 0.25) | weights
    models = {"a": {"path": 'C:\\models\\a "1".safetensors', "sha256": ""}, "b": {"path": "m/b.ckpt", "sha256": ""}}
    return MergeRecipe.from_json(
        {"method": method, "models": models, "architecture": architecture, "weights": {"alpha": alpha}}
    )


def test_the_course_counts_as_trials_do() -> None:
    drawn = convergence_svg(COURSE)
    assert "trial 5, 6.000 points: the best merge" in drawn
    assert ">model A 4.00<" in drawn
    assert ">best seen 6.00<" in drawn
    assert 'class="band"' in drawn
    assert convergence_svg(Convergence((), (), (), -1, 0.0, {}, None)) == ""


def test_one_trial_is_a_figure() -> None:
    assert "nan" not in convergence_svg(Convergence(((0, 4.0),), ((0, 4.0),), (), 0, 0.0, {}, 0))


def test_a_figure_touches_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "heat.tmp").write_text("mine")
    write_plot(new_figure(1, 1), tmp_path / "heat.png")
    assert (tmp_path / "heat.tmp").read_text() == "mine"
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


def test_numbers_in_cells_can_be_read_on_their_colour() -> None:
    assert (colour(0.0), colour(0.5), colour(1.0)) == ("#2166ac", "#f4f4f0", "#e08214")
    assert (ink(0.0), ink(0.5), ink(1.0)) == ("#fff", "#000", "#000")
    for share in range(101):
        assert contrast(colour(share / 100), ink(share / 100)) >= 4.5, share


def contrast(one: str, other: str) -> float:
    def luminance(code: str) -> float:
        code = code if len(code) == 7 else "#" + "".join(2 * letter for letter in code[1:])
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_network_has_a_cell_for_each_block_hatched_where_idle() -> None:
    drawn = network_svg({"BASE": 0.5, "IN00": 0.25, "M00": 1.5, "OUT00": -0.5}, ["IN00"], {"M00": 0.5})
    assert re.findall(r">(-?\d\.\d\d)<", drawn) == ["0.50", "-0.50", "1.50"]
    assert drawn.count('class="idle"') == 1
    assert drawn.count('class="matters"') == 1


def test_bars_are_faint_where_luck_would_do() -> None:
    drawn = bars_svg([("IN00", 0.75, True), ("<b>", 0.25, False)], "importance")
    assert drawn.count('class="bar"') == drawn.count('class="bar luck"') == 1
    assert "<b>" not in drawn


def test_steps_are_round_numbers() -> None:
    assert nice_steps(0.0, 60.0) == [0.0, 20.0, 40.0, 60.0]
    assert nice_steps(6.85, 7.32) == [6.9, 7.0, 7.1, 7.2, 7.3]
    assert nice_steps(3.0, 3.0) == [3.0]


def test_a_sparkline_is_a_line() -> None:
    assert sparkline([1.0, 1.0, 2.0, 8.0]) == "▁▁▂█"
    assert sparkline([5.0]) == "▁"
    assert sparkline([]) == ""
    assert len(sparkline([float(i) for i in range(3000)])) <= 40


def trials(count: int, matters: float) -> tuple[list[FrozenTrial], list[float]]:
    """Trials whose score falls with the distance of the first of six numbers from 0.8."""
    luck = random.Random(1)
    ranges = {f"x{i}": FloatDistribution(0.0, 1.0) for i in range(6)}
    rows = [{name: luck.random() for name in ranges} for _ in range(count)]
    found = [optuna.create_trial(params=row, distributions=dict(ranges), value=0.0) for row in rows]
    return found, [luck.gauss(-matters * abs(row["x0"] - 0.8), 0.1) for row in rows]


def test_what_matters_is_named_and_luck_is_not() -> None:
    first, *rest = importances(*trials(200, matters=1.0))
    assert (first.name, first.beyond_luck) == ("x0", True)
    assert first.share > 0.5
    assert not any(one.beyond_luck for one in rest)
    assert not any(one.beyond_luck for one in importances(*trials(200, matters=0.0)))


def test_of_few_trials_or_equal_scores_nothing_is_said() -> None:
    found, scores = trials(29, matters=1.0)
    assert importances(found, scores) == ()
    assert importances(trials(50, 1.0)[0], [1.0] * 50) == ()


def test_weights_in_every_form_that_people_paste() -> None:
    numbers = ",".join(["0.5"] + ["0.25"] * 24 + ["0.75"])
    assert [one.text for one in formats(recipe(BASE=0.5, OUT11=0.75), "mine")] == [
        numbers, numbers.removeprefix("0.5,"), f"mine-alpha\t{numbers}"
    ]  # fmt: skip
    found = {len(one.text.split(",")): one.text for one in formats(recipe("sdxl", OUT00=0.75), "mine")[:3]}
    assert sorted(found) == [19, 20, 26]
    assert found[26] == ",".join(["0.25"] * 10 + ["0"] * 3 + ["0.25", "0.75"] + ["0.25"] * 8 + ["0"] * 3)


def test_weights_beside_files_of_activations_are_not_for_supermerger() -> None:
    plain = recipe()
    moved = replace(plain, saliency={"b": {"path": "B.act", "sha256": "0"}})
    assert "supermerger" not in " ".join(one.label for one in formats(moved, "mine"))
    assert "mbwpresets" not in weights_text(moved, "mine")
    assert "mbwpresets" in weights_text(plain, "mine")


def test_comfyui_is_given_the_share_of_its_first_model() -> None:
    found = comfyui_node(recipe(BASE=0.4, IN03=1.0, M00=0.1, OUT11=0.7))
    assert found["class_type"] == "ModelMergeSD1"
    assert found["inputs"]["model1"] == 'a "1".safetensors'
    inputs = {"time_embed.": 0.6, "input_blocks.3.": 0.0, "middle_block.2.": 0.9, "output_blocks.11.": 0.3, "out.": 0.3}
    assert {name: found["inputs"][name] for name in inputs} == inputs
    assert found["clip"]["ratio"] == 0.6
    assert len(comfyui_node(recipe("flux"))["inputs"]) == 2 + 5 + 19 + 38 + 1
    assert "input_blocks.8" in comfyui_node(recipe("sdxl"))["inputs"]
    assert len(comfyui_node(recipe("sd3"))["inputs"]) == 2 + 5 + 24 + 1


def test_sd_mecha_s_recipe() -> None:
    lines = mecha_recipe(recipe(BASE=0.5)).splitlines()
    assert lines[:2] == ["version 0.1.0", 'model "C:\\\\models\\\\a \\"1\\".safetensors"']
    assert lines[3].startswith("dict BASE=0.5 IN00=0.25 ")
    assert lines[-1] == 'merge "weighted_sum" &0 &1 alpha=&3'


@pytest.mark.parametrize("form", [comfyui_node, mecha_recipe])
def test_a_merge_that_another_program_does_not_know_is_refused(form: object) -> None:
    with pytest.raises(ConfigError, match="only be given a weighted sum of two models"):
        form(recipe(method="slerp"))  # type: ignore[operator]
    files = {"path": "B.act", "sha256": "0"}
    for more in ({"saliency": {"b": files}}, {"act": {"alpha": files}}, {"clip": "hard"}, {"elements": ("OUT05::1",)}):
        with pytest.raises(ConfigError, match="only be given a weighted sum of two models"):
            form(replace(recipe(), **more))  # type: ignore[operator]
    adjusted = {**recipe().weights, "adjust": {"CONT": 1.0}}
    with pytest.raises(ConfigError, match="only be given a weighted sum of two models"):
        form(replace(recipe(), weights=adjusted))  # type: ignore[operator]
    with pytest.raises(ConfigError, match="export the recipe instead"):
        form(recipe("chroma"))  # type: ignore[operator]
