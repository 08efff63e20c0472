"""Extraction on one core against its parts, in the same seconds on another core: for machines that others share.

    python benchmarks/extract_one_core.py [--quick] [--json FILE]

Such a machine takes 454 CPU-ms for a forward in one minute and 593 in another, and its cores differ: rounds one after
the other, as in ``extract.py``, do not average that out. Here the whole of an extraction, one thread of each kind, and
the bare forward, one thread, run side by side on a core each, and change cores every turn.

``efficiency`` is images a second of the whole over 1 / (seconds an image of reading, decoding and cutting, measured
alone before, + seconds an image of the forward beside it): of two turns, one on each core, the geometric mean; of all
of these the median. Real photographs and teachers as in ``extract.py``.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
from extract import DATA, Bench, measured, photographs, random_vit_base
from harness import arguments, report

Job = Callable[[], int]
"""Does some work and returns how many units it did."""


@dataclass(frozen=True)
class Task:
    """A teacher over some photographs."""

    teacher: str
    weights: Path
    images: Path
    batch: int
    out: Path

    def bench(self) -> Bench:
        """For the process that calls it alone."""
        return Bench(
            self.teacher, self.weights, self.images, self.out / str(os.getpid()), batch=self.batch, shard=96, threads=1
        )

    def jobs(self) -> dict[str, Job]:
        """An extraction of all images, and the forward of a batch."""
        bench = self.bench()

        def whole() -> int:
            count = bench.whole()
            bench.clean()
            return count

        return {"whole": whole, "forward": bench.one_forward}


def side_by_side(task: Task, turns: int) -> list[tuple[float, float]]:
    """Images a second of the whole and of the forward, in every turn; a first one is not counted."""
    cores, context = sorted(os.sched_getaffinity(0))[:2], get_context("spawn")
    over, ends, processes = context.Event(), [], []
    for name in ("whole", "forward"):
        ours, theirs = context.Pipe()
        process = context.Process(target=_contestant, args=(task, name, over, theirs), daemon=True)
        process.start()
        ends.append(ours)
        processes.append(process)
    for end in ends:
        end.recv()  # ready
    found = []
    for turn in range(turns + 1):
        over.clear()
        for end, core in zip(ends, cores if turn % 2 else reversed(cores), strict=True):
            end.send(core)
        whole, forward = (end.recv() for end in ends)
        found.append((whole, forward))
    for end, process in zip(ends, processes, strict=True):
        end.send(None)
        process.join()
    return found[1:]


def _contestant(task: Task, name: str, over: Event, lead: Connection) -> None:
    """A process of one job: the whole once a turn, the forward again and again until the whole is over."""
    torch.set_num_threads(1)
    job = task.jobs()[name]
    lead.send("ready")
    while (core := lead.recv()) is not None:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})
        started, units = time.perf_counter(), job()
        while name == "forward" and not over.is_set():
            units += job()
        lead.send(units / (time.perf_counter() - started))
        if name == "whole":
            over.set()


def efficiencies(task: Task, turns: int) -> list[float]:
    """Of every two turns."""
    bench = task.bench()
    views = statistics.median(measured(bench.views).cpu_per_image for _ in range(5))
    of_turn = [whole * (views + 1 / forward) for whole, forward in side_by_side(task, turns)]
    return [math.sqrt(a * b) for a, b in zip(of_turn[::2], of_turn[1::2], strict=True)]


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    if not DATA.is_dir():
        sys.exit(f"no photographs at {DATA}: set LOOKONCE_DATA_DIR")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed")
    turns = 2 if options.quick else 16
    with tempfile.TemporaryDirectory(prefix="lookonce-extract-", dir=os.environ.get("LOOKONCE_BENCH_DIR")) as folder:
        work = Path(folder)
        many, few, vit_base = photographs(work / "many", 96), photographs(work / "few", 8), work / "b.safetensors"
        tiny = Task("deit-tiny", DATA / "deit_tiny_patch16_224.safetensors", many, 16, work / "tiny")
        base = Task("timm:vit_base_patch16_224", random_vit_base(vit_base), few, 4, work / "base")
        found = {name: efficiencies(task, turns) for name, task in (("deit_tiny", tiny), ("vit_base", base))}
    ratios = {f"efficiency_{name}": round(statistics.median(values), 3) for name, values in found.items()}
    report("extract_one_core", options, ratios, found, "efficiency")


if __name__ == "__main__":
    main()
