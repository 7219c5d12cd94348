"""T5 as a file or folder of its own, and other parts that a model lacks."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.imaging import LivePipeline, Payload, load_pipeline, resolve
from bayes_merger.imaging.pipelines.t5 import t5_hash
from tests.folders import write_file, write_folder, write_tokenizers

RING = Payload("ring", "a (red:1.2) ring", steps=1, width=32, height=32, sampler_name="Euler", cfg_scale=3, seed=5)
T5 = "text_encoders.t5xxl.transformer."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Flux."""
    place = tmp_path_factory.mktemp("flux") / "flux"
    return write_tokenizers(write_folder(place, "flux", 1), "flux")


@pytest.fixture(scope="module")
def whole(folder: Path) -> LivePipeline:
    return load_pipeline(folder, config=folder, device="cpu")


def tree(folder: Path, out: Path) -> Path:
    """The settings of a folder, without weights and tokenizers."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer_2"))
    return out


def without_t5(folder: Path, out: Path) -> Path:
    tensors = load_file(write_file(out, "flux", 1))
    save_file({key: tensor for key, tensor in tensors.items() if not key.startswith(T5)}, out)
    return out


def pixels(pipeline: LivePipeline) -> bytes:
    return pipeline.draw(resolve([RING], 0))[0].image.tobytes()


def t5_file(folder: Path, out: Path) -> Path:
    """As it is given away: transformers' names, with the copy of the embeddings."""
    tensors = load_file(folder / "text_encoder_2" / "model.safetensors")
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    save_file(tensors, out)
    return out


def test_a_t5_is_known_by_its_content_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    part = folder / "text_encoder_2"
    alone = hashlib.sha256((part / "model.safetensors").read_bytes()).hexdigest()
    copied = shutil.copytree(part, tmp_path / "elsewhere")
    assert [t5_hash(place) for place in (folder, part, copied)] == [alone] * 3
    file = t5_file(folder, tmp_path / "t5xxl.safetensors")
    assert t5_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest() != alone
    tensors = load_file(copied / "model.safetensors")
    tensors["shared.weight"][0, 0] += 1
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    assert t5_hash(copied) != alone
    with pytest.raises(CheckpointError, match="there is no such file"):
        t5_hash(tmp_path / "nowhere")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["file", "part", "folder"])
def test_flux_draws_with_a_t5_from_elsewhere(kind: str, folder: Path, whole: LivePipeline, tmp_path: Path) -> None:
    model = without_t5(folder, tmp_path / "flux.safetensors")
    settings = tree(folder, tmp_path / "tree")
    shutil.copytree(folder / "tokenizer_2", tmp_path / "tokenizer_2")
    given = {"part": folder / "text_encoder_2", "folder": folder}.get(kind) or t5_file(
        folder, tmp_path / "t5.safetensors"
    )
    pipeline = load_pipeline(model, config=settings, text_encoder_3=given, device="cpu")
    assert pixels(pipeline) == pixels(whole)
    assert not any(key.startswith(T5) for key in pipeline.destinations())


def test_a_transformer_alone_takes_the_rest_from_a_diffusers_folder(
    folder: Path, whole: LivePipeline, tmp_path: Path
) -> None:
    start = "model.diffusion_model."
    tensors = load_file(write_file(tmp_path / "all.safetensors", "flux", 1))
    save_file({k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}, tmp_path / "a.safetensors")
    pipeline = load_pipeline(tmp_path / "a.safetensors", config=folder, device="cpu")
    assert pixels(pipeline) == pixels(whole)
    assert "double_blocks.0.img_attn.qkv.weight" in pipeline.destinations()
    assert not any(key.startswith(("vae.", "text_encoders.")) for key in pipeline.destinations())


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    model, settings = without_t5(folder, tmp_path / "flux.safetensors"), tree(folder, tmp_path / "tree")

    def refused(message: str, **given: Any) -> None:
        with pytest.raises((CheckpointError, ConfigError), match=message):
            load_pipeline(model, device="cpu", **{"config": settings, **given})

    refused("has no second text encoder, which drawing needs")
    refused(r"generator.text_encoder_3: .*nowhere: there is no such file", text_encoder_3=tmp_path / "nowhere")
    refused("generator.text_encoder_3: .*flux.safetensors: is no T5", text_encoder_3=model)
    lonely = tmp_path / "far" / "away"
    lonely.mkdir(parents=True)
    refused("T5's words .* are not shipped", text_encoder_3=t5_file(folder, lonely / "t5.safetensors"))
    with pytest.raises(ConfigError, match="has a T5 of its own"):
        load_pipeline(folder, config=folder, text_encoder_3=folder, device="cpu")


def test_stable_diffusion_1_has_no_t5(tiny_a: Path, tiny_sd1_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"Stable Diffusion 1\.x has no T5"):
        load_pipeline(tiny_a, config=tiny_sd1_config, text_encoder_3=tiny_a, device="cpu")


def test_a_prompt_longer_than_t5_reads_is_refused(whole: LivePipeline) -> None:
    with pytest.raises(ConfigError, match=r"payload ring: prompt: \d+ tokens, and T5 reads 511 at most"):
        whole.check(resolve([Payload("ring", "a ring " * 300, sampler_name="Euler", steps=1)], 0))


def test_weights_change_t5s_words(whole: LivePipeline) -> None:
    def embedded(text: str) -> torch.Tensor:
        return whole.architecture.encode([text], clip_skip=1, length=1, negative=False).embeddings

    assert not torch.equal(embedded("a (red:1.2) ring"), embedded("a (red:1.3) ring"))
