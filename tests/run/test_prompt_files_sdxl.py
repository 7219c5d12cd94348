"""LoRAs and embeddings in SDXL's prompts, for both of its text encoders: the pictures of plain diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, payload_from_mapping, resolve
from bayes_merger.run.prompt_files import PromptLoras, find_files
from tests.folders import write_folder, write_tokenizers

FIELDS = {"width": 64, "height": 32, "steps": 3, "seed": 5, "cfg_scale": 3, "sampler_name": "Euler"}
LAYERS = {  # as trainers name them -> diffusers' part and layer
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q":
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": ("text_encoder", "encoder.layers.0.mlp.fc1"),
    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj":
        ("text_encoder_2", "text_model.encoder.layers.0.self_attn.q_proj"),
}  # fmt: skip


def payload(prompt: str) -> Payload:
    return resolve([payload_from_mapping("p", FIELDS | {"prompt": prompt, "negative_prompt": "blue"})], 0)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizers(write_folder(tmp_path_factory.mktemp("sdxl") / "a", "sdxl", 1), "sdxl")


@pytest.fixture
def pipeline(folder: Path) -> LivePipeline:
    return load_pipeline(folder, config=folder, device="cpu")


def by_diffusers(pipeline: LivePipeline, prompt: str) -> bytes:
    """The pipeline's own networks and tokenizers in the hands of diffusers alone."""
    pipe: Any = pipeline.pipe
    pipe.scheduler = pipeline.architecture.scheduler(payload(prompt))
    image = pipe(
        prompt=prompt, negative_prompt="blue", width=64, height=32, num_inference_steps=3, guidance_scale=3.0,
        generator=[torch.Generator("cpu").manual_seed(5)],
    ).images[0]  # fmt: skip
    return bytes(image.tobytes())


@pytest.mark.slow
def test_a_lora_of_all_three_networks_is_drawn_as_if_it_were_in_the_model(
    pipeline: LivePipeline, folder: Path, tmp_path: Path
) -> None:
    draw, other = torch.Generator().manual_seed(3), load_pipeline(folder, config=folder, device="cpu")
    tensors: dict[str, torch.Tensor] = {}
    for layer, (part, name) in LAYERS.items():
        weight = getattr(other.pipe, part).get_submodule(name).weight
        up, down = (torch.randn(shape, generator=draw) for shape in ((len(weight), 2), (2, weight.shape[1])))
        tensors |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
        tensors[f"{layer}.alpha"] = torch.tensor(1.0)
        weight += 0.7 * 1.0 / 2 * up @ down  # strength * alpha / rank
    save_file(tensors, tmp_path / "fur.safetensors")
    tagged, plain = payload("a ring <lora:fur:0.7>"), payload("a ring")
    before = pipeline.draw([plain])[0].image.tobytes()
    with open_checkpoint(folder) as base:
        files = find_files([tagged], base, tmp_path, None)
        loras = PromptLoras(files.loras, base, pipeline.destinations, pipeline.text_encoder_changed)
        drawn = loras.draw([tagged], pipeline.draw)[0].image.tobytes()
        for lora in files.loras.values():
            lora.close()
    wanted = by_diffusers(other, "a ring")
    assert max(abs(one - two) for one, two in zip(drawn, wanted, strict=True)) <= 1
    assert max(abs(one - two) for one, two in zip(drawn, before, strict=True)) > 1
    assert pipeline.draw([plain])[0].image.tobytes() == before


@pytest.mark.slow
def test_an_embedding_of_both_text_encoders_is_read_as_diffusers_reads_it(
    pipeline: LivePipeline, folder: Path, tmp_path: Path
) -> None:
    draw, file = torch.Generator().manual_seed(3), tmp_path / "mystyle.safetensors"
    save_file({"clip_l": torch.randn(2, 8, generator=draw), "clip_g": torch.randn(2, 16, generator=draw)}, file)
    other = load_pipeline(folder, config=folder, device="cpu")
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        other.pipe.load_textual_inversion(
            load_file(file)[key],
            token="mystyle",
            text_encoder=getattr(other.pipe, f"text_encoder{number}"),
            tokenizer=getattr(other.pipe, f"tokenizer{number}"),
        )
    # otherwise transformers takes the token of the greatest number for the end, and that is the embedding's
    other.pipe.text_encoder_2.text_model.eos_token_id = other.pipe.tokenizer_2.eos_token_id
    before = pipeline.draw([payload("a mystyle ring")])[0].image.tobytes()
    pipeline.learn({"mystyle": file})
    pipeline.text_encoder_changed()
    drawn = pipeline.draw([payload("a mystyle ring")])[0].image.tobytes()
    assert drawn == by_diffusers(other, "a mystyle ring")
    assert drawn != before
