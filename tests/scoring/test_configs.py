"""The scorers as a user chooses them."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bayes_merger.scoring import (
    AestheticScorer,
    ClassifierScorer,
    ClipScorer,
    DuplicateScorer,
    FormulaScorer,
    ImageRewardScorer,
    ManualScorer,
    RaterScorer,
    Scorer,
)
from bayes_merger.scoring.models.clip import PUBLISHED
from tests.scoring.conftest import TINY_CLIP
from tests.scoring.pictures import judged

FOLDER = Path(__file__).parents[2] / "scorers"
KINDS = {
    "aesthetic_v25": AestheticScorer,
    "cafe": ClassifierScorer,
    "chad": AestheticScorer,
    "cityaesthetics": AestheticScorer,
    "clip": ClipScorer,
    "clipped": FormulaScorer,
    "colourfulness": FormulaScorer,
    "contrast": FormulaScorer,
    "duplicates": DuplicateScorer,
    "hpsv2": ClipScorer,
    "hpsv2_1": ClipScorer,
    "imagereward": ImageRewardScorer,
    "laion": AestheticScorer,
    "laion_v1": AestheticScorer,
    "manual": ManualScorer,
    "noise": FormulaScorer,
    "pickscore": ClipScorer,
    "rater": RaterScorer,
    "sharpness": FormulaScorer,
    "wd_aesthetic": AestheticScorer,
}
ON_L14 = ("laion", "laion_v1", "chad", "clip")


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
    assert scorer.importance == (0.0 if name in ("duplicates", "rater") else 1.0)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_file_begins_with_the_command_that_uses_it(name: str) -> None:
    first = (FOLDER / f"{name}.yaml").read_text().partition("\n")[0]
    assert first in (
        f"# bayes-merger run scorers={name}",
        f"# bayes-merger run scorers=laion,{name}",
        f"# bayes-merger run scorers=manual,{name}",
    )


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_setting_of_a_file_is_one_the_scorer_takes(name: str) -> None:
    config = settings(name)[name]
    assert {str(key) for key in config} - {"_target_"} <= set(inspect.signature(KINDS[name]).parameters)


def test_the_towers_of_all_files_are_one_and_pinned() -> None:
    towers = [instantiate(settings(name)[name]).tower for name in ON_L14]
    assert {(tower.file.source, tower.file.sha256) for tower in towers} == {PUBLISHED["ViT-L-14-quickgelu"]}
    assert [tower.width for tower in towers] == [768] * 4
    assert [tower.setting for tower in towers] == [f"scorers.{name}.tower" for name in ON_L14]


def test_the_files_name_weights_that_can_be_fetched_and_hashes_that_are_hashes() -> None:
    for name in KINDS:
        for file in getattr(instantiate(settings(name)[name]), "files", ()):
            assert file.source.startswith(("https://github.com/", "https://huggingface.co/"))
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.setting.startswith(f"scorers.{name}.")


def changed(name: str, change: dict[str, Any]) -> Any:
    """A scorer of ours with some settings of its own."""
    return instantiate(OmegaConf.merge(settings(name)[name], change))


def scores(name: str, change: dict[str, Any]) -> list[float]:
    """What a scorer of ours says with other weights, given by settings alone."""
    scorer = changed(name, change)
    scorer.prepare()
    found: list[float] = scorer.score([judged(0), judged(1, prompt="two dogs")])
    assert len(set(found)) == 2
    return found


def wide_clip(folder: Path, width: int) -> dict[str, Any]:
    """A random CLIP of few layers whose vectors have the real length."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    (folder / "wide.json").write_text(json.dumps({**TINY_CLIP, "embed_dim": width}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**json.loads((folder / "wide.json").read_text()))
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "wide.safetensors")
    return {"config": str(folder / "wide.json"), "weights": str(folder / "wide.safetensors"), "device": "cpu"}


def layers(names: dict[str, int], width: int) -> dict[str, Any]:
    """Random linear layers: name -> how many numbers come out."""
    import torch

    tensors: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(1)
    for name, out in names.items():
        tensors[f"{name}weight"] = torch.randn(out, width, generator=generator) / width**0.5
        tensors[f"{name}bias"] = torch.randn(out, generator=generator) / 10
        width = out
    return tensors


STACK = {"layers.0.": 1024, "layers.2.": 128, "layers.4.": 64, "layers.6.": 16, "layers.7.": 1}
CITY = {"up.0.": 1024, "up.1.long.0.": 1024, "up.1.long.2.": 1024, "up.1.long.4.": 1024}
HEADS: dict[str, tuple[int, dict[str, int], float, float]] = {  # embedding, layers, and the range of a score
    "laion": (768, STACK, -15, 25),
    "chad": (768, STACK, -15, 25),
    "laion_v1": (768, {"": 1}, -15, 25),
    "wd_aesthetic": (512, {"fc1.": 256, "fc2.": 128, "fc3.": 1}, 0, 1),
    "cityaesthetics": (768, {**CITY, "down.0.": 128, "down.1.": 64, "down.4.": 32, "down.5.": 1}, 0, 1),
}


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_head_of_the_real_shape_scores_pictures(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    width, names, low, high = HEADS[name]
    save_file(layers(names, width), tmp_path / "head.safetensors")
    found = scores(name, {"head": str(tmp_path / "head.safetensors"), "tower": wide_clip(tmp_path, width)})
    assert all(low < value < high for value in found)


REAL = {
    "laion": ("laion-sac-logos-ava-v2.safetensors", 768, (-13, 24)),
    "laion_v1": ("sa_0_4_vit_l_14_linear.safetensors", 768, (-13, 24)),
    "wd_aesthetic": ("aes-B32-v0.safetensors", 512, (0, 1)),
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_a_real_head_scores_pictures(name: str, facts: Path, tmp_path: Path) -> None:
    file, width, (low, high) = REAL[name]
    found = scores(name, {"head": str(facts / "heads" / file), "tower": wide_clip(tmp_path, width)})
    assert all(low < value < high for value in found)


@pytest.mark.parametrize(("name", "factor"), [("clip", 1), ("hpsv2", 1), ("hpsv2_1", 1), ("pickscore", 14.2857)])
def test_agreement_by_a_clip_of_few_layers(
    name: str, factor: float, tiny_clip: tuple[Path, Path], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(tiny_clip[1])}, tmp_path / "compressed.pt")  # as HPS is published
    tower = {"config": str(tiny_clip[0]), "weights": str(tmp_path / "compressed.pt"), "device": "cpu"}
    found = scores(name, {"tower": tower})
    scorer = changed(name, {"tower": tower})
    cosine = scorer.tower.embed_images([judged(0).image])[0] @ scorer.tower.embed_texts(["a red cat"])[0]
    assert found[0] == pytest.approx(factor * float(cosine), abs=1e-4)  # 14.2857 is open_clip's logit_scale untrained


def test_hps_sees_the_whole_picture_and_clip_its_middle(tiny_clip: tuple[Path, Path]) -> None:
    from PIL import Image

    tower = {"config": str(tiny_clip[0]), "weights": str(tiny_clip[1]), "device": "cpu"}
    square = Image.new("RGB", (32, 32), "white")
    wide = Image.new("RGB", (64, 32), "red")
    wide.paste(square, (16, 0))
    for name, same in (("clip", True), ("hpsv2", False)):
        scorer = changed(name, {"tower": tower})
        first, second = scorer.score([judged(0, image=square), judged(1, image=wide)])
        assert (first == pytest.approx(second, abs=1e-6)) == same


def test_a_siglip_of_few_layers_with_a_head_of_the_real_shape(tmp_path: Path) -> None:
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    small = {"num_hidden_layers": 1, "intermediate_size": 64, "image_size": 28}
    shipped = OmegaConf.to_container(settings("aesthetic_v25").aesthetic_v25.tower.settings)
    assert isinstance(shipped, dict)
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(**{**{str(k): v for k, v in shipped.items()}, **small})).save_pretrained(
        tmp_path
    )
    names = {f"scoring_head.{2 * number}.": out for number, out in enumerate((1024, 128, 64, 16, 1))}
    torch.save({key: value.bfloat16() for key, value in layers(names, 1152).items()}, tmp_path / "head.pth")
    tower = {"weights": str(tmp_path / "model.safetensors"), "settings": small, "device": "cpu"}
    scores("aesthetic_v25", {"head": str(tmp_path / "head.pth"), "tower": tower})


def test_a_beit_of_few_layers(tmp_path: Path) -> None:
    import torch
    from transformers import BeitConfig, BeitForImageClassification

    small = {"num_hidden_layers": 1, "image_size": 32, "intermediate_size": 64}
    torch.manual_seed(0)
    config = BeitConfig(**small, use_relative_position_bias=True, num_labels=2)
    BeitForImageClassification(config).save_pretrained(tmp_path)
    tower = {"weights": str(tmp_path / "model.safetensors"), "settings": small, "device": "cpu"}
    assert all(0 < value < 1 for value in scores("cafe", {"tower": tower}))


def test_the_real_laion_head_is_taken_by_the_shipped_configuration(facts: Path, tmp_path: Path) -> None:
    config = settings("laion")
    change = {"head": str(facts / "heads" / "sa_0_4_vit_l_14_linear.safetensors"), "tower": {"weights": "/absent"}}
    scorer = instantiate(OmegaConf.merge(config, {"laion": change}).laion)
    with pytest.raises(Exception, match=r"scorers\.laion\.tower\.weights: there is no file /absent"):
        scorer.prepare()
