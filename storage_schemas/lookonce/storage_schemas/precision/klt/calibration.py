"""From sampled views to a code: streamed sums, eigenvectors, bits, and tables of levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookonce.storage_schemas.precision.base import TargetShape
from lookonce.storage_schemas.precision.element import rounded
from lookonce.storage_schemas.precision.int8 import Int8
from lookonce.storage_schemas.precision.klt.allocation import allocate_bits, expected_error
from lookonce.storage_schemas.precision.klt.quantisers import MAX_BITS, concatenated_levels, gaussian_levels
from lookonce.storage_schemas.precision.klt.record_sizes import RecordSizes, record_sizes
from lookonce.storage_schemas.precision.klt.spatial import spatial_basis
from lookonce.storage_schemas.precision.klt.view_code import TOKEN_BITS, ViewCode
from lookonce.storage_schemas.precision.lloyd_max import lloyd_max_levels

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

COSINES = (1, 2, 3)
"""Choices of cosines per axis for the coarse part; calibration takes the one with the least expected error."""

SAMPLED_TOKENS = 1 << 12
"""Tokens that are kept to fit tables of levels, about."""

FITTED_BITS = 5
"""Tables of up to so many bits are fitted to the components' distribution; finer ones are those of a Gaussian."""

SHRINKAGE = 0.5
"""Share of the tokens' covariance in that of the coarse part, which has a few samples per view only. Without it, the
error at 2 bits on other images is 7 % larger after 400 calibration views of 960 values."""

LEAST = 1e-12
"""Smallest variance of a component; eigenvalues of a singular covariance may come out negative."""

NEGLIGIBLE = 1e-6
"""Variance beside the coarse part, as a share of that of the coarse part, below which it is rounding."""

COMFORTABLE_TOKENS = 30
"""Calibration tokens per value of a token below which errors on other images grow noticeably."""


@dataclass(frozen=True)
class ExpectedLoss:
    """What a calibration expects of its code."""

    relative_error: float
    """Root mean square error of patch tokens over their root mean square."""
    components: int
    """Kept components m of N."""
    coarse_functions: int
    """Spatial functions F of the coarse part."""


class TargetStatistics:
    """Sums over calibration views; ``add`` streams, memory does not grow with tokens.

    Args:
        shape: of each view. Only views of all patches have cosines beyond the mean.
    """

    def __init__(self, shape: TargetShape) -> None:
        self._shape, self._patches = shape, shape.patches
        self._sum: Float64 | None = None
        self._products: Float64 | None = None
        self._coarse: list[Float32] = []
        self._classes: list[Float32] = []
        self._sampled: list[tuple[Float32, NDArray[np.int64]]] = []
        self._eigenvectors: dict[int, tuple[Float64, Float64]] = {}
        self._spectra: dict[tuple[int, int], _Spectrum] = {}
        self.views = 0

    @property
    def tokens(self) -> int:
        """Patch tokens seen."""
        return self.views * self._patches

    @property
    def shortage(self) -> str | None:
        """A sentence that says by how much there are too few tokens for good statistics; None if there are enough."""
        comfortable = COMFORTABLE_TOKENS * self._shape.layers * self._shape.channels
        if self.tokens >= comfortable:
            return None
        return (
            f"the KLT calibration saw {self.tokens:,} patch tokens of {self.views:,} views, and "
            f"{comfortable:,} are comfortable ({COMFORTABLE_TOKENS} for each value of a token), so errors on other "
            "images will be larger than they need to be"
        )

    def add(self, values: Float32) -> None:
        """Take views.

        Args:
            values: LayerNormed targets, float32 (V, 1 + k, L, C).
        """
        self._eigenvectors.clear()
        self._spectra.clear()
        count = len(values)
        patches = values[:, 1:].reshape(count, self._patches, -1)
        flat = patches.reshape(-1, patches.shape[-1])
        if self._sum is None or self._products is None:
            size = flat.shape[1]
            self._sum, self._products = np.zeros(size), np.zeros((size, size))
        self._sum += flat.sum(axis=0, dtype=np.float64)
        self._products += flat.T @ flat  # float32 inside a call, float64 across calls
        functions = spatial_basis(self._patches, self._most_functions)
        self._coarse.append(np.einsum("kf,vkn->vfn", functions, patches))
        self._classes.append(values[:, 0].copy())
        places = (np.arange(count)[:, None] * 7 + np.arange(4) * 53 + self.views) % self._patches
        self._sampled.append((np.take_along_axis(patches, places[..., None], axis=1), places))
        self.views += count

    @property
    def _most_functions(self) -> int:
        return max(self._choices()) ** 2

    def _choices(self) -> list[int]:
        """Numbers of cosines per axis that the grid allows."""
        most = math.isqrt(self._patches) if self._shape.all_patches else 1
        return [number for number in COSINES if number <= most]

    def code(self, rate: float) -> tuple[ViewCode, ExpectedLoss]:
        """The code of the least expected error; a second rate costs little.

        Args:
            rate: bits per value of a patch token, coarse part included.

        Raises:
            ValueError: no view was added.
        """
        if self._sum is None or self._products is None or not self.tokens:
            raise ValueError("calibration needs at least one view")
        sizes = record_sizes(rate, self._shape)
        most = max(self._choices())  # its bases serve to compare all choices
        allocations = {number: self._allocated(self._spectrum(number, most), sizes) for number in self._choices()}
        cosines = min(allocations, key=lambda number: allocations[number].error)
        best = self._allocated(self._spectrum(cosines, cosines), sizes)
        return self._finished(best), ExpectedLoss(
            relative_error=math.sqrt(best.error / max(np.trace(self._products) / self.views, LEAST)),
            components=int((best.token_bits > 0).sum()),
            coarse_functions=len(best.coarse_bits),
        )

    def _bases(self, cosines: int) -> tuple[Float64, Float64]:
        """Eigenvectors of tokens beside the coarse part, and those of the coarse part, both (N, N)."""
        if cosines not in self._eigenvectors:
            rest, sampled, prior = self._covariances(cosines)
            coarse = (1 - SHRINKAGE) * sampled + SHRINKAGE * prior
            self._eigenvectors[cosines] = _eigenvectors(rest), _eigenvectors(coarse)
        return self._eigenvectors[cosines]

    def _covariances(self, cosines: int) -> tuple[Float64, Float64, Float64]:
        """Covariance of tokens beside the coarse part, that of the coarse part, and the former scaled to the latter."""
        total, products = self._sums()
        mean, flat = total / self.tokens, self._coarse_of(cosines).reshape(-1, len(total))
        coarse_products = flat.T @ flat
        rest = (products - self.tokens * np.outer(mean, mean) - coarse_products) / self.tokens
        sampled = coarse_products / len(flat)
        if np.trace(rest) <= NEGLIGIBLE * np.trace(sampled):  # tokens of a view are alike; what is left is rounding
            return rest, sampled, sampled
        return rest, sampled, rest * (np.trace(sampled) / np.trace(rest))

    def _spectrum(self, cosines: int, basis_cosines: int) -> _Spectrum:
        """Variances with so many cosines per axis, along the bases of another number of them."""
        if (cosines, basis_cosines) not in self._spectra:
            self._spectra[cosines, basis_cosines] = self._computed_spectrum(cosines, *self._bases(basis_cosines))
        return self._spectra[cosines, basis_cosines]

    def _computed_spectrum(self, cosines: int, basis: Float64, coarse_basis: Float64) -> _Spectrum:
        rest, _, prior = self._covariances(cosines)
        variances = _variances(rest, basis)
        order = np.argsort(-variances, kind="stable")
        energy = np.square(self._coarse_of(cosines) @ coarse_basis).mean(axis=0)
        share = energy.sum(axis=1, keepdims=True) / max(energy.sum(), LEAST) * len(energy)  # of each spatial function
        coarse_variances = (1 - SHRINKAGE) * energy + SHRINKAGE * share * _variances(prior, coarse_basis)
        return _Spectrum(
            basis=basis,
            order=order,
            variances=variances[order],
            coarse_basis=coarse_basis,
            coarse_variances=np.maximum(coarse_variances, LEAST),
        )

    def _allocated(self, spectrum: _Spectrum, sizes: RecordSizes) -> _Allocation:
        variances, coarse_variances = spectrum.variances, spectrum.coarse_variances
        token_bits = allocate_bits(variances, 8 * sizes.token, most=TOKEN_BITS)
        coarse_bits = allocate_bits(coarse_variances.reshape(-1), 8 * sizes.coarse, most=MAX_BITS)
        error = self._patches * expected_error(variances, token_bits)
        error += expected_error(coarse_variances.reshape(-1), coarse_bits)
        return _Allocation(
            mean=self._sums()[0] / self.tokens,
            spectrum=spectrum,
            token_bits=token_bits,
            coarse_bits=coarse_bits.reshape(coarse_variances.shape),
            error=error,
            sizes=sizes,
        )

    def _sums(self) -> tuple[Float64, Float64]:
        if self._sum is None or self._products is None:
            raise ValueError("calibration needs at least one view")
        return self._sum, self._products

    def _coarse_of(self, cosines: int) -> Float64:
        """Coarse parts less that of the mean, with so many cosines per axis, float64 (views, cosines**2, N)."""
        along = math.isqrt(self._most_functions)
        grid = np.concatenate(self._coarse).astype(np.float64).reshape(self.views, along, along, -1)
        coarse = grid[:, :cosines, :cosines].reshape(self.views, cosines**2, -1)
        of_constant = spatial_basis(self._patches, cosines**2).astype(np.float64).sum(axis=0)
        centred: Float64 = coarse - of_constant[:, None] * (self._sums()[0] / self.tokens)
        return centred

    def _finished(self, best: _Allocation) -> ViewCode:
        kept, coarse_kept = best.token_bits > 0, (best.coarse_bits > 0).any(axis=0)
        token_bits, coarse_bits = best.token_bits[kept], best.coarse_bits[:, coarse_kept]
        spectrum = best.spectrum
        classes = Int8().calibrate(np.concatenate(self._classes))
        return ViewCode(
            mean=best.mean.astype(np.float32),
            basis=spectrum.basis[:, spectrum.order[kept]].astype(np.float16),
            token_bits=token_bits.astype(np.uint8),
            token_scale=rounded(np.sqrt(spectrum.variances[kept])),
            coarse_basis=spectrum.coarse_basis[:, coarse_kept].astype(np.float16),
            coarse_bits=coarse_bits.astype(np.uint8),
            coarse_scale=rounded(np.sqrt(spectrum.coarse_variances[:, coarse_kept])),
            levels=self._levels(best, int(max(token_bits.max(), coarse_bits.max(initial=0)))),
            class_scale=classes["scale"],
            class_offset=classes["offset"],
            record_bytes=np.array([best.sizes.token, best.sizes.coarse], dtype=np.int32),
        )

    def _levels(self, best: _Allocation, most: int) -> Float32:
        """Tables for 1 to ``most`` bits, those of few bits fitted to tokens of the calibration."""
        functions = spatial_basis(self._patches, len(best.coarse_bits)).astype(np.float64)
        coarse, start, rests = self._coarse_of(math.isqrt(len(best.coarse_bits))), 0, []
        for tokens, places in self._sampled:
            rest = tokens - best.mean - functions[places] @ coarse[start : start + len(tokens)]
            rests.append(rest.reshape(-1, rest.shape[-1]))
            start += len(tokens)
        sampled = np.concatenate(rests)
        basis, variances = best.spectrum.basis[:, best.spectrum.order], best.spectrum.variances
        normalised = sampled[:: max(1, len(sampled) // SAMPLED_TOKENS)] @ basis / np.sqrt(variances)
        tables = []
        for bits in range(1, most + 1):
            values = normalised[:, best.token_bits == bits]
            enough = bits <= FITTED_BITS and values.size >= 1000 * 2**bits
            fitted = rounded(lloyd_max_levels(np.sort(values, axis=None), 2**bits)) if enough else gaussian_levels(bits)
            tables.append(fitted)
        return concatenated_levels(tables)


@dataclass(frozen=True, kw_only=True)
class _Spectrum:
    """Full bases and the variances along them."""

    basis: Float64
    """Of tokens, (N, N)."""
    order: NDArray[np.int64]
    """Its columns by descending variance, (N,)."""
    variances: Float64
    """Of tokens in that order, (N,)."""
    coarse_basis: Float64
    """(N, N)."""
    coarse_variances: Float64
    """(F, N)."""


@dataclass(frozen=True, kw_only=True)
class _Allocation:
    """Bits of each component, in the order of the spectrum's variances."""

    mean: Float64
    spectrum: _Spectrum
    token_bits: NDArray[np.int64]
    coarse_bits: NDArray[np.int64]
    error: float
    """Expected squared error per view."""
    sizes: RecordSizes


def _variances(covariance: Float64, basis: Float64) -> Float64:
    """Variance along each column of an orthonormal basis, float64 (N,)."""
    variances: Float64 = np.maximum(((basis.T @ covariance) * basis.T).sum(axis=1), LEAST)
    return variances


def _eigenvectors(covariance: Float64) -> Float64:
    """Eigenvectors as columns, by descending eigenvalue."""
    vectors: Float64 = np.linalg.eigh(covariance)[1][:, ::-1]
    return vectors
