"""Prompts in A1111's syntax -> CLIP's embeddings.

A prompt of any length is cut into chunks of 75 tokens, each read by the text encoder on its own and put side by side.
Weights multiply a token's embedding; the chunk's mean is then restored (A1111's emphasis "Original"), over all texts of
one prompt that changes, and so that neighbours in a batch do not matter. A prompt without weights that fits one chunk
gives the result of diffusers' `encode_prompt` bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ftfy

from bayes_merger.checkpoints.tokenizer import LENGTH
from bayes_merger.imaging.prompts.prompt import parse_prompt

if TYPE_CHECKING:
    from torch import Tensor

ROOM = LENGTH - 2  # start and end take two
Kin = Sequence[Mapping[int, int]]
"""Of each row of a batch, which rows are texts of the same prompt, and how often each of them is one."""
BACKTRACK = 20  # tokens after a comma that may move on with it into the next chunk, A1111's default


@dataclass(frozen=True)
class Token:
    """A word piece and the attention it gets; or one of the vectors that stand for a word."""

    number: int
    weight: float
    vector: Tensor | None = field(default=None, compare=False)


class PromptEncoder:
    """Encodes prompts with a live text encoder; does not track when its weights change."""

    def __init__(self, tokenizer: Any, text_encoder: Any, *, penultimate: bool = False) -> None:
        """Take a tokenizer and a text encoder.

        Args:
            tokenizer: a `CLIPTokenizer`.
            text_encoder: a `CLIPTextModel`, with or without projection.
            penultimate: read the layer before the last, without the final norm, as SDXL and SD3 were trained;
                `clip_skip` then changes nothing, as in A1111.
        """
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._penultimate = penultimate
        self._comma = tokenizer.convert_tokens_to_ids(",</w>")
        self._vectors: dict[tuple[int, ...], Tensor] = {}

    @property
    def width(self) -> int:
        """Numbers of the vector of a word piece."""
        return int(self._text_encoder.get_input_embeddings().embedding_dim)

    def learn(self, name: str, vectors: Tensor) -> None:
        """Read a word as some vectors, of shape `(n, width)`, from now on."""
        self._vectors[tuple(self._numbers(name))] = vectors

    @property
    def layers(self) -> int:
        """Layers of the text encoder: the largest `clip_skip`."""
        return int(self._text_encoder.config.num_hidden_layers)

    def chunks(self, text: str) -> list[list[Token]]:
        """The prompt's tokens in chunks of at most 75; at least one chunk, which may be empty."""
        done: list[list[Token]] = []
        open_: list[Token] = []
        part = 0
        for segment in parse_prompt(text):
            for _ in range(part, segment.part):
                done.append(open_)
                open_ = []
            part = segment.part
            for piece in self._pieces(segment.text):
                if isinstance(piece, int):
                    open_ = self._with_room(open_, piece, done)
                    open_.append(Token(piece, segment.weight))
                    continue
                if len(open_) + len(piece) > ROOM:  # as in A1111, they stay together
                    done.append(open_)
                    open_ = []
                open_ += [Token(0, segment.weight, vector) for vector in piece]
        return [*done, open_] if open_ or not done else done

    def length(self, texts: Sequence[str]) -> int:
        """The most chunks any of the texts needs."""
        return max(len(self.chunks(text)) for text in texts)

    def encode(self, texts: Sequence[str], **options: Any) -> Tensor:
        """Embeddings of some prompts, as `read` gives them."""
        return self.read(texts, **options)[0]

    def read(
        self,
        texts: Sequence[str],
        *,
        clip_skip: int = 1,
        length: int | None = None,
        emphasis: str = "Original",
        kin: Kin | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of some prompts, and one of each as a whole.

        Args:
            texts: read by the text encoder as one batch.
            clip_skip: 1 takes the last layer, 2 the one before; the final norm follows in each case.
            length: chunks to fill, at least `self.length(texts)`; shorter prompts get empty chunks.
            emphasis: what weights do, see `weighted`.
            kin: see `weighted`.

        Returns:
            Tensors of shapes `(len(texts), 77 * length, width)` and `(len(texts), width)`, dtype and device of the text
            encoder. The second is of the first chunk, as in A1111, and projected if the encoder has a projection.
        """
        import torch

        rows = [self.chunks(text) for text in texts]
        count = length or max(len(row) for row in rows)
        columns = [[row[at] if at < len(row) else [] for row in rows] for at in range(count)]
        with torch.no_grad():
            read = [self._read_chunks(column, clip_skip) for column in columns]
        for (hidden, _), column in zip(read, columns, strict=True):
            weighted(hidden, [[token.weight for token in chunk] for chunk in column], emphasis, kin=kin)
        return torch.cat([hidden for hidden, _ in read], dim=1), read[0][1]

    def _with_room(self, chunk: list[Token], number: int, done: list[list[Token]]) -> list[Token]:
        """The chunk for the next token: a new one when full, started with the tokens after a nearby comma."""
        if len(chunk) < ROOM:
            return chunk
        commas = [place + 1 for place, token in enumerate(chunk) if token.number == self._comma]
        cut = commas[-1] if commas and number != self._comma and ROOM - commas[-1] < BACKTRACK else ROOM
        done.append(chunk[:cut])
        return chunk[cut:]

    def _pieces(self, text: str) -> Iterator[int | Tensor]:
        """The numbers of the word pieces, and the vectors of words that were learnt, the longest that fit."""
        numbers = self._numbers(text)
        names = sorted(self._vectors, key=len, reverse=True)
        at = 0
        while at < len(numbers):
            name = next((name for name in names if tuple(numbers[at : at + len(name)]) == name), None)
            yield numbers[at] if name is None else self._vectors[name]
            at += 1 if name is None else len(name)

    def _numbers(self, text: str) -> list[int]:
        clean = ftfy.fix_text(text)  # curly quotes, ligatures, &amp; as web UIs and CLIP's authors do
        return list(self._tokenizer(clean, add_special_tokens=False, verbose=False).input_ids)

    def _read_chunks(self, chunks: Sequence[Sequence[Token]], clip_skip: int) -> tuple[Tensor, Tensor]:
        import torch

        start, end, pad = (getattr(self._tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        rows = [[start, *(t.number for t in chunk), end, *[pad] * (ROOM - len(chunk))] for chunk in chunks]
        model = self._text_encoder
        with _vectors_put(model, chunks):
            numbers = torch.tensor(rows, device=model.device)
            output = model(numbers, output_hidden_states=self._penultimate or clip_skip > 1)
        if self._penultimate:
            hidden = output.hidden_states[-2]
        elif clip_skip > 1:
            hidden = getattr(model, "text_model", model).final_layer_norm(output.hidden_states[-clip_skip])
        else:
            hidden = output.last_hidden_state
        whole = getattr(output, "text_embeds", None)
        pooled = output.pooler_output if whole is None else whole
        return hidden, pooled


@contextmanager
def _vectors_put(model: Any, chunks: Sequence[Sequence[Token]]) -> Iterator[None]:
    """While it is open, the text encoder reads the tokens that have a vector as this."""
    places = [(row, at, token) for row, chunk in enumerate(chunks) for at, token in enumerate(chunk, 1)]
    put = [(row, at, token.vector) for row, at, token in places if token.vector is not None]
    if not put:
        yield
        return

    def replace(_: Any, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        for row, at, vector in put:
            output[row, at] = vector.to(output)
        return output

    hook = model.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def weighted(
    hidden: Tensor,
    weights: Sequence[Sequence[float]],
    emphasis: str = "Original",
    *,
    behind: int = 1,
    kin: Kin | None = None,
) -> Tensor:
    """Embeddings times the tokens' weights; what has only neutral ones is untouched.

    Args:
        hidden: shape `(n, tokens, width)`, changed in place.
        weights: of the tokens of each row, from the first `behind` on.
        emphasis: `Original` restores the mean, `No norm` does not, `Ignore` changes nothing.
        behind: tokens before the first that has a weight.
        kin: over which rows a row's mean is restored; by default it is over itself.
    """
    import torch

    kin = kin or [{row: 1} for row in range(len(weights))]
    heavy = {row for row, values in enumerate(weights) if any(value != 1 for value in values)}
    if emphasis == "Ignore" or not heavy:
        return hidden
    neutral = hidden.to(torch.float32, copy=True)
    factors = neutral.new_ones(neutral.shape[:2])
    for row in heavy:
        factors[row, behind : behind + len(weights[row])] = neutral.new_tensor(weights[row])
    changed = neutral * factors[:, :, None]
    for row, times in enumerate(kin):
        if emphasis == "Original" and not heavy.isdisjoint(times):
            before, after = (sum(many * x[one].mean() for one, many in times.items()) for x in (neutral, changed))
            hidden[row] = (changed[row] * (before / after)).to(hidden.dtype)
        elif row in heavy:
            hidden[row] = changed[row].to(hidden.dtype)
    return hidden
