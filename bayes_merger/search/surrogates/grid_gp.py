"""A Matern-5/2 process with one length scale for all dimensions, whose settings are the best of a grid.

The result of a numerical optimiser could differ between machines in more than the last bits; the best place of a grid
does not. Rasmussen and Williams (2006), http://gaussianprocess.org/gpml/, chapters 2 and 5.

Beyond a few hundred points a sparse process sees all scores through some of their points. To leave the others out
instead would lose what many noisy scores say together: of 1500 points in 26 dimensions, with noise of half the spread
between random points, the one with the greatest mean was then 0.4 of that spread behind the best, through the sparse
process 0.08, and 0.06 with all of them decomposed (means of eight searches).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_merger.search.space.cube import Array
from bayes_merger.search.surrogates.kernels import matern52, squared_distances

FITTED = 200
"""At most this many points are used to fit length scale, amplitude and noise."""

DECOMPOSED = 400
"""At most this many points are decomposed; more scores are seen through so many of their points."""


@dataclass(frozen=True)
class Settings:
    """Of a process: its length scale, the variance of its values (amplitude), the variance of a score's noise."""

    length: float
    amplitude: float
    noise: float


def posterior(points: Array, scores: Array, noise: float | None) -> tuple[Array, Array, float]:
    """Posterior mean and standard deviation at the observed points themselves.

    Args:
        points: shape ``(trials, dimensions)``, each dimension's range of length 1.
        scores: shape ``(trials,)``, mean 0 and variance 1.
        noise: variance of a score's independent noise; the fit may take less, since merges that draw nearly the
            same pictures share their noise. None: any.

    Returns:
        Mean and standard deviation, both of shape ``(trials,)``, and the fitted variance of the noise.
    """
    fitted = every(len(points), FITTED)
    settings = fit(points[fitted], scores[fitted], noise)
    infer = exact if len(points) <= DECOMPOSED else sparse
    mean, variance = infer(points, scores, settings)
    return mean, np.sqrt(variance), settings.noise


def every(count: int, most: int) -> slice:
    """Every so manieth of ``count`` rows, so that they are at most ``most``; all of them where there are no more."""
    return slice(None, None, max(1, -(-count // most)))


def exact(points: Array, scores: Array, settings: Settings) -> tuple[Array, Array]:
    """Mean and variance at the points themselves.

    With the kernel matrix V diag(v) V^T, amplitude A and noise n, the share of signal along each eigenvector is
    s = A v / (A v + n):

        mean     = V (s * V^T y)
        variance = (V * V) (s n)
    """
    values, vectors = _decomposed(_apart(points, points), settings.length)
    signal = settings.amplitude * values
    share = signal / (signal + settings.noise)
    return vectors @ (share * (vectors.T @ scores)), (vectors**2) @ (share * settings.noise)


def sparse(points: Array, scores: Array, settings: Settings) -> tuple[Array, Array]:
    """Mean and variance at the points themselves, which are correlated through some of them only.

    With the kernel matrix U diag(u) U^T of those and the kernel k between them and all points, W = (A/u)^(1/2) U^T k is
    what they explain of each point. What they do not, r = A - diag(W^T W), is each point's own, and of it
    g = r / (r + n) is signal:

        B        = I + W diag(1 / (r + n)) W^T
        m        = W^T B^-1 W (y / (r + n))
        mean     = m + g (y - m)
        variance = g n + (1 - g)^2 diag(W^T B^-1 W)

    The fully independent training conditional of Snelson and Ghahramani (2006), "Sparse Gaussian processes using
    pseudo-inputs", in the notation of Quinonero-Candela and Rasmussen (2005),
    https://www.jmlr.org/papers/v6/quinonero-candela05a.html
    """
    inducing = points[every(len(points), DECOMPOSED)]
    values, vectors = _decomposed(_apart(inducing, inducing), settings.length)
    kept = values > 1e-9 * values.max()
    explained = vectors[:, kept].T @ _kernel(_apart(inducing, points), settings.length)
    explained *= np.sqrt(settings.amplitude / values[kept])[:, None]
    own = np.maximum(settings.amplitude - (explained**2).sum(axis=0), 0.0)
    total = own + settings.noise
    solved = np.linalg.solve(np.eye(len(explained)) + (explained / total) @ explained.T, explained)
    mean = solved.T @ (explained @ (scores / total))
    gain = own / total
    variance = gain * settings.noise + (1.0 - gain) ** 2 * (explained * solved).sum(axis=0)
    return mean + gain * (scores - mean), variance


def fit(points: Array, scores: Array, noise: float | None) -> Settings:
    """Length scale, amplitude (variance) and noise (variance) of the greatest likelihood times a mild prior.

    -1/2 sum_i (log t_i + (V^T y)_i^2 / t_i) with t = A v + n: the log marginal likelihood in the kernel's eigenvectors.
    """
    root = np.sqrt(points.shape[1])
    lengths = root * np.geomspace(0.1, 6.0, 14)
    amplitudes = np.geomspace(0.05, 20.0, 12)
    nuggets = np.geomspace(0.001, 1.0, 13) if noise is None else max(noise, 1e-6) * np.geomspace(0.03, 1.0, 7)
    apart = _apart(points, points)
    best, found = -np.inf, Settings(0.0, 0.0, 0.0)
    for length in lengths:
        values, vectors = _decomposed(apart, float(length))
        squares = (vectors.T @ scores) ** 2
        total = amplitudes[:, None, None] * values + nuggets[None, :, None]
        log_density = -0.5 * (np.log(total) + squares / total).sum(axis=-1)
        # A length scale that grows with the root of the dimensions: Hvarfner and others (2024),
        # https://arxiv.org/abs/2402.02229; amplitudes of a few score variances.
        log_density -= 0.5 * (np.log(length / (1.4 * root)) / 1.7) ** 2
        log_density -= 0.5 * (np.log(amplitudes[:, None]) / 1.5) ** 2
        index = np.unravel_index(int(log_density.argmax()), log_density.shape)
        if log_density[index] > best:
            best = float(log_density[index])
            found = Settings(float(length), float(amplitudes[index[0]]), float(nuggets[index[1]]))
    return found


def _apart(a: Array, b: Array) -> Array:
    """How far each of some points is from each of others, in the kernel's unit at a length scale of 1."""
    squares = squared_distances(a, b)
    squares *= 5.0
    return np.sqrt(squares, out=squares)


def _kernel(apart: Array, length: float) -> Array:
    return matern52(apart / length)[0]


def _decomposed(apart: Array, length: float) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(_kernel(apart, length))
    return np.maximum(values, 0.0), vectors
