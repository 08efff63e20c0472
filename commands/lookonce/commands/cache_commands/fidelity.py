"""``feature-cache fidelity``: the bytes and the loss of each precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from lookonce.cache.show.picture_file import picture_format
from lookonce.commands.command import CommonOptions
from lookonce.commands.early_checks import announce, check_images, check_teacher
from lookonce.commands.subcommand import Subcommand
from lookonce.shared.config_values import Count, Positive, parse_seeds, validate
from lookonce.shared.errors import UsageError
from lookonce.shared.given_flags import refuse_without_effect
from lookonce.shared.normalisation import RGB

if TYPE_CHECKING:
    from lookonce.reports.fidelity.reference import Reference
    from lookonce.reports.fidelity.report import FidelityReport

DESCRIPTION = """Measure for each precision the bytes per view (of the targets, and of all arrays), the relative error,
the cosine of tokens (mean and first percentile), and the change of a student's loss and gradient. The reference is
CACHE (best fp16; only precisions of fewer bits can be judged by it) or, with --teacher, the features of that teacher in
fp32. Precisions are calibrated as in extract-features, on other images than those that judge if there are at least 16.
An outlier is a channel whose root mean square is at least 4 times its block's median; all others are the bulk. The
student is a stand-in near convergence: it predicts the exact features plus Gaussian noise (--student-error). Its loss
is smooth L1, its gradient is that with respect to the predicted features, and the change of the gradient is the norm of
the difference over the norm. No parameters of a real student take part."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Flags of feature-cache fidelity."""

    cache: tyro.conf.Positional[Path | None] = None
    """Cache folder whose features are the reference; or give --teacher and --images."""
    teacher: str | None = None
    """The reference are the features of this teacher in fp32; a name as for extract-features."""
    images: str | None = None
    """With --teacher: its images; a folder."""
    teacher_weights: Path | None = None
    """With --teacher: its weights file; default: the hub cache or the hub."""
    mean: RGB | None = None
    """With --teacher: mean subtracted from its pixels (RGB, 0 to 1); default: that of its weights."""
    std: RGB | None = None
    """With --teacher: standard deviation that divides its pixels (RGB, above 0); default: that of its weights."""
    layers: str | None = None
    """With --teacher: blocks to judge on, top5, all, or 1-based numbers such as 8,10,12; default: top5."""
    view_size: Count | None = None
    """With --teacher: side of a view in pixels; default: 224."""
    patch_size: Count | None = None
    """With --teacher: side of the student's patches in pixels; default: 16."""
    seeds: str | None = None
    """Augmentation seeds, one view of every image each: 0-3 or 0,2,5; default: all of CACHE, 0 with --teacher."""
    views: Count = 256
    """Most views to judge by, over all seeds; at least 1."""
    calibration_views: Count = 256
    """Most views that calibrate the scales of precisions; at least 1."""
    student_error: Positive = 0.5
    """Error of the stand-in student's predictions in standard deviations of each channel, above 0."""
    plot: Path | None = None
    """Picture to write (.png, .jpg, .webp, .svg or .pdf): error and change of the gradient against bytes per view."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """With --teacher: where it runs."""

    def __post_init__(self) -> None:
        """Refuse values out of range, and flags that do not go together.

        Raises:
            UsageError: with the flag, the value and what is allowed.
        """
        if (self.cache is None) == (self.teacher is None):
            found = "neither" if self.cache is None else "both"
            raise UsageError(f"give either CACHE or --teacher NAME --images SOURCE, found {found}")
        if self.teacher is not None and self.images is None:
            raise UsageError("--teacher needs --images SOURCE: the images to extract")
        if self.teacher is None:
            refuse_without_effect(self, "--teacher", "device")
            for name in ("images", "teacher_weights", "mean", "std", "layers", "view_size", "patch_size"):
                if getattr(self, name) is not None:
                    flag = name.replace("_", "-")
                    raise UsageError(f"--{flag} goes with --teacher; {self.cache} already fixes it")
        validate(self)
        if self.seeds is not None:
            parse_seeds(self.seeds)
        if self.plot is not None:
            picture_format(self.plot, "--plot")


def _run(options: Options) -> FidelityReport:
    from tqdm import tqdm

    _check(options)
    from lookonce.reports.fidelity.measure import measure_fidelity

    with tqdm(unit="view", disable=None, leave=False) as bar:
        report = measure_fidelity(_reference(options), student_error=options.student_error, progress=bar.update)
    if options.plot is None:
        return report
    from lookonce.reports.fidelity.plot import draw_fidelity

    reference = report.reference
    blocks = ", ".join(map(str, reference["blocks"]))
    title = f"{reference['teacher']}, blocks {blocks}; {report.views} views against {reference['precision']}"
    draw_fidelity(report.precisions, title, options.plot)
    return replace(report, plot=options.plot)


def _check(options: Options) -> None:
    """Refuse what can be refused without torch, then announce the work."""
    if options.cache is not None:
        from lookonce.cache.layout import CacheLayout

        CacheLayout(options.cache).load_manifest()
        announce(f"measuring what precisions lose of the features in {options.cache}")
    else:
        check_teacher(str(options.teacher), options.teacher_weights)
        check_images(str(options.images))
        announce(f"measuring what precisions lose of the features of teacher {options.teacher} on {options.images}")


def _reference(options: Options) -> Reference:
    if options.cache is not None:
        from lookonce.reports.fidelity.reference import cache_reference

        seeds = None if options.seeds is None else parse_seeds(options.seeds)
        return cache_reference(
            options.cache, seeds=seeds, views=options.views, calibration_views=options.calibration_views
        )
    from lookonce.extract.config import ExtractionConfig
    from lookonce.reports.fidelity.teacher_reference import teacher_reference

    given = {name: getattr(options, name) for name in ("layers", "view_size", "patch_size", "seeds")}
    config = ExtractionConfig(
        teacher=str(options.teacher),
        images=str(options.images),
        out=Path(),  # nothing is written
        teacher_weights=options.teacher_weights,
        mean=options.mean,
        std=options.std,
        calibration_views=options.calibration_views,
        compute_precision="fp32",
        device=options.device,
        **{name: value for name, value in given.items() if value is not None},
    )
    return teacher_reference(config, views=options.views)


FIDELITY = Subcommand(
    name="fidelity",
    description=DESCRIPTION,
    options=Options,
    run=_run,
)
