from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bayes_merger.errors import ConfigError
from bayes_merger.scoring import AestheticScorer, ClipScorer, ClipTower, Scorer, score_images
from bayes_merger.scoring.models import embedding
from bayes_merger.scoring.models.preprocessing import Preprocessing
from bayes_merger.scoring.models.towers import Tower
from tests.fake_device import fake_device
from tests.scoring.conftest import TINY_CLIP
from tests.scoring.pictures import judged, noise


@pytest.fixture
def tower(tiny_clip: tuple[Path, Path]) -> ClipTower:
    config, weights = tiny_clip
    return ClipTower(None, weights, config=config, device="cpu", batch_size=4)


@pytest.fixture
def linear_head(tmp_path: Path) -> Path:
    drawn = torch.randn(1, 16, generator=torch.Generator().manual_seed(5))
    save_file({"weight": drawn, "bias": torch.tensor([5.0])}, tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def open_clips_own(tiny_clip: tuple[Path, Path], images: list[Image.Image]) -> torch.Tensor:
    """What a user of open_clip would do, one picture after the other."""
    import open_clip

    config, weights = tiny_clip
    open_clip.add_model_config(config)
    model, _, preprocess = open_clip.create_model_and_transforms(config.stem, pretrained=str(weights))
    model.eval()
    with torch.no_grad():
        embedded = [model.encode_image(preprocess(image)[None]) for image in images]
    return torch.nn.functional.normalize(torch.cat(embedded), dim=-1)


def test_embeddings_are_those_of_open_clip(tower: ClipTower, tiny_clip: tuple[Path, Path]) -> None:
    images = [
        noise(1, (40, 56)),
        noise(2, (31, 97)),
        noise(3, (32, 32)),
        noise(4, (64, 64), "L"),
        noise(5, (50, 40), "RGBA"),
    ]
    torch.testing.assert_close(tower.embed_images(images), open_clips_own(tiny_clip, images), atol=1e-6, rtol=0)


def test_a_batch_says_what_single_pictures_say(tiny_clip: tuple[Path, Path], linear_head: Path) -> None:
    config, weights = tiny_clip
    images = [judged(n) for n in range(11)]
    scorer = AestheticScorer("x", linear_head, ClipTower(None, weights, config=config, device="cpu", batch_size=16))
    together = scorer.score(images)
    forget(scorer.tower)
    singly = [value for image in images for value in scorer.score([image])]
    assert together == pytest.approx(singly, abs=1e-5)
    assert len(set(singly)) == 11


def forget(tower: Tower) -> None:
    for embedder in tower._held.values():
        embedder._known.clear()


def test_the_same_pictures_get_the_same_scores_to_the_last_bit(tower: ClipTower, linear_head: Path) -> None:
    scorer = AestheticScorer("x", linear_head, tower)
    first = scorer.score([judged(n) for n in range(6)])
    forget(tower)
    assert scorer.score([judged(n) for n in range(6)]) == first


def test_the_head_is_applied_to_the_embedding(tower: ClipTower, linear_head: Path) -> None:
    scorer = AestheticScorer("x", linear_head, tower)
    head = load_file(linear_head)
    expected = tower.embed_images([judged(3).image]) @ head["weight"].T + head["bias"]
    assert scorer.score([judged(3)]) == pytest.approx([expected.item()], abs=1e-5)


def test_the_clip_scorer_is_the_cosine_with_each_pictures_own_prompt(tower: ClipTower) -> None:
    scorer = ClipScorer(tower)
    images = [judged(0, prompt="a red cat"), judged(1, prompt="a blue dog"), judged(2, prompt="a red cat")]
    pictures = tower.embed_images([image.image for image in images])
    texts = tower.embed_texts([image.prompt for image in images])
    assert scorer.score(images) == pytest.approx((pictures * texts).sum(-1).tolist(), abs=1e-6)
    assert scorer.scale == (0.0, 0.4)


def test_texts_are_embedded_as_by_open_clip(tower: ClipTower, tiny_clip: tuple[Path, Path]) -> None:
    import open_clip

    texts = ["a red cat", "", "long " * 200]
    tokens = open_clip.SimpleTokenizer()(texts)
    config, weights = tiny_clip
    open_clip.add_model_config(config)
    with torch.no_grad():
        model = open_clip.create_model(config.stem, pretrained=str(weights)).eval()
        expected = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(tower.embed_texts(texts), expected, atol=1e-6, rtol=0)


def test_a_picture_two_scorers_ask_for_is_embedded_once(tower: ClipTower, linear_head: Path) -> None:
    passes: list[int] = []
    embedder = tower._embedder("images")
    run = embedder._run

    def counting(pixels: torch.Tensor) -> torch.Tensor:
        passes.append(len(pixels))
        return run(pixels)

    embedder._run = counting
    images = [judged(n) for n in (21, 22, 23, 24, 25, 21)]
    AestheticScorer("x", linear_head, tower).score(images)
    AestheticScorer("y", linear_head, tower).score(images)
    assert passes == [4, 1]


def test_scorers_built_apart_share_one_tower_and_let_it_go_together(tiny_clip: tuple[Path, Path]) -> None:
    config, weights = tiny_clip
    one = ClipTower(None, weights, config=config, device="cpu", setting="scorers.laion.tower")
    two = ClipTower(None, str(weights), config=str(config), device="cpu", setting="scorers.clip.tower", batch_size=1)
    assert one._embedder("images") is two._embedder("images")
    before = len(embedding._SHARED)
    del one, two
    gc.collect()
    assert len(embedding._SHARED) == before - 1


def test_two_pictures_that_differ_in_their_palette_only_are_two(tower: ClipTower) -> None:
    red, blue = (
        Image.new("RGB", (32, 32), colour).convert("P", palette=Image.Palette.ADAPTIVE) for colour in ("red", "blue")
    )
    assert red.tobytes() == blue.tobytes()
    first, second = tower.embed_images([red, blue])
    assert not torch.equal(first, second)


def test_loading_a_tower_moves_nobodys_random_numbers(tower: ClipTower) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    tower.embed_images([noise(1)])
    tower.embed_texts(["a red cat"])
    assert torch.rand(1) == expected


def test_no_pictures_no_scores(tower: ClipTower, linear_head: Path) -> None:
    assert AestheticScorer("x", linear_head, tower).score([]) == []
    assert ClipScorer(tower).score([]) == []


def test_both_are_scorers(tower: ClipTower, linear_head: Path) -> None:
    scorer = AestheticScorer("laion", linear_head, tower)
    assert isinstance(scorer, Scorer)
    assert isinstance(ClipScorer(tower), Scorer)
    scorer.prepare()
    assert score_images(scorer, [judged(4)])[0].scorer == "laion"


def test_a_constructor_reads_nothing() -> None:
    scorer = AestheticScorer("x", "/nowhere/head.pth", ClipTower("no-such-model", "/nowhere/clip.safetensors"))
    assert scorer.scale == (0.0, 10.0)


def test_prepare_does_not_load(tiny_clip: tuple[Path, Path], linear_head: Path) -> None:
    config, weights = tiny_clip
    tower = ClipTower(None, weights, config=config, device="cpu")
    AestheticScorer("x", linear_head, tower).prepare()
    assert tower._held == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "ViT-L-14-quickgellu", "config": None}, "did you mean ViT-L-14-quickgelu"),
        ({"config": "/nowhere.json"}, "there is no file"),
        ({"weights": "/nowhere.safetensors"}, r"scorers\.x\.tower\.weights: there is no file"),
        ({"weights": None}, r"scorers\.x\.tower\.weights has no value"),
        ({"batch_size": 0}, "batch_size"),
        ({"model": "ViT-L-14", "weights": "/models/vit_large_patch14_clip_224.openai.pt", "config": None}, "QuickGELU"),
        ({"model": "ViT-B-32-quickgelu", "config": None}, "embeds in 16 numbers, the model in 512"),
        ({"model": "roberta-ViT-B-32", "config": None}, "not supported"),
    ],
)
def test_a_tower_that_cannot_work_is_found_at_start_up(
    tiny_clip: tuple[Path, Path], change: dict[str, Any], message: str
) -> None:
    config, weights = tiny_clip
    settings = {"model": None, "config": config, "weights": weights, "setting": "scorers.x.tower", **change}
    with pytest.raises(ConfigError, match=message):
        ClipTower(**settings).prepare()


def test_a_head_of_another_tower_is_found_at_start_up(tower: ClipTower, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 768), "bias": torch.ones(1)}, tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match=r"scorers\.laion\.head: .* embeddings of 768 numbers, .*tiny\.json gives 16"):
        AestheticScorer("laion", tmp_path / "head.safetensors", tower).prepare()


def test_the_real_head_fits_the_tower_it_was_trained_on(facts: Path, tmp_path: Path) -> None:
    head = facts / "heads" / "laion-sac-logos-ava-v2.safetensors"
    with pytest.raises(ConfigError, match=r"tower\.weights: there is no file"):  # got past the head
        AestheticScorer("laion", head, ClipTower(weights=tmp_path / "absent.safetensors")).prepare()


def test_the_real_head_scores_on_a_tower_of_its_width(facts: Path, tmp_path: Path) -> None:
    import open_clip

    config = {**TINY_CLIP, "embed_dim": 768}
    (tmp_path / "wide.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**json.loads(json.dumps(config)))
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / "wide.safetensors")
    tower = ClipTower(None, tmp_path / "wide.safetensors", config=tmp_path / "wide.json", device="cpu")
    scorer = AestheticScorer("laion", facts / "heads" / "laion-sac-logos-ava-v2.safetensors", tower)
    scorer.prepare()
    values = scorer.score([judged(n) for n in range(3)])
    assert all(-15 < value < 25 for value in values)  # b = 5.24, |w| = 18


def test_a_file_that_is_no_clip_is_found_at_start_up(tiny_clip: tuple[Path, Path], linear_head: Path) -> None:
    with pytest.raises(ConfigError, match="holds no CLIP image tower"):
        ClipTower(None, linear_head, config=tiny_clip[0]).prepare()


def test_weights_of_another_size_are_named_when_they_are_loaded(tiny_clip: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = load_file(tiny_clip[1])
    del tensors["visual.conv1.weight"]
    save_file(tensors, tmp_path / "holes.safetensors")
    with pytest.raises(ConfigError, match=r"holes\.safetensors does not fit the model: .*visual\.conv1\.weight"):
        ClipTower(None, tmp_path / "holes.safetensors", config=tiny_clip[0], device="cpu").embed_images([noise(1)])


def test_an_unknown_device_is_the_configurations_fault(tiny_clip: tuple[Path, Path]) -> None:
    for name in ("gpu0", "mps", "meta"):
        with pytest.raises(ConfigError, match=f"'{name}' is not a device; use auto, cpu, cuda or cuda:1"):
            ClipTower(None, tiny_clip[1], config=tiny_clip[0], device=name).prepare()


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_drawn(tiny_clip: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"device: no cuda:99 is usable here; give .*device=cpu"):
        ClipTower(None, tiny_clip[1], config=tiny_clip[0], device="cuda:99").prepare()


def test_a_pickled_state_dict_in_half_precision_is_taken(
    tiny_clip: tuple[Path, Path], tmp_path: Path, tower: ClipTower
) -> None:
    tensors = {f"module.{key}": tensor.half() for key, tensor in load_file(tiny_clip[1]).items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "clip.pt")
    half = ClipTower(None, tmp_path / "clip.pt", config=tiny_clip[0], device="cpu")
    half.prepare()
    torch.testing.assert_close(half.embed_images([noise(1)]), tower.embed_images([noise(1)]), atol=5e-3, rtol=0)


def test_the_config_of_a_downloaded_folder_brings_its_own_preprocessing(
    tiny_clip: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = {"model_cfg": TINY_CLIP, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(whole))
    tower = ClipTower(None, tiny_clip[1], config=tmp_path / "open_clip_config.json", device="cpu")
    tower.prepare()
    white = tower._preprocessing(tower._read_architecture())([Image.new("RGB", (40, 40), "white")])
    assert white.unique().tolist() == [1.0]


def test_weights_named_by_transformers_give_the_same_embeddings(tmp_path: Path) -> None:
    import open_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**text, "hidden_size": 64, "intermediate_size": 256, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config={**text, "vocab_size": 49408}, vision_config=vision, projection_dim=16)
    torch.manual_seed(0)
    theirs = CLIPModel(config).eval()
    for parameter in theirs.parameters():  # their initial weights are too small to tell mistakes apart
        torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY_CLIP))
    tower = ClipTower(None, tmp_path / "model.safetensors", config=tmp_path / "tiny.json", device="cpu")
    tower.prepare()

    pixels = Preprocessing(32)([noise(n) for n in range(3)])
    tokens = open_clip.SimpleTokenizer()(["a red cat", "two dogs"])
    with torch.no_grad():
        images = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)
        texts = theirs.text_projection(theirs.text_model(input_ids=tokens).pooler_output)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(
        tower.embed_images([noise(n) for n in range(3)]), unit(images, dim=-1), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(tower.embed_texts(["a red cat", "two dogs"]), unit(texts, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.gpu
def test_the_gpu_says_what_the_cpu_says(tiny_clip: tuple[Path, Path], tower: ClipTower) -> None:
    cuda = ClipTower(None, tiny_clip[1], config=tiny_clip[0], device="cuda")
    images = [noise(n) for n in range(5)]
    torch.testing.assert_close(cuda.embed_images(images), tower.embed_images(images), atol=1e-3, rtol=0)


def test_a_tower_works_on_a_gpu(tiny_clip: tuple[Path, Path], tower: ClipTower) -> None:
    images, texts = [noise(n) for n in range(3)], ["a red cat", "two dogs"]
    with fake_device("cuda:0"):
        there = ClipTower(None, tiny_clip[1], config=tiny_clip[0], device="cuda:0", batch_size=2)
        there.prepare()
        pictures, words = there.embed_images(images), there.embed_texts(texts)
    torch.testing.assert_close(pictures, tower.embed_images(images), atol=5e-3, rtol=0)
    torch.testing.assert_close(words, tower.embed_texts(texts), atol=5e-3, rtol=0)
