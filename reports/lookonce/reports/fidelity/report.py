"""What a fidelity measurement found: its document and its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookonce.reports.fidelity.error_meter import OutlierChannel
from lookonce.shared.printing import Result

MOST_OUTLIERS = 12
"""Outlier channels that the text lists; ``--json`` has all."""

_COLUMNS = ("precision", "bytes a view", "in all", "error", "bulk", "cosine", "1st pct", "loss", "gradient")


@dataclass(frozen=True, kw_only=True)
class PrecisionFidelity:
    """What one precision costs and loses."""

    target_bytes: int
    """Bytes per view of the targets."""
    all_bytes: int
    """Bytes per view of all arrays; keys, shard indices and receipts add a few hundred."""
    relative_error: float
    """Norm of the error over norm of the exact values, all channels."""
    relative_error_bulk: float
    """The same of bulk channels."""
    relative_error_outliers: float | None
    """The same of outlier channels; None when there are none."""
    relative_error_of_layers: list[float]
    """Of bulk channels, by layer."""
    cosine_mean: float
    """Over tokens and layers, all channels."""
    cosine_lowest: float
    """First percentile."""
    loss_change: float
    """Relative change of the stand-in student's loss; above 0 if it grows."""
    gradient_change: float
    """Norm of the change of that loss's gradient over the gradient's norm."""

    def cells(self, name: str) -> tuple[str, ...]:
        """A row of the text's table."""
        return (
            name,
            f"{self.target_bytes:,}",
            f"{self.all_bytes:,}",
            _per_cent(self.relative_error),
            _per_cent(self.relative_error_bulk),
            f"{self.cosine_mean:.5f}",
            f"{self.cosine_lowest:.5f}",
            f"{100 * self.loss_change:+.3f} %",
            _per_cent(self.gradient_change),
        )


@dataclass(frozen=True, kw_only=True)
class StandInStudent:
    """The student whose loss and gradient are compared, see ``student_sensitivity``."""

    loss_function: str
    student_error: float
    """Error of its predictions in standard deviations of each channel."""
    loss: float
    """Against exact targets."""


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Channels of large magnitude."""

    ratio: float
    """An outlier's root mean square is at least this many times its block's median."""
    channels: list[OutlierChannel]
    """Largest first."""
    largest_ratio: float
    """Largest root mean square over its block's median."""


@dataclass(frozen=True, kw_only=True)
class FidelityReport(Result):
    """What each precision costs in bytes and what it loses."""

    reference: Mapping[str, Any]
    """Where the exact features come from, see ``reference_facts``."""
    views: int
    """Views that were compared."""
    student: StandInStudent
    outliers: Outliers
    precisions: Mapping[str, PrecisionFidelity]
    """By name."""
    left_out: Mapping[str, str]
    """Why precisions could not be compared, by name."""
    notes: tuple[str, ...] = ()
    """What to bear in mind when reading the numbers."""
    plot: Path | None = None
    """The picture that was written."""

    def document(self) -> dict[str, Any]:
        """JSON-compatible; ``plot`` only if there is one."""
        return {
            "reference": dict(self.reference),
            "views": self.views,
            "student": asdict(self.student),
            "outliers": asdict(self.outliers),
            "precisions": {name: asdict(found) for name, found in self.precisions.items()},
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            **({} if self.plot is None else {"plot": str(self.plot)}),
        }

    def text(self) -> str:
        """Reference, outliers, one line per precision, and what was left out."""
        lines = [*self._reference_lines(), *self._outlier_lines(), ""]
        rows = [_COLUMNS, *(found.cells(name) for name, found in self.precisions.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
        lines += [f"left out: {name}, {reason}" for name, reason in self.left_out.items()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines if self.plot is None else [*lines, f"plot      {self.plot}"])

    def _reference_lines(self) -> list[str]:
        reference, student = self.reference, self.student
        blocks, seeds = (", ".join(map(str, reference[name])) for name in ("blocks", "seeds"))
        images = "other" if reference["split"] else "of the same"
        calibrated, of_klt = reference["calibration_images"], reference["klt_calibration_images"]
        klt = "" if of_klt == calibrated else f", klt on {of_klt}"
        source = f"cache {reference['name']}" if reference["kind"] == "cache" else f"images {reference['name']}"
        return [
            (
                f"reference {reference['precision']} features of {reference['teacher']}, blocks {blocks}, "
                f"{reference['tokens']} tokens of {reference['channels']} channels; {source}"
            ),
            (
                f"judged by {self.views} views of {reference['images']} images (seeds {seeds}), calibrated on "
                f"{calibrated} {images} images{klt} (seed {reference['seeds'][0]})"
            ),
            (
                f"student   a stand-in with errors of {student.student_error:g} standard deviations: "
                f"{student.loss_function} loss {student.loss:.3g}; loss and gradient are changes of it"
            ),
        ]

    def _outlier_lines(self) -> list[str]:
        outliers, channels = self.outliers, self.outliers.channels
        total = len(self.reference["blocks"]) * self.reference["channels"]
        rule = f"root mean square at least {outliers.ratio:g} times their block's median"
        if not channels:
            return [f"outliers  none of {total} channels ({rule}; the largest has {outliers.largest_ratio:.1f})"]
        lines = [f"outliers  {len(channels)} of {total} channels ({rule}); error without them: bulk"]
        lines += [
            f"          block {found.block}, channel {found.channel}: root mean square {found.root_mean_square:.1f}, "
            f"mean {found.mean:.1f}, largest {found.largest:.1f}"
            for found in channels[:MOST_OUTLIERS]
        ]
        more = len(channels) - MOST_OUTLIERS
        return [*lines, f"          and {more} more (--json names them)"] if more > 0 else lines


def _per_cent(share: float) -> str:
    """Two significant digits, never as a power of ten.

    >>> _per_cent(0.000212), _per_cent(0.01), _per_cent(0.332), _per_cent(2.5)
    ('0.021 %', '1.0 %', '33 %', '250 %')
    """
    return f"{100 * share:#.2g}".rstrip(".") + " %" if share < 0.995 else f"{100 * share:.0f} %"
