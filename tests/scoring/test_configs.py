"""The scorers as a user chooses them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bayes_merger.scoring import AestheticScorer, ClipScorer, ManualScorer, Scorer
from bayes_merger.scoring.models.clip import PUBLISHED
from tests.scoring.pictures import judged

FOLDER = Path(__file__).parents[2] / "scorers"
KINDS = {"laion": AestheticScorer, "chad": AestheticScorer, "clip": ClipScorer, "manual": ManualScorer}


def settings(name: str) -> DictConfig:
    """What the file of a scorer holds: its name and what it is built from."""
    found = OmegaConf.load(FOLDER / f"{name}.yaml")
    assert isinstance(found, DictConfig)
    return found


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_scorer_is_built_from_its_file_without_loading_anything(name: str) -> None:
    config = settings(name)
    assert list(config) == [name]
    scorer = instantiate(config[name])
    assert isinstance(scorer, KINDS[name])
    assert isinstance(scorer, Scorer)
    assert scorer.name == name
    assert scorer.importance == 1.0


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_file_begins_with_the_command_that_uses_it(name: str) -> None:
    assert (FOLDER / f"{name}.yaml").read_text().startswith(f"# bayes-merger run scorers={name}\n")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_setting_of_a_file_is_one_the_scorer_takes(name: str) -> None:
    config = settings(name)[name]
    assert {str(key) for key in config} - {"_target_"} <= set(inspect.signature(KINDS[name]).parameters)


def test_the_towers_of_all_files_are_one_and_pinned() -> None:
    towers = [instantiate(settings(name)[name]).tower for name in ("laion", "chad", "clip")]
    assert {(tower.file.source, tower.file.sha256) for tower in towers} == {PUBLISHED["ViT-L-14-quickgelu"]}
    assert [tower.width for tower in towers] == [768] * 3
    assert [tower.setting for tower in towers] == [f"scorers.{name}.tower" for name in ("laion", "chad", "clip")]


def test_a_real_head_and_a_tiny_tower_by_settings_alone(tiny_clip: tuple[Path, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(1, 16), "bias": torch.tensor([5.0])}, tmp_path / "head.safetensors")
    config = settings("laion")
    change: dict[str, Any] = {"head": str(tmp_path / "head.safetensors")}
    change["tower"] = {"config": str(tiny_clip[0]), "weights": str(tiny_clip[1]), "device": "cpu"}
    scorer = instantiate(OmegaConf.merge(config, {"laion": change}).laion)
    scorer.prepare()
    assert 1 < scorer.score([judged(0)])[0] < 9  # 5 + the sum of a unit vector of 16, at most 4


def test_the_real_laion_head_is_taken_by_the_shipped_configuration(facts: Path, tmp_path: Path) -> None:
    config = settings("laion")
    change = {"head": str(facts / "heads" / "sa_0_4_vit_l_14_linear.safetensors"), "tower": {"weights": "/absent"}}
    scorer = instantiate(OmegaConf.merge(config, {"laion": change}).laion)
    with pytest.raises(Exception, match=r"scorers\.laion\.tower\.weights: there is no file /absent"):
        scorer.prepare()
