"""``feature-cache drift``: whether the teacher still gives the features that a cache contains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from lookonce.commands.command import CommonOptions
from lookonce.commands.early_checks import announce, check_teacher
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import Count, validate
from lookonce.shared.normalisation import RGB, require_rgb

if TYPE_CHECKING:
    from lookonce.reports.drift.report import DriftReport


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache drift."""

    cache: tyro.conf.Positional[Path]
    """Cache folder; incomplete seeds are left out."""
    teacher_weights: Path | None = None
    """Weights file of the teacher of the cache; default: the hub cache or the hub."""
    mean: RGB | None = None
    """Mean subtracted from the teacher's pixels (RGB, 0 to 1); default: that of the cache."""
    std: RGB | None = None
    """Standard deviation that divides them (RGB, above 0); default: that of the cache."""
    images: str | None = None
    """Images of the cache; needed only if it does not store whole views (--pixels none, --tokens)."""
    views: Count = 32
    """Views to sample, at least 1."""
    sample_seed: int = 0
    """Seed of the choice of views."""
    batch_size: Count = 32
    """Views per forward pass, at least 1; the control run takes one at a time (two, if this is 1)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the teacher runs; best the device that made the cache, because other devices round differently."""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        validate(self)
        require_rgb(self.mean, self.std)


def _run(options: Options) -> DriftReport:
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

        return check_drift(request, show)


DRIFT = Subcommand(
    name="drift",
    description="Run the teacher on some views again and compare; exits with 1 if they differ from the cache.",
    options=Options,
    run=_run,
)
