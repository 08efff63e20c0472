"""Indices of different widths in one record of fixed length: consecutive bits, the lowest bit first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

SPAN = 3
"""Bytes that an index of up to 12 bits can touch."""


@dataclass(frozen=True)
class BitRecord:
    """Where each component's index lies in a record.

    Attributes:
        bits: bits of each component, int64 (n,), 0 to 12; a component of 0 bits is not in the record.
        bytes: length of a record; bits behind the last component are 0.
    """

    bits: NDArray[np.int64]
    bytes: int

    @cached_property
    def first_byte(self) -> NDArray[np.int64]:
        """Byte in which each component's index starts, int64 (n,)."""
        return self._start // 8

    @cached_property
    def shift(self) -> NDArray[np.int64]:
        """Bits of that byte that belong to earlier components, int64 (n,)."""
        return self._start % 8

    @cached_property
    def mask(self) -> NDArray[np.int64]:
        """``2**bits - 1``, int64 (n,)."""
        return np.left_shift(1, self.bits) - 1

    @cached_property
    def bit_sources(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each bit of a record: which component it comes from, and which bit of its index; int64 (8 * bytes,).

        Padding bits come from bit 31 of component 0, which is always 0.
        """
        component = np.repeat(np.arange(len(self.bits)), self.bits)
        place = np.arange(len(component)) - np.repeat(self._start, self.bits)
        missing = 8 * self.bytes - len(component)
        return np.pad(component, (0, missing)), np.pad(place, (0, missing), constant_values=31)

    @property
    def _start(self) -> NDArray[np.int64]:
        return np.cumsum(self.bits) - self.bits

    def pack(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Indices int64 (..., n) to records uint8 (..., bytes)."""
        component, place = self.bit_sources
        planes = np.right_shift(indices[..., component], place) & 1
        return np.packbits(planes.astype(np.uint8), axis=-1, bitorder="little")

    def unpack(self, records: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Records uint8 (..., bytes) to indices int64 (..., n); components of 0 bits give 0."""
        padded = np.zeros((*records.shape[:-1], self.bytes + SPAN), dtype=np.int64)
        padded[..., : self.bytes] = records
        word = sum((padded[..., self.first_byte + byte] << (8 * byte) for byte in range(SPAN)), np.int64(0))
        return np.right_shift(word, self.shift) & self.mask
