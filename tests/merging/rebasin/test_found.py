"""``merging.rebasin.found``: an order is found once, and what lies in the cache is believed only as far as it is legal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.merging.rebasin.found import Found, recall, remember, subject, verified
from bayes_merger.merging.rebasin.permutation import Permutation
from bayes_merger.merging.rebasin.spaces import Axis, Space

SPACES = (
    Space("heads", (2, 2), ((Axis("q", 0),), (Axis("v", 0),)), exchange=True),
    Space("free", (3,), ((Axis("w", 0),),)),
)
ABOUT = subject("a" * 64, "b" * 64, {"groups": 2}, "weights")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path))
    return tmp_path / "orders"


def found() -> Found:
    orders = {"heads": [torch.tensor([2, 3, 0, 1]), torch.tensor([3, 2, 0, 1])], "free": [torch.tensor([2, 0, 1])]}
    return Found(Permutation(SPACES, orders), 0.25, 1 / 3)


def test_an_order_is_recalled_by_its_hash_and_by_what_it_was_found_for(cache: Path) -> None:
    assert recall(ABOUT, SPACES) is None
    kept = remember(found(), ABOUT)
    for name in (ABOUT, kept.permutation.sha256):
        again = recall(name, SPACES)
        assert again is not None
        assert again.permutation.sha256 == kept.permutation.sha256
        assert (again.before, again.after, again.verified) == (0.25, 1 / 3, False)
    verified(kept, ABOUT)
    known = recall(ABOUT, SPACES)
    assert known is not None
    assert known.verified
    assert subject("a" * 64, "b" * 64, {"groups": 2}, "activations") != ABOUT
    assert subject("b" * 64, "a" * 64, {"groups": 2}, "weights") != ABOUT
    assert sorted(path.name for path in cache.iterdir()) == sorted(
        f"{name}.safetensors" for name in (ABOUT, kept.permutation.sha256)
    )


def test_what_else_lies_in_the_cache_is_ignored(cache: Path) -> None:
    remember(found(), ABOUT)
    file = cache / f"{ABOUT}.safetensors"
    tensors, whole = load_file(file), file.read_bytes()
    said = {"before": "0.25", "after": "0.5", "verified": "true"}
    illegal = {"0.0": torch.tensor([0, 2, 1, 3], dtype=torch.int32)}
    others = {"0.1": torch.tensor([0, 1, 2, 3], dtype=torch.int32)}
    repeated = {"1.0": torch.tensor([0, 0, 1], dtype=torch.int32)}
    floats = {"1.0": torch.tensor([0.0, float("nan"), 1.0])}
    for wrong in (illegal, others, repeated, floats, {"1.0": torch.zeros(0)}):
        save_file({**tensors, **wrong}, file, metadata=said)
        assert recall(ABOUT, SPACES) is None
    save_file({"0.0": tensors["0.0"]}, file, metadata=said)
    assert recall(ABOUT, SPACES) is None
    for metadata in (None, {"before": "0.25"}, {**said, "before": "nan"}, {**said, "after": "x"}):
        save_file(tensors, file, metadata=metadata)
        assert recall(ABOUT, SPACES) is None
    for data in (b"", b"text", whole[:-1], b"\xff" * 8 + whole[8:], b"[" * 4096):
        file.write_bytes(data)
        assert recall(ABOUT, SPACES) is None
    file.unlink()
    file.mkdir()
    assert recall(ABOUT, SPACES) is None
    assert recall("../escape", SPACES) is None
    assert recall("", SPACES) is None


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.write_text("no folder", encoding="utf-8")
    assert remember(found(), ABOUT).permutation.moved() == 11
    assert recall(ABOUT, SPACES) is None


def test_it_is_said_how_far_from_identity_it_is_and_when_nothing_is_to_be_gained() -> None:
    assert found().words("B", "A") == (
        "B: 11 of its 11 neurons (100%) change places, into the order of those of A; likeness of the weights 0.2500, "
        "then 0.3333"
    )
    assert Found(Permutation(SPACES), 0.9, 0.9).words("B", "A") == (
        "B: its 11 neurons are in the order of those of A already (likeness of the weights 0.9000); nothing is to be "
        "gained"
    )
    worse = Found(found().permutation, 0.9, 0.8)
    assert worse.words("B", "A").endswith(
        ", then 0.8000, which is less: fine-tunes of one base are best left as they are"
    )
