"""``salient``: literal cases; the contract is in test_contract.py."""

from __future__ import annotations

import torch

from bayes_merger.merging import METHODS

A = torch.tensor([1.0, 1.0, 1.0, 0.0, 5.0])
B = torch.tensor([3.0, 0.0, 1.0, 2.0, 5.0])
C = torch.tensor([0.0, 0.0, 1.0, 0.0, 4.0])


def test_a_salient_sum_takes_shares_by_squared_differences() -> None:
    # x = 1, 1, 0, 0, 1 and y = 3, 0, 0, 2, 1: shares 9/10, 0, none, 1, 1/2
    even = METHODS["salient_sum"](A, B, C, alpha=0.5)
    assert torch.allclose(even, torch.tensor([2.8, 1.0, 1.0, 2.0, 5.0]))
    # 0.1 * 9 / (0.1 * 9 + 0.9 * 1) = 1/2
    assert torch.allclose(METHODS["salient_sum"](A, B, C, alpha=0.1)[0], torch.tensor(2.0))
    assert torch.equal(METHODS["salient_sum"](A, B, C, alpha=0.0), A)
    assert torch.equal(METHODS["salient_sum"](A, B, C, alpha=1.0), B)


def test_the_most_salient_number_wins_and_alpha_moves_the_bar() -> None:
    assert METHODS["most_salient"](A, B, C, alpha=0.5).tolist() == [3.0, 1.0, 1.0, 2.0, 5.0]
    assert METHODS["most_salient"](A, B, C, alpha=0.09).tolist() == [1.0, 1.0, 1.0, 2.0, 5.0]
    assert torch.equal(METHODS["most_salient"](A, B, C, alpha=0.0), A)
    assert torch.equal(METHODS["most_salient"](A, B, C, alpha=1.0), B)
