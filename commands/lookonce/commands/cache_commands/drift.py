"""``feature-cache drift``: does this teacher still give what the cache says it gave?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from lookonce.commands.cache_commands.subcommand import Subcommand
from lookonce.commands.command import CommonOptions
from lookonce.commands.early_checks import announce, check_teacher
from lookonce.shared.errors import UsageError
from lookonce.shared.normalisation import RGB, require_rgb


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache drift."""

    cache: tyro.conf.Positional[Path]
    """Cache folder; seeds that are not whole are left out."""
    teacher_weights: Path | None = None
    """Weights file of the teacher that made the cache; otherwise the hub cache or the hub."""
    mean: RGB | None = None
    """What is subtracted from the teacher's pixels (RGB, 0 to 1); default: what the cache was made with."""
    std: RGB | None = None
    """What its pixels are then divided by (RGB, above 0); default: likewise."""
    images: str | None = None
    """Images the cache was made from; needed only where it does not store whole views (--pixels none, --tokens)."""
    views: int = 32
    """Views to sample, at least 1."""
    sample_seed: int = 0
    """Which views are sampled; another seed draws others."""
    batch_size: int = 32
    """Views a forward, at least 1; the control run takes them one at a time (in twos, when this is 1)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the teacher runs: best on what made the cache, as other devices round otherwise."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        for flag, value in (("--views", self.views), ("--batch-size", self.batch_size)):
            if value < 1:
                raise UsageError(f"{flag}: expected at least 1, found {value}")
        require_rgb(self.mean, self.std)


def _run(options: Options) -> Mapping[str, Any]:
    from tqdm import tqdm

    from lookonce.cache.layout import CacheLayout

    teacher = CacheLayout(options.cache).load_manifest().recipe.teacher.name
    check_teacher(teacher, options.teacher_weights)
    announce(f"comparing views of {options.cache} with what teacher {teacher} gives now")
    from lookonce.reports.drift.check import DriftRequest, check_drift

    request = DriftRequest(
        cache=options.cache,
        teacher_weights=options.teacher_weights,
        mean=options.mean,
        std=options.std,
        images=options.images,
        views=options.views,
        sample_seed=options.sample_seed,
        batch_size=options.batch_size,
        device=options.device,
    )
    with tqdm(unit="view", disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = check_drift(request, show)
    return {**report.document(), "exit_code": 1 if report.drifted else 0}


def _summarise(result: Mapping[str, Any]) -> str:
    lines = [f"{one['field']}: {one['cache']} in the cache, {one['now']} now" for one in result["teacher_differences"]]
    head = f"{'difference of':17}{'mean':>10}{'largest':>10}"
    lines.append(f"{head}   between two runs: {'mean':>8}{'largest':>10}{'allowed':>10}")
    for one in result["deviations"]:
        row = "".join(f"{one[name]:10.1e}" for name in ("mean", "largest"))
        control = "".join(f"{one[name]:10.1e}" for name in ("control_mean", "control_largest", "allowed"))
        remark = "   drift" if one["drifted"] else "   conversion" if one["conversion"] else ""
        lines.append(f"{one['name']:17}{row}                   {control}{remark}")
    rule, sizes = result["rule"], result["batch_sizes"]
    lines.append(
        f"allowed: a mean of {rule['factor']:g} times that between two runs of the teacher now, at least "
        f"{rule['floor']:.0e} ({result['compute_precision']}); {result['teacher']} on {result['device']}, in batches "
        f"of {sizes[0]} and of {sizes[1]}; pixels normalised by {result['normalisation']}; activation "
        f"{result['activation']}"
    )
    return "\n".join([*lines, _verdict(result)])


def _verdict(result: Mapping[str, Any]) -> str:
    drifted = [one for one in result["deviations"] if one["drifted"]]
    start = f"{result['cache']}: {result['views']} views compared"
    if not drifted:
        converted = [one for one in result["deviations"] if one["conversion"]]
        if not converted:
            return f"{start}: no drift"
        return (
            f"{start}: no drift. Targets differ by no more than a conversion to {result['stored_precision']} makes of "
            "them; importance and the tokens' means and standard deviations, which it leaves alone, are the teacher's"
        )
    first = max(drifted, key=lambda one: one["mean"] / one["allowed"])
    names, worst = ", ".join(one["name"] for one in drifted), first["worst"]
    return (
        f"{start}: drift in {names}; most in {first['name']}: mean difference {first['mean']:.1e}, allowed "
        f"{first['allowed']:.1e}; worst view {worst['key']!r}, seed {worst['seed']} ({first['worst_mean']:.1e})"
    )


DRIFT = Subcommand(
    name="drift",
    description="Run the teacher on some views again and compare; exits with 1 when the cache holds something else.",
    options=Options,
    run=_run,
    summarise=_summarise,
)
