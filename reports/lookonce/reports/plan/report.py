"""What a plan contains, its document, and its text: a table of sizes, then lines for each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lookonce.clusters.extraction.resources import WorkerResources
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.summary import BUSY_MACHINE
from lookonce.reports.plan.break_even import BreakEven
from lookonce.reports.plan.planned_sizes import PlannedSize
from lookonce.reports.plan.probe import Probe
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.printing import Result, bytes_text, count_text, duration_text
from lookonce.storage_schemas.recipe import Recipe
from lookonce.storage_schemas.tokens import TopTokens


@dataclass(frozen=True, kw_only=True)
class ReadRate:
    """What a student needs from the disk."""

    student_rate: float
    """Images per second that the student trains on."""
    visible_patches: int
    """Patches per view that it sees."""
    visible_bytes_per_second: float
    """When only the visible part of each view is read."""
    whole_bytes_per_second: float
    """When whole views are read."""


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """Bytes at the place of the cache."""

    out: str
    """Folder of the cache."""
    committed: int
    """In shards that earlier runs have committed."""
    left: int
    """Still to be written."""
    free: int
    """Free on the disk."""


@dataclass(frozen=True, kw_only=True)
class Plan(Result):
    """What an extraction will cost, and whether its cache saves time."""

    config: ExtractionConfig
    """What was planned; its shard size is that of the cache."""
    recipe: Recipe
    device: str
    """Type of the device that the teacher runs on."""
    images: int
    sizes: tuple[PlannedSize, ...]
    """For each precision and token subset; one of them is the chosen one."""
    start_up_seconds: float
    """From the start of the process to the first view: imports, listing the images, loading the teacher."""
    probe: Probe
    workers: WorkerResources
    cost: BreakEven
    reading: ReadRate
    disk: DiskSpace
    catalogued: str | None = None
    """A sentence about caches of this recipe that the catalogue has elsewhere; None: there are none."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Augmentation seeds."""
        return parse_seeds(self.config.seeds)

    @property
    def chosen(self) -> PlannedSize:
        """The size of the requested precision and tokens."""
        return next(size for size in self.sizes if size.chosen)

    @property
    def decoding_counted(self) -> bool:
        """Whether an online teacher also pays for decoding, which a cache with pixels saves."""
        return self.config.pixels != "none"

    @property
    def views_per_second(self) -> float:
        """Of all workers together."""
        return 1 / self.probe.extraction_seconds(self.workers)

    @property
    def write_bytes_per_second(self) -> float:
        """Of all workers together."""
        return self.cost.bytes_left / max(self.cost.views_left, 1) * self.views_per_second

    @property
    def advice(self) -> Literal["cache", "do not cache"]:
        """Whether the cache saves time and fits on the disk; ``cost.reasons_against`` says why not."""
        return "do not cache" if self.cost.reasons_against else "cache"

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        cost = self.cost
        return {
            "teacher": {**self.recipe.document()["teacher"], "device": self.device},
            "images": self.images,
            "seeds": list(self.seeds),
            "patches": self.recipe.patches,
            "container": self.config.format,
            "pixels": self.config.pixels,
            "moments": self.config.moments,
            "shard_size": self.config.shard_size,
            "sizes": [size.document() for size in self.sizes],
            "start_up_seconds": self.start_up_seconds,
            "probe": self.probe.document(),
            "workers": {**asdict(self.workers), "executor": self.config.executor},
            "extraction": {
                "views_left": cost.views_left,
                "views_per_second": self.views_per_second,
                "hours": cost.extraction_seconds / 3600,
                "write_bytes_per_second": self.write_bytes_per_second,
            },
            "reading": asdict(self.reading),
            "disk": {
                "out": self.disk.out,
                "there": self.disk.committed,
                "left": self.disk.left,
                "free": self.disk.free,
            },
            "break_even": {
                "epochs": cost.epochs,
                "experiments": cost.experiments,
                "cached_hours": cost.extraction_seconds / 3600,
                "online_hours": cost.online_seconds * cost.epochs_in_all / 3600,
                "decoding_counted": self.decoding_counted,
                "after_epochs": cost.break_even_epochs,
                "after_experiments": cost.break_even_experiments,
                "looks_online_over_cached": cost.forward_ratio if cost.views_left else None,
            },
            "catalogue": self.catalogued,
            "advice": self.advice,
            "reasons": cost.reasons_against,
        }

    def text(self) -> str:
        """Lines for people."""
        first = {"teacher": _teacher(self), "views": _views(self), "tried": _probed(self.probe)}
        then = {
            "size": _size(self.chosen, self.probe),
            "time": _time(self),
            "reading": _reading(self.reading),
            "disk": _disk(self.disk),
            "break-even": _break_even(self),
            **({} if self.catalogued is None else {"catalogue": [self.catalogued]}),
            "advice": [self.advice.upper(), *self.cost.reasons_against],
        }
        return "\n".join([*_indented(first), "", *_table(self), "", *_indented(then)])


def _indented(facts: Mapping[str, list[str]]) -> Iterator[str]:
    for name, texts in facts.items():
        for position, text in enumerate(texts):
            yield f"{'' if position else name:<13}{text}"


def _teacher(plan: Plan) -> list[str]:
    teacher = plan.recipe.teacher
    blocks = ", ".join(map(str, teacher.blocks))
    return [
        (
            f"{teacher.name}, blocks {blocks} of {teacher.block_count}, fed {teacher.input_size} px, "
            f"{teacher.compute_precision} on {plan.device}"
        )
    ]


def _views(plan: Plan) -> list[str]:
    images, seeds, config = plan.images, len(plan.seeds), plan.config
    pixels = {"store": "stored", "jpeg": f"stored as JPEG (quality {config.jpeg_quality})", "none": "not stored"}[
        config.pixels
    ]
    container = f"{config.format} shards of {config.shard_size}"
    return [f"{images:,} images x {count_text(seeds, 'seed')} = {images * seeds:,}; pixels {pixels}; {container}"]


def _probed(probe: Probe) -> list[str]:
    bad = f" ({probe.unreadable} UNREADABLE)" if probe.unreadable else ""
    where = count_text(probe.threads, "thread") if probe.threads else "GPU"
    busy = (
        f"(the teacher waited {probe.core_wait:.0%} of its time for a CPU core: other programs keep the cores busy; "
        "on idle cores it is faster)"
    )
    return [
        (
            f"{count_text(probe.images, 'image')}{bad} and {count_text(probe.forwards, 'forward pass', 'es')} of "
            f"{count_text(probe.batch, 'view')}; per view:"
        ),
        (
            f"{duration_text(probe.view_seconds)} of one core to decode and crop, "
            f"{duration_text(probe.teacher_seconds)} in the teacher ({where}), "
            f"{duration_text(probe.encode_seconds + probe.write_seconds)} to encode and hash"
        ),
        *([busy] if probe.core_wait >= BUSY_MACHINE else []),
    ]


def _table(plan: Plan) -> Iterator[str]:
    """One row per precision, one column per token subset; a star marks the requested ones."""
    rows: dict[str, list[PlannedSize]] = {}
    for size in plan.sizes:
        rows.setdefault(size.precision, []).append(size)
    subsets = [f"{_subset(size)}, {size.stored_patches} of {plan.recipe.patches}" for size in next(iter(rows.values()))]
    yield f"{'view, all':<13}" + "".join(f"{name:<28}" for name in subsets).rstrip()
    for precision, sizes in rows.items():
        cells = [
            f"{bytes_text(size.bytes.per_view)}, {bytes_text(size.bytes.total)}{' *' * size.chosen}" for size in sizes
        ]
        yield f"{precision:<13}" + "".join(f"{cell:<28}" for cell in cells).rstrip()


def _subset(size: PlannedSize) -> str:
    tokens = size.tokens
    return f"top:{tokens.share:g}" if isinstance(tokens, TopTokens) else tokens.kind


def _size(chosen: PlannedSize, probe: Probe) -> list[str]:
    per_view, total = bytes_text(chosen.bytes.per_view), bytes_text(chosen.bytes.total)
    lines = [f"{per_view} per view, {total} in all: all files of the cache, if every image can be read"]
    if chosen.encoding_bytes:
        lines.append(f"(about {bytes_text(chosen.encoding_bytes)} of it is the object of the encoding, once per cache)")
    if probe.jpegs:
        error = 100 * probe.jpeg_error / probe.jpeg_bytes
        lines.append(
            f"({bytes_text(probe.jpeg_bytes)} of a view is its JPEG: the mean of "
            f"{count_text(len(probe.jpegs), 'view')}, standard error {error:.1f} %; all else is counted)"
        )
    return lines


def _time(plan: Plan) -> list[str]:
    workers, cost = plan.workers, plan.cost
    if not cost.views_left:
        return ["none: the cache has every view already"]
    names: dict[float, str] = {0: "", 1: "a GPU and "}
    gpu = names.get(workers.gpus, f"{workers.gpus:.2g} of a GPU and ")
    each = gpu + count_text(workers.cpus, "core")
    return [
        (
            f"{duration_text(cost.extraction_seconds)} ({cost.extraction_seconds / 3600:.3g} h) for "
            f"{cost.views_left:,} views at {plan.views_per_second:,.3g} views/s, "
            f"{_rate(plan.write_bytes_per_second)} to disk"
        ),
        (
            f"(with {count_text(workers.workers, 'worker')} ({plan.config.executor}) of {each} like this machine's; "
            "decoding, teacher and writing in parallel; the disk was not timed)"
        ),
        f"{duration_text(plan.start_up_seconds)} before the first view: imports, listing the images, loading the "
        "teacher" + (" (starting Ray takes more)" if plan.config.executor == "ray" else ""),
    ]


def _reading(reading: ReadRate) -> list[str]:
    rate, patches = f"{reading.student_rate:,g}", count_text(reading.visible_patches, "visible patch", "es")
    return [
        (
            f"a student at {rate} images/s needs {_rate(reading.visible_bytes_per_second)} ({patches} per view), "
            f"or {_rate(reading.whole_bytes_per_second)} if whole views are read from the disk"
        )
    ]


def _disk(disk: DiskSpace) -> list[str]:
    committed = f" ({bytes_text(disk.committed)} are in the cache already)" if disk.committed else ""
    return [f"{bytes_text(disk.free)} free at {disk.out}, {bytes_text(disk.left)} to write{committed}"]


def _break_even(plan: Plan) -> list[str]:
    cost = plan.cost
    counted = "teacher, decoding and cropping" if plan.decoding_counted else "the teacher alone"
    epochs, experiments = count_text(cost.epochs, "epoch"), count_text(cost.experiments, "experiment")
    cached, online = duration_text(cost.extraction_seconds), duration_text(cost.online_seconds * cost.epochs_in_all)
    lines = [
        (
            f"the cache pays after {count_text(cost.break_even_epochs, 'epoch')} of one experiment, or from "
            f"{count_text(cost.break_even_experiments, 'experiment')} of {epochs} on"
        ),
        f"{experiments} of {epochs}: {cached} for the cache, {online} for an online teacher on the same workers",
        f"(an online teacher pays in every epoch for: {counted}; reading the cache is taken as free)",
    ]
    repeated = cost.epochs / len(plan.seeds)
    return [*lines, *([f"an experiment sees every view {repeated:.3g} times"] if repeated > 1 else [])]


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_text(bytes_per_second)}/s"
