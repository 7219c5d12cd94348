"""Each number from the model in which it matters more: by how far both moved from their ancestor.

With `saliency` (files of activations, see `merging/saliency`) alpha differs from number to number already, so that what
is compared here is the difference times what the model does with it.

Every function takes tensors of one shape and dtype and returns a new one; the engine calls them on fp32. All are
defined and finite for zero, constant, identical and opposite inputs, 0-d and empty tensors, and give A for identical
models. Differences mean something only where C is the true ancestor: where A and B each *lost* what C knew, the larger
difference is the larger damage, and both methods are worse than an even mix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.parameters import Cost, Weight

if TYPE_CHECKING:
    from torch import Tensor


def _against(a: Tensor, b: Tensor, c: Tensor, alpha: Weight) -> Tensor:
    """`(1 - alpha) (x / y)^2`, within what fp32 can hold; as if both moved as far where neither did.

    As a quotient it neither overflows nor vanishes where x and y do not. No masks: they take torch many times as long
    as sums and products.
    """
    odds = (a - c).div_(b - c)
    return odds.mul_(odds).nan_to_num_(nan=1.0, posinf=1e30).clamp_(min=1e-30).mul_(1 - alpha)


@merge_method(elementwise=True, between=True, bounds={"alpha": (0.0, 1.0)}, cost=Cost(4, measured=False))
def salient_sum(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 0.5) -> Tensor:
    """`A + s (B - A)`, `s = alpha y^2 / (alpha y^2 + (1 - alpha) x^2)` with `x = |A - C|`, `y = |B - C|`.

    Exactly A at 0 and exactly B at 1; where neither moved from C, so that A and B are equal, it is A. Source: the
    Fisher-weighted mean of https://arxiv.org/abs/2111.09832 with the squared difference, times the squared response
    where there are files of activations, in the place of the Fisher information.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of both.
        alpha: share of B where both moved as far, in [0, 1].
    """
    share = _against(a, b, c, alpha).add_(alpha).reciprocal_().mul_(alpha)
    return a.lerp(b, share.clamp_(max=1))


@merge_method(elementwise=True, between=True, selects=True, bounds={"alpha": (0.0, 1.0)}, cost=Cost(4, measured=False))
def most_salient(a: Tensor, b: Tensor, c: Tensor, *, alpha: Weight = 0.5) -> Tensor:
    """B where `alpha (B - C)^2 > (1 - alpha) (A - C)^2`, else A: winner takes all.

    Exactly A at 0 and exactly B at 1; the limit of salient_sum as its odds are raised to a power. It was the best merge
    without a search that we measured on models with different skills, with activations or without.

    Args:
        a: Tensor of any shape.
        b: Tensor like ``a``.
        c: Tensor like ``a``, the ancestor of both.
        alpha: above 1/2 more of B, below more of A, in [0, 1].
    """
    lead = _against(a, b, c, alpha).neg_().add_(alpha)
    return a.lerp(b, lead.sign_().clamp_(min=0))
