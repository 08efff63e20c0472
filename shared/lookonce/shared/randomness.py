"""Counter-based random numbers: a pure function of their purpose, independent of worker, order and library state.

A stream is Philox4x64-10 (Salmon et al., SC 2011), keyed by the first 128 bits of the SHA-256 of its purpose. numpy
gives only raw 64-bit words, and its Philox bit stream is fixed. All distributions are computed here, so that no library
version can change a view, a mask or an order.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_SEPARATOR = b"\x1f"
_KEY_BYTES = 16


def random_words(count: int, *purpose: str | int) -> NDArray[np.uint64]:
    """``count`` random 64-bit words of the stream named by ``purpose``.

    Args:
        count: number of words.
        purpose: name of the stream, most general part first, such as ``"view", 1, seed, key``.

    Returns:
        uint64, shape (count,).

    >>> random_words(2, "doctest", 1).tolist() == random_words(3, "doctest", 1)[:2].tolist()
    True
    """
    return _Streams.of_thread().words(count, _stream_key(*purpose))


def random_uniform(count: int, *purpose: str | int) -> NDArray[np.float64]:
    """``count`` floats in [0, 1), multiples of 2**-53, of the stream named by ``purpose``.

    >>> bool((random_uniform(100, "doctest") < 1).all())
    True
    """
    return _uniform(random_words(count, *purpose))


def random_uniform_rows(count: int, *purpose: str | int, last: Iterable[tuple[str | int, ...]]) -> NDArray[np.float64]:
    """One row ``random_uniform(count, *purpose, *rest)`` for each ``rest`` of ``last``, faster.

    The common part of the streams' names is hashed once.

    Returns:
        float64, shape (rows, count).

    >>> rows = random_uniform_rows(3, "doctest", last=[(1, "a"), (2, "b")])
    >>> bool((rows[1] == random_uniform(3, "doctest", 2, "b")).all())
    True
    """
    common = hashlib.sha256(_stream_name(*purpose))
    separator = _SEPARATOR if purpose else b""
    digests = []
    for rest in last:
        hasher = common.copy()
        hasher.update(separator + _stream_name(*rest))
        digests.append(hasher.digest()[:_KEY_BYTES])
    keys = np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64).reshape(-1, 2)
    streams = _Streams.of_thread()
    words = np.empty((len(keys), count), dtype=np.uint64)
    for row, key in enumerate(keys):
        words[row] = streams.words(count, key)
    return _uniform(words)


def random_permutation(count: int, *purpose: str | int) -> NDArray[np.int64]:
    """A permutation of ``range(count)``: the stable argsort of ``count`` random words of the stream.

    >>> sorted(random_permutation(5, "doctest").tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(random_words(count, *purpose), kind="stable").astype(np.int64)


class _Streams:
    """A generator that is set to the start of each stream: creating one costs more than a few hundred numbers."""

    _threads = threading.local()

    def __init__(self) -> None:
        self._generator = np.random.Philox(counter=0, key=0)
        self._start = self._generator.state

    @classmethod
    def of_thread(cls) -> _Streams:
        """The one of the calling thread."""
        found: _Streams | None = getattr(cls._threads, "streams", None)
        if found is None:
            found = cls._threads.streams = cls()
        return found

    def words(self, count: int, key: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The first words of a stream."""
        self._start["state"]["key"] = key
        self._generator.state = self._start
        words: NDArray[np.uint64] = self._generator.random_raw(count)
        return words


def _stream_key(*purpose: str | int) -> NDArray[np.uint64]:
    digest = hashlib.sha256(_stream_name(*purpose)).digest()[:_KEY_BYTES]
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def _stream_name(*purpose: str | int) -> bytes:
    return _SEPARATOR.join([f"{type(part).__name__[0]}{part}".encode() for part in purpose])


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
