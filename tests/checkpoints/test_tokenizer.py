from __future__ import annotations

import json
from pathlib import Path

import pytest

from bayes_merger.checkpoints.tokenizer import PAD_OPEN_CLIP, build_tokenizer, load_tokenizer, write_tokenizer
from bayes_merger.errors import ConfigError


def test_it_is_clips_tokenizer() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.model_max_length == 77
    assert tokenizer.convert_tokens_to_ids(",</w>") == 267


def test_it_agrees_with_open_clips() -> None:
    open_clip = pytest.importorskip("open_clip")
    text = "A naïve café, 東京 at night; don't 1999 🐱"
    theirs = [number for number in open_clip.tokenize(text)[0].tolist() if number]
    assert build_tokenizer()(text).input_ids == theirs


def test_a_config_trees_own_tokenizer_is_used_when_it_has_words(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    assert len(load_tokenizer(tmp_path)) == 49408
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert len(load_tokenizer(tmp_path)) == 49408
    settings = tmp_path / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 20}))
    with pytest.raises(ConfigError, match="model_max_length is 20; write"):
        load_tokenizer(tmp_path)


def test_openclips_text_encoders_are_filled_up_with_zeros() -> None:
    filled = {"padding": "max_length", "max_length": 6}
    assert build_tokenizer()("a cat", **filled).input_ids == [49406, 320, 2368, 49407, 49407, 49407]
    tokenizer = build_tokenizer(PAD_OPEN_CLIP)
    assert tokenizer("a cat", **filled).input_ids == [49406, 320, 2368, 49407, 0, 0]
    assert len(tokenizer) == 49408


@pytest.mark.parametrize("dropped", [(), ("tokenizer.json",)])  # version 4 of transformers does not read that one
def test_a_written_tokenizer_is_read_from_either_of_its_forms(dropped: tuple[str, ...], tmp_path: Path) -> None:
    write_tokenizer(build_tokenizer(PAD_OPEN_CLIP), tmp_path)
    for name in dropped:
        (tmp_path / name).unlink()
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    assert (tokenizer.model_max_length, tokenizer.pad_token_id, len(tokenizer)) == (77, 0, 49408)
    text = "A naïve café, 東京 at night; don't 1999 🐱"
    assert tokenizer(text).input_ids == build_tokenizer()(text).input_ids
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["#version: 0.2", "i n"]
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))["<|endoftext|>"] == 49407
