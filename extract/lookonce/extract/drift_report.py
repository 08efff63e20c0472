"""What a drift check found, and the rule by which it is drift.

The rule: over all sampled views, the mean difference between stored and fresh values of a block may be ``FACTOR``
times the control's, at least ``FLOOR``. The mean, not the largest: rounding has a heavy tail (its largest difference
is a thousand times its mean), and the mean of many values does not depend on the precision they are stored in, as a
value that moves by a hundredth of a quantisation step is stored a whole step away with a chance of a hundredth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.extract.drift_samples import SampledView

FACTOR = 4.0
"""What a third run may differ by, in means of the difference of two."""

FLOOR: Mapping[str, float] = {"fp32": 3e-5, "fp16": 4e-3, "bf16": 4e-2}
"""Mean difference that is no drift by compute precision, as two runs on one machine often agree to the last bit.

Several times what other arithmetic in the same precision made of DeiT-Tiny's twelve blocks: fp32 with other matrix
kernels 3e-6; fp16 against fp32 1.1e-3, and 2.1e-3 in importance; bf16 1.1e-2 and 2.1e-2. Weights rounded to bf16 make
5e-3, pixels of which one in a hundred is off by one 5e-3.
"""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far stored values are from fresh ones, in one block's targets or in importance."""

    name: str
    """``block 12`` or ``importance``."""
    mean: float
    """Mean absolute difference between stored and fresh values, both decoded; importance is relative to its mean."""
    largest: float
    """Largest absolute difference."""
    control_mean: float
    """Mean absolute difference between the two fresh runs, before encoding."""
    control_largest: float
    """Largest absolute difference between the two fresh runs."""
    allowed: float
    """What ``mean`` may be."""
    worst: SampledView
    """View with the largest mean difference."""
    worst_mean: float
    """Its mean difference."""

    @property
    def drifted(self) -> bool:
        """Whether the stored values are not what this teacher gives."""
        return not self.mean <= self.allowed  # NaN is drift

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return {**asdict(self), "drifted": self.drifted}


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """What a drift check found."""

    cache: str
    teacher: str
    compute_precision: str
    stored_precision: str
    normalisation: str
    """Of the teacher's pixels, in words."""
    activation: str
    """Of the teacher's blocks."""
    device: str
    views: int
    batch_sizes: tuple[int, int]
    """Views a forward of the first run, and of the control."""
    teacher_differences: tuple[tuple[str, Any, Any], ...]
    """What differs between the cache's teacher and this one: (field, the cache's value, this one's)."""
    deviations: tuple[Deviation, ...]
    """One for each stored block, then one for importance."""

    @property
    def drifted(self) -> bool:
        """Whether any of them drifted."""
        return any(deviation.drifted for deviation in self.deviations)

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        rest = {name: value for name, value in asdict(self).items() if name not in ("deviations", "batch_sizes")}
        differences = [dict(zip(("field", "cache", "now"), one, strict=True)) for one in self.teacher_differences]
        return {
            **rest,
            "batch_sizes": list(self.batch_sizes),
            "teacher_differences": differences,
            "deviations": [deviation.document() for deviation in self.deviations],
            "rule": {"factor": FACTOR, "floor": FLOOR[self.compute_precision]},
            "drifted": self.drifted,
        }


class DifferenceTally:
    """Gathers differences by view and by name; a few numbers a view.

    Args:
        names: of what is compared, as many as the columns of every batch.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._views = tuple(names), list[SampledView]()
        self._rows: dict[str, list[NDArray[np.float64]]] = {
            name: [] for name in ("mean", "largest", "control_mean", "control_largest")
        }

    def add(self, views: Sequence[SampledView], measured: Mapping[str, NDArray[np.float64]]) -> None:
        """Add a batch.

        Args:
            views: the batch's, B.
            measured: ``mean``, ``largest``, ``control_mean`` and ``control_largest``, each (B, names).
        """
        self._views.extend(views)
        for name, rows in self._rows.items():
            rows.append(measured[name])

    def deviations(self, compute_precision: str) -> tuple[Deviation, ...]:
        """One for each name."""
        table = {name: np.concatenate(rows) for name, rows in self._rows.items()}
        return tuple(self._deviation(table, column, compute_precision) for column in range(len(self._names)))

    def _deviation(self, table: Mapping[str, NDArray[np.float64]], column: int, compute_precision: str) -> Deviation:
        mean, control_mean = table["mean"][:, column], float(table["control_mean"][:, column].mean())
        worst = int(mean.argmax())
        return Deviation(
            name=self._names[column],
            mean=float(mean.mean()),
            largest=float(table["largest"][:, column].max()),
            control_mean=control_mean,
            control_largest=float(table["control_largest"][:, column].max()),
            allowed=max(FACTOR * control_mean, FLOOR[compute_precision]),
            worst=self._views[worst],
            worst_mean=float(mean[worst]),
        )
