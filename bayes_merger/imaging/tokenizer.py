"""CLIP's tokenizer without a network: from the merge table inside the open_clip wheel, or a config folder."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

from bayes_merger.errors import ConfigError

LENGTH = 77  # what the text encoder of SD1.x reads at once, start and end included
_MERGES = 49152 - 256 - 2  # of the table's quarter million lines, CLIP uses these
_TABLE = "bpe_simple_vocab_16e6.txt.gz"


def build_tokenizer() -> Any:
    """The `transformers.CLIPTokenizer` of SD1.x, 49408 tokens, from open_clip's merge table.

    open_clip itself is not imported (a second, and torchvision with it): only its folder is looked up.
    """
    from transformers import CLIPTokenizer

    lines = gzip.decompress(_table().read_bytes()).decode("utf-8").split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : 1 + _MERGES]]
    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=LENGTH)


def load_tokenizer(config: Path | None) -> Any:
    """The tokenizer in the folder `tokenizer/` of a diffusers config tree, or CLIP's own when it holds no vocabulary.

    (transformers alone would then build a tokenizer of two words, and say nothing.)

    Raises:
        ConfigError: when the tokenizer is for prompts of another length.
    """
    folder = None if config is None else config / "tokenizer"
    if folder is None or not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        return build_tokenizer()
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.model_max_length != LENGTH:
        raise ConfigError(
            f"{folder}: model_max_length is {tokenizer.model_max_length}; "
            f'write {{"model_max_length": {LENGTH}}} into tokenizer_config.json'
        )
    return tokenizer


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
