"""Prompts -> T5's embeddings: the third text encoder of SD3, the second of Flux."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.prompts.embedding import Token, weighted
from bayes_merger.imaging.prompts.prompt import parse_prompt

if TYPE_CHECKING:
    from torch import Tensor


class T5Encoder:
    """Encodes prompts with a live T5; a prompt without weights gives what diffusers' `encode_prompt` does, bit for bit.

    It reads a prompt as one text: there are no chunks, and `BREAK` is a blank. Weights work as for CLIP.
    """

    def __init__(self, tokenizer: Any, model: Any, room: int) -> None:
        """Take a `T5Tokenizer`, a `T5EncoderModel`, and the number of tokens that every prompt is filled up to."""
        self._tokenizer = tokenizer
        self._model = model
        self.room = room

    def tokens(self, text: str) -> list[Token]:
        """The prompt's tokens and the attention that each gets, without the end."""
        segments = parse_prompt(text)
        return [
            Token(number, segment.weight)
            for segment in segments
            for number in self._tokenizer(segment.text, add_special_tokens=False, verbose=False).input_ids
        ]

    def check(self, texts: Sequence[str]) -> None:
        """Refuse prompts that are longer than can be read.

        Raises:
            ConfigError: such a prompt.
        """
        if (count := max(len(self.tokens(text)) for text in texts)) > self.room - 1:
            raise ConfigError(f"prompt: {count} tokens, and T5 reads {self.room - 1} at most; make it shorter")

    def encode(self, texts: Sequence[str], emphasis: str = "Original") -> Tensor:
        """Embeddings of some prompts, none longer than `room - 1` tokens.

        Returns:
            Tensor of shape `(len(texts), room, width)`, dtype and device of the T5.
        """
        import torch

        read = [self.tokens(text) for text in texts]
        end, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        rows = [[*(t.number for t in row), end, *[pad] * (self.room - 1 - len(row))] for row in read]
        with torch.no_grad():
            hidden = self._model(torch.tensor(rows, device=self._model.device))[0]
        return weighted(hidden, [[t.weight for t in row] for row in read], emphasis, behind=0)
