"""The drift check: whether the teacher still gives the features that a cache contains.

The teacher runs on sampled views twice, in batches of another size the second time. Their difference is the control:
what stored and fresh values may differ by follows from it (see ``report``). Fresh values are encoded and decoded as
stored ones were, so that quantisation is no drift.

Targets of a cache that was converted to fewer bits were quantised twice, and nothing says what the precision before
was. So fresh targets are also quantised twice, first by each precision that has more bits, calibrated on the sampled
views: the largest difference from those quantised once is what a conversion may have added. Importance and the tokens'
means and standard deviations are not quantised: by them a converted cache is judged as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookonce.cache.layout import CacheLayout
from lookonce.cache.read.reader import CacheReader
from lookonce.extract.teachers import Teacher, load_teacher, resolve_teacher
from lookonce.extract.teachers.teacher import Precision as ComputePrecision
from lookonce.reports.drift.report import DifferenceTally, DriftReport
from lookonce.reports.drift.sampled_views import SampledView, places, sample_views, whole_views
from lookonce.shared.errors import CacheMismatchError, NumericalError
from lookonce.shared.normalisation import RGB, Normalisation
from lookonce.storage_schemas.arrays import MOMENT_ARRAYS, target_shape
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import PRECISIONS, ElementPrecision, Precision, TargetShape, get_precision
from lookonce.storage_schemas.recipe import Recipe
from lookonce.weights.device import resolve_device

# B: views of a batch, T: stored tokens, L: stored blocks, C: channels, N: patches of a view.
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DriftRequest:
    """The request of a drift check."""

    cache: Path
    """Cache folder; seeds that are not whole are left out."""
    teacher_weights: Path | None = None
    """Weights file; None for the hub cache or the hub."""
    mean: RGB | None = None
    """What is subtracted from the teacher's pixels; None for what the cache was made with."""
    std: RGB | None = None
    """What they are then divided by; None likewise."""
    images: str | None = None
    """Images that the cache was made from; needed only if it does not store whole views."""
    views: int = 32
    """Views to sample, at least 1."""
    sample_seed: int = 0
    """Which views are sampled."""
    batch_size: int = 32
    """Views per forward pass of the first run, at least 1; the control takes one at a time (two, if this is 1)."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""

    @property
    def control_batch_size(self) -> int:
        """Views per forward pass of the second run."""
        return 1 if self.batch_size > 1 else 2


def check_drift(request: DriftRequest, progress: Callable[[int, int], None] = lambda done, total: None) -> DriftReport:
    """Compare stored values with those of a teacher that is rebuilt from the manifest.

    Args:
        request: what to compare.
        progress: called with the number of views done and of all views.

    Raises:
        UsageError: images are needed and not given, or the device does not exist.
        TeacherError: the weights are not available or do not fit.
        CacheError: there is no cache, no seed is complete, or every sample is a hole.
        CacheMismatchError: this library builds another teacher under that name, or replayed views have other pixels.
        NumericalError: the teacher gives NaN or infinity; names the sample.
    """
    layout = CacheLayout(request.cache)
    manifest = layout.load_manifest()
    reader = CacheReader(request.cache, seeds=layout.complete_seeds(manifest.shard_count) or None)
    recipe, pixels_of = manifest.recipe, whole_views(reader, request.images)
    sampled = sample_views(reader, request.views, request.sample_seed)
    teacher = _rebuild(recipe, request)
    sources = _Sources(manifest.encoding, target_shape(recipe))
    tally = DifferenceTally([*(f"block {block}" for block in recipe.teacher.blocks), "importance"])
    window = max(request.batch_size, request.control_batch_size)
    for start in range(0, len(sampled), window):
        batch = sampled[start : start + window]
        pixels = torch.from_numpy(pixels_of(batch))
        fresh = _run_teacher(teacher, pixels, request.batch_size, reader, batch)
        control = _run_teacher(teacher, pixels, request.control_batch_size, reader, batch)
        tally.add(batch, _differences(reader, batch, fresh, control, sources))
        progress(start + len(batch), len(sampled))
    return DriftReport(
        cache=str(request.cache),
        teacher=teacher.spec.name,
        compute_precision=teacher.precision,
        stored_precision=manifest.encoding.precision,
        stored_moments=manifest.moments,
        normalisation=str(Normalisation(mean=teacher.spec.mean, std=teacher.spec.std)),
        activation=teacher.trunk.activation,
        device=teacher.mean.device.type,
        views=len(sampled),
        batch_sizes=(request.batch_size, request.control_batch_size),
        teacher_differences=_teacher_differences(recipe, teacher),
        deviations=tally.deviations(teacher.precision),
    )


def _rebuild(recipe: Recipe, request: DriftRequest) -> Teacher:
    cached = recipe.teacher
    teacher = load_teacher(
        resolve_teacher(cached.name),
        weights=request.teacher_weights,
        view_size=recipe.view_size,
        patch_size=recipe.patch_size,
        blocks=",".join(map(str, cached.blocks)),
        device=resolve_device(request.device),
        precision=cast("ComputePrecision", cached.compute_precision),
        normalisation=Normalisation(mean=cached.mean, std=cached.std).replaced(request.mean, request.std),
        announce=False,  # the report names the normalisation
    )
    found, expected = (teacher.block_count, teacher.width), (cached.block_count, cached.width)
    if found != expected:
        raise CacheMismatchError(
            f"{request.cache}: its teacher {cached.name} has {expected[0]} blocks of {expected[1]} channels; what is "
            f"installed here builds {found[0]} of {found[1]}: install the versions that its receipts name"
        )
    return teacher


def _teacher_differences(recipe: Recipe, teacher: Teacher) -> tuple[tuple[str, Any, Any], ...]:
    """Differences that name and sizes do not exclude, the weights first."""
    now = {
        "weights_digest": teacher.weights_digest,
        "input_size": teacher.input_size,
        "mean": teacher.spec.mean,
        "std": teacher.spec.std,
    }
    cached = {name: getattr(recipe.teacher, name) for name in now}
    return tuple((name, cached[name], value) for name, value in now.items() if cached[name] != value)


@dataclass(frozen=True)
class _Fresh:
    """Output of the teacher now, for the stored tokens."""

    targets: Floats
    """(B, T, L, C)."""
    moments: Floats
    """Means and standard deviations of tokens before normalisation, (2, B, T, L)."""
    importance: Floats
    """(B, N)."""


def _run_teacher(
    teacher: Teacher, pixels: Tensor, batch_size: int, reader: CacheReader, views: Sequence[SampledView]
) -> _Fresh:
    features_of_parts = [teacher.extract(part) for part in torch.split(pixels, batch_size)]
    targets, mean, std, importance = (
        torch.cat([getattr(features, name) for features in features_of_parts]).cpu().numpy()
        for name in ("targets", "mean", "std", "importance")
    )
    finite = np.logical_and(np.isfinite(targets.reshape(len(targets), -1)).all(1), np.isfinite(importance).all(1))
    for number, view in enumerate(views):
        if not finite[number]:
            raise NumericalError(
                f"sample {view.key!r}, seed {view.seed}: the teacher's features have NaN or infinity; check the weights"
            )
    moments = np.stack([mean, std])
    if not reader.manifest.recipe.tokens.keeps_all:
        kept = np.pad(reader.read("patch_ids", *places(views)).astype(np.int64) + 1, ((0, 0), (1, 0)))
        targets = np.take_along_axis(targets, kept[:, :, None, None], axis=1)
        moments = np.take_along_axis(moments, kept[None, :, :, None], axis=2)
    return _Fresh(targets, moments, importance)


class _Sources:
    """The precisions that a cache may have been converted from: all of more bits than it has.

    Args:
        encoding: the cache's.
        shape: of a view's targets.
    """

    def __init__(self, encoding: Encoding, shape: TargetShape) -> None:
        self._encoding, self._shape, self._own = encoding, shape, get_precision(encoding.precision)
        self._precisions = [
            one
            for one in PRECISIONS.values()
            if isinstance(one, ElementPrecision) and one.bits > self._own.bits_per_value
        ]
        self._parameters: dict[str, Mapping[str, Floats]] = {}

    def requantised(self, values: Floats) -> Floats:
        """Values as they are when they were encoded and decoded once, by the cache's own precision."""
        return _decoded(self._own, values, self._encoding.parameters, self._shape)

    def added(self, values: Floats, once: Floats) -> NDArray[np.float64]:
        """Mean difference (B, L) that the worst of them would have added; 0 if there are none.

        Args:
            values: fresh targets (B, T, L, C); the first ones calibrate.
            once: what ``requantised`` makes of them.
        """
        worst = np.zeros((len(values), values.shape[2]))
        for precision in self._precisions:
            if precision.name not in self._parameters:
                self._parameters[precision.name] = precision.calibrate(values.reshape(-1, *values.shape[2:]))
            twice = self.requantised(_decoded(precision, values, self._parameters[precision.name], self._shape))
            worst = np.maximum(worst, np.abs(twice - once).mean(axis=(1, 3), dtype=np.float64))
        return worst


def _decoded(precision: Precision, values: Floats, parameters: Mapping[str, Any], shape: TargetShape) -> Floats:
    return precision.decode_views(precision.encode_views(values, parameters), parameters, shape)


def _moved_moments(reader: CacheReader, views: Sequence[SampledView], fresh: Floats) -> Floats:
    """Differences of stored moments from fresh ones in the stored dtype, (2, B, T, L); 0 if the cache stores none."""
    if reader.manifest.moments == "none":
        return np.zeros_like(fresh)
    stored = np.stack([reader.read(name, *places(views)) for name in MOMENT_ARRAYS])
    return np.abs(stored.astype(np.float32) - fresh.astype(stored.dtype).astype(np.float32))


def _differences(
    reader: CacheReader, views: Sequence[SampledView], fresh: _Fresh, control: _Fresh, sources: _Sources
) -> dict[str, NDArray[np.float64]]:
    """What ``DifferenceTally.add`` takes, each (B, L + 1): the blocks, then importance."""
    again = sources.requantised(fresh.targets)
    stored = reader.read_targets(*places(views))
    importance, usual = reader.read("importance", *places(views)), fresh.importance.mean(axis=1, keepdims=True)
    moments = _moved_moments(reader, views, fresh.moments), np.abs(control.moments - fresh.moments)
    targets = np.abs(stored - again), np.abs(fresh.targets - control.targets)
    relative = np.abs(importance - fresh.importance) / usual, np.abs(fresh.importance - control.importance) / usual
    scale = fresh.moments[1].mean(axis=1)
    nothing = np.zeros((len(views), 1))
    measured = {"conversion": np.concatenate([sources.added(fresh.targets, again), nothing], axis=1)}
    for prefix, one, other, third in zip(("", "control_"), targets, relative, moments, strict=True):
        for name, reduce in (("mean", np.mean), ("largest", np.max)):
            columns = [reduce(one, axis=(1, 3)), reduce(other, axis=1, keepdims=True)]
            measured[prefix + name] = np.concatenate(columns, axis=1).astype(np.float64)
        moved = third.mean(axis=(0, 2)) / scale
        measured[f"{prefix}moments"] = np.concatenate([moved, nothing], axis=1).astype(np.float64)
    return measured
