from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.tokenizer import build_tokenizer, load_tokenizer


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


def test_a_config_trees_own_tokenizer_is_used(tiny_sd1_config: Path, tmp_path: Path) -> None:
    assert len(load_tokenizer(tiny_sd1_config)) == 49408
    assert len(load_tokenizer(tmp_path)) == 49408
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ConfigError, match=r"no vocab.json or tokenizer.json"):
        load_tokenizer(tmp_path)
