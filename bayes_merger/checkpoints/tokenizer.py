"""CLIP's tokenizer without a network: from the merge table inside the open_clip wheel, or a config folder."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError

LENGTH = 77  # what CLIP's text encoders read at once, start and end included
PAD = "<|endoftext|>"
PAD_OPEN_CLIP = "!"  # number 0
_MERGES = 49152 - 256 - 2  # of the table's quarter million lines, CLIP uses these
_TABLE = "bpe_simple_vocab_16e6.txt.gz"


def build_tokenizer(pad: str = PAD) -> Any:
    """The `transformers.CLIPTokenizer` of Stable Diffusion, 49408 tokens, from open_clip's merge table.

    open_clip itself is not imported (it takes a second and imports torchvision): only its folder is located.

    Args:
        pad: the token that fills a prompt up. `PAD_OPEN_CLIP` is for the text encoder of SD2 and the second ones of
            SDXL and SD3; transformers then reads every exclamation mark of a prompt as filling, as it does with the
            official folders.
    """
    from transformers import CLIPTokenizer

    vocabulary, pairs = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=LENGTH, pad_token=pad)


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """A tokenizer as a folder that transformers 4 reads as well as 5.

    Version 5 writes only `tokenizer.json`, and the `CLIPTokenizer` of version 4 reads only the two files that
    were there before, so they are added.
    """
    tokenizer.save_pretrained(str(folder))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_tokenizer(config: Path | None, name: str = "tokenizer", pad: str = PAD) -> Any:
    """A tokenizer in a folder of a diffusers config tree, or CLIP's own when it holds no vocabulary.

    (transformers alone would then silently build a tokenizer of two words.)

    Args:
        config: the tree.
        name: of the folder in it.
        pad: what fills prompts up, where CLIP's own is built.

    Raises:
        ConfigError: when the tokenizer is for prompts of another length.
    """
    folder = None if config is None else config / name
    if folder is None or not any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json")):
        return build_tokenizer(pad)
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.model_max_length != LENGTH:
        raise ConfigError(
            f"{folder}: model_max_length is {tokenizer.model_max_length}; "
            f'write {{"model_max_length": {LENGTH}}} into tokenizer_config.json'
        )
    return tokenizer


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, ...]]]:
    lines = gzip.decompress(_table().read_bytes()).decode("utf-8").split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : 1 + _MERGES]]
    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}, pairs


def _table() -> Path:
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / _TABLE).is_file():
            return Path(folder) / _TABLE
    raise ConfigError(f"open_clip's {_TABLE} is not installed: install open_clip_torch again")


def _byte_letters() -> list[str]:
    """One printable character per byte, in the order of CLIP's vocabulary (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]
