"""What ``feature-cache fidelity`` measured, as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_OUTLIERS = 12
"""Outlier channels that are listed; ``--json`` has all."""

_COLUMNS = ("precision", "bytes a view", "in all", "error", "bulk", "cosine", "1st pct", "loss", "gradient")


def fidelity_lines(result: Mapping[str, Any]) -> list[str]:
    """Reference, outliers, one line a precision, and what was left out."""
    lines = [*_reference_lines(result), *_outlier_lines(result), ""]
    rows = [_COLUMNS, *(_row(name, measured) for name, measured in result["precisions"].items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    left_out = [f"left out: {name}, {reason}" for name, reason in result["left_out"].items()]
    return [*lines, *left_out, *([f"plot      {result['plot']}"] if "plot" in result else [])]


def _reference_lines(result: Mapping[str, Any]) -> list[str]:
    reference, student = result["reference"], result["student"]
    blocks, seeds = (", ".join(map(str, reference[name])) for name in ("blocks", "seeds"))
    images = "other" if reference["split"] else "of the same"
    source = f"cache {reference['name']}" if reference["kind"] == "cache" else f"images {reference['name']}"
    return [
        (
            f"reference {reference['precision']} features of {reference['teacher']}, blocks {blocks}, "
            f"{reference['tokens']} tokens of {reference['channels']} channels; {source}"
        ),
        (
            f"judged by {result['views']} views of {reference['images']} images (seeds {seeds}), calibrated on "
            f"{reference['calibration_images']} {images} images (seed {reference['seeds'][0]})"
        ),
        (
            f"student   a stand-in with errors of {student['student_error']:g} standard deviations: "
            f"{student['loss_function']} loss {student['loss']:.3g}; loss and gradient are changes of it"
        ),
    ]


def _outlier_lines(result: Mapping[str, Any]) -> list[str]:
    outliers, reference = result["outliers"], result["reference"]
    channels, total = outliers["channels"], len(reference["blocks"]) * reference["channels"]
    rule = f"root mean square at least {outliers['ratio']:g} times their block's median"
    if not channels:
        return [f"outliers  none of {total} channels ({rule}; the largest has {outliers['largest_ratio']:.1f})"]
    lines = [f"outliers  {len(channels)} of {total} channels ({rule}); error without them: bulk"]
    lines += [
        f"          block {found['block']}, channel {found['channel']}: root mean square "
        f"{found['root_mean_square']:.1f}, mean {found['mean']:.1f}, largest {found['largest']:.1f}"
        for found in channels[:MOST_OUTLIERS]
    ]
    more = len(channels) - MOST_OUTLIERS
    return [*lines, f"          and {more} more (--json names them)"] if more > 0 else lines


def _row(name: str, measured: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{measured['target_bytes']:,}",
        f"{measured['all_bytes']:,}",
        *(_per_cent(measured[measure]) for measure in ("relative_error", "relative_error_bulk")),
        *(f"{measured[measure]:.5f}" for measure in ("cosine_mean", "cosine_lowest")),
        f"{100 * measured['loss_change']:+.3f} %",
        _per_cent(measured["gradient_change"]),
    )


def _per_cent(share: float) -> str:
    """Two significant digits, and never as a power of ten.

    >>> _per_cent(0.000212), _per_cent(0.01), _per_cent(0.332), _per_cent(2.5)
    ('0.021 %', '1.0 %', '33 %', '250 %')
    """
    return f"{100 * share:#.2g}".rstrip(".") + " %" if share < 0.995 else f"{100 * share:.0f} %"
