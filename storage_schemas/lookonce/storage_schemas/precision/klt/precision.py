"""The KLT precisions as other parts of lookonce see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import Float32, Parameters, Precision, StoredArray, TargetShape
from lookonce.storage_schemas.precision.klt.allocation import allocate_bits
from lookonce.storage_schemas.precision.klt.calibration import COSINES, TargetStatistics
from lookonce.storage_schemas.precision.klt.quantisers import MAX_BITS, concatenated_levels, gaussian_levels
from lookonce.storage_schemas.precision.klt.record_sizes import record_sizes
from lookonce.storage_schemas.precision.klt.spatial import spatial_basis
from lookonce.storage_schemas.precision.klt.view_code import TOKEN_BITS, ViewCode

RATES = (2.0, 1.5, 1.0, 0.75, 0.5, 0.25)
"""Bits per value of a patch token, the coarse part included."""


TOKENS_PER_VALUE = 60
"""Calibration tokens per value of a token. With a quarter of them, errors on other images grow by 15 %."""

FEWEST_VIEWS, MOST_VIEWS = 256, 2048


def calibration_view_count(shape: TargetShape, asked: int = FEWEST_VIEWS) -> int:
    """How many views a KLT precision is calibrated from: a covariance needs samples in tens of its size.

    Args:
        shape: of each view.
        asked: views that a user asks for; ``FEWEST_VIEWS``, the default of commands, leaves the choice to the shape.

    >>> calibration_view_count(TargetShape(patches=196, layers=5, channels=768, all_patches=True))
    1176
    """
    if asked != FEWEST_VIEWS:
        return asked
    wanted = -(-TOKENS_PER_VALUE * shape.layers * shape.channels // shape.patches)
    return min(max(wanted, FEWEST_VIEWS), MOST_VIEWS)


def gathered_statistics(
    batches: Iterable[Float32], shape: TargetShape, warn: Callable[[str], object] = lambda shortage: None
) -> TargetStatistics:
    """Statistics of sample views; see ``KltPrecision.calibrate_views``."""
    statistics = TargetStatistics(shape)
    for targets in batches:
        statistics.add(targets)
    if statistics.shortage is not None:
        warn(statistics.shortage)
    return statistics


class KltPrecision(Precision):
    """Transform coding at ``rate`` bits per value of a patch token; class tokens take a byte per value."""

    calibrated: ClassVar[bool] = True
    parameters_apart: ClassVar[bool] = True

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.name = f"klt{rate:g}"  # type: ignore[misc]  # an instance of its own per rate

    @property
    def bits_per_value(self) -> float:
        """``rate``."""
        return self.rate

    def arrays(self, shape: TargetShape) -> tuple[StoredArray, ...]:
        """Records of patch tokens, the view's coarse record, and the class token."""
        sizes = record_sizes(self.rate, shape)
        return (
            StoredArray(
                name="targets",
                dtype="uint8",
                shape=(shape.patches, sizes.token),
                dimensions=("patch", "byte"),
                tokens="patches",
            ),
            StoredArray(
                name="coarse_targets", dtype="uint8", shape=(sizes.coarse,), dimensions=("byte",), tokens="none"
            ),
            StoredArray(
                name="class_targets",
                dtype="uint8",
                shape=(shape.layers, shape.channels),
                dimensions=("layer", "channel"),
                tokens="none",
            ),
        )

    def calibrate_views(
        self, batches: Iterable[Float32], shape: TargetShape, warn: Callable[[str], object] = lambda shortage: None
    ) -> dict[str, NDArray[Any]]:
        """Compute parameters from sample views.

        Args:
            batches: targets float32 (V, 1 + k, L, C) of the calibration views; read once.
            shape: of each view.
            warn: called with a sentence if there are too few tokens, see ``TargetStatistics.shortage``.

        Raises:
            ValueError: there are no views.
        """
        return gathered_statistics(batches, shape, warn).code(self.rate)[0].parameters()

    def stand_in(self, shape: TargetShape) -> dict[str, NDArray[Any]]:
        """Parameters of plausible sizes and no use, for planning before calibration.

        Variances fall so that the numbers of kept components are those of DeiT-Tiny's blocks 8 to 12, to 15 %.
        """
        sizes, values = record_sizes(self.rate, shape), shape.layers * shape.channels
        cosines = min(max(COSINES), math.isqrt(shape.patches)) if shape.all_patches else 1
        variances = _plausible_variances(shape, of_next_block=0.12, exponent=0.6)
        coarse_variances = np.tile(_plausible_variances(shape, of_next_block=0.45, exponent=0.4), (cosines**2, 1))
        token_bits = allocate_bits(variances, 8 * sizes.token, most=TOKEN_BITS)
        coarse_bits = allocate_bits(coarse_variances.reshape(-1), 8 * sizes.coarse, most=MAX_BITS)
        coarse_bits = coarse_bits.reshape(coarse_variances.shape)
        kept, coarse_kept = token_bits > 0, (coarse_bits > 0).any(axis=0)
        most = int(max(token_bits.max(), coarse_bits.max()))
        return ViewCode(
            mean=np.zeros(values, dtype=np.float32),
            basis=np.zeros((values, kept.sum()), dtype=np.float16),
            token_bits=token_bits[kept].astype(np.uint8),
            token_scale=np.ones(kept.sum(), dtype=np.float32),
            coarse_basis=np.zeros((values, coarse_kept.sum()), dtype=np.float16),
            coarse_bits=coarse_bits[:, coarse_kept].astype(np.uint8),
            coarse_scale=np.ones((cosines**2, coarse_kept.sum()), dtype=np.float32),
            levels=concatenated_levels([gaussian_levels(bits) for bits in range(1, most + 1)]),
            class_scale=np.ones((shape.layers, shape.channels), dtype=np.float32),
            class_offset=np.zeros((shape.layers, shape.channels), dtype=np.float32),
            record_bytes=np.array([sizes.token, sizes.coarse], dtype=np.int32),
        ).parameters()

    def encode_views(self, targets: Float32, parameters: Parameters) -> dict[str, NDArray[Any]]:
        """See ``ViewCode.encode``."""
        return dict(ViewCode.from_parameters(parameters).encode(targets))

    def decode_views(
        self,
        stored: Mapping[str, NDArray[Any]],
        parameters: Parameters,
        shape: TargetShape,
        tokens: NDArray[np.int64] | None = None,
    ) -> Float32:
        """See ``ViewCode.decode_patches``."""
        code, views = ViewCode.from_parameters(parameters), len(stored["class_targets"])
        if tokens is None:
            tokens = np.broadcast_to(np.arange(shape.patches + 1), (views, shape.patches + 1))
        patches = code.decode_patches(stored["targets"], stored["coarse_targets"], tokens[:, 1:] - 1, shape.patches)
        return np.concatenate([code.decode_class(stored["class_targets"])[:, None], patches], axis=1)

    def parameter_problem(self, parameters: Parameters, shape: TargetShape) -> str | None:
        """Why parameters do not fit, or None."""
        try:
            code = ViewCode.from_parameters(parameters)
            code.check_values()
            spatial_basis(shape.patches, code.functions)
        except KeyError as missing:
            return f"precision {self.name} needs the parameter {missing.args[0]!r}, found {sorted(parameters)}"
        except ValueError as error:
            return str(error)
        sizes = record_sizes(self.rate, shape)
        for name, found, expected in (
            ("'class_scale' has shape", [code.layers, code.channels], [shape.layers, shape.channels]),
            ("'record_bytes' is", code.record_bytes.tolist(), [sizes.token, sizes.coarse]),
        ):
            if found != expected:
                return f"{name} {found}, expected {expected}"
        return None

    def outside_share(self, targets: Float32, parameters: Parameters) -> float:
        """See ``ViewCode.outside_share``."""
        return ViewCode.from_parameters(parameters).outside_share(targets)


def _plausible_variances(shape: TargetShape, *, of_next_block: float, exponent: float) -> NDArray[np.float64]:
    """Variances of a token's components, float64 (N,), descending.

    What all blocks share comes first, and each further block adds a fraction ``of_next_block`` of the one before.
    """
    block = np.power(np.arange(1, shape.channels + 1, dtype=np.float64), -exponent)
    variances: NDArray[np.float64] = np.outer(np.power(of_next_block, np.arange(shape.layers)), block)
    return -np.sort(-variances, axis=None)
