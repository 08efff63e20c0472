"""Counter-based random numbers: a pure function of what they are for, never of worker, order or library state.

A stream is Philox4x64-10 (Salmon et al., SC 2011) keyed by the first 128 bits of SHA-256 of its purpose. Only raw
64-bit words are taken from numpy, whose Philox bit stream is fixed; every distribution is made here, so that no
library version can change a view, a mask or an order.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def random_words(count: int, *purpose: str | int) -> NDArray[np.uint64]:
    """``count`` random 64-bit words of the stream named by ``purpose``.

    Args:
        count: how many words.
        purpose: what the numbers are for, most general first, e.g. ``"view", 1, seed, key``.

    Returns:
        uint64, shape (count,).

    >>> random_words(2, "doctest", 1).tolist() == random_words(3, "doctest", 1)[:2].tolist()
    True
    """
    name = "\x1f".join(f"{type(part).__name__[0]}{part}" for part in purpose).encode("utf-8")
    key = np.frombuffer(hashlib.sha256(name).digest()[:16], dtype="<u8")
    words: NDArray[np.uint64] = np.random.Philox(counter=0, key=key.astype(np.uint64)).random_raw(count)
    return words


def random_uniform(count: int, *purpose: str | int) -> NDArray[np.float64]:
    """``count`` floats in [0, 1), multiples of 2**-53, of the stream named by ``purpose``.

    >>> bool((random_uniform(100, "doctest") < 1).all())
    True
    """
    return (random_words(count, *purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def random_permutation(count: int, *purpose: str | int) -> NDArray[np.int64]:
    """A permutation of ``range(count)``: the stable argsort of ``count`` random words of the stream.

    >>> sorted(random_permutation(5, "doctest").tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(random_words(count, *purpose), kind="stable").astype(np.int64)
