"""One pass over a reference: the errors of every precision, and their effect on a student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from lookonce.reports.fidelity.error_meter import OUTLIER_RATIO, ChannelStatistics, ErrorMeter, channel_statistics
from lookonce.reports.fidelity.reference import Reference
from lookonce.reports.fidelity.report import FidelityReport, Outliers, PrecisionFidelity, StandInStudent
from lookonce.reports.fidelity.student_sensitivity import LOSS, TargetSensitivity
from lookonce.storage_schemas.arrays import cache_arrays, target_shape
from lookonce.storage_schemas.precision import KltPrecision, get_element_precision, get_precision
from lookonce.storage_schemas.precision.klt.calibration import TargetStatistics

Parameters = Mapping[str, NDArray[Any]]


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
    calibrated, channels, notes = _calibrate(reference, names)
    meters = {name: ErrorMeter(channels.outliers) for name in names}
    student, views = TargetSensitivity(channels.deviation, student_error=student_error), 0
    shape = target_shape(reference.recipe)
    for exact in reference.batches():
        student.start_batch(exact)
        for name, parameters in calibrated.items():
            precision = get_precision(name)
            restored = precision.decode_views(precision.encode_views(exact, parameters), parameters, shape)
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
                **_bytes_per_view(reference, name),
                **meters[name].errors(),
                **student.changes(name),
            )
            for name in names
        },
        left_out=left_out,
        notes=notes,
    )


def _calibrate(
    reference: Reference, names: list[str]
) -> tuple[dict[str, Parameters], ChannelStatistics, tuple[str, ...]]:
    """Parameters of each precision, statistics of the channels, and notes; the values are freed on return."""
    values, calibrated = reference.calibrate(), dict[str, Parameters]()
    statistics: TargetStatistics | None = None
    for name in names:
        precision = get_precision(name)
        if isinstance(precision, KltPrecision):
            if statistics is None:  # the same views serve all rates
                statistics = TargetStatistics(target_shape(reference.recipe))
                for views in reference.calibration_views():
                    statistics.add(views)
            calibrated[name] = statistics.code(precision.rate)[0].parameters()
        else:
            calibrated[name] = get_element_precision(name).calibrate(values)
    shortage = None if statistics is None else statistics.shortage
    notes = () if shortage is None else (f"{shortage}; judge with more images, or with higher --calibration-views",)
    return calibrated, channel_statistics(values), notes


def _bytes_per_view(reference: Reference, precision: str) -> dict[str, Any]:
    specs = cache_arrays(
        reference.recipe, precision=precision, store_pixels=reference.store_pixels, moments=reference.moments
    )
    sizes = {spec.name: spec.sample_bytes for spec in specs}
    encoded = [array.name for array in get_precision(precision).arrays(target_shape(reference.recipe))]
    return {
        "target_bytes": sum(sizes[name] for name in encoded),
        "all_bytes": sum(sizes.values()) + round(reference.jpeg_bytes),
    }
