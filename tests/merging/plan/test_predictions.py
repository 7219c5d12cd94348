"""Models are merged with those that predict the same; a difference may be added to any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.cli import main
from bayes_merger.errors import CheckpointError
from bayes_merger.merging import METHODS, method_spec, open_checkpoint, save_merge
from bayes_merger.merging.engine.merge import plan
from tests.folders import write_folder
from tests.merging.tiny_models import FIRST, even, recipe_of, tensors_of, write_model

NONE = torch.zeros(0)
MARKS: dict[str, dict[str, torch.Tensor]] = {
    "unsaid": {},
    "v": {"v_pred": NONE},
    "zero": {"v_pred": NONE, "ztsnr": NONE},
    "cosxl": {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)},
    "playground": {"edm_mean": torch.ones(4), "edm_std": torch.ones(4)},
}
PAIRS = [(a, b) for a in MARKS for b in MARKS if a != b and {a, b} != {"v", "zero"}]


def models(folder: Path, *kinds: str) -> dict:  # type: ignore[type-arg]
    return {
        name: open_checkpoint(write_model(folder / f"{name}.safetensors", seed, change=MARKS[kind]))
        for seed, (name, kind) in enumerate(zip("abc", kinds, strict=False), start=1)
    }


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_sum_of_unequal_kinds_is_refused(first: str, second: str, tmp_path: Path) -> None:
    given = models(tmp_path, first, second)
    with pytest.raises(
        CheckpointError, match=r"^[AB] predicts .* and [AB] .*: these cannot be merged; method=add_diff"
    ):
        plan(recipe_of(given), given)


def test_what_a_file_s_header_says_counts_too(tmp_path: Path) -> None:
    write_model(tmp_path / "a.safetensors", 1)
    write_model(tmp_path / "b.safetensors", 2, metadata={"modelspec.prediction_type": "v"})
    given = {name: open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"}
    with pytest.raises(CheckpointError, match=r"^B predicts v and A noise: these cannot be merged"):
        plan(recipe_of(given), given)


ADDING = sorted(name for name in METHODS if method_spec(name).adds_difference)


def test_which_methods_add_a_difference() -> None:
    assert ADDING == ["add_difference", "smooth_add", "train_difference", "truncate_rank"]


@pytest.mark.parametrize("method", ADDING)
@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (("v", "unsaid", "unsaid"), "v"),
        (("zero", "unsaid", "unsaid"), "v"),
        (("cosxl", "unsaid", "unsaid"), "v"),
        (("playground", "unsaid", "unsaid"), None),
        (("unsaid", "v", "zero"), "epsilon"),
        (("unsaid", "cosxl", "cosxl"), "epsilon"),
        (("cosxl", "v", "v"), "v"),
        (("v", "v", "v"), "v"),
    ],
)
def test_a_difference_is_added_to_any_model(
    kinds: tuple[str, str, str], said: str | None, method: str, tmp_path: Path
) -> None:
    given = models(tmp_path, *kinds)
    recipe = recipe_of(given, even("1", method), method)
    save_merge(recipe, given, tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    every = {mark for marks in MARKS.values() for mark in marks}
    assert every & found.keys() == MARKS[kinds[0]].keys()
    assert all(torch.equal(found[mark], tensor) for mark, tensor in MARKS[kinds[0]].items())
    with open_checkpoint(tmp_path / "out.safetensors") as merged:
        assert merged.metadata.get("modelspec.prediction_type") == said
        assert merged.prediction == {"v": given["a"].prediction, None: "edm"}.get(said, said)


@pytest.mark.parametrize("method", [*ADDING, "add_perpendicular", "sum_twice", "similarity_add_difference"])
@pytest.mark.parametrize("kinds", [("v", "unsaid", "v"), ("v", "v", "unsaid"), ("unsaid", "cosxl", "unsaid"), ("cosxl", "v", "unsaid")])  # fmt: skip
def test_a_difference_of_unequal_kinds_is_none(kinds: tuple[str, str, str], method: str, tmp_path: Path) -> None:
    given = models(tmp_path, *kinds)
    with pytest.raises(CheckpointError, match=r"these cannot be (?:subtracted|merged)"):
        plan(recipe_of(given, even("0.5", method), method), given)


def test_a_method_that_mixes_all_three_wants_them_equal(tmp_path: Path) -> None:
    given = models(tmp_path, "v", "unsaid", "unsaid")
    with pytest.raises(CheckpointError, match="A predicts v and B, C noise: these cannot be merged"):
        plan(recipe_of(given, even("0.5", "sum_twice"), "sum_twice"), given)


def test_the_first_of_several_steps_decides_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models(tmp_path, "v", "unsaid", "unsaid")
    text = "models: {a: a.safetensors, b: b.safetensors, c: c.safetensors}\nsteps:\n"
    text += "  - {name: tuned, method: add_difference, a: a, b: b, c: c, alpha: 1.0}\n"
    Path("steps.yaml").write_text(text + "  - {name: mix, a: tuned, b: a, alpha: 0.25}\n")
    assert main(["merge", "steps.yaml", "--out", "out.safetensors"]) == 0
    with open_checkpoint("out.safetensors") as merged:
        assert merged.prediction == "v"
        a, b, c = (tensors_of(seed)[FIRST].float() for seed in (1, 2, 3))
        assert torch.allclose(merged.tensor(FIRST).float(), 0.75 * (a + b - c) + 0.25 * a, atol=4e-3)
    Path("wrong.yaml").write_text(text + "  - {name: mix, a: tuned, b: b, alpha: 0.25}\n")
    assert main(["merge", "wrong.yaml", "--out", "no.safetensors"]) == 2
    assert not Path("no.safetensors").exists()


def test_folders_for_edm_say_so_in_the_tensors_of_a_single_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", "sdxl")
    scheduler, vae = folder / "scheduler" / "scheduler_config.json", folder / "vae" / "config.json"
    scheduler.write_text(
        json.dumps({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction", "sigma_max": 120.0})
    )
    with open_checkpoint(folder) as cosxl:
        assert cosxl.prediction == "edm-v"
        assert [cosxl.tensor(f"edm_vpred.sigma_{end}").tolist() for end in ("max", "min")] == [
            [120.0],
            [pytest.approx(0.002)],
        ]
    scheduler.write_text(json.dumps({"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "epsilon"}))
    with pytest.raises(CheckpointError, match=r"vae/config\.json has no latents_mean"):
        open_checkpoint(folder)
    settings = json.loads(vae.read_text()) | {"latents_mean": [1, 2, 3, 4], "latents_std": [0.5, 1, 1, 1]}
    vae.write_text(json.dumps(settings))
    with open_checkpoint(folder) as playground:
        assert playground.prediction == "edm"
        assert playground.tensor("edm_mean").tolist() == [1, 2, 3, 4]  # fmt: skip
