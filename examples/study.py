"""What the studies share: a folder of runs that each end once, judged students, and tables of what came of them.

A study makes its caches, lists its runs as ``Variant``s and calls ``run_study``. Whatever is there already is not done
again: a cache is completed, a run goes on from its checkpoint, a judged run is read from its folder.

    OUT/caches/...              features
    OUT/runs/NAME-seed0/        a run of train-student, and judged.json
    OUT/results.json            everything that the tables are made of
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from study_judge import JUDGES

from lookonce.clusters.extraction.run import extract_features
from lookonce.extract.config import ExtractionConfig
from lookonce.shared.config_values import parse_seeds
from lookonce.shared.errors import UsageError
from lookonce.shared.files.atomic import write_json
from lookonce.train.config import TrainingConfig
from lookonce.train.names import DeviceName

DATA = Path(os.environ.get("LOOKONCE_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
HELD_OUT_SEEDS = "0-1"
"""Views of every test image against which students are judged."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What every study is told."""

    images: Path = DATA / "flowers"
    """Folder with train/CLASS/... and test/CLASS/... images."""
    out: Path
    """Folder of the study; run again with the same one to go on."""
    teacher: str = "deit-tiny"
    """Name of the teacher, as for extract-features."""
    teacher_weights: Path | None = None
    """The teacher's weights file; otherwise the hub cache or the hub."""
    student: str = "vit_tiny_patch16_224"
    """timm name of the student."""
    view_size: int = 112
    """Side of a view in pixels."""
    epochs: int = 24
    """Times a run sees every image."""
    warmup_epochs: float = 3.0
    """Epochs of linear warm-up."""
    batch_size: int = 64
    """Samples a step."""
    base_lr: float = 4e-3
    """Learning rate for 256 samples a step."""
    run_seeds: str = "0"
    """Seeds of the runs of each variant, such as 0-2."""
    limit: int | None = None
    """Only the first N training images."""
    processes: int = 1
    """Runs at the same time; the cores are shared out among them."""
    device: DeviceName = "auto"
    """Where models run."""
    quick: bool = False
    """The whole study in seconds, on random images with a tiny random teacher: it runs, its numbers say nothing."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return parse_seeds(self.run_seeds)

    def extract(self, name: str, *, split: str, seeds: str, precision: str, layers: str = "top5") -> Path:
        """The cache ``OUT/caches/NAME``, made or completed."""
        config = ExtractionConfig(
            teacher=self.teacher,
            teacher_weights=self.teacher_weights,
            images=str(self.images / split),
            out=self.out / "caches" / name,
            seeds=seeds,
            precision=precision,
            layers=layers,
            executor="inline",
            view_size=self.view_size,
            limit=self.limit if split == "train" else None,
            device=self.device,
        )
        return Path(extract_features(config, show_progress=False).cache)

    def held_out(self, layers: str = "top5") -> Path:
        """Exact features of views of the test images, by which every student is judged."""
        return self.extract("held-out", split="test", seeds=HELD_OUT_SEEDS, precision="fp16", layers=layers)

    def training(self, cache: Path, **changes: Any) -> TrainingConfig:
        """A run of this study, its seed and folder left open."""
        recipe: dict[str, Any] = {
            "shards": (cache,),
            "out": self.out,
            "student": self.student,
            "epochs": self.epochs,
            "warmup_epochs": self.warmup_epochs,
            "batch_size": self.batch_size,
            "base_lr": self.base_lr,
            "drop_path": 0.0,
            "workers": 1,
            "device": self.device,
            "checkpoint_steps": 200,
        }
        return TrainingConfig(**{**recipe, **changes})


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One line of a table: a run for every run seed."""

    name: str
    """Name of its runs' folders."""
    config: TrainingConfig
    """Everything but ``seed`` and ``out``."""


@dataclass(kw_only=True)
class Judged:
    """What came of a variant's runs, in the order of the run seeds; a number is a list with one value a run."""

    name: str
    seeds: list[int] = field(default_factory=list)
    measures: dict[str, list[float]] = field(default_factory=dict)
    """By name, as ``study_judge`` gives them."""

    def text(self, measure: str, scale: float = 1.0, digits: int = 1) -> str:
        """Mean over the runs; of two and more, with their standard deviation."""
        values = [value * scale for value in self.measures.get(measure, [])]
        if not values:
            return "-"
        mean = f"{statistics.fmean(values):.{digits}f}"
        return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def run_study(
    study: Study, variants: Sequence[Variant], held_out: Path, judges: Sequence[str] = ("training", "knn", "held-out")
) -> list[Judged]:
    """Train and judge what is not there yet; round by round of run seeds, so that a stopped study has whole rounds.

    Args:
        study: its run seeds, images and number of processes.
        variants: lines of the tables.
        held_out: ``study.held_out()``.
        judges: names in ``study_judge.JUDGES``.

    Returns:
        The variants in their order.

    Raises:
        UsageError: two variants of one name, or a run's folder holds a run of another configuration.
    """
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise UsageError(f"variants of one name: {sorted({name for name in names if names.count(name) > 1})}")
    jobs = [_with_seed(study, variant, seed) for seed in study.seeds for variant in variants]
    work = partial(train_and_judge, images=study.images, held_out=held_out, judges=judges)
    found = dict(zip([config.out for config in jobs], _in_processes(work, jobs, study.processes), strict=True))
    judged = []
    for variant in variants:
        lines = Judged(name=variant.name)
        for seed in study.seeds:
            lines.seeds.append(seed)
            for measure, value in found[_with_seed(study, variant, seed).out].items():
                lines.measures.setdefault(measure, []).append(value)
        judged.append(lines)
    return judged


def _with_seed(study: Study, variant: Variant, seed: int) -> TrainingConfig:
    return replace(variant.config, seed=seed, out=study.out / "runs" / f"{variant.name}-seed{seed}")


def train_and_judge(config: TrainingConfig, *, images: Path, held_out: Path, judges: Sequence[str]) -> dict[str, float]:
    """One run to its end, and its measures by name; what is in its folder already is read from there.

    Raises:
        UsageError: the folder's run had another configuration.
    """
    from lookonce.train.run import train_student

    file = Path(config.out) / "judged.json"
    wanted = json.loads(json.dumps(config.document()))
    there = json.loads(file.read_text()) if file.is_file() else {"config": wanted, "measures": {}}
    if there["config"] != wanted:
        raise UsageError(f"{config.out}: was judged with another configuration; choose another --out")
    measures: dict[str, dict[str, float]] = there["measures"]
    missing = [name for name in judges if name not in measures]
    if missing:
        train_student(config, show_progress=False)  # of a finished run, this only says so
        measures = {**measures, **{name: JUDGES[name](config, images, held_out) for name in missing}}
        write_json(file, {"config": wanted, "measures": measures})
        shown = ", ".join(f"{name} {value:.4f}" for name in missing for name, value in measures[name].items())
        print(f"{Path(config.out).name}: {shown}", file=sys.stderr, flush=True)
    return {name: value for judge in judges for name, value in measures[judge].items()}


def _in_processes(work: Callable[[Any], Any], jobs: Sequence[Any], processes: int) -> Iterable[Any]:
    if processes == 1:
        return [work(job) for job in jobs]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_share_cores, initargs=(threads,)) as pool:
        waiting = [pool.submit(work, job) for job in jobs]
        for done in as_completed(waiting):
            if done.exception() is not None:  # the others are stopped at their next start, and go on another time
                pool.shutdown(cancel_futures=True)
                done.result()
        return [one.result() for one in waiting]


def _share_cores(threads: int) -> None:
    """Start a worker: so many threads, and no life after the study's, which else waits for jobs for ever."""
    import torch

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    torch.set_num_threads(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others numbers.

    >>> print(table(["", "kNN"], [["a", "1"]]))
    |  | kNN |
    |---|---|
    | a | 1 |
    """
    lines = [heads, ["---"] * len(heads), *rows]
    drawn = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([drawn[0], drawn[1].replace(" ", ""), *drawn[2:]])


def write_results(study: Study, tables: Mapping[str, str], judged: Mapping[str, Sequence[Judged]]) -> None:
    """``OUT/results.json`` and ``OUT/tables.md``; the tables go to standard output too."""
    described = {name: str(value) for name, value in vars(study).items()}
    lines = {name: [vars(line) for line in group] for name, group in judged.items()}
    write_json(study.out / "results.json", {"study": described, "tables": lines})
    text = "\n\n".join(f"### {name}\n\n{content}" for name, content in tables.items()) + "\n"
    (study.out / "tables.md").write_text(text)
    print(text)
