"""Orders that were found, remembered: finding one takes minutes at full size, and every process of a study needs it.

They lie in ``orders/`` of the user's cache folder, each under the hash of the order and under what it was found for:
the hashes of both models, the layout, and by what they were compared. A file says nothing that is not checked: an order
must be one that changes nothing that the model computes. Whatever else lies there is ignored, and deleting it is safe.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bayes_merger.atomic import write_atomically
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.settings import WEIGHTS
from bayes_merger.merging.rebasin.spaces import Space
from bayes_merger.paths import cache_folder, open_regular

log = logging.getLogger(__name__)

VERSIONS = {WEIGHTS: 2}
"""Of the search, 1 unless it is said: another one may find other orders."""

_LARGEST = 64 << 20  # bytes of such a file; XL's has three


@dataclass(frozen=True)
class Found:
    """An order that was found for a model's neurons.

    Attributes:
        permutation: of the neurons.
        before: the cosine of the weights of both models as they are, of all tensors that have neurons.
        after: the same in the new order.
        verified: whether the model was seen to answer what it answered.
    """

    permutation: Permutation
    before: float
    after: float
    verified: bool = False

    def words(self, model: str, like: str) -> str:
        """What it does to a model, for people.

        Args:
            model: what the model is called.
            like: what the one is called whose order it takes.
        """
        moved, total = self.permutation.moved(), self.permutation.total()
        if not moved:
            return (
                f"{model}: its {total:,} neurons are in the order of those of {like} already (likeness of the weights "
                f"{self.before:.4f}); nothing is to be gained"
            )
        hint = ", which is less: fine-tunes of one base are best left as they are" if self.after < self.before else ""
        return (
            f"{model}: {moved:,} of its {total:,} neurons ({moved / total:.0%}) change places, into the order of those "
            f"of {like}; likeness of the weights {self.before:.4f}, then {self.after:.4f}{hint}"
        )


def subject(a: str, b: str, layout: Any, by: str) -> str:
    """What an order was found for, as a hash.

    Args:
        a: hash of the model to be like.
        b: hash of the model to permute.
        layout: as plain data.
        by: what their neurons were compared by.
    """
    return hashlib.sha256(json.dumps([VERSIONS.get(by, 1), a, b, layout, by], sort_keys=True).encode()).hexdigest()


def remember(found: Found, about: str) -> Found:
    """Keep an order, also once it is known to be verified; returns it.

    Args:
        found: the order.
        about: what it was found for, see `subject`.
    """
    import torch
    from safetensors.torch import save

    orders = found.permutation.orders
    tensors = {
        f"{number}.{track}": order.to(torch.int32)
        for number, space in enumerate(found.permutation.spaces)
        for track, order in enumerate(orders[space.name])
    }
    said = {"before": repr(found.before), "after": repr(found.after), "verified": str(found.verified).lower()}
    data = save(tensors, said)
    for name in (found.permutation.sha256, about):
        try:
            write_atomically(_file(name), data)
        except OSError as error:  # a cache that cannot be written: found anew by every process
            log.debug("%s cannot be written (%s)", _file(name), error)
    return found


def verified(found: Found, about: str) -> Found:
    """The same order, now known to change no answer, which is remembered."""
    return remember(replace(found, verified=True), about)


def recall(name: str, spaces: Sequence[Space]) -> Found | None:
    """What is remembered of an order, if it is one for these spaces.

    Args:
        name: its hash, or what it was found for.
        spaces: of the model.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", name, re.ASCII):
        return None
    try:
        with open_regular(_file(name)) as file:
            data = file.read(_LARGEST + 1)
        return _read(data, spaces) if len(data) <= _LARGEST else None
    except OSError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.debug("%s is no order of these neurons (%s)", _file(name), error)
        return None


def _read(data: bytes, spaces: Sequence[Space]) -> Found:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + length])["__metadata__"]
    except (SafetensorError, RecursionError) as error:
        raise ValueError(str(error)) from error
    orders = {
        space.name: [tensors[f"{number}.{track}"].long() for track in range(len(space.tracks))]
        for number, space in enumerate(spaces)
    }
    permutation = Permutation(spaces, orders)
    permutation.check()
    before, after = float(said["before"]), float(said["after"])
    if not (math.isfinite(before) and math.isfinite(after)):
        raise ValueError("its likeness is no number")
    return Found(permutation, before, after, said.get("verified") == "true")


def _file(name: str) -> Path:
    return cache_folder() / "orders" / f"{name}.safetensors"
