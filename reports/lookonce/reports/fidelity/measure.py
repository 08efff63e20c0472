"""One pass over a reference: the errors of every precision, and their effect on a student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.reports.fidelity.error_meter import OUTLIER_RATIO, ChannelStatistics, ErrorMeter, channel_statistics
from lookonce.reports.fidelity.reference import Reference
from lookonce.reports.fidelity.report import FidelityReport, Outliers, PrecisionFidelity, StandInStudent
from lookonce.reports.fidelity.student_sensitivity import LOSS, TargetSensitivity
from lookonce.storage_schemas.arrays import cache_arrays
from lookonce.storage_schemas.precision import get_precision
from lookonce.storage_schemas.recipe import Recipe

Parameters = Mapping[str, NDArray[np.float32]]


def measure_fidelity(
    reference: Reference, *, student_error: float, progress: Callable[[int], object] = lambda views: None
) -> FidelityReport:
    """Measure every precision that the reference can judge.

    Args:
        reference: exact features.
        student_error: see ``TargetSensitivity``.
        progress: called with the number of views of each batch.

    Raises:
        LookonceError: see ``cache_reference`` and ``teacher_reference``.
    """
    names, left_out = reference.judged()
    calibrated, channels = _calibrate(reference, names)
    meters = {name: ErrorMeter(channels.outliers) for name in names}
    student, views = TargetSensitivity(channels.deviation, student_error=student_error), 0
    width = reference.recipe.teacher.width
    for exact in reference.batches():
        student.start_batch(exact)
        for name, parameters in calibrated.items():
            precision = get_precision(name)
            restored = precision.decode(precision.encode(exact, parameters), parameters, channels=width)
            meters[name].add(exact, restored)
            student.add(name, restored)
        views += len(exact)
        progress(len(exact))
    return FidelityReport(
        reference=reference.facts,
        views=views,
        student=StandInStudent(loss_function=LOSS, student_error=student_error, loss=student.student_loss),
        outliers=Outliers(
            ratio=OUTLIER_RATIO,
            channels=channels.outlier_channels(reference.recipe.teacher.blocks),
            largest_ratio=channels.largest_ratio,
        ),
        precisions={
            name: PrecisionFidelity(
                **_bytes_per_view(reference.recipe, name, store_pixels=reference.store_pixels),
                **meters[name].errors(),
                **student.changes(name),
            )
            for name in names
        },
        left_out=left_out,
    )


def _calibrate(reference: Reference, names: list[str]) -> tuple[dict[str, Parameters], ChannelStatistics]:
    """Parameters of each precision and statistics of the channels; the values themselves are freed on return."""
    values = reference.calibrate()
    return {name: get_precision(name).calibrate(values) for name in names}, channel_statistics(values)


def _bytes_per_view(recipe: Recipe, precision: str, *, store_pixels: bool) -> dict[str, Any]:
    sizes = {
        spec.name: spec.sample_bytes for spec in cache_arrays(recipe, precision=precision, store_pixels=store_pixels)
    }
    return {"target_bytes": sizes["targets"], "all_bytes": sum(sizes.values())}
