"""The spaces of CLIP's text encoders, under transformers' names or OpenCLIP's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from bayes_merger.merging.rebasin.spaces import Space, Tensors, attention

_LAYER = re.compile(
    r"(?P<clip>.*\bencoder\.layers\.\d+)\.mlp\.fc1\.weight|(?P<open>.*\bresblocks\.\d+)\.mlp\.c_fc\.weight"
)


def text_spaces(tensors: Tensors, heads: Mapping[int, int]) -> Iterator[Space]:
    """The heads and the hidden neurons of every layer.

    Args:
        tensors: of the model.
        heads: width of a text encoder -> its heads.

    Raises:
        ValueError: the heads do not fit, or are not known.
        KeyError: a tensor is missing.
    """
    for key in tensors.shapes:
        found = _LAYER.fullmatch(key)
        if found is None:
            continue
        layer = found["clip"] or found["open"]
        width = tensors.shapes[key][1]
        if width not in heads:
            raise ValueError(f"{layer} is {width} wide, which is none of the text encoder's widths in the config")
        yield _attention(tensors, layer, heads[width], width, is_open=not found["clip"])
        first, second = ("fc1", "fc2") if found["clip"] else ("c_fc", "c_proj")
        hidden = tensors.rows(f"{layer}.mlp.{first}") + tensors.columns(f"{layer}.mlp.{second}")
        yield Space(f"{layer}.mlp", (tensors.shapes[key][0],), (hidden,))


def _attention(tensors: Tensors, layer: str, heads: int, width: int, *, is_open: bool) -> Space:
    if not is_open:
        name = f"{layer}.self_attn"
        inside = tensors.rows(f"{name}.q_proj", f"{name}.k_proj")
        return attention(
            name, heads, width, inside, tensors.rows(f"{name}.v_proj") + tensors.columns(f"{name}.out_proj")
        )
    name = f"{layer}.attn"  # queries, keys and values are stacked
    queries, keys, values = ([tensors.axis(f"{name}.in_proj_{leaf}", 0, part * width) for leaf in ("weight", "bias")]
                             for part in range(3))  # fmt: skip
    return attention(name, heads, width, queries + keys, (*values, *tensors.columns(f"{name}.out_proj")))
