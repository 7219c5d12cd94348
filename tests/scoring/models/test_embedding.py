"""Batches, memory and what is remembered, with a model that counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from bayes_merger.scoring.models.embedding import SPARE, Embedder, shared, stays


class Doubling:
    """Gives each number and its double; more than `most` at once do not fit into its memory."""

    def __init__(self, most: int = 10_000) -> None:
        self.most = most
        self.batches: list[int] = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("no memory")
        self.batches.append(len(batch))
        return torch.stack([batch, 2 * batch], dim=-1)


def embedder(run: Doubling) -> Embedder:
    def prepare(inputs: Sequence[float], device: str) -> tuple[torch.Tensor]:
        return (torch.tensor(inputs, device=device),)

    return Embedder(torch.nn.Linear(2, 2), run, prepare, "cpu")


def test_inputs_go_through_in_batches_and_each_once() -> None:
    run = Doubling()
    found = embedder(run)([3.0, 1.0, 3.0, 4.0], ["c", "a", "c", "d"], 2)
    assert found.tolist() == [[3, 6], [1, 2], [3, 6], [4, 8]]
    assert run.batches == [2, 1]


def test_what_was_seen_is_remembered_by_its_key() -> None:
    run = Doubling()
    embed = embedder(run)
    embed([1.0, 2.0], ["a", "b"], 4)
    assert embed([9.0, 5.0], ["b", "e"], 4).tolist() == [[2, 4], [5, 10]]
    assert run.batches == [2, 1]


def test_the_oldest_is_forgotten_first() -> None:
    run = Doubling()
    embed = embedder(run)
    embed([0.0], ["first"], 1)
    embed([float(n) for n in range(1023)], [f"{n}" for n in range(1023)], 2000)
    embed([0.0], ["first"], 1)  # used again, so not the oldest any more
    embed([5.0], ["one more"], 1)
    assert run.batches == [1, 1023, 1]
    assert embed([7.0], ["first"], 1).tolist() == [[0, 0]]
    assert embed([7.0], ["0"], 1).tolist() == [[7, 14]]


def test_a_batch_without_memory_is_halved_until_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    run = Doubling(most=3)
    found = embedder(run)([float(n) for n in range(8)], list(range(8)), 8)
    assert found[:, 1].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert run.batches == [2, 2, 2, 2]
    assert [record.message for record in caplog.records] == [
        "a GPU without memory for 8 pictures at once: scoring 4 at once",
        "a GPU without memory for 4 pictures at once: scoring 2 at once",
    ]


def test_memory_for_not_even_one_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        embedder(Doubling(most=0))([1.0], ["a"], 8)


def test_an_embedder_is_shared_by_its_key_for_as_long_as_somebody_has_it() -> None:
    one = shared("key", lambda: embedder(Doubling()))
    assert shared("key", lambda: embedder(Doubling())) is one
    del one
    run = Doubling()
    again = shared("key", lambda: embedder(run))
    again([1.0], ["a"], 1)
    assert run.batches == [1]


@pytest.mark.parametrize(
    ("drawing", "towers", "expected"), [(6, 1, True), (6.1, 1, False), (0, 7, True), (0, 7.1, False)]
)
def test_a_tower_stays_where_drawing_and_a_gigabyte_fit_beside_it(
    drawing: float, towers: float, expected: bool
) -> None:
    assert stays(8 * SPARE, int(drawing * SPARE), int(towers * SPARE)) is expected
