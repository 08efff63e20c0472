"""What a drift check found, and the rule by which it is drift.

The rule: over all sampled views, the mean difference between stored and fresh values of a block may be ``FACTOR``
times the control's, at least ``FLOOR``. The mean, not the largest: rounding has a heavy tail (its largest difference
is a thousand times its mean), and the mean of many values does not depend on the precision they are stored in, as a
value that moves by a hundredth of a quantisation step is stored a whole step away with a chance of a hundredth.

A conversion to fewer bits quantises targets a second time, which shows as drift does. It touches every block and every
view, and neither importance nor the means and standard deviations of tokens. Where differences are of that kind (all
blocks' targets beyond what is allowed, no view with more than ``ONE_VIEW`` of a block's difference, importance and
moments as they were), the teacher gives what it gave: then ``CONVERSION`` times what a conversion may have added
(measured, see ``drift``) is allowed on top. What differs by more than that has been changed otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookonce.reports.drift.sampled_views import SampledView
from lookonce.shared.printing import Result

FACTOR = 4.0
"""Allowed difference, as a multiple of the mean difference between two runs."""

FLOOR: Mapping[str, float] = {"fp32": 3e-5, "fp16": 4e-3, "bf16": 4e-2}
"""Mean difference that is no drift by compute precision, as two runs on one machine often agree to the last bit.

Several times what other arithmetic in the same precision made of DeiT-Tiny's twelve blocks: fp32 with other matrix
kernels 3e-6; fp16 against fp32 1.1e-3, and 2.1e-3 in importance; bf16 1.1e-2 and 2.1e-2. Weights rounded to bf16 make
5e-3, pixels of which one in a hundred is off by one 5e-3.
"""


MOMENTS = 0.1
"""Part of ``FLOOR`` that means and standard deviations of tokens may differ by, relative to the standard deviation:
they are over all channels, whose rounding cancels."""

CONVERSION = 1.5
"""What a conversion may have added, as a multiple of what was measured: it was calibrated on other views, and may have
been one of several."""

ONE_VIEW, FEW_VIEWS = 0.5, 4
"""Most of a block's difference that one view may have after a conversion; with fewer views this is not checked."""


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
    moments: float
    """Mean absolute difference of tokens' means and standard deviations, relative to the standard deviation; 0 of
    importance."""
    control_moments: float
    """The same between the two fresh runs."""
    allowed: float
    """Largest ``mean`` that is not drift."""
    conversion: float
    """Part of ``allowed`` that a conversion to fewer bits may have added; 0 where differences are not of its kind."""
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
class DriftReport(Result):
    """Result of a drift check."""

    cache: str
    teacher: str
    compute_precision: str
    stored_precision: str
    stored_moments: str
    """dtype of the stored means and standard deviations of tokens, or ``none``: then they are not compared."""
    normalisation: str
    """Of the teacher's pixels, in words."""
    activation: str
    """Of the teacher's blocks."""
    device: str
    views: int
    batch_sizes: tuple[int, int]
    """Views per forward pass of the first run, and of the control."""
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
            "exit_code": self.exit_code,
        }

    @property
    def exit_code(self) -> int:
        """1 when something drifted."""
        return int(self.drifted)

    def text(self) -> str:
        """What differs about the teacher, a table of the differences, the rule and the verdict."""
        lines = [f"{field}: {cached} in the cache, {now} now" for field, cached, now in self.teacher_differences]
        head = f"{'difference of':17}{'mean':>10}{'largest':>10}"
        lines.append(f"{head}   between two runs: {'mean':>8}{'largest':>10}{'allowed':>10}")
        for one in self.deviations:
            row = f"{one.mean:10.1e}{one.largest:10.1e}"
            control = f"{one.control_mean:10.1e}{one.control_largest:10.1e}{one.allowed:10.1e}"
            remark = "   drift" if one.drifted else "   conversion" if one.conversion else ""
            lines.append(f"{one.name:17}{row}                   {control}{remark}")
        size, control_size = self.batch_sizes
        lines.append(
            f"allowed: a mean of {FACTOR:g} times that between two runs of the teacher now, at least "
            f"{FLOOR[self.compute_precision]:.0e} ({self.compute_precision}); {self.teacher} on {self.device}, in "
            f"batches of {size} and of {control_size}; pixels normalised by {self.normalisation}; activation "
            f"{self.activation}"
        )
        return "\n".join([*lines, f"{self.cache}: {self.views} views compared: {self._verdict()}"])

    def _verdict(self) -> str:
        drifted = [one for one in self.deviations if one.drifted]
        if drifted:
            most = max(drifted, key=lambda one: one.mean / one.allowed)
            return (
                f"drift in {', '.join(one.name for one in drifted)}; most in {most.name}: mean difference "
                f"{most.mean:.1e}, allowed {most.allowed:.1e}; worst view {most.worst.key!r}, seed {most.worst.seed} "
                f"({most.worst_mean:.1e})"
            )
        if any(one.conversion for one in self.deviations):
            same = "importance"
            if self.stored_moments != "none":
                same += " and the tokens' means and standard deviations"
            return (
                f"no drift. Targets differ by no more than a conversion to {self.stored_precision} adds; {same}, which "
                f"a conversion does not change, {'is' if same == 'importance' else 'are'} the teacher's"
            )
        return "no drift"


MEASURED = ("mean", "largest", "moments", "control_mean", "control_largest", "control_moments", "conversion")
"""What is measured of each view and block: see the fields of ``Deviation``; ``conversion``: what one may have added."""


class DifferenceTally:
    """Gathers differences by view and by name; a few numbers per view.

    Args:
        names: of what is compared, as many as the columns of every batch.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._views = tuple(names), list[SampledView]()
        self._rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in MEASURED}

    def add(self, views: Sequence[SampledView], measured: Mapping[str, NDArray[np.float64]]) -> None:
        """Add a batch.

        Args:
            views: the batch's, B.
            measured: all of ``MEASURED``, each (B, names).
        """
        self._views.extend(views)
        for name, rows in self._rows.items():
            rows.append(measured[name])

    def deviations(self, compute_precision: str) -> tuple[Deviation, ...]:
        """One for each name, the last of which is importance."""
        table = {name: np.concatenate(rows) for name, rows in self._rows.items()}
        found = tuple(self._deviation(table, column, compute_precision) for column in range(len(self._names)))
        if not self._looks_converted(table, found, MOMENTS * FLOOR[compute_precision]):
            return found
        added = (CONVERSION * table["conversion"].mean(axis=0)).tolist()
        return tuple(
            replace(one, allowed=one.allowed + more, conversion=more) for one, more in zip(found, added, strict=True)
        )

    def _looks_converted(
        self, table: Mapping[str, NDArray[np.float64]], found: Sequence[Deviation], floor: float
    ) -> bool:
        *blocks, importance = found
        by_view = table["mean"][:, :-1]
        even = len(by_view) < FEW_VIEWS or bool((by_view.max(axis=0) <= ONE_VIEW * by_view.sum(axis=0)).all())
        everywhere = even and all(one.drifted for one in blocks)
        same_moments = all(one.moments <= max(FACTOR * one.control_moments, floor) for one in blocks)
        return everywhere and same_moments and not importance.drifted

    def _deviation(self, table: Mapping[str, NDArray[np.float64]], column: int, compute_precision: str) -> Deviation:
        mean, control_mean = table["mean"][:, column], float(table["control_mean"][:, column].mean())
        worst = int(mean.argmax())
        return Deviation(
            name=self._names[column],
            mean=float(mean.mean()),
            largest=float(table["largest"][:, column].max()),
            control_mean=control_mean,
            control_largest=float(table["control_largest"][:, column].max()),
            moments=float(table["moments"][:, column].mean()),
            control_moments=float(table["control_moments"][:, column].mean()),
            allowed=max(FACTOR * control_mean, FLOOR[compute_precision]),
            conversion=0.0,
            worst=self._views[worst],
            worst_mean=float(mean[worst]),
        )
