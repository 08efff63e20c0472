"""Extraction: images per second end to end, against the rate that its separately measured parts allow, and other tools.

    python benchmarks/extract.py [--quick] [--json FILE]

Real photographs (../shared/data, or LOOKONCE_DATA_DIR); DeiT-Tiny with its weights, and a ViT-B/16 with random ones.
The job: one view an image, last 5 blocks, int8, views stored, shards committed; loading and calibration do not count.

The whole, the bare forward (blocks and importance, no normalisation of targets) and the views (reading, decoding,
cutting) are a process each, and take turns of half a second on all cores (see ``time_slices``).

On CPUs, ``efficiency`` is images a second of the whole over the rate that the parts allow: the cores that the bare
forward gets here (its CPU-seconds a second) / (CPU-seconds an image of views and of the forward). ``cpu_efficiency``
leaves out waiting: the parts' CPU-seconds an image over those of the whole. On a GPU, ``efficiency`` is over the slower
of the bare forward and the views, which are both given. ``*_error``: standard error, by jackknife over tenths.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import logging
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import timm
import torch
from harness import alternate, arguments, ratio, report
from safetensors.torch import save_file
from time_slices import Slice, take_turns

from lookonce.cache.containers.container import seed_folder
from lookonce.extract.config import ExtractionConfig
from lookonce.extract.pipeline.events import ViewsDone
from lookonce.extract.pipeline.shard_extractor import ShardExtractor
from lookonce.extract.pipeline.teacher_threads import TeacherThreads
from lookonce.extract.prepare import (
    Extraction,
    load_config_teacher,
    open_extraction,
    open_or_create,
    remaining_tasks,
    resolve_view_processes,
)
from lookonce.extract.views.image_views import CroppedViews, image_views
from lookonce.extract.views.view_batch import ViewBatch, Window, view_batches
from lookonce.extract.views.view_processes import ViewProcesses
from lookonce.shared.freed_memory import keep_freed_memory

DATA = Path(os.environ.get("LOOKONCE_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
CORES = len(os.sched_getaffinity(0))
ON_GPU = torch.cuda.is_available()
DEVICE: Literal["cuda", "cpu"] = "cuda" if ON_GPU else "cpu"


@dataclass(frozen=True)
class Job:
    """One teacher over some photographs; each method is a contestant, which runs in its own process without end."""

    teacher: str
    weights: Path
    images: Path
    out: Path
    batch: int
    shard: int
    together: int = 1
    """Seeds that are extracted together, from one decoding of the image."""
    compile: Literal["auto", "always"] = "auto"
    view_processes: str = "auto"
    """As in ``ExtractionConfig``; 0: threads."""

    def whole(self) -> Iterator[int]:
        """Seed after seed of the cache, as ``--executor inline`` and every Ray worker do it; yields views."""
        return self.opened_whole()(itertools.count(1))

    def opened_whole(self) -> Callable[[Iterable[int]], Iterator[int]]:
        """A function that extracts seeds, its teacher loaded and calibrated; a seed is removed when it is complete."""
        config = self._begin("whole")
        extraction, teacher = open_extraction(config), load_config_teacher(config, torch.device(DEVICE))
        manifest = open_or_create(extraction, teacher)
        extractor = ShardExtractor(
            config.out,
            manifest,
            extraction.view,
            extraction.source,
            teacher,
            batch_size=self.batch,
            skip_bad_images=False,
            view_processes=self._view_processes,
        )

        def extract(seeds: Iterable[int]) -> Iterator[int]:
            groups = (range(self.together * seed, self.together * (seed + 1)) for seed in seeds)
            tasks = (remaining_tasks(config.out, manifest, group, extraction.listing) for group in groups)
            for done in extractor.extract(itertools.chain.from_iterable(tasks)):
                if isinstance(done, ViewsDone):
                    yield done.views
                elif done.receipt.shard == manifest.shard_count - 1:
                    shutil.rmtree(config.out / seed_folder(done.receipt.seed))

        return extract

    def views(self) -> Iterator[int]:
        """Only reading, decoding, drawing and cropping; with processes, the batches that the teacher would get."""
        extraction = open_extraction(self._begin("views"))
        if self._view_processes:
            return self._batches(extraction)
        entries = list(enumerate(extraction.listing.entries))

        def cut(place: int) -> int:
            row, entry = entries[place % len(entries)]
            image_views(row, entry, extraction.source, extraction.view, range(1, self.together + 1))
            return self.together

        return _without_end(cut)

    def _batches(self, extraction: Extraction) -> Iterator[int]:
        """Batches of views out of processes, as ``ShardExtractor`` makes them."""
        count, patch_size, seeds = (
            self._view_processes,
            extraction.config.patch_size,
            tuple(range(1, self.together + 1)),
        )
        entries = itertools.cycle(enumerate(extraction.listing.entries))
        pinned = TeacherThreads(torch.device(DEVICE), CORES).allocate

        def windows() -> Iterator[Window]:
            while True:
                rows, some = zip(*itertools.islice(entries, self.batch), strict=True)
                yield Window(rows, some, seeds)

        producer = CroppedViews(extraction.source, extraction.view)
        with ViewProcesses(producer, patch_size, count) as maker, ThreadPoolExecutor(count) as threads:
            make = functools.partial(
                ViewBatch,
                maker=maker,
                patch_size=patch_size,
                patches=(extraction.view.size // patch_size) ** 2,
                threads=threads,
                allocate=pinned,
            )
            try:
                for batch in view_batches(windows(), make):
                    yield sum(len(batch.seed_views(position).rows) for position in range(self.together))
            finally:
                threads.shutdown(cancel_futures=True)

    @property
    def _view_processes(self) -> int:
        return resolve_view_processes(self.view_processes, torch.device(DEVICE), CORES)

    def forward(self) -> Iterator[int]:
        """The bare forward."""
        teacher = load_config_teacher(self._begin("forward"), torch.device(DEVICE))
        views = torch.randint(0, 256, (self.batch, 224, 224, 3), dtype=torch.uint8, device=DEVICE)

        @torch.inference_mode()
        def look(_: int) -> int:
            torch.set_num_threads(1)  # a property of the thread
            teacher(views)
            if ON_GPU:
                torch.cuda.current_stream().synchronize()
            return self.batch

        return _without_end(look)

    def _begin(self, name: str) -> ExtractionConfig:
        """Set up the process as extract-features does, also for the bare forward."""
        keep_freed_memory(DEVICE)
        return ExtractionConfig(
            teacher=self.teacher,
            teacher_weights=self.weights,
            images=str(self.images),
            out=self.out / name,
            batch_size=self.batch,
            shard_size=self.shard,
            executor="inline",
            device=DEVICE,
            calibration_views=32,
            compile=self.compile,
            view_processes=self.view_processes,
        )


def _without_end(work: Callable[[int], int]) -> Iterator[int]:
    """Repeat some work in as many threads as there are cores; yields its results."""
    with ThreadPoolExecutor(CORES) as threads:
        under_way = collections.deque(threads.submit(work, number) for number in range(2 * CORES))
        for number in itertools.count(len(under_way)):
            yield under_way.popleft().result()
            under_way.append(threads.submit(work, number))


def measured(job: Job, turns: int, seconds: float) -> dict[str, list[Slice]]:
    return take_turns(
        {"whole": (job.whole, seconds), "forward": (job.forward, seconds), "views": (job.views, seconds / 4)}, turns
    )


def efficiencies(slices: Mapping[str, Sequence[Slice]]) -> tuple[float, float]:
    """``efficiency`` and ``cpu_efficiency`` of some turns."""
    whole, forward, views = (Slice.total(slices[name]) for name in ("whole", "forward", "views"))
    parts = forward.cpu_per_unit + views.cpu_per_unit
    allowed = min(forward.rate, views.rate) if ON_GPU else forward.cpu / forward.wall / parts
    return whole.rate / allowed, parts / whole.cpu_per_unit


def summary(name: str, slices: Mapping[str, Sequence[Slice]]) -> dict[str, float]:
    found = {}
    count = min(10, len(slices["whole"]))
    without = [_without_part(slices, part, count) for part in range(count)]
    for place, ratio_name in enumerate(["efficiency"] if ON_GPU else ["efficiency", "cpu_efficiency"]):
        found[f"{ratio_name}_{name}"] = efficiencies(slices)[place]
        each = [efficiencies(most)[place] for most in without]
        found[f"{ratio_name}_{name}_error"] = statistics.pstdev(each) * math.sqrt(count - 1)
    return {one: round(value, 4) for one, value in found.items()}


def _without_part(slices: Mapping[str, Sequence[Slice]], part: int, count: int) -> dict[str, list[Slice]]:
    return {
        name: [one for turn, one in enumerate(turns) if turn * count // len(turns) != part]
        for name, turns in slices.items()
    }


def photographs(folder: Path, count: int) -> Path:
    """A folder of real photographs: those of ../shared/data/photos, then flowers; copies if there are too few."""
    folder.mkdir()
    found = [*sorted((DATA / "photos").glob("*.jpg")), *sorted((DATA / "flowers").rglob("*.jpg"))]
    for number, path in enumerate(itertools.islice(itertools.cycle(found), count)):
        copy = f"copy{number // len(found)}-" if number >= len(found) else ""
        shutil.copy(path, folder / f"{copy}{path.name}")
    return folder


def random_vit_base(path: Path) -> Path:
    """Weights of a ViT-B/16 of the true architecture, drawn at random."""
    torch.manual_seed(0)
    save_file(timm.create_model("vit_base_patch16_224", num_classes=0).state_dict(), path)
    return path


@contextlib.contextmanager
def local_ray() -> Generator[None]:
    """Ray with as many CPUs as there are cores; its workers find ``extraction_peers``."""
    import ray
    import ray.data

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name; workers are nicer than this process otherwise
    folder = str(Path(__file__).resolve().parent)
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": folder}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()


def beside_peers(job: Job, rounds: int, work: Path) -> dict[str, list[float]]:
    """Views per second of whole extractions, ours and the peers', in rounds; one-time start-up does not count."""
    from extraction_peers import HookedTeacher, ray_data, script

    paths, hooked = sorted(job.images.iterdir()), HookedTeacher("deit_tiny_patch16_224", job.weights)
    written, ours, seeds = work / "written", job.opened_whole(), itertools.count(1)

    def fresh_run(peer: Callable[..., int], *given: object) -> Callable[[], int]:
        def run() -> int:
            shutil.rmtree(written, ignore_errors=True)
            return peer(*given, written)

        return run

    with local_ray():
        return alternate(
            {
                "beside peers: whole": lambda: sum(ours([next(seeds)])),
                "script": fresh_run(script, hooked, paths, job.batch, CORES),
                "ray_data": fresh_run(ray_data, "deit_tiny_patch16_224", job.weights, paths, job.batch),
            },
            rounds,
        )


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    if not DATA.is_dir():
        sys.exit(f"no photographs at {DATA}: set LOOKONCE_DATA_DIR")
    ratios: dict[str, float] = {}
    raw: dict[str, list[float]] = {}
    turns, seconds, count, rounds = (10, 0.5, 64, 1) if options.quick else (240, 0.5, 512, 3)
    tiny_batch, base_batch = (256, 128) if ON_GPU else (16, 2)
    with tempfile.TemporaryDirectory(prefix="lookonce-extract-", dir=os.environ.get("LOOKONCE_BENCH_DIR")) as folder:
        work = Path(folder)
        images, tiny_weights = photographs(work / "images", count), DATA / "deit_tiny_patch16_224.safetensors"
        base_weights = random_vit_base(work / "base.safetensors")
        tiny = Job("deit-tiny", tiny_weights, images, work / "tiny", tiny_batch, count // 4)
        base = Job("timm:vit_base_patch16_224", base_weights, images, work / "base", base_batch, count // 4)
        for name, job in (("deit_tiny", tiny), ("vit_base", base)):
            slices = measured(job, turns, seconds)
            ratios |= summary(name, slices)
            raw |= {f"{name}: {one}": [turn.rate for turn in each] for one, each in slices.items()}
            raw |= {f"{name}: {one}, cores": [turn.cpu / turn.wall for turn in each] for one, each in slices.items()}
        if not ON_GPU:
            rates = beside_peers(replace(tiny, out=work / "beside"), rounds, work)
            raw |= rates
            ratios |= {f"over_{peer}": ratio(rates, "beside peers: whole", peer) for peer in ("script", "ray_data")}
    report("extract", options, ratios, raw, "images/s")


if __name__ == "__main__":
    main()
