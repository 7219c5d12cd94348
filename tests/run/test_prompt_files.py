"""LoRAs and embeddings that prompts name: drawn as if they were in the model's file, and gone afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, payload_from_mapping, resolve
from bayes_merger.run.prompt_files import PromptLoras, find_files

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def payload(prompt: str, name: str = "p", **fields: Any) -> Payload:
    given = {"width": 64, "height": 64, "steps": 2, "seed": 7, "prompt": prompt, **fields}
    return resolve([payload_from_mapping(name, given)], 0)[0]


@pytest.fixture
def own_pipeline(tiny_a: Path, tiny_sd1_config: Path) -> LivePipeline:
    return load_pipeline(tiny_a, config=tiny_sd1_config, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_a: Path) -> Path:
    place = tmp_path_factory.mktemp("loras")
    draw = torch.Generator().manual_seed(3)
    with open_checkpoint(tiny_a) as model:
        shapes = {
            UNET: model.shapes["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"],
            TEXT: model.shapes["cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"],
        }
    (place / "styles").mkdir()
    for file, layers in (("fur.safetensors", (UNET,)), ("styles/ink.safetensors", (UNET, TEXT))):
        tensors = {}
        for layer in layers:
            out, into = shapes[layer][:2]
            tensors[f"{layer}.lora_up.weight"] = torch.randn(out, 2, generator=draw)
            tensors[f"{layer}.lora_down.weight"] = torch.randn(2, into, generator=draw)
            tensors[f"{layer}.alpha"] = torch.tensor(2.0)
        save_file(tensors, place / file)
    return place


def pictures(pipeline: LivePipeline, payloads: list[Payload], model: Path, folder: Path) -> list[bytes]:
    with open_checkpoint(model) as base:
        files = find_files(payloads, base, folder, None)
        loras = PromptLoras(files.loras, base, pipeline.destinations, pipeline.text_encoder_changed)
        drawn = loras.draw(payloads, pipeline.draw)
        for lora in files.loras.values():
            lora.close()
    assert [(image.payload, image.index) for image in drawn] == [
        (one.name, index) for one in payloads for index in range(one.batch_size)
    ]
    return [image.image.tobytes() for image in drawn]


def near(one: bytes, other: bytes) -> bool:
    """Equal but for the last bit of a few pixels."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def saved_with(tags: dict[str, float], model: Path, folder: Path, place: Path) -> Path:
    """Model A with LoRAs added to its tensors, as a file: W + strength * up @ down."""
    from safetensors.torch import load_file

    tensors = load_file(model)
    keys = {
        UNET: "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        TEXT: "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    }
    for name, strength in tags.items():
        lora = load_file(folder / name)
        for layer, key in keys.items():
            if f"{layer}.alpha" in lora:
                change = lora[f"{layer}.lora_up.weight"] @ lora[f"{layer}.lora_down.weight"]
                tensors[key] = tensors[key].float() + strength * change
    path = place / "with.safetensors"
    save_file(tensors, path)
    return path


def test_a_lora_is_drawn_as_if_it_were_in_the_file(
    own_pipeline: LivePipeline, tiny_a: Path, tiny_sd1_config: Path, folder: Path, tmp_path: Path
) -> None:
    plain = payload("a cat", "plain", batch_size=2)
    tagged = payload("a cat <lora:ink:0.5><lora:fur:0.25>", "tagged", batch_size=2)
    before = pictures(own_pipeline, [plain], tiny_a, folder)
    both = pictures(own_pipeline, [tagged, plain], tiny_a, folder)
    assert both[2:] == before
    assert pictures(own_pipeline, [plain], tiny_a, folder) == before
    file = saved_with({"styles/ink.safetensors": 0.5, "fur.safetensors": 0.25}, tiny_a, folder, tmp_path)
    other = load_pipeline(file, config=tiny_sd1_config, device="cpu")
    expected = [image.image.tobytes() for image in other.draw([plain])]
    assert all(near(one, wanted) for one, wanted in zip(both[:2], expected, strict=True))
    assert both[:2] != before


@pytest.mark.slow
def test_strengths_of_the_text_encoder_and_of_the_network_are_two(
    own_pipeline: LivePipeline, tiny_a: Path, folder: Path
) -> None:
    prompts = (
        "a cat",
        "a cat <lora:ink:0>",
        "a cat <lora:ink:0:1>",
        "a cat <lora:ink:te=1:unet=0>",
        "a cat <lora:ink:1>",
    )
    drawn = pictures(own_pipeline, [payload(text, f"p{i}") for i, text in enumerate(prompts)], tiny_a, folder)
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4


@pytest.mark.slow
def test_each_picture_has_the_loras_of_its_own_words(own_pipeline: LivePipeline, tiny_a: Path, folder: Path) -> None:
    mixed = payload("a cat {<lora:ink:1>|}", batch_size=6)
    assert {"lora" in prompt for prompt in mixed.prompts} == {True, False}
    whole = pictures(own_pipeline, [mixed], tiny_a, folder)
    for index in range(6):
        assert near(pictures(own_pipeline, [mixed.picked([index])], tiny_a, folder)[0], whole[index])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("<lora:fir:1>", "no such file in .*; did you mean fur"),
        ("<lora:twice:1>", "are called so; write its place"),
        ("<lora:whole:1>", "no LoRA; give another file"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    prompt: str, words: str, folder: Path, tiny_a: Path, tmp_path: Path
) -> None:
    for name in ("a/twice", "b/twice", "fur"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.safetensors").write_bytes((folder / "fur.safetensors").read_bytes())
    (tmp_path / "whole.safetensors").symlink_to(tiny_a)
    with open_checkpoint(tiny_a) as model:
        with pytest.raises((ConfigError, CheckpointError), match=f"{prompt[:-2]}.*{words}"):
            find_files([payload(prompt)], model, tmp_path, None)
        with pytest.raises(ConfigError, match="set  loras=FOLDER"):
            find_files([payload(prompt)], model, None, None)


def test_an_embedding_is_read_where_its_name_is_a_word(
    own_pipeline: LivePipeline, tmp_path: Path, tiny_a: Path
) -> None:
    model = own_pipeline.pipe.text_encoder
    table = model.get_input_embeddings().weight
    numbers = own_pipeline.pipe.tokenizer("red dog", add_special_tokens=False).input_ids
    vectors = table[numbers].detach().clone()
    save_file({"emb_params": vectors}, tmp_path / "my-style.safetensors")
    torch.save({"string_to_param": {"*": vectors}, "name": "x"}, tmp_path / "Other.pt")
    (tmp_path / "unused.pt").write_bytes(b"no embedding")
    named = payload("a (my-style:1.2), big OTHER")
    with open_checkpoint(tiny_a) as base:
        files = find_files([named], base, None, tmp_path)
        assert set(files.embeddings) == {"my-style", "Other"}
        assert set(files.hashes()) == {"embedding my-style", "embedding Other"}
    words = [image.image.tobytes() for image in own_pipeline.draw([payload("a (red dog:1.2), big red dog")])]
    before = [image.image.tobytes() for image in own_pipeline.draw([named])]
    own_pipeline.learn(files.embeddings)
    own_pipeline.text_encoder_changed()
    assert [image.image.tobytes() for image in own_pipeline.draw([named])] == words
    assert before != words


def test_an_embedding_for_another_model_is_refused(own_pipeline: LivePipeline, tmp_path: Path) -> None:
    save_file({"emb_params": torch.zeros(2, 768)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="has vectors of 768 numbers, and a text encoder here 8"):
        own_pipeline.learn({"x": tmp_path / "x.safetensors"})
    for tensor in (torch.zeros(2, 3, 8), torch.zeros(200, 8), torch.full((1, 8), float("nan"))):
        save_file({"emb_params": tensor}, tmp_path / "y.safetensors")
        with pytest.raises(CheckpointError, match=r"y\.safetensors: (is no embedding|holds more than 75)"):
            own_pipeline.learn({"y": tmp_path / "y.safetensors"})
