"""Draws the patches that are visible to the student: three kinds of masks, functions of importance and noise alone.

Attentive masking draws visible patches without replacement, with probability proportional to the teacher's importance
(MaskAlign, arXiv 2211.08887, section 3; ``torch.multinomial`` in the released code).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lookonce.shared.errors import NumericalError, UsageError
from lookonce.shared.randomness import random_uniform_rows

MASK_VERSION = 1
"""Incremented whenever the same run seed, epoch, seed and key would give another mask."""

# B: samples of a batch, N: patches of a view, k: visible patches.
Floats_BN = NDArray[np.float64]

_AFTER_ALL = 1e60
"""Later than any arrival of a patch with importance, which is at most -log(2**-53) / (least float32) < 1e47."""


def visible_count(patches: int, mask_ratio: float) -> int:
    """Number of visible patches: ``patches * (1 - mask_ratio)`` rounded down, at least 1.

    The ratio is read as the decimal number that it prints as, and the product is exact: in floating point
    10 * (1 - 0.9) is 0.9999999999999998, which would round down to 0.

    Args:
        patches: number of patches of a view, at least 1.
        mask_ratio: share of hidden patches, 0 <= ratio < 1.

    Raises:
        UsageError: an argument is out of range.

    >>> visible_count(196, 0.7), visible_count(10, 0.9), visible_count(4, 0.0)
    (58, 1, 4)
    """
    if patches < 1:
        raise UsageError(f"masking: expected at least one patch, found {patches}")
    if not 0 <= mask_ratio < 1:
        raise UsageError(f"mask ratio: expected 0 <= ratio < 1, found {mask_ratio}")
    return max(1, int(patches * (1 - Fraction(repr(float(mask_ratio))))))


def visible_patches(
    kind: str, importance: NDArray[np.float32], noise: Floats_BN, mask_ratio: float
) -> NDArray[np.int64]:
    """Draw the visible patches of a batch: ``draw_patches`` of ``visible_count(N, mask_ratio)``.

    Raises:
        UsageError: the kind is unknown, the mask ratio is out of range, or the shapes differ.
        NumericalError: importance is negative, NaN or infinite.
    """
    return draw_patches(kind, importance, noise, visible_count(importance.shape[-1], mask_ratio))


def draw_patches(kind: str, importance: NDArray[np.float32], noise: Floats_BN, count: int) -> NDArray[np.int64]:
    """Draw visible patches without replacement.

    Args:
        kind: ``attentive`` (important patches are likely visible), ``random`` (uniform) or ``hide-attentive``
            (important patches are likely hidden).
        importance: float32, shape (B, N), at least 0; rows need not sum to 1.
        noise: float64, shape (B, N), uniform in [0, 1), see ``mask_noise``.
        count: number of visible patches k, 1 to N.

    Returns:
        int64, shape (B, k), positions on the axis of N, ascending.

    Raises:
        UsageError: the kind is unknown, the count is out of range, or the shapes differ.
        NumericalError: importance is negative, NaN or infinite.
    """
    if kind not in _LATENESS:
        raise UsageError(f"unknown mask kind {kind!r}: expected one of {', '.join(MASK_KINDS)}")
    if importance.ndim != 2 or importance.shape != noise.shape:
        raise UsageError(
            f"masking: expected importance and noise of one shape (B, N), found {importance.shape} and {noise.shape}"
        )
    if not 1 <= count <= importance.shape[1]:
        raise UsageError(f"masking: expected 1 to {importance.shape[1]} visible patches, found {count}")
    return _earliest(_LATENESS[kind](importance, noise), count)


def mask_noise(run_seed: int, epoch: int, keys: Sequence[str], seeds: Sequence[int], patches: int) -> Floats_BN:
    """Uniform noise for the masks of a batch; each row depends on (run seed, epoch, its seed, its key) alone.

    Args:
        run_seed: seed of the training run.
        epoch: 0-based.
        keys: sample keys, length B.
        seeds: augmentation seed of each sample's view, length B.
        patches: N.

    Returns:
        float64, shape (B, N), in [0, 1).

    Raises:
        UsageError: ``keys`` and ``seeds`` differ in length.
    """
    if len(keys) != len(seeds):
        raise UsageError(f"mask noise: expected a seed for each key, found {len(keys)} keys and {len(seeds)} seeds")
    views = [(int(seed), key) for key, seed in zip(keys, seeds, strict=True)]
    return random_uniform_rows(patches, "mask", MASK_VERSION, run_seed, epoch, last=views)


def _earliest(lateness_BN: Floats_BN, count: int) -> NDArray[np.int64]:
    """Positions of the ``count`` least values of each row, ascending; ties are broken by position.

    They are the values up to the ``count``-th least. Only rows with ties at that value need sorting.
    """
    last_B1 = np.partition(lateness_BN, count - 1, axis=1)[:, count - 1 : count]
    arrived_BN = lateness_BN <= last_B1
    for row in np.flatnonzero(arrived_BN.sum(axis=1) != count):
        arrived_BN[row] = False
        arrived_BN[row, np.argsort(lateness_BN[row], kind="stable")[:count]] = True
    return np.nonzero(arrived_BN)[1].reshape(len(lateness_BN), count).astype(np.int64)


def _arrivals(importance: NDArray[np.float32], noise: Floats_BN) -> Floats_BN:
    """Arrival times of an exponential race. Their order is a draw without replacement proportional to importance.

    The negative logarithm of a time is log importance plus Gumbel noise, so the first k arrivals are the Gumbel-top-k.
    Patches without importance arrive after all others, in random order.
    """
    if not (np.isfinite(importance) & (importance >= 0)).all():
        row = int(np.flatnonzero(~(np.isfinite(importance) & (importance >= 0)).all(axis=1))[0])
        raise NumericalError(f"masking: importance of sample {row} of the batch is negative, NaN or infinite")
    waits_BN = -np.log1p(-noise)
    weights_BN = importance.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # np.where replaces x / 0 and 0 / 0
        return np.where(weights_BN > 0, waits_BN / weights_BN, _AFTER_ALL * (1 + waits_BN))


_LATENESS: dict[str, Callable[[NDArray[np.float32], Floats_BN], Floats_BN]] = {
    "attentive": _arrivals,
    "random": lambda importance, noise: noise,
    "hide-attentive": lambda importance, noise: -_arrivals(importance, noise),
}
"""Kind to a value for each patch; patches with the lowest values are visible."""

MASK_KINDS = tuple(_LATENESS)
"""Names of the kinds of masks."""
