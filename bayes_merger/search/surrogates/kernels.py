"""What the Gaussian processes share: squared distances, and the Matern-5/2 kernel.

Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, equation 4.17.
"""

from __future__ import annotations

import numpy as np

from bayes_merger.search.space.cube import Array


def squared_distances(a: Array, b: Array) -> Array:
    """``|a_i - b_j|^2``: shapes ``(N, D)`` and ``(M, D)`` to ``(N, M)``; never below 0, whatever rounding does."""
    squares: Array = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    products = a @ b.T
    products *= 2.0
    squares -= products  # in place, here and below: memory for matrices of thousands of columns takes its time
    return np.maximum(squares, 0.0, out=squares)


def matern52(r: Array, amplitude: float = 1.0) -> tuple[Array, Array]:
    """The kernel, and the exponential in it, from which its gradients are made; both of the shape of ``r``.

        k = A (1 + r + r^2 / 3) exp(-r),   r = sqrt(5) |x - y| / length scale
        -2 dk/ds = 5/3 A (1 + r) exp(-r),  s = (|x - y| / length scale)^2

    Returns:
        ``k`` and ``A exp(-r)``.
    """
    decay: Array = np.negative(r)
    np.exp(decay, out=decay)
    decay *= amplitude
    kernel: Array = r**2
    kernel /= 3.0
    kernel += 1.0 + r
    kernel *= decay
    return kernel, decay
