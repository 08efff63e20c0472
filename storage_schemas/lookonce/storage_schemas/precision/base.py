"""What every precision declares: which arrays it stores of a view, and how it encodes and decodes them.

``element.py`` has the precisions that store values one by one, ``klt/`` those that code a view as a whole.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Parameters = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class TargetShape:
    """Shape of a view's targets."""

    patches: int
    """Stored patches k; the class token comes on top."""
    layers: int
    """Stored blocks L."""
    channels: int
    """Channels C of a block output."""
    all_patches: bool
    """Whether the stored patches are all of the view's, row by row of its grid."""


@dataclass(frozen=True, kw_only=True)
class StoredArray:
    """One array that a precision stores of a view."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    dimensions: tuple[str, ...]
    tokens: Literal["all", "patches", "none"]
    """What the first axis counts: the class token and the patches, the patches alone, or no tokens."""


class Precision(abc.ABC):
    """One way to store the targets of a view. It has no state: calibrated arrays are passed as ``Parameters``.

    Targets are LayerNormed teacher features, float32 (V, 1 + k, L, C): views, class token and patches, layers,
    channels.
    """

    name: ClassVar[str]
    calibrated: ClassVar[bool]
    """Whether parameters are computed from sample views."""
    parameters_apart: ClassVar[bool] = False
    """Whether parameters are too large for the manifest and lie in an object of their own (schema version 2)."""

    @property
    @abc.abstractmethod
    def bits_per_value(self) -> float:
        """Bits per value of a patch token."""

    @abc.abstractmethod
    def arrays(self, shape: TargetShape) -> tuple[StoredArray, ...]:
        """The arrays that ``encode_views`` returns, in the order in which they are stored."""

    @abc.abstractmethod
    def encode_views(self, targets: Float32, parameters: Parameters) -> dict[str, NDArray[Any]]:
        """Encode targets float32 (V, 1 + k, L, C) to the arrays of ``arrays``, each (V, *shape)."""

    @abc.abstractmethod
    def decode_views(
        self,
        stored: Mapping[str, NDArray[Any]],
        parameters: Parameters,
        shape: TargetShape,
        tokens: NDArray[np.int64] | None = None,
    ) -> Float32:
        """Decode views.

        Args:
            stored: arrays as ``encode_views`` returns them. With ``tokens``, the first axis after the views of those
                that have tokens contains the chosen ones only.
            parameters: parameters of the cache.
            shape: of a whole view.
            tokens: int64 (V, n), positions of the chosen tokens, 0 for the class token, which must be among them and
                first; None for all.

        Returns:
            float32 (V, n, L, C).
        """

    @abc.abstractmethod
    def parameter_problem(self, parameters: Parameters, shape: TargetShape) -> str | None:
        """Why the precision cannot use ``parameters``, or None if it can.

        Args:
            parameters: as calibration returns them.
            shape: of each view.
        """

    @abc.abstractmethod
    def outside_share(self, targets: Float32, parameters: Parameters) -> float:
        """Share (0..1) of values float32 (V, 1 + k, L, C) that lie outside the range that the parameters represent."""
