"""T5, the text encoder that Stable Diffusion 3 and Flux add to CLIP's; as a file or folder of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.diffusers_folder import open_folder, open_part
from bayes_merger.checkpoints.hashes import sha256_of
from bayes_merger.checkpoints.naming import INDEX
from bayes_merger.checkpoints.single_file import open_file
from bayes_merger.documents import read_document
from bayes_merger.errors import CheckpointError, ConfigError

PREFIX = "text_encoders.t5xxl.transformer."
"""What single files put before its tensors."""

_PARTS = ("text_encoder_3", "text_encoder_2")
_TOKENIZERS = ("", "tokenizer_3", "tokenizer_2", "tokenizer")
_LARGEST = 64 << 20  # bytes of a vocabulary; T5's is a few


@contextmanager
def open_t5(path: Path) -> Iterator[Checkpoint]:
    """A T5 under the keys of single files.

    Args:
        path: a file, a diffusers folder of SD3 or Flux, or the folder `text_encoder_3` or `text_encoder_2` of one.

    Raises:
        CheckpointError: there is none.
    """
    with ExitStack() as opened:
        yield _joined(path, opened)


def t5_hash(path: Path) -> str:
    """What a T5 is: the SHA-256 of its file, or of those of its files, in the order of their names.

    Args:
        path: as for `open_t5`.

    Raises:
        CheckpointError: there is none.
    """
    with open_t5(path):
        pass
    if path.is_file():
        return sha256_of(path)
    part = next((path / name for name in _PARTS if (path / name).is_dir()), path)
    with open_part(part) as tensors:
        hashes = [sha256_of(file) for file in sorted({file.path for file in tensors.values()})]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _joined(path: Path, opened: ExitStack) -> Checkpoint:
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder", subject="generator.text_encoder_3")
    if path.is_dir() and not (path / INDEX).is_file():
        files = opened.enter_context(open_part(path))
    else:
        whole = opened.enter_context(open_folder(path) if path.is_dir() else open_file(path))
        files = dict.fromkeys(whole.shapes, whole)
    names = {PREFIX + _bare(key): key for key in files if _bare(key).startswith(("shared.", "encoder."))}
    names.pop(f"{PREFIX}encoder.embed_tokens.weight", None)  # the second copy of the first
    if f"{PREFIX}shared.weight" not in names:
        raise CheckpointError(f"{path}: is no T5 encoder", subject="generator.text_encoder_3")
    entries = {key: (files[own].dtypes[own], files[own].shapes[own]) for key, own in names.items()}
    if len(set(map(id, files.values()))) == 1:
        return ModelView(files[names[f"{PREFIX}shared.weight"]], names, entries)
    return Checkpoint(path, entries, {}, lambda key: files[names[key]].tensor(names[key]), opened.close)


def _bare(key: str) -> str:
    return key.removeprefix("text_encoders.").removeprefix("t5xxl.").removeprefix("transformer.")


def t5_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The settings of T5 1.1's encoder, read off its shapes.

    Args:
        shapes: under the keys of single files.
    """
    first = f"{PREFIX}encoder.block.0.layer."
    try:
        words, width = shapes[f"{PREFIX}shared.weight"]
        heads = shapes[f"{first}0.SelfAttention.relative_attention_bias.weight"][1]
        buckets = shapes[f"{first}0.SelfAttention.relative_attention_bias.weight"][0]
        rows, inner = shapes[f"{first}0.SelfAttention.q.weight"][0], shapes[f"{first}1.DenseReluDense.wi_0.weight"][0]
    except (KeyError, ValueError) as error:
        raise CheckpointError("is no T5 1.1, which these models need", subject="generator.text_encoder_3") from error
    blocks = {found[1] for key in shapes if (found := re.match(rf"{re.escape(PREFIX)}encoder\.block\.(\d+)\.", key))}
    return {
        "vocab_size": words,
        "d_model": width,
        "d_kv": rows // heads,
        "d_ff": inner,
        "num_layers": len(blocks),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "tie_word_embeddings": False,
    }


def load_t5_tokenizer(*places: Path | None) -> Any:
    """T5's tokenizer, from the first of some folders that has one; it is not shipped.

    Args:
        places: diffusers folders, or folders and files beside which it may lie.

    Raises:
        ConfigError: none of them has it.
    """
    from transformers import T5Tokenizer

    folders = [folder for place in places if place is not None for folder in (place, place.parent)]
    for folder in (folder / name for folder in folders for name in _TOKENIZERS):
        if _has_words(folder):
            return T5Tokenizer.from_pretrained(str(folder), local_files_only=True)
    raise ConfigError(
        "generator.text_encoder_3: T5's words (tokenizer.json or spiece.model) are not shipped; put the folder "
        "tokenizer_2 of a Flux model, or tokenizer_3 of an SD3 one, beside the file, or give generator.config=FOLDER"
    )


def _has_words(folder: Path) -> bool:
    """Whether there is a vocabulary of T5's kind; CLIP's is of another."""
    if (folder / "spiece.model").is_file():
        return True
    if not (folder / "tokenizer.json").is_file():
        return False
    data = read_document(folder / "tokenizer.json", largest=_LARGEST)
    model = data.get("model") if isinstance(data, dict) else None
    return isinstance(model, dict) and model.get("type") == "Unigram"
