"""Towers of transformers: a SigLIP with a head, and classifiers, with random weights of the real topology."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.errors import ConfigError
from bayes_merger.scoring import AestheticScorer, ClassifierScorer, VisionTower
from tests.scoring.pictures import judged, noise

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGLIP = {**SMALL, "image_size": 28, "patch_size": 14}
BEIT = {**SMALL, "image_size": 32, "patch_size": 16, "use_relative_position_bias": True, "num_labels": 2}
HALF = (0.5, 0.5, 0.5)


def saved(model: Any, folder: Path, prefix: str = "") -> Path:
    for parameter in model.parameters():  # their initial weights are too small to tell mistakes apart
        torch.nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(folder)
    path = folder / "model.safetensors"
    if prefix:
        save_file({prefix + key: tensor for key, tensor in load_file(path).items()}, path)
    return path


def pixels(count: int, size: int) -> torch.Tensor:
    """What transformers' own image processors make of pictures."""
    from transformers import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": size, "width": size}, resample=3)
    return torch.as_tensor(processor([noise(n) for n in range(count)], return_tensors="pt")["pixel_values"])


@pytest.fixture
def siglip(tmp_path: Path) -> tuple[VisionTower, torch.Tensor]:
    """A tower with weights as they are published, text half and all, and what it says of three pictures."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    model = SiglipVisionModel(SiglipVisionConfig(**SIGLIP))
    path = saved(model, tmp_path)
    named = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in load_file(path).items()}
    save_file({**named, "text_model.head.weight": torch.ones(2), "logit_scale": torch.ones(1)}, path)
    with torch.no_grad():
        expected = model(pixels(3, 28)).pooler_output
    return VisionTower("siglip", SIGLIP, path, device="cpu", setting="scorers.x.tower"), expected


def test_a_siglip_embeds_as_in_transformers(siglip: tuple[VisionTower, torch.Tensor]) -> None:
    tower, expected = siglip
    tower.prepare()
    found = tower.embed_images([noise(n) for n in range(3)], normalise=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert tower.embed_images([noise(0)]).norm().item() == pytest.approx(1)
    assert tower.width == 32


def test_a_head_on_a_siglip(siglip: tuple[VisionTower, torch.Tensor], tmp_path: Path) -> None:
    tower, expected = siglip
    sizes = (32, 16, 8, 8, 4, 1)
    layers = [torch.nn.Linear(one, other) for one, other in pairwise(sizes)]
    tensors = {
        f"scoring_head.{2 * n}.{key}": value
        for n, layer in enumerate(layers)
        for key, value in layer.state_dict().items()
    }
    torch.save(tensors, tmp_path / "head.pth")
    scorer = AestheticScorer("x", tmp_path / "head.pth", tower)
    scorer.prepare()
    with torch.no_grad():
        values = torch.nn.Sequential(*layers)(torch.nn.functional.normalize(expected, dim=-1))
    assert scorer.score([judged(n) for n in range(3)]) == pytest.approx(values.squeeze(-1).tolist(), abs=1e-4)


def test_a_classifier_says_how_sure_it_is_of_its_class(tmp_path: Path) -> None:
    from transformers import BeitConfig, BeitForImageClassification

    torch.manual_seed(0)
    model = BeitForImageClassification(BeitConfig(**BEIT))
    path = saved(model, tmp_path)
    scorer = ClassifierScorer("x", VisionTower("beit", BEIT, path, device="cpu"), label=1)
    scorer.prepare()
    with torch.no_grad():
        expected = model(pixels(3, 32)).logits.softmax(-1)[:, 1]
    values = scorer.score([judged(n) for n in range(3)])
    assert values == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(set(values)) == 3
    assert scorer.score([]) == []


def test_a_beit_as_it_was_saved_by_older_versions(tmp_path: Path) -> None:
    """With `encoder.layer`, `attention.attention.query` and an index that can be computed."""
    from transformers import BeitConfig, BeitForImageClassification

    torch.manual_seed(0)
    path = saved(BeitForImageClassification(BeitConfig(**BEIT)), tmp_path)
    assert any("encoder.layer.0.attention.attention.query" in key for key in load_file(path))
    tensors = load_file(path)
    tensors["beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"] = torch.zeros(
        5, 5
    )
    save_file(tensors, tmp_path / "old.safetensors")
    new, old = (
        VisionTower("beit", BEIT, tmp_path / name, device="cpu") for name in ("model.safetensors", "old.safetensors")
    )
    assert torch.equal(new.embed_images([noise(1)]), old.embed_images([noise(1)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "siglib"}, "did you mean siglip"),
        ({"settings": {"hidden_size": 8}}, "image_size must be 1 or more, not None"),
        ({"settings": {**SIGLIP, "hidden_size": "x"}}, "hidden_size must be 1 or more, not 'x'"),
        ({"weights": "/nowhere.safetensors"}, r"scorers\.x\.tower\.weights: there is no file"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_tower_that_cannot_work_is_found_at_start_up(
    siglip: tuple[VisionTower, torch.Tensor], change: dict[str, Any], message: str
) -> None:
    given = {
        "architecture": "siglip",
        "settings": SIGLIP,
        "weights": siglip[0].file.source,
        "setting": "scorers.x.tower",
    }
    with pytest.raises(ConfigError, match=message):
        VisionTower(**{**given, **change}).prepare()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SIGLIP, "num_hidden_layers": 3}, r"does not fit the model: .*layers\.2"),
        ({**SIGLIP, "hidden_size": 64}, "model.safetensors"),
        ({**SIGLIP, "num_attention_heads": 5}, "as SiglipVisionModel"),
    ],
)
def test_weights_of_another_model_are_named_when_they_are_loaded(
    siglip: tuple[VisionTower, torch.Tensor], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        VisionTower("siglip", settings, siglip[0].file.source, device="cpu").embed_images([noise(1)])


@pytest.mark.parametrize("label", [2, -1, True, "good"])
def test_a_class_that_is_not_there_is_found_at_start_up(label: Any) -> None:
    with pytest.raises(ConfigError, match=r"scorers\.x\.label must be 0 to 1"):
        ClassifierScorer("x", VisionTower("beit", BEIT, "/nowhere"), label=label).prepare()
